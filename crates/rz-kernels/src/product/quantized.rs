//! Products with activations in 16 bits. The sums of a row over a sub-block are exact in
//! integers, one for the high and one for the low bytes of the activations.

use super::header::Header;
use super::{store, with_tokens};
use crate::activations::{Bytes, HIGH, Scale};
use crate::{Activations, Columns, Isa, PANEL_ROWS, PanelRef};

/// Bits of `q` come from planes of `BASE` bits and, above them, planes of `EXTRA` bits.
#[inline(always)]
pub(super) fn panels<I: Isa, H: Header, const BASE: usize, const EXTRA: usize>(
    isa: I,
    weights: PanelRef<'_>,
    x: &Activations,
    out: &mut Columns<'_>,
) {
    let columns = out.columns();
    let tiles = x.tokens().div_ceil(x.tile_tokens());
    for first in columns.clone().step_by(PANEL_ROWS) {
        let panel = weights.panel(first / PANEL_ROWS);
        let at = first - columns.start..(first - columns.start + PANEL_ROWS).min(columns.len());
        for index in 0..tiles {
            let tile = x.tile(index);
            let place = (index * x.tile_tokens(), at.clone());
            with_tokens!(
                tile.0.len() / x.blocks(),
                one_tile::<I, H, BASE, EXTRA>(isa, panel, tile, out, place)
            );
        }
    }
}

#[inline(always)]
fn one_tile<I: Isa, H: Header, const BASE: usize, const EXTRA: usize, const N: usize>(
    isa: I,
    panel: &[u16],
    (values, scales): (&[Bytes], &[Scale]),
    out: &mut Columns<'_>,
    (token, columns): (usize, std::ops::Range<usize>),
) {
    let step = 32 * (BASE + EXTRA);
    let mut sums = [isa.splat(0.0); N];
    let (values, _) = values.as_chunks::<N>();
    let (scales, _) = scales.as_chunks::<N>();
    let blocks = panel.chunks_exact(H::UNITS + H::STEPS * step);
    for ((block, values), scales) in
        blocks.zip(values.chunks_exact(H::STEPS)).zip(scales.chunks_exact(H::STEPS))
    {
        let (header, planes) = block.split_at(H::UNITS);
        for i in 0..H::STEPS {
            let planes = &planes[i * step..][..step];
            for part in 0..H::PARTS {
                let (scale, offset) = H::at(isa, header, i * H::PARTS + part);
                let groups = 8 / H::PARTS;
                let dots = dots::<I, H, BASE, EXTRA, N>(isa, planes, &values[i], part * groups, groups);
                for t in 0..N {
                    let Scale { scale: own, sums: [first, second] } = scales[i][t];
                    let sum = match (H::PARTS, part) {
                        (1, _) => first + second,
                        (_, 0) => first,
                        _ => second,
                    };
                    let dot = isa.mul_add(isa.to_f32(dots[t].high), isa.splat(HIGH), isa.to_f32(dots[t].low));
                    let sum = isa.mul_add(offset, isa.splat(sum), sums[t]);
                    sums[t] = isa.mul_add(dot, isa.mul(scale, isa.splat(own)), sum);
                }
            }
        }
    }
    for (t, sum) in sums.into_iter().enumerate() {
        store(isa, sum, &mut out.row(token + t)[columns.clone()]);
    }
}

/// Integer sums of a sub-block: over the high and over the low bytes.
#[derive(Clone, Copy)]
struct Dots<V> {
    high: V,
    low: V,
}

/// The sums over `count` groups of four columns, from group `first` of 32 columns on.
#[inline(always)]
fn dots<I: Isa, H: Header, const BASE: usize, const EXTRA: usize, const N: usize>(
    isa: I,
    planes: &[u16],
    values: &[Bytes; N],
    first: usize,
    count: usize,
) -> [Dots<I::I32>; N] {
    let mut dots = [Dots { high: isa.splat_i32(0), low: isa.splat_i32(0) }; N];
    for g in first..first + count {
        let q = group::<I, BASE, EXTRA>(isa, planes, g);
        for t in 0..N {
            let (high, low) = (quad(&values[t].high, g), quad(&values[t].low, g));
            if H::WIDE {
                dots[t].high = isa.dot_wide(dots[t].high, q, high);
                dots[t].low = isa.dot_wide(dots[t].low, q, low);
            } else {
                dots[t].high = isa.dot(dots[t].high, q, high);
                dots[t].low = isa.dot(dots[t].low, q, low);
            }
        }
    }
    dots
}

/// The values of columns `4g..4g + 4` for sixteen rows.
#[inline(always)]
fn group<I: Isa, const BASE: usize, const EXTRA: usize>(isa: I, planes: &[u16], g: usize) -> I::Bytes {
    let low = plane::<I>(isa, planes, BASE, g, 0);
    match EXTRA {
        0 => low,
        _ => isa.or(low, plane::<I>(isa, &planes[32 * BASE..], EXTRA, g, BASE)),
    }
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

#[inline(always)]
fn quad(bytes: &[i8; 32], index: usize) -> [i8; 4] {
    let (quads, _) = bytes.as_chunks::<4>();
    quads[index]
}
