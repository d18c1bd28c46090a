//! Activations in 16 bits, quantized once and shared by every product that reads them.

use crate::{Isa, Kernels, LANES, PANEL_COLUMNS, SimdOp, Team};

/// Vectors of one layer's input, as the panel products read them: for every 32 columns a
/// scale `s = max|x| / 32512` and whole numbers `q = round(x / s)`, half to even, each in
/// two bytes, `q = 255 * high + low`. Instruction sets multiply bytes, and both bytes are
/// in `-127..=127`, where every set is exact.
///
/// Eight bits would halve the arithmetic and be far too coarse for small models; see
/// `docs/adr/0002-activations-in-16-bits.md`.
///
/// Tokens lie in tiles, so that a product reads the same columns of neighbouring
/// tokens from one place: `[tile][block of columns][token of the tile]`.
#[derive(Debug, Default)]
pub struct Activations {
    tokens: usize,
    blocks: usize,
    tile: usize,
    values: Vec<Bytes>,
    scales: Vec<Scale>,
}

/// The two bytes of 32 quantized values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bytes {
    pub(crate) high: [i8; PANEL_COLUMNS],
    pub(crate) low: [i8; PANEL_COLUMNS],
}

/// What a high byte counts.
pub(crate) const HIGH: f32 = 255.0;

// The largest number that the two bytes hold: 255 * 127 + 127.
const LARGEST: f32 = 32512.0;

impl Bytes {
    const ZERO: Bytes = Bytes { high: [0; PANEL_COLUMNS], low: [0; PANEL_COLUMNS] };
}

/// What belongs to 32 quantized values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Scale {
    /// `x = scale * q`.
    pub(crate) scale: f32,
    /// `scale` times the sums of the first and of the second 16 `q`: with them offsets and
    /// minimums of weights are corrected.
    pub(crate) sums: [f32; 2],
}

impl Activations {
    /// Tokens of the last [`quantize`](Self::quantize).
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns of the last [`quantize`](Self::quantize).
    pub fn columns(&self) -> usize {
        self.blocks * PANEL_COLUMNS
    }

    /// Replaces the content by the rows of `x`, each of `columns` values. Allocates
    /// only when the content grows beyond what it once was.
    ///
    /// # Panics
    /// When `columns` is not a multiple of 32 or `x` is not whole rows.
    pub fn quantize(&mut self, kernels: Kernels, team: &Team<'_>, x: &[f32], columns: usize) {
        assert!(columns > 0 && columns.is_multiple_of(PANEL_COLUMNS), "{columns} columns in blocks of 32");
        assert!(x.len().is_multiple_of(columns), "whole rows of {columns}");
        self.blocks = columns / PANEL_COLUMNS;
        self.tokens = x.len() / columns;
        self.tile = kernels.tile();
        let total = self.tokens * self.blocks;
        if self.values.len() < total {
            self.values.resize(total, Bytes::ZERO);
            self.scales.resize(total, Scale::default());
        }
        let (tile, blocks, tokens) = (self.tile, self.blocks, self.tokens);
        let tiles = tokens.div_ceil(tile);
        let work = |first: usize, values: &mut [Bytes], scales: &mut [Scale]| {
            let tiles = values.chunks_mut(tile * blocks).zip(scales.chunks_mut(tile * blocks));
            for (i, (values, scales)) in tiles.enumerate() {
                let start = (first + i) * tile * columns;
                let x = &x[start..(start + tile * columns).min(x.len())];
                kernels.run(QuantizeTile { x, blocks, values, scales });
            }
        };
        let (values, scales) = (&mut self.values[..total], &mut self.scales[..total]);
        if tokens <= tile {
            return work(0, values, scales);
        }
        team.row_pairs(values, scales, tile * blocks, tiles, work);
    }

    // The tokens of tile `index`: values and scales, `[block][token]`.
    #[inline(always)]
    pub(crate) fn tile(&self, index: usize) -> (&[Bytes], &[Scale]) {
        let size = self.tile * self.blocks;
        let range = index * size..((index + 1) * size).min(self.tokens * self.blocks);
        (&self.values[range.clone()], &self.scales[range])
    }

    // Tokens of a whole tile.
    pub(crate) fn tile_tokens(&self) -> usize {
        self.tile
    }

    // Blocks of 32 columns.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }
}

struct QuantizeTile<'a> {
    x: &'a [f32],
    blocks: usize,
    values: &'a mut [Bytes],
    scales: &'a mut [Scale],
}

impl SimdOp for QuantizeTile<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let tokens = self.x.len() / (self.blocks * PANEL_COLUMNS);
        for (token, x) in self.x.chunks_exact(self.blocks * PANEL_COLUMNS).enumerate() {
            let (x, _) = x.as_chunks::<PANEL_COLUMNS>();
            for (block, x) in x.iter().enumerate() {
                let at = block * tokens + token;
                self.scales[at] = quantize_block(isa, x, &mut self.values[at]);
            }
        }
    }
}

#[inline(always)]
fn quantize_block<I: Isa>(isa: I, x: &[f32; PANEL_COLUMNS], out: &mut Bytes) -> Scale {
    let (halves, _) = x.as_chunks::<LANES>();
    let (first, second) = (isa.load(&halves[0]), isa.load(&halves[1]));
    let peak = isa.max_lane(isa.max(isa.abs(first), isa.abs(second)));
    let inverse = LARGEST / peak;
    // Also a block so small that its inverse overflows counts as zero.
    if !inverse.is_finite() || !peak.is_finite() {
        *out = Bytes::ZERO;
        // A peak that is not a number, or infinite, must stay visible in the product.
        let scale = if peak.is_finite() { 0.0 } else { f32::NAN };
        return Scale { scale, sums: [scale; 2] };
    }
    let (high, _) = out.high.as_chunks_mut::<LANES>();
    let (low, _) = out.low.as_chunks_mut::<LANES>();
    let first = split(isa, isa.mul(first, isa.splat(inverse)), &mut high[0], &mut low[0]);
    let second = split(isa, isa.mul(second, isa.splat(inverse)), &mut high[1], &mut low[1]);
    let scale = peak / LARGEST;
    Scale { scale, sums: [scale * first as f32, scale * second as f32] }
}

// Rounds to whole numbers, stores their two bytes and returns their sum.
#[inline(always)]
fn split<I: Isa>(isa: I, q: I::F32, high: &mut [i8; LANES], low: &mut [i8; LANES]) -> i32 {
    let whole = isa.round(q);
    let q = isa.to_f32(whole);
    let upper = isa.round(isa.mul(q, isa.splat(1.0 / HIGH)));
    let lower = isa.round(isa.mul_add(isa.to_f32(upper), isa.splat(-HIGH), q));
    isa.store_i8(upper, high);
    isa.store_i8(lower, low);
    isa.sum_i32(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IsaKind, Pool};

    #[test]
    fn values_come_back_within_half_a_step() {
        let columns = 96;
        for kernels in IsaKind::ALL.iter().filter_map(|&isa| Kernels::with(isa)) {
            for tokens in [1, 3, 8, 9, 21] {
                let value = |i: usize| ((i * 7919 + 5) % 2003) as f32 * 1e-3 - 1.0;
                let x: Vec<f32> =
                    (0..tokens * columns).map(|i| value(i) * 2.0f32.powi(i as i32 / 32 % 80 - 40)).collect();
                let mut q = Activations::default();
                Pool::new(2).unwrap().step(|team| q.quantize(kernels, team, &x, columns));
                assert_eq!((q.tokens(), q.columns()), (tokens, columns));
                for token in 0..tokens {
                    let (values, scales) = q.tile(token / q.tile_tokens());
                    let width = values.len() / q.blocks();
                    for block in 0..columns / PANEL_COLUMNS {
                        let at = block * width + token % q.tile_tokens();
                        let x = &x[token * columns + block * PANEL_COLUMNS..][..PANEL_COLUMNS];
                        let peak = x.iter().fold(0.0f32, |peak, x| peak.max(x.abs()));
                        let mut sums = [0, 0];
                        for (i, x) in x.iter().enumerate() {
                            let (high, low) = (values[at].high[i], values[at].low[i]);
                            assert!(high > -128 && low > -128);
                            let whole = 255 * i32::from(high) + i32::from(low);
                            sums[i / 16] += whole;
                            let error = f64::from(*x) - f64::from(scales[at].scale) * f64::from(whole);
                            assert!(error.abs() <= 0.51 * f64::from(peak) / 32512.0, "{x} {error}");
                        }
                        assert_eq!(scales[at].sums, sums.map(|sum| scales[at].scale * sum as f32));
                    }
                }
            }
        }
    }

    #[test]
    fn odd_values_are_zero_or_stay_visible() {
        for kernels in IsaKind::ALL.iter().filter_map(|&isa| Kernels::with(isa)) {
            for (value, expected) in [(0.0, 0.0), (1e-42, 0.0), (f32::INFINITY, f32::NAN)] {
                let mut x = [0.0; PANEL_COLUMNS];
                x[7] = value;
                let mut q = Activations::default();
                Pool::new(1).unwrap().step(|team| q.quantize(kernels, team, &x, PANEL_COLUMNS));
                let scale = q.scales[0].scale;
                assert!(scale == expected || scale.is_nan() && expected.is_nan(), "{value}: {scale}");
            }
        }
    }
}
