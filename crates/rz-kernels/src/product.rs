//! Products of packed matrices with quantized activations.
//!
//! One loop serves every kind, number of tokens and instruction set: a panel block
//! meets the same 32 columns of up to eight tokens. The sum of a row over a block is
//! exact in integers; blocks are added in order of their columns in `f32`, so that a
//! token's result does not depend on the tokens beside it.

use crate::activations::Scale;
use crate::{Activations, Columns, Isa, Kernels, PANEL_COLUMNS, PANEL_ROWS, PanelKind, PanelRef, SimdOp};

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
    values: &[[i8; PANEL_COLUMNS]],
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
        values: &[[i8; PANEL_COLUMNS]; N],
        scales: &[Scale; N],
        sums: &mut [I::F32; N],
    );
}

struct Bits4;
struct Bits4Min;
struct Bits8;

impl Block<144> for Bits4 {
    #[inline(always)]
    fn add<I: Isa, const N: usize>(
        isa: I,
        block: &[u16; 144],
        values: &[[i8; PANEL_COLUMNS]; N],
        scales: &[Scale; N],
        sums: &mut [I::F32; N],
    ) {
        let (scale, groups) = split::<_, 16>(block);
        let mut dots = [isa.splat_i32(0); N];
        for t in 0..N {
            dots[t] = isa.splat_i32(-8 * scales[t].sum());
        }
        dot_nibbles(isa, groups, values, &mut dots);
        let scale = isa.load_f16(scale);
        for t in 0..N {
            let scale = isa.mul(scale, isa.splat(scales[t].scale));
            sums[t] = isa.mul_add(isa.to_f32(dots[t]), scale, sums[t]);
        }
    }
}

impl Block<160> for Bits4Min {
    #[inline(always)]
    fn add<I: Isa, const N: usize>(
        isa: I,
        block: &[u16; 160],
        values: &[[i8; PANEL_COLUMNS]; N],
        scales: &[Scale; N],
        sums: &mut [I::F32; N],
    ) {
        let (scale, rest) = split::<_, 16>(block);
        let (minimum, groups) = split::<_, 16>(rest);
        let mut dots = [isa.splat_i32(0); N];
        dot_nibbles(isa, groups, values, &mut dots);
        let (scale, minimum) = (isa.load_f16(scale), isa.load_f16(minimum));
        for t in 0..N {
            let own = isa.splat(scales[t].scale);
            let sum = isa.splat(scales[t].scale * scales[t].sum() as f32);
            sums[t] = isa.mul_add(isa.to_f32(dots[t]), isa.mul(scale, own), sums[t]);
            sums[t] = isa.mul_add(minimum, sum, sums[t]);
        }
    }
}

impl Block<272> for Bits8 {
    #[inline(always)]
    fn add<I: Isa, const N: usize>(
        isa: I,
        block: &[u16; 272],
        values: &[[i8; PANEL_COLUMNS]; N],
        scales: &[Scale; N],
        sums: &mut [I::F32; N],
    ) {
        let (scale, groups) = split::<_, 16>(block);
        let mut dots = [isa.splat_i32(0); N];
        for t in 0..N {
            dots[t] = isa.splat_i32((I::WIDE_OFFSET - 128) * scales[t].sum());
        }
        let (groups, _) = groups.as_chunks::<32>();
        for (g, group) in groups.iter().enumerate() {
            let w = isa.load_bytes(bytemuck::cast_ref(group));
            for t in 0..N {
                let (quads, _) = values[t].as_chunks::<4>();
                dots[t] = isa.dot_wide(dots[t], w, quads[g]);
            }
        }
        let scale = isa.load_f16(scale);
        for t in 0..N {
            let scale = isa.mul(scale, isa.splat(scales[t].scale));
            sums[t] = isa.mul_add(isa.to_f32(dots[t]), scale, sums[t]);
        }
    }
}

#[inline(always)]
fn dot_nibbles<I: Isa, const N: usize>(
    isa: I,
    groups: &[u16],
    values: &[[i8; PANEL_COLUMNS]; N],
    dots: &mut [I::I32; N],
) {
    let (groups, _) = groups.as_chunks::<32>();
    for (g, group) in groups.iter().enumerate() {
        let w = isa.load_bytes(bytemuck::cast_ref(group));
        let (low, high) = (isa.low_nibbles(w), isa.high_nibbles(w));
        for t in 0..N {
            let (quads, _) = values[t].as_chunks::<4>();
            dots[t] = isa.dot(dots[t], low, quads[g]);
            dots[t] = isa.dot(dots[t], high, quads[4 + g]);
        }
    }
}

#[inline(always)]
fn split<T, const N: usize>(slice: &[T]) -> (&[T; N], &[T]) {
    slice.split_first_chunk().expect("a panel block holds its scales")
}
