//! Products of packed matrices with quantized activations.
//!
//! One loop serves every kind, number of tokens and instruction set: a panel block
//! meets the same 32 columns of up to eight tokens. The sums of a row over a block are
//! exact in integers, one for the high and one for the low bytes of the activations;
//! blocks are added in order of their columns in `f32`, so that a token's result does not
//! depend on the tokens beside it.

use crate::activations::{Bytes, HIGH, Scale};
use crate::{Activations, Columns, Isa, Kernels, PANEL_ROWS, PanelKind, PanelRef, SimdOp};

/// Fills `out`, a share of the product of `weights` with every token of `x`: row
/// `t`, column `r` becomes the dot product of row `r` of the matrix with token `t`.
///
/// # Panics
/// When the shapes do not fit, or the share does not start at a whole panel.
pub fn panel_product(kernels: Kernels, weights: PanelRef<'_>, x: &Activations, out: &mut Columns<'_>) {
    assert_eq!(weights.columns(), x.columns(), "columns of the matrix and of the activations");
    assert_eq!(out.rows(), x.tokens(), "tokens of the output and of the activations");
    let columns = out.columns();
    assert!(columns.start.is_multiple_of(PANEL_ROWS) && columns.end <= weights.rows(), "{columns:?}");
    kernels.run(Product { weights, x, out });
}

struct Product<'a, 'b> {
    weights: PanelRef<'a>,
    x: &'a Activations,
    out: &'a mut Columns<'b>,
}

impl SimdOp for Product<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(mut self, isa: I) {
        match self.weights.kind() {
            PanelKind::Bits4 => self.panels::<I, Bits4, 144>(isa),
            PanelKind::Bits4Min => self.panels::<I, Bits4Min, 160>(isa),
            PanelKind::Bits8 => self.panels::<I, Bits8, 272>(isa),
        }
    }
}

impl Product<'_, '_> {
    // UNITS is the size of a panel block in 16-bit units.
    #[inline(always)]
    fn panels<I: Isa, K: Block<UNITS>, const UNITS: usize>(&mut self, isa: I) {
        let columns = self.out.columns();
        let tiles = self.x.tokens().div_ceil(self.x.tile_tokens());
        for first in columns.clone().step_by(PANEL_ROWS) {
            let (panel, _) = self.weights.panel(first / PANEL_ROWS).as_chunks::<UNITS>();
            let width = (columns.end - first).min(PANEL_ROWS);
            let at = first - columns.start;
            for tile in 0..tiles {
                let (values, scales) = self.x.tile(tile);
                let token = tile * self.x.tile_tokens();
                let out = &mut *self.out;
                match values.len() / self.x.blocks() {
                    1 => one_tile::<I, K, UNITS, 1>(isa, panel, values, scales, out, token, at, width),
                    2 => one_tile::<I, K, UNITS, 2>(isa, panel, values, scales, out, token, at, width),
                    3 => one_tile::<I, K, UNITS, 3>(isa, panel, values, scales, out, token, at, width),
                    4 => one_tile::<I, K, UNITS, 4>(isa, panel, values, scales, out, token, at, width),
                    5 => one_tile::<I, K, UNITS, 5>(isa, panel, values, scales, out, token, at, width),
                    6 => one_tile::<I, K, UNITS, 6>(isa, panel, values, scales, out, token, at, width),
                    7 => one_tile::<I, K, UNITS, 7>(isa, panel, values, scales, out, token, at, width),
                    8 => one_tile::<I, K, UNITS, 8>(isa, panel, values, scales, out, token, at, width),
                    n => unreachable!("a tile of {n} tokens"),
                }
            }
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn one_tile<I: Isa, K: Block<UNITS>, const UNITS: usize, const N: usize>(
    isa: I,
    panel: &[[u16; UNITS]],
    values: &[Bytes],
    scales: &[Scale],
    out: &mut Columns<'_>,
    token: usize,
    at: usize,
    width: usize,
) {
    let mut sums = [isa.splat(0.0); N];
    let (values, _) = values.as_chunks::<N>();
    let (scales, _) = scales.as_chunks::<N>();
    for ((block, values), scales) in panel.iter().zip(values).zip(scales) {
        K::add(isa, block, values, scales, &mut sums);
    }
    for (t, sum) in sums.into_iter().enumerate() {
        let row = &mut out.row(token + t)[at..at + width];
        match row.as_chunks_mut() {
            ([whole], []) => isa.store(sum, whole),
            _ => {
                let mut whole = [0.0; PANEL_ROWS];
                isa.store(sum, &mut whole);
                row.copy_from_slice(&whole[..width]);
            }
        }
    }
}

/// What a panel block of one kind adds to the sums of its sixteen rows.
trait Block<const UNITS: usize> {
    fn add<I: Isa, const N: usize>(
        isa: I,
        block: &[u16; UNITS],
        values: &[Bytes; N],
        scales: &[Scale; N],
        sums: &mut [I::F32; N],
    );
}

struct Bits4;
struct Bits4Min;
struct Bits8;

/// Integer sums of a block for each token: over the high and over the low bytes.
#[derive(Clone, Copy)]
struct Dots<V> {
    high: V,
    low: V,
}

impl Block<144> for Bits4 {
    // scale * (q - 8)
    #[inline(always)]
    fn add<I: Isa, const N: usize>(
        isa: I,
        block: &[u16; 144],
        values: &[Bytes; N],
        scales: &[Scale; N],
        sums: &mut [I::F32; N],
    ) {
        let (scale, groups) = split::<_, 16>(block);
        let dots = dot_nibbles(isa, groups, values);
        let scale = isa.load_f16(scale);
        let offset = isa.mul(scale, isa.splat(-8.0));
        add_scaled(isa, scale, offset, &dots, scales, sums);
    }
}

impl Block<160> for Bits4Min {
    // scale * q + minimum
    #[inline(always)]
    fn add<I: Isa, const N: usize>(
        isa: I,
        block: &[u16; 160],
        values: &[Bytes; N],
        scales: &[Scale; N],
        sums: &mut [I::F32; N],
    ) {
        let (scale, rest) = split::<_, 16>(block);
        let (minimum, groups) = split::<_, 16>(rest);
        let dots = dot_nibbles(isa, groups, values);
        add_scaled(isa, isa.load_f16(scale), isa.load_f16(minimum), &dots, scales, sums);
    }
}

impl Block<272> for Bits8 {
    // scale * (q - 128), of which the instruction set takes WIDE_OFFSET off itself.
    #[inline(always)]
    fn add<I: Isa, const N: usize>(
        isa: I,
        block: &[u16; 272],
        values: &[Bytes; N],
        scales: &[Scale; N],
        sums: &mut [I::F32; N],
    ) {
        let (scale, groups) = split::<_, 16>(block);
        let mut dots = [Dots { high: isa.splat_i32(0), low: isa.splat_i32(0) }; N];
        let (groups, _) = groups.as_chunks::<32>();
        for (g, group) in groups.iter().enumerate() {
            let w = isa.load_bytes(bytemuck::cast_ref(group));
            for t in 0..N {
                dots[t].high = isa.dot_wide(dots[t].high, w, quad(&values[t].high, g));
                dots[t].low = isa.dot_wide(dots[t].low, w, quad(&values[t].low, g));
            }
        }
        let scale = isa.load_f16(scale);
        let offset = isa.mul(scale, isa.splat((I::WIDE_OFFSET - 128) as f32));
        add_scaled(isa, scale, offset, &dots, scales, sums);
    }
}

/// Adds `scale * dots + offset * sum of x` to the sums, with the activations' own scale.
#[inline(always)]
fn add_scaled<I: Isa, const N: usize>(
    isa: I,
    scale: I::F32,
    offset: I::F32,
    dots: &[Dots<I::I32>; N],
    scales: &[Scale; N],
    sums: &mut [I::F32; N],
) {
    for t in 0..N {
        let dot = isa.mul_add(isa.to_f32(dots[t].high), isa.splat(HIGH), isa.to_f32(dots[t].low));
        let sum = isa.mul_add(offset, isa.splat(scales[t].sum), sums[t]);
        sums[t] = isa.mul_add(dot, isa.mul(scale, isa.splat(scales[t].scale)), sum);
    }
}

#[inline(always)]
fn dot_nibbles<I: Isa, const N: usize>(isa: I, groups: &[u16], values: &[Bytes; N]) -> [Dots<I::I32>; N] {
    let mut dots = [Dots { high: isa.splat_i32(0), low: isa.splat_i32(0) }; N];
    let (groups, _) = groups.as_chunks::<32>();
    for (g, group) in groups.iter().enumerate() {
        let w = isa.load_bytes(bytemuck::cast_ref(group));
        let (first, second) = (isa.low_nibbles(w), isa.high_nibbles(w));
        for t in 0..N {
            let Bytes { high, low } = &values[t];
            dots[t].high = isa.dot(dots[t].high, first, quad(high, g));
            dots[t].low = isa.dot(dots[t].low, first, quad(low, g));
            dots[t].high = isa.dot(dots[t].high, second, quad(high, 4 + g));
            dots[t].low = isa.dot(dots[t].low, second, quad(low, 4 + g));
        }
    }
    dots
}

#[inline(always)]
fn quad(bytes: &[i8; 32], index: usize) -> [i8; 4] {
    let (quads, _) = bytes.as_chunks::<4>();
    quads[index]
}

#[inline(always)]
fn split<T, const N: usize>(slice: &[T]) -> (&[T; N], &[T]) {
    slice.split_first_chunk().expect("a panel block holds its scales")
}
