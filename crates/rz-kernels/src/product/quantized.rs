//! Products with quantized activations. The sums of a row over a sub-block are exact in
//! integers.

use super::header::Header;
use super::{by_tokens, store};
use crate::activations::{LOW_BITS, Scale, Tile, span};
use crate::{Activations, Columns, Isa, PANEL_COLUMNS, PANEL_ROWS, PanelRef};

/// Bits of `q` come from planes of `BASE` bits and, above them, planes of `EXTRA` bits.
#[inline(always)]
pub(super) fn panels<I: Isa, H: Header, const BASE: usize, const EXTRA: usize>(
    isa: I,
    weights: PanelRef<'_>,
    x: &Activations,
    out: &mut Columns<'_>,
) {
    let columns = out.columns();
    for first in columns.clone().step_by(PANEL_ROWS) {
        let panel = weights.panel(first / PANEL_ROWS);
        let at = first - columns.start..(first - columns.start + PANEL_ROWS).min(columns.len());
        for (token, tile) in x.tiles(out.first_row()..out.first_row() + out.rows()) {
            let place = (token, at.clone());
            match x.bytes() {
                1 => by_tokens!(
                    tile.tokens,
                    some_tokens::<I, H, BASE, EXTRA, 1>(isa, panel, tile, out, &place)
                ),
                _ => by_tokens!(
                    tile.tokens,
                    some_tokens::<I, H, BASE, EXTRA, 2>(isa, panel, tile, out, &place)
                ),
            }
        }
    }
}

/// Tokens `first..first + N` of a tile, their activations in `BYTES` bytes.
#[inline(always)]
fn some_tokens<
    I: Isa,
    H: Header,
    const BASE: usize,
    const EXTRA: usize,
    const BYTES: usize,
    const N: usize,
>(
    first: usize,
    isa: I,
    panel: &[u16],
    tile: Tile<'_>,
    out: &mut Columns<'_>,
    (token, columns): &(usize, std::ops::Range<usize>),
) {
    let step = 32 * (BASE + EXTRA);
    let block = H::UNITS + H::STEPS * step;
    let mut sums = [isa.splat(0.0); N];
    let (values, _) = tile.values.as_chunks::<BYTES>();
    let width = const { span(BYTES) };
    let spans = values.chunks(width * tile.tokens).zip(tile.scales.chunks(width * tile.tokens));
    for (span, (values, scales)) in spans.enumerate() {
        let mut parts = [isa.splat(0.0); N];
        let steps = values.chunks_exact(tile.tokens).zip(scales.chunks_exact(tile.tokens));
        for (i, (values, scales)) in steps.enumerate() {
            let index = span * width + i;
            let (header, planes) = panel[index / H::STEPS * block..][..block].split_at(H::UNITS);
            let planes = &planes[index % H::STEPS * step..][..step];
            let values = values[first..].first_chunk().expect("tokens of the tile");
            let scales: &[Scale; N] = scales[first..].first_chunk().expect("tokens of the tile");
            for part in 0..H::PARTS {
                let factors = H::at(isa, header, index % H::STEPS * H::PARTS + part);
                let dots = dots::<I, H, BASE, EXTRA, BYTES, N>(isa, planes, values, scales, part);
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
        store(isa, sum, &mut out.row(token + first + t)[columns.clone()]);
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
fn dots<I: Isa, H: Header, const BASE: usize, const EXTRA: usize, const BYTES: usize, const N: usize>(
    isa: I,
    planes: &[u16],
    values: &[[[i8; PANEL_COLUMNS]; BYTES]; N],
    scales: &[Scale; N],
    part: usize,
) -> [I::I32; N] {
    const { assert!(H::CENTRE == 0 || H::CENTRE.count_ones() == 1) };
    // Of wide values the instruction set takes a part off itself.
    let centre = if H::WIDE { H::CENTRE - I::WIDE_OFFSET } else { H::CENTRE };
    let count = GROUPS / H::PARTS;
    let q = groups::<I, H, BASE, EXTRA>(isa, planes, part * count, count);
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
            sums = isa.dots(sums, &q[..count], x, const { largest(H::TABLE, BASE + EXTRA) });
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

/// Vectors of four columns of sixteen rows in 32 columns.
const GROUPS: usize = PANEL_COLUMNS / 4;

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
