//! Products with quantized activations. The sums of a row over a sub-block are exact in
//! integers.

use std::marker::PhantomData;
use std::ops::Range;

use super::expanded::{Line, expand};
use super::header::{Factors, Header};
use super::{by_tokens, store};
use crate::activations::{LOW_BITS, Scale, Tile};
use crate::{Activations, Columns, Isa, PANEL_COLUMNS, PANEL_ROWS, PanelRef, SimdOp};

/// Products of panels, whose `q` comes from planes of `BASE` bits and, above them, planes of `EXTRA` bits, with
/// activations in `BYTES` bytes with a scale for `SPAN` blocks. An operation of its own for each: the compiler
/// keeps more in registers in small functions than in a large one.
pub(super) struct Quantized<
    'a,
    'b,
    H,
    const BASE: usize,
    const EXTRA: usize,
    const BYTES: usize,
    const SPAN: usize,
> {
    pub(super) weights: PanelRef<'a>,
    pub(super) x: &'a Activations,
    pub(super) out: &'a mut Columns<'b>,
    /// For panels that are expanded.
    pub(super) room: &'a mut Vec<Line>,
    pub(super) header: PhantomData<H>,
}

impl<H: Header, const BASE: usize, const EXTRA: usize, const BYTES: usize, const SPAN: usize> SimdOp
    for Quantized<'_, '_, H, BASE, EXTRA, BYTES, SPAN>
{
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Quantized { weights, x, out, room, header } = self;
        // Four bits are unpacked for a tile in no time, and eight are no less than bytes.
        let expands = const { EXTRA > 0 || BASE == 2 || H::TABLE.is_some() };
        let columns = out.columns();
        for first in columns.clone().step_by(PANEL_ROWS) {
            let packed = Packed::<H, BASE, EXTRA> { panel: weights.panel(first / PANEL_ROWS), header };
            let at = first - columns.start..(first - columns.start + PANEL_ROWS).min(columns.len());
            let expanded = if expands && out.rows() >= ENOUGH {
                Some(expand(isa, &packed, weights.columns() / PANEL_COLUMNS, room))
            } else {
                None
            };
            let streams = size_of_val(packed.panel) > NEAR;
            let next = lines_of(weights.next_panel(first / PANEL_ROWS));
            let tokens = out.rows();
            for (token, tile) in x.tiles(out.first_row()..out.first_row() + tokens) {
                let part = next.len() * token / tokens..next.len() * (token + tile.tokens) / tokens;
                let next = &next[part];
                let sums = &mut Sums { out: &mut *out, token, columns: at.clone(), next, streams };
                match (tile.tokens, &expanded) {
                    (8, Some(panel)) => some_tokens::<I, H, _, BYTES, SPAN, 8>(0, isa, panel, tile, sums),
                    (4, Some(panel)) => some_tokens::<I, H, _, BYTES, SPAN, 4>(0, isa, panel, tile, sums),
                    _ => {
                        by_tokens!(tile.tokens, some_tokens::<I, H, _, BYTES, SPAN>(isa, &packed, tile, sums))
                    }
                }
            }
        }
    }
}

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// Bytes of a panel beside which activations stay in the nearest cache.
const NEAR: usize = 24 << 10;

/// Blocks of 32 columns that pass between asking for activations and reading them.
const SOON: usize = 5;

/// The lines of the next panel, a share of which is asked for with each tile: the processor's own guesses
/// come too late while it computes. Nothing, if two panels might not have room in the second level of cache.
fn lines_of(panel: &[u16]) -> &[[u8; LINE]] {
    const LARGEST: usize = 256 << 10;
    let (lines, _) = bytemuck::cast_slice(panel).as_chunks();
    if size_of_val(lines) > LARGEST { &[] } else { lines }
}

/// Tokens from which on it pays to expand panels.
const ENOUGH: usize = 32;

/// The weights of sixteen rows.
pub(super) trait Source<H: Header> {
    /// The largest byte of values.
    const LARGEST: i32;

    /// The fewest tokens beside which the next panel is asked for.
    const FEWEST: usize;

    /// The factors of one part of block `index` of 32 columns.
    fn factors<I: Isa>(&self, isa: I, index: usize, part: usize) -> Factors<I::F32>;

    /// The values of that part: of each group, four columns of sixteen rows.
    fn values<I: Isa>(&self, isa: I, index: usize, part: usize) -> [I::Bytes; GROUPS];
}

/// Vectors of four columns of sixteen rows in 32 columns.
pub(super) const GROUPS: usize = PANEL_COLUMNS / 4;

/// A panel as it is stored.
struct Packed<'a, H, const BASE: usize, const EXTRA: usize> {
    panel: &'a [u16],
    header: PhantomData<H>,
}

impl<H: Header, const BASE: usize, const EXTRA: usize> Source<H> for Packed<'_, H, BASE, EXTRA> {
    const LARGEST: i32 = largest(H::TABLE, BASE + EXTRA);
    // One or two tokens take as long as memory does, and then its own guesses serve best, but not for several planes.
    const FEWEST: usize = if EXTRA > 0 { 1 } else { 4 };

    #[inline(always)]
    fn factors<I: Isa>(&self, isa: I, index: usize, part: usize) -> Factors<I::F32> {
        let header = &self.panel[index / H::STEPS * Self::BLOCK..][..H::UNITS];
        H::at(isa, header, index % H::STEPS * H::PARTS + part)
    }

    #[inline(always)]
    fn values<I: Isa>(&self, isa: I, index: usize, part: usize) -> [I::Bytes; GROUPS] {
        let block = &self.panel[index / H::STEPS * Self::BLOCK..][..Self::BLOCK];
        let planes = &block[H::UNITS + index % H::STEPS * Self::STEP..][..Self::STEP];
        let count = GROUPS / H::PARTS;
        groups::<I, H, BASE, EXTRA>(isa, planes, part * count, count)
    }
}

impl<H: Header, const BASE: usize, const EXTRA: usize> Packed<'_, H, BASE, EXTRA> {
    /// Units of 32 columns' planes, and of a block.
    const STEP: usize = 32 * (BASE + EXTRA);
    const BLOCK: usize = H::UNITS + H::STEPS * Self::STEP;
}

/// Where the sums of a tile go.
struct Sums<'a, 'b> {
    out: &'a mut Columns<'b>,
    /// The first token of the tile.
    token: usize,
    columns: Range<usize>,
    /// What is asked for meanwhile.
    next: &'a [[u8; LINE]],
    /// The panel displaces the activations from the nearest cache.
    streams: bool,
}

/// Tokens `first..first + N` of a tile.
#[inline(always)]
fn some_tokens<I: Isa, H: Header, S: Source<H>, const BYTES: usize, const SPAN: usize, const N: usize>(
    first: usize,
    isa: I,
    weights: &S,
    tile: Tile<'_>,
    Sums { out, token, columns, next, streams }: &mut Sums<'_, '_>,
) {
    let mut sums = [isa.splat(0.0); N];
    let (values, _) = tile.values.as_chunks::<BYTES>();
    let spans = values.chunks(SPAN * tile.tokens).zip(tile.scales.chunks(SPAN * tile.tokens));
    let mut next = next.chunks(next.len().div_ceil(spans.len()).max(1));
    for (span, (values, scales)) in spans.enumerate() {
        if N >= S::FEWEST {
            next.next().unwrap_or_default().iter().for_each(|line| isa.prefetch_far(line));
        }
        if *streams {
            let soon = (span + const { SOON.div_ceil(SPAN) }) * SPAN * tile.tokens;
            prefetch(isa, tile.values, soon * BYTES, SPAN * N * BYTES);
            prefetch(isa, tile.scales, soon, SPAN * N);
        }
        let mut parts = [isa.splat(0.0); N];
        let steps = values.chunks_exact(tile.tokens).zip(scales.chunks_exact(tile.tokens));
        for (i, (values, scales)) in steps.enumerate() {
            let values = values[first..].first_chunk().expect("tokens of the tile");
            let scales: &[Scale; N] = scales[first..].first_chunk().expect("tokens of the tile");
            for part in 0..H::PARTS {
                let index = span * SPAN + i;
                let factors = weights.factors(isa, index, part);
                let dots = dots::<I, H, S, BYTES, N>(isa, weights, index, values, scales, part);
                for t in 0..N {
                    parts[t] = isa.mul_add(isa.to_f32(dots[t]), factors.scale, parts[t]);
                    if let Some(minimum) = factors.minimum {
                        let minus_sum = isa.to_f32(isa.splat_i32(scales[t].minus_part::<H>(part)));
                        parts[t] = isa.mul_add(minimum, minus_sum, parts[t]);
                    }
                }
            }
        }
        let scales: &[Scale; N] = scales[first..].first_chunk().expect("tokens of the tile");
        for t in 0..N {
            sums[t] = isa.mul_add(parts[t], isa.splat(scales[t].scale), sums[t]);
        }
    }
    for (t, sum) in sums.into_iter().enumerate() {
        store(isa, sum, &mut out.row(*token + first + t)[columns.clone()]);
    }
}

/// Asks for `count` of the elements from `first` on.
#[inline(always)]
fn prefetch<I: Isa, T: bytemuck::NoUninit>(isa: I, elements: &[T], first: usize, count: usize) {
    let bytes: &[u8] = bytemuck::cast_slice(elements.get(first..).unwrap_or_default());
    let (lines, _) = bytes.as_chunks();
    for i in 0..(count * size_of::<T>()).div_ceil(LINE) {
        if let Some(line) = lines.get(i) {
            isa.prefetch(line);
        }
    }
}

impl Scale {
    /// Minus the sum of the `q` of one part of 32 columns.
    #[inline(always)]
    fn minus_part<H: Header>(&self, part: usize) -> i32 {
        if H::PARTS == 1 { self.minus_sum } else { self.minus_halves[part] }
    }
}

/// The sums of one part of 32 columns, `q - CENTRE` times the values of each token.
#[inline(always)]
fn dots<I: Isa, H: Header, S: Source<H>, const BYTES: usize, const N: usize>(
    isa: I,
    weights: &S,
    index: usize,
    values: &[[[i8; PANEL_COLUMNS]; BYTES]; N],
    scales: &[Scale; N],
    part: usize,
) -> [I::I32; N] {
    const { assert!(H::CENTRE == 0 || H::CENTRE.count_ones() == 1) };
    // Of wide values the instruction set takes a part off itself.
    let centre = if H::WIDE { H::CENTRE - I::WIDE_OFFSET } else { H::CENTRE };
    let count = GROUPS / H::PARTS;
    let q = weights.values(isa, index, part);
    let mut sums = [isa.splat_i32(0); N];
    for byte in 0..BYTES {
        for t in 0..N {
            if byte > 0 {
                sums[t] = isa.shift_left(sums[t], LOW_BITS);
            }
            if byte + 1 == BYTES && centre != 0 {
                let minus_sum = isa.splat_i32(scales[t].minus_part::<H>(part));
                let correction = isa.shift_left(minus_sum, centre.trailing_zeros());
                sums[t] = if byte == 0 { correction } else { isa.add_i32(sums[t], correction) };
            }
        }
        let mut x: [&[[i8; 4]]; N] = [&[]; N];
        for t in 0..N {
            x[t] = &values[t][byte].as_chunks().0[part * count..(part + 1) * count];
        }
        if !H::WIDE {
            sums = isa.dots(sums, &q[..count], x, S::LARGEST);
            continue;
        }
        for g in 0..count {
            for t in 0..N {
                sums[t] = isa.dot_wide(sums[t], q[g], x[t][g]);
            }
        }
    }
    sums
}

/// The largest byte that meets activations.
const fn largest(table: Option<&[u8; 16]>, bits: usize) -> i32 {
    let Some(table) = table else { return (1 << bits) - 1 };
    let (mut most, mut i) = (0, 0);
    while i < table.len() {
        most = if table[i] > most { table[i] } else { most };
        i += 1;
    }
    most as i32
}

/// The values of `count` groups from group `first` on: of each, four columns of sixteen rows.
#[inline(always)]
fn groups<I: Isa, H: Header, const BASE: usize, const EXTRA: usize>(
    isa: I,
    planes: &[u16],
    first: usize,
    count: usize,
) -> [I::Bytes; GROUPS] {
    // Loops, not closures: those would not be compiled with the features of the set.
    let mut q = [isa.load_bytes(&[0; 64]); GROUPS];
    for g in 0..count {
        q[g] = plane::<I>(isa, planes, BASE, first + g, 0);
        if EXTRA > 0 {
            q[g] = isa.or(q[g], plane::<I>(isa, &planes[32 * BASE..], EXTRA, first + g, BASE));
        }
        if let Some(table) = H::TABLE {
            q[g] = isa.look_up(q[g], table);
        }
    }
    q
}

/// The bits of group `g` in planes of `bits` bits, moved to bit `to`.
#[inline(always)]
fn plane<I: Isa>(isa: I, planes: &[u16], bits: usize, g: usize, to: usize) -> I::Bytes {
    let (index, from) = match bits {
        8 => (g, 0),
        4 => (g % 4, g / 4 * 4),
        2 => (g / 4, g % 4 * 2),
        _ => (0, g),
    };
    let units: &[u16; 32] = planes[32 * index..].first_chunk().expect("whole planes");
    let v = isa.load_bytes(bytemuck::cast_ref(units));
    if bits == 8 {
        return v;
    }
    isa.take_bits(v, from as u32, to as u32, (((1 << bits) - 1) << to) as u8)
}
