//! Panels expanded to bytes and factors in single precision: what takes a while to unpack
//! is unpacked once for many tiles of tokens.

use std::marker::PhantomData;

use super::header::{Factors, Header};
use super::quantized::{GROUPS, Source};
use crate::Isa;

/// Sixty-four bytes that begin where a line of the cache does.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line([u8; 64]);

/// A panel of source `S`. Of every 32 columns, a line with the scales of each part, one with its minimums if the
/// kind has any, and its values.
pub(super) struct Expanded<'a, H, S> {
    lines: &'a [Line],
    of: PhantomData<(H, S)>,
}

impl<H: Header, S> Expanded<'_, H, S> {
    const FACTORS: usize = 1 + H::MINIMUM as usize;
    const PART: usize = Self::FACTORS + GROUPS / H::PARTS;

    #[inline(always)]
    fn part(&self, index: usize, part: usize) -> &[Line] {
        &self.lines[(index * H::PARTS + part) * Self::PART..][..Self::PART]
    }
}

/// Expands `blocks` blocks of 32 columns into `room`, which grows if it must.
#[inline(always)]
pub(super) fn expand<'a, I: Isa, H: Header, S: Source<H>>(
    isa: I,
    packed: &S,
    blocks: usize,
    room: &'a mut Vec<Line>,
) -> Expanded<'a, H, S> {
    let step = Expanded::<H, S>::PART * H::PARTS;
    if room.len() < blocks * step {
        room.resize(blocks * step, Line([0; 64]));
    }
    let lines = &mut room[..blocks * step];
    for (index, lines) in lines.chunks_exact_mut(step).enumerate() {
        for (part, lines) in lines.chunks_exact_mut(Expanded::<H, S>::PART).enumerate() {
            let (factors, q) = (packed.factors(isa, index, part), packed.values(isa, index, part));
            let (head, values) = lines.split_at_mut(Expanded::<H, S>::FACTORS);
            isa.store(factors.scale, bytemuck::cast_mut(&mut head[0].0));
            if let Some(minimum) = factors.minimum {
                isa.store(minimum, bytemuck::cast_mut(&mut head[1].0));
            }
            for (line, q) in values.iter_mut().zip(q) {
                isa.store_bytes(q, &mut line.0);
            }
        }
    }
    Expanded { lines, of: PhantomData }
}

impl<H: Header, S: Source<H>> Source<H> for Expanded<'_, H, S> {
    const LARGEST: i32 = S::LARGEST;
    const FEWEST: usize = S::FEWEST;

    #[inline(always)]
    fn factors<I: Isa>(&self, isa: I, index: usize, part: usize) -> Factors<I::F32> {
        let lines = &self.part(index, part)[..Self::FACTORS];
        let scale = isa.load(bytemuck::cast_ref(&lines[0].0));
        let minimum = if H::MINIMUM { Some(isa.load(bytemuck::cast_ref(&lines[1].0))) } else { None };
        Factors { scale, minimum }
    }

    #[inline(always)]
    fn values<I: Isa>(&self, isa: I, index: usize, part: usize) -> [I::Bytes; GROUPS] {
        let lines = &self.part(index, part)[Self::FACTORS..];
        let mut q = [isa.load_bytes(&[0; 64]); GROUPS];
        for g in 0..GROUPS / H::PARTS {
            q[g] = isa.load_bytes(&lines[g].0);
        }
        q
    }
}
