//! The running softmax of a row.

use crate::ops::exp;
use crate::{Isa, LANES};

/// The largest score so far, the sum of `exp(score - largest)`, and the values weighted by it.
// Values first and aligned: no vector of them crosses a line of the cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Softmax<const W: usize> {
    pub(super) mean: [f32; W],
    pub(super) peak: f32,
    pub(super) total: f32,
}

impl<const W: usize> Softmax<W> {
    /// That of no scores.
    pub(super) const EMPTY: Softmax<W> = Softmax { peak: f32::NEG_INFINITY, total: 0.0, mean: [0.0; W] };

    /// Writes it to a row of `LANES` elements and the values.
    pub(super) fn store(&self, row: &mut [f32]) {
        let (head, mean) = row.split_at_mut(LANES);
        (head[0], head[1]) = (self.peak, self.total);
        mean.copy_from_slice(&self.mean[..mean.len()]);
    }

    /// What [`store`](Self::store) wrote.
    pub(super) fn load(row: &[f32], width: usize) -> Softmax<W> {
        let (head, mean) = row.split_at(LANES);
        let mut softmax = Softmax { peak: head[0], total: head[1], mean: [0.0; W] };
        softmax.mean[..width].copy_from_slice(&mean[..width]);
        softmax
    }

    /// The values' weighted mean.
    pub(super) fn mean_to(&self, out: &mut [f32]) {
        for (out, mean) in out.iter_mut().zip(&self.mean) {
            *out = mean / self.total;
        }
    }
}

/// Multiplies what was gathered with `factor`.
#[inline(always)]
pub(super) fn rescale<I: Isa, const W: usize>(isa: I, row: &mut Softmax<W>, factor: f32, width: usize) {
    row.total *= factor;
    let (mean, _) = row.mean[..width].as_chunks_mut::<LANES>();
    for mean in mean {
        isa.store(isa.mul(isa.load(mean), isa.splat(factor)), mean);
    }
}

/// Adds `part`, which comes after what is in `total`. Merging into nothing changes nothing, so a
/// part may have been merged into nothing before.
#[inline(always)]
pub(super) fn merge<I: Isa, const W: usize>(isa: I, total: &mut Softmax<W>, part: &Softmax<W>, width: usize) {
    if part.peak == f32::NEG_INFINITY && part.total == 0.0 {
        return;
    }
    let peak = total.peak.max(part.peak);
    rescale(isa, total, exp_one(isa, total.peak - peak), width);
    let factor = exp_one(isa, part.peak - peak);
    total.peak = peak;
    total.total += part.total * factor;
    let (sums, _) = total.mean[..width].as_chunks_mut::<LANES>();
    let (parts, _) = part.mean[..width].as_chunks::<LANES>();
    for (sum, part) in sums.iter_mut().zip(parts) {
        isa.store(isa.mul_add(isa.load(part), isa.splat(factor), isa.load(sum)), sum);
    }
}

/// `e^x`, and 0 for minus infinity.
#[inline(always)]
pub(super) fn exp_one<I: Isa>(isa: I, x: f32) -> f32 {
    if x == f32::NEG_INFINITY {
        return 0.0;
    }
    let mut lanes = [0.0; LANES];
    isa.store(exp(isa, isa.splat(x)), &mut lanes);
    lanes[0]
}
