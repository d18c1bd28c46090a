//! Products with quantized activations. The sums of a row over a sub-block are exact in
//! integers.

use super::header::Header;
use super::{by_tokens, store};
use crate::activations::{LOW_BITS, Scale, Tile};
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
        for (token, tile) in x.tiles() {
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
    let largest = const { largest(H::TABLE, BASE + EXTRA) };
    let mut sums = [isa.splat(0.0); N];
    let (values, _) = tile.values.as_chunks::<BYTES>();
    let mut steps = values.chunks_exact(tile.tokens).zip(tile.scales.chunks_exact(tile.tokens));
    for block in panel.chunks_exact(H::UNITS + H::STEPS * step) {
        let (header, planes) = block.split_at(H::UNITS);
        for (i, (values, scales)) in steps.by_ref().take(H::STEPS).enumerate() {
            let values = values[first..].first_chunk().expect("tokens of the tile");
            let scales: &[Scale; N] = scales[first..].first_chunk().expect("tokens of the tile");
            let q = groups::<I, H, BASE, EXTRA>(isa, &planes[i * step..][..step]);
            let mut parts = [isa.splat(0.0); N];
            for part in 0..H::PARTS {
                let factors = H::at(isa, header, i * H::PARTS + part);
                let dots = dots::<I, H, BYTES, N>(isa, &q, values, part, largest);
                for t in 0..N {
                    let sum = match (H::PARTS, part) {
                        (1, _) => scales[t].sum,
                        _ => scales[t].halves[part],
                    };
                    let dot = centred::<I, H>(isa, dots[t], sum);
                    let dot = isa.to_f32(dot);
                    parts[t] = match part {
                        0 => isa.mul(dot, factors.scale),
                        _ => isa.mul_add(dot, factors.scale, parts[t]),
                    };
                    if let Some(minimum) = factors.minimum {
                        parts[t] = isa.mul_add(minimum, isa.to_f32(isa.splat_i32(sum)), parts[t]);
                    }
                }
            }
            for t in 0..N {
                sums[t] = isa.mul_add(parts[t], isa.splat(scales[t].scale), sums[t]);
            }
        }
    }
    for (t, sum) in sums.into_iter().enumerate() {
        store(isa, sum, &mut out.row(token + first + t)[columns.clone()]);
    }
}

/// Makes a sum of `q * x` one of `(q - CENTRE) * x`, where `sum` is that of the `x`.
#[inline(always)]
fn centred<I: Isa, H: Header>(isa: I, dot: I::I32, sum: i32) -> I::I32 {
    // Of wide values the instruction set takes a part off itself.
    let centre = if H::WIDE { H::CENTRE - I::WIDE_OFFSET } else { H::CENTRE };
    if centre == 0 {
        return dot;
    }
    const { assert!(H::CENTRE == 0 || H::CENTRE.count_ones() == 1) };
    isa.sub_i32(dot, isa.shift_left(isa.splat_i32(sum), centre.trailing_zeros()))
}

/// The sums of one part of 32 columns, `q` times the values of each token.
#[inline(always)]
fn dots<I: Isa, H: Header, const BYTES: usize, const N: usize>(
    isa: I,
    q: &[I::Bytes; GROUPS],
    values: &[[[i8; PANEL_COLUMNS]; BYTES]; N],
    part: usize,
    largest: i32,
) -> [I::I32; N] {
    let count = GROUPS / H::PARTS;
    let mut sums = [isa.splat_i32(0); N];
    for byte in 0..BYTES {
        if byte > 0 {
            for t in 0..N {
                sums[t] = isa.shift_left(sums[t], LOW_BITS);
            }
        }
        let part = part * count..(part + 1) * count;
        let mut x: [&[[i8; 4]]; N] = [&[]; N];
        for t in 0..N {
            x[t] = &values[t][byte].as_chunks().0[part.clone()];
        }
        let q = &q[part];
        if !H::WIDE {
            sums = isa.dots(sums, q, x, largest);
            continue;
        }
        for g in 0..q.len() {
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

/// The values of 32 columns for sixteen rows; in group `g`, columns `4g..4g + 4`.
#[inline(always)]
fn groups<I: Isa, H: Header, const BASE: usize, const EXTRA: usize>(
    isa: I,
    planes: &[u16],
) -> [I::Bytes; GROUPS] {
    // Loops, not closures: those would not be compiled with the features of the set.
    let mut q = [isa.load_bytes(&[0; 64]); GROUPS];
    for g in 0..GROUPS {
        q[g] = plane::<I>(isa, planes, BASE, g, 0);
        if EXTRA > 0 {
            q[g] = isa.or(q[g], plane::<I>(isa, &planes[32 * BASE..], EXTRA, g, BASE));
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
