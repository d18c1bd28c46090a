//! Products of matrices in floating point, with the activations as they are.

use super::{by_tokens, store};
use crate::{Columns, Isa, PANEL_ROWS, PanelRef};

/// A type of weight.
pub(super) trait Element {
    /// 16-bit units of sixteen rows' weights in one column.
    const UNITS: usize;
    /// Sixteen rows' weights.
    fn load<I: Isa>(isa: I, units: &[u16]) -> I::F32;
}

pub(super) struct Half;
pub(super) struct Brain;
pub(super) struct Single;

impl Element for Half {
    const UNITS: usize = 16;
    #[inline(always)]
    fn load<I: Isa>(isa: I, units: &[u16]) -> I::F32 {
        isa.load_f16(units.first_chunk().expect("sixteen rows"))
    }
}

impl Element for Brain {
    const UNITS: usize = 16;
    #[inline(always)]
    fn load<I: Isa>(isa: I, units: &[u16]) -> I::F32 {
        isa.load_bf16(units.first_chunk().expect("sixteen rows"))
    }
}

impl Element for Single {
    const UNITS: usize = 32;
    #[inline(always)]
    fn load<I: Isa>(isa: I, units: &[u16]) -> I::F32 {
        let units: &[u16; 32] = units.first_chunk().expect("sixteen rows");
        // Two halves of a little-endian number stand in order.
        isa.load(bytemuck::cast_slice::<u16, f32>(units).first_chunk().expect("sixteen rows"))
    }
}

/// Units between what several tokens meet and what is asked for meanwhile.
const AHEAD: usize = (8 << 10) / size_of::<u16>();

#[inline(always)]
pub(super) fn panels<I: Isa, E: Element>(isa: I, weights: PanelRef<'_>, x: &[f32], out: &mut Columns<'_>) {
    let columns = out.columns();
    let width = weights.columns();
    for first in columns.clone().step_by(PANEL_ROWS) {
        let panels = weights.panels_from(first / PANEL_ROWS);
        let at = first - columns.start..(first - columns.start + PANEL_ROWS).min(columns.len());
        by_tokens!(x.len() / width, some_tokens::<I, E>(isa, panels, x, width, out, &at));
    }
}

// Two sums a token, for even and odd columns, so that additions overlap. The panel is the first of `panels`.
#[inline(always)]
fn some_tokens<I: Isa, E: Element, const N: usize>(
    token: usize,
    isa: I,
    panels: &[u16],
    x: &[f32],
    width: usize,
    out: &mut Columns<'_>,
    columns: &std::ops::Range<usize>,
) {
    const BLOCK: usize = 16;
    let mut sums = [[isa.splat(0.0); 2]; N];
    let mut rows = [(&[][..], &[][..]); N];
    for (row, x) in rows.iter_mut().zip(x[token * width..].chunks_exact(width)) {
        *row = x.as_chunks::<BLOCK>();
    }
    let mut blocks = panels[..width * E::UNITS].chunks_exact(BLOCK * E::UNITS);
    let mut soon = panels.get(AHEAD..).unwrap_or_default().chunks_exact(BLOCK * E::UNITS);
    for (i, block) in blocks.by_ref().enumerate() {
        if N > 1 {
            let soon = bytemuck::cast_slice(soon.next().unwrap_or_default()).as_chunks().0;
            soon.iter().for_each(|line| isa.prefetch_far(line));
        }
        let mut x = [&[0.0; BLOCK]; N];
        for t in 0..N {
            x[t] = &rows[t].0[i];
        }
        if N == 1 {
            // One by one: in pairs it is as fast in the cache, and half as fast from memory, where it comes upon lines
            // sooner than the processor reads ahead.
            for (k, w) in block.chunks_exact(E::UNITS).enumerate() {
                let w = E::load(isa, w);
                for t in 0..N {
                    sums[t][k % 2] = isa.mul_add(w, isa.splat(x[t][k]), sums[t][k % 2]);
                }
            }
            continue;
        }
        // In pairs, so that each sum has a register.
        for (k, pair) in block.chunks_exact(2 * E::UNITS).enumerate() {
            let (even, odd) = pair.split_at(E::UNITS);
            let (even, odd) = (E::load(isa, even), E::load(isa, odd));
            for t in 0..N {
                sums[t][0] = isa.mul_add(even, isa.splat(x[t][2 * k]), sums[t][0]);
                sums[t][1] = isa.mul_add(odd, isa.splat(x[t][2 * k + 1]), sums[t][1]);
            }
        }
    }
    for (k, w) in blocks.remainder().chunks_exact(E::UNITS).enumerate() {
        let w = E::load(isa, w);
        for t in 0..N {
            sums[t][k % 2] = isa.mul_add(w, isa.splat(rows[t].1[k]), sums[t][k % 2]);
        }
    }
    for (t, [even, odd]) in sums.into_iter().enumerate() {
        store(isa, isa.add(even, odd), &mut out.row(token + t)[columns.clone()]);
    }
}
