//! Activations in 8 bits, quantized once and shared by every product that reads them.

use crate::{Isa, Kernels, LANES, PANEL_COLUMNS, SimdOp, Team};

/// Vectors of one layer's input, as the panel products read them: for every 32
/// columns a scale `s = max|x| / 127` and bytes `q = round(x / s)`, half to even, in
/// `-127..=127`; beside them the sums of `q` over each 16 columns, with which
/// offsets and minimums of the weights are corrected.
///
/// Tokens lie in tiles, so that a product reads the same columns of neighbouring
/// tokens from one place: `[tile][block of columns][token of the tile]`.
#[derive(Debug, Default)]
pub struct Activations {
    tokens: usize,
    blocks: usize,
    tile: usize,
    values: Vec<[i8; PANEL_COLUMNS]>,
    scales: Vec<Scale>,
}

/// What belongs to 32 quantized values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Scale {
    /// `x = scale * q`.
    pub(crate) scale: f32,
    /// Sums of `q` over the first and the second 16 columns.
    pub(crate) sums: [i16; 2],
}

impl Scale {
    #[inline(always)]
    pub(crate) fn sum(self) -> i32 {
        i32::from(self.sums[0]) + i32::from(self.sums[1])
    }
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
            self.values.resize(total, [0; PANEL_COLUMNS]);
            self.scales.resize(total, Scale::default());
        }
        let (tile, blocks, tokens) = (self.tile, self.blocks, self.tokens);
        let tiles = tokens.div_ceil(tile);
        let work = |first: usize, values: &mut [[i8; PANEL_COLUMNS]], scales: &mut [Scale]| {
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
    pub(crate) fn tile(&self, index: usize) -> (&[[i8; PANEL_COLUMNS]], &[Scale]) {
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
    values: &'a mut [[i8; PANEL_COLUMNS]],
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
fn quantize_block<I: Isa>(isa: I, x: &[f32; PANEL_COLUMNS], values: &mut [i8; PANEL_COLUMNS]) -> Scale {
    let (halves, _) = x.as_chunks::<LANES>();
    let (low, high) = (isa.load(&halves[0]), isa.load(&halves[1]));
    let peak = isa.max_lane(isa.max(isa.abs(low), isa.abs(high)));
    let inverse = 127.0 / peak;
    // Also a block so small that its inverse overflows counts as zero.
    if !inverse.is_finite() {
        *values = [0; PANEL_COLUMNS];
        // A peak that is not a number, or infinite, must stay visible in the product.
        let scale = if peak.is_finite() { 0.0 } else { f32::NAN };
        return Scale { scale, sums: [0; 2] };
    }
    let inverse = isa.splat(inverse);
    let (out, _) = values.as_chunks_mut::<LANES>();
    let [first, second] = out else { unreachable!("two halves") };
    let low = isa.round(isa.mul(low, inverse));
    let high = isa.round(isa.mul(high, inverse));
    isa.store_i8(low, first);
    isa.store_i8(high, second);
    Scale { scale: peak / 127.0, sums: [isa.sum_i32(low) as i16, isa.sum_i32(high) as i16] }
}
