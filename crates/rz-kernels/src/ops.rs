//! Float operators on whole vectors. Sums are formed in a fixed order.

use crate::{Isa, Kernels, LANES, SimdOp};

/// The dot products of up to four rows with one vector: `out[r] = rows[r] . x`.
/// A row's result does not depend on the rows beside it.
///
/// # Panics
/// When the lengths differ, or there are no or more than four rows.
pub fn dot_rows(kernels: Kernels, rows: &[&[f32]], x: &[f32], out: &mut [f32]) {
    assert!(rows.len() == out.len() && rows.iter().all(|row| row.len() == x.len()));
    match *rows {
        [a] => out.copy_from_slice(&kernels.run(Dot { rows: [a], x })),
        [a, b] => out.copy_from_slice(&kernels.run(Dot { rows: [a, b], x })),
        [a, b, c] => out.copy_from_slice(&kernels.run(Dot { rows: [a, b, c], x })),
        [a, b, c, d] => out.copy_from_slice(&kernels.run(Dot { rows: [a, b, c, d], x })),
        _ => panic!("{} rows at once", rows.len()),
    }
}

struct Dot<'a, const R: usize> {
    rows: [&'a [f32]; R],
    x: &'a [f32],
}

impl<const R: usize> SimdOp for Dot<'_, R> {
    type Output = [f32; R];

    // Two sums a row, for even and odd vectors, so that additions overlap.
    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> [f32; R] {
        let mut sums = [[isa.splat(0.0); 2]; R];
        let (pairs, rest) = self.x.as_chunks::<{ 2 * LANES }>();
        for (i, x) in pairs.iter().enumerate() {
            let (low, high) = halves(isa, x);
            for r in 0..R {
                let row: &[f32; 2 * LANES] =
                    self.rows[r][2 * LANES * i..].first_chunk().expect("same length");
                let (a, b) = halves(isa, row);
                sums[r] = [isa.mul_add(a, low, sums[r][0]), isa.mul_add(b, high, sums[r][1])];
            }
        }
        if !rest.is_empty() {
            let start = self.x.len() - rest.len();
            let (low, high) = halves(isa, &padded(rest));
            for r in 0..R {
                let (a, b) = halves(isa, &padded(&self.rows[r][start..]));
                sums[r] = [isa.mul_add(a, low, sums[r][0]), isa.mul_add(b, high, sums[r][1])];
            }
        }
        sums.map(|[even, odd]| isa.sum(isa.add(even, odd)))
    }
}

#[inline(always)]
fn halves<I: Isa>(isa: I, x: &[f32; 2 * LANES]) -> (I::F32, I::F32) {
    let (halves, _) = x.as_chunks::<LANES>();
    (isa.load(&halves[0]), isa.load(&halves[1]))
}

#[inline(always)]
fn padded<const N: usize>(x: &[f32]) -> [f32; N] {
    let mut out = [0.0; N];
    out[..x.len()].copy_from_slice(x);
    out
}

/// Root-mean-square norm (Zhang and Sennrich 2019): `out = x / sqrt(mean(x^2) + epsilon) * weight`,
/// within `n / 64 + 4` times 2^-23 of the value for `n` components.
///
/// # Panics
/// When the lengths differ.
pub fn rms_norm(kernels: Kernels, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len());
    kernels.run(RmsNorm { x, weight, epsilon, out });
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl SimdOp for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let RmsNorm { x, weight, epsilon, out } = self;
        let [squares] = Dot { rows: [x], x }.eval(isa);
        let scale = 1.0 / (squares / x.len() as f32 + epsilon).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

/// Layer norm (Ba et al. 2016): `out = (x - mean) / sqrt(variance + epsilon) * weight + bias`. With `n`
/// components, the product is within `n / 16 + 8` times 2^-23 of what it is for `|x| + mean(|x|)` in
/// place of `x - mean`.
///
/// # Panics
/// When the lengths differ.
pub fn layer_norm(
    kernels: Kernels,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    epsilon: f32,
    out: &mut [f32],
) {
    assert!(x.len() == weight.len() && x.len() == out.len());
    assert!(bias.is_none_or(|bias| bias.len() == x.len()));
    kernels.run(LayerNorm { x, weight, epsilon, out });
    if let Some(bias) = bias {
        add_assign(kernels, out, bias);
    }
}

struct LayerNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl SimdOp for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let LayerNorm { x, weight, epsilon, out } = self;
        let count = x.len() as f32;
        let mean = sum(isa, x) / count;
        for (out, x) in out.iter_mut().zip(x) {
            *out = x - mean;
        }
        let [squares] = Dot { rows: [out], x: out }.eval(isa);
        let scale = 1.0 / (squares / count + epsilon).sqrt();
        for (out, weight) in out.iter_mut().zip(weight) {
            *out = *out * scale * weight;
        }
    }
}

// In the order of a dot product.
#[inline(always)]
fn sum<I: Isa>(isa: I, x: &[f32]) -> f32 {
    let mut sums = [isa.splat(0.0); 2];
    let (pairs, rest) = x.as_chunks::<{ 2 * LANES }>();
    for x in pairs {
        let (even, odd) = halves(isa, x);
        sums = [isa.add(sums[0], even), isa.add(sums[1], odd)];
    }
    let (even, odd) = halves(isa, &padded(rest));
    isa.sum(isa.add(isa.add(sums[0], even), isa.add(sums[1], odd)))
}

/// Turns neighbouring pairs of `x` by the angles whose cosines and sines are given;
/// components beyond the last pair stay.
///
/// # Panics
/// When there are more pairs than `x` has, or the numbers of cosines and sines differ.
pub fn rotate_neighbours(x: &mut [f32], cosines: &[f32], sines: &[f32]) {
    assert!(cosines.len() == sines.len() && 2 * cosines.len() <= x.len());
    let (pairs, _) = x.as_chunks_mut::<2>();
    for (pair, (cos, sin)) in pairs.iter_mut().zip(cosines.iter().zip(sines)) {
        let [a, b] = *pair;
        *pair = [a * cos - b * sin, a * sin + b * cos];
    }
}

/// As [`rotate_neighbours`], where component `i` of the first half pairs with `i` of the
/// second half of those that turn.
///
/// # Panics
/// When there are more pairs than `x` has, or the numbers of cosines and sines differ.
pub fn rotate_halves(x: &mut [f32], cosines: &[f32], sines: &[f32]) {
    assert!(cosines.len() == sines.len() && 2 * cosines.len() <= x.len());
    let (first, second) = x[..2 * cosines.len()].split_at_mut(cosines.len());
    for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(cosines.iter().zip(sines)) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}

/// `x = cap * tanh(x / cap)`, within 2^-21 times `cap`.
pub fn soft_cap(kernels: Kernels, x: &mut [f32], cap: f32) {
    kernels.run(MapLanes { x, map: Cap(cap) });
}

/// Adds `x` to `sum`.
///
/// # Panics
/// When the lengths differ.
pub fn add_assign(kernels: Kernels, sum: &mut [f32], x: &[f32]) {
    assert_eq!(sum.len(), x.len());
    kernels.run(AddAssign { sum, x });
}

struct AddAssign<'a> {
    sum: &'a mut [f32],
    x: &'a [f32],
}

// A plain loop, compiled for the instruction set.
impl SimdOp for AddAssign<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        self.sum.iter_mut().zip(self.x).for_each(|(sum, x)| *sum += x);
    }
}

/// The activation functions of feed-forward networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))` (Hendrycks and Gimpel 2016).
    GeluTanh,
}

/// `x = f(x)`, and times `up` where it is given, in one pass. `f(x)` is within 2^-21 times its
/// value, plus 2^-20.
///
/// # Panics
/// When the lengths differ.
pub fn activate(kernels: Kernels, activation: Activation, x: &mut [f32], up: Option<&[f32]>) {
    match (activation, up) {
        (Activation::Silu, None) => kernels.run(MapLanes { x, map: Silu }),
        (Activation::GeluTanh, None) => kernels.run(MapLanes { x, map: GeluTanh }),
        (Activation::Silu, Some(up)) => gate(kernels, Silu, x, up),
        (Activation::GeluTanh, Some(up)) => gate(kernels, GeluTanh, x, up),
    }
}

fn gate<M: Map>(kernels: Kernels, map: M, x: &mut [f32], up: &[f32]) {
    assert_eq!(x.len(), up.len());
    kernels.run(GateLanes { x, up, map });
}

/// A function of every lane on its own.
trait Map: Copy {
    fn apply<I: Isa>(self, isa: I, x: I::F32) -> I::F32;
}

struct MapLanes<'a, M> {
    x: &'a mut [f32],
    map: M,
}

impl<M: Map> SimdOp for MapLanes<'_, M> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let (whole, rest) = self.x.as_chunks_mut::<LANES>();
        for x in whole {
            isa.store(self.map.apply(isa, isa.load(x)), x);
        }
        if !rest.is_empty() {
            let mut x = padded(rest);
            isa.store(self.map.apply(isa, isa.load(&x)), &mut x);
            rest.copy_from_slice(&x[..rest.len()]);
        }
    }
}

struct GateLanes<'a, M> {
    x: &'a mut [f32],
    up: &'a [f32],
    map: M,
}

impl<M: Map> SimdOp for GateLanes<'_, M> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let (whole, rest) = self.x.as_chunks_mut::<LANES>();
        let (up, up_rest) = self.up.as_chunks::<LANES>();
        for (x, up) in whole.iter_mut().zip(up) {
            isa.store(isa.mul(self.map.apply(isa, isa.load(x)), isa.load(up)), x);
        }
        if !rest.is_empty() {
            let mut x = padded(rest);
            let gated = isa.mul(self.map.apply(isa, isa.load(&x)), isa.load(&padded(up_rest)));
            isa.store(gated, &mut x);
            rest.copy_from_slice(&x[..rest.len()]);
        }
    }
}

#[derive(Clone, Copy)]
struct Silu;

impl Map for Silu {
    #[inline(always)]
    fn apply<I: Isa>(self, isa: I, x: I::F32) -> I::F32 {
        times_sigmoid(isa, x, x)
    }
}

#[derive(Clone, Copy)]
struct GeluTanh;

impl Map for GeluTanh {
    // (1 + tanh(y)) / 2 is the sigmoid of 2y.
    #[inline(always)]
    fn apply<I: Isa>(self, isa: I, x: I::F32) -> I::F32 {
        const TWICE_ROOT: f32 = 1.595_769;
        let cubic = isa.mul_add(isa.mul(x, x), isa.splat(0.044715 * TWICE_ROOT), isa.splat(TWICE_ROOT));
        times_sigmoid(isa, x, isa.mul(x, cubic))
    }
}

#[derive(Clone, Copy)]
struct Cap(f32);

impl Map for Cap {
    #[inline(always)]
    fn apply<I: Isa>(self, isa: I, x: I::F32) -> I::F32 {
        cap_lanes(isa, x, self.0)
    }
}

/// `cap * tanh(x / cap)`.
#[inline(always)]
pub(crate) fn cap_lanes<I: Isa>(isa: I, x: I::F32, cap: f32) -> I::F32 {
    // tanh(y) = 2 * sigmoid(2y) - 1; near 0 that cancels, but logits are far from it.
    let sigmoid = times_sigmoid(isa, isa.splat(2.0 * cap), isa.mul(x, isa.splat(2.0 / cap)));
    isa.sub(sigmoid, isa.splat(cap))
}

/// `x / (1 + exp(-y))`.
#[inline(always)]
fn times_sigmoid<I: Isa>(isa: I, x: I::F32, y: I::F32) -> I::F32 {
    let minus = isa.sub(isa.splat(0.0), y);
    isa.div(x, isa.add(isa.splat(1.0), exp(isa, minus)))
}

/// `e^x`, within 2 units in the last place for `x` in `-87..=88`; beyond, the value
/// at the nearer end.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, and a polynomial for `e^r` (the Taylor
/// series to the seventh power, whose remainder is below 2^-27).
#[inline(always)]
pub(crate) fn exp<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    // ln 2 in two parts: the first has so few bits that its multiples are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const TAYLOR: [f32; 7] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 1.0 / 2.0, 1.0];
    let x = isa.min(isa.max(x, isa.splat(-87.0)), isa.splat(88.0));
    let n = isa.round(isa.mul(x, isa.splat(std::f32::consts::LOG2_E)));
    let whole = isa.to_f32(n);
    let r = isa.mul_add(whole, isa.splat(-LN2_HIGH), x);
    let r = isa.mul_add(whole, isa.splat(-LN2_LOW), r);
    let mut sum = isa.splat(TAYLOR[0]);
    for c in &TAYLOR[1..] {
        sum = isa.mul_add(sum, r, isa.splat(*c));
    }
    sum = isa.mul_add(sum, r, isa.splat(1.0));
    isa.mul(sum, isa.exp2i(n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IsaKind;

    struct Exp<'a>(&'a mut [f32; LANES]);

    impl SimdOp for Exp<'_> {
        type Output = ();
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) {
            isa.store(exp(isa, isa.load(self.0)), self.0);
        }
    }

    fn every_isa() -> impl Iterator<Item = Kernels> {
        IsaKind::ALL.iter().filter_map(|&isa| Kernels::with(isa))
    }

    // Values without a pattern, so that lanes in the wrong order show.
    fn values(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for kernels in every_isa() {
            let mut worst = 0.0f64;
            for i in 0..200_000 {
                let x = -87.0 + 175.0 * (i as f32) / 200_000.0;
                let mut lanes = [x; LANES];
                kernels.run(Exp(&mut lanes));
                let exact = f64::from(x).exp();
                let unit = f64::from((exact as f32).next_up() - exact as f32);
                worst = worst.max((f64::from(lanes[3]) - exact).abs() / unit);
            }
            assert!(worst <= 2.0, "{}: {worst} units", kernels.isa().name());
        }
    }

    #[test]
    fn dots_match_f64_and_do_not_depend_on_their_neighbours() {
        for kernels in every_isa() {
            for n in [0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 576, 1000] {
                let x = values(n, 1);
                let rows: Vec<Vec<f32>> = (2..6).map(|seed| values(n, seed)).collect();
                let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
                let mut all = [0.0; 4];
                dot_rows(kernels, &rows, &x, &mut all);
                for (r, row) in rows.iter().enumerate() {
                    let exact: f64 = row.iter().zip(&x).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                    let bound: f64 = row.iter().zip(&x).map(|(a, b)| f64::from((a * b).abs())).sum();
                    assert!((f64::from(all[r]) - exact).abs() <= 1e-6 * bound, "{n}: {} {exact}", all[r]);
                    for count in 1..=4 {
                        let start = r.saturating_sub(count - 1).min(4 - count);
                        let mut some = vec![0.0; count];
                        dot_rows(kernels, &rows[start..start + count], &x, &mut some);
                        assert_eq!(some[r - start].to_bits(), all[r].to_bits());
                    }
                }
            }
        }
    }

    #[test]
    fn activations_match_f64() {
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let gelu = |x: f64| {
            let y = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            x / 2.0 * (1.0 + y.tanh())
        };
        let cap = |x: f64| 30.0 * (x / 30.0).tanh();
        for kernels in every_isa() {
            for n in [1, 16, 37, 1000] {
                let x: Vec<f32> = values(n, 1).iter().map(|x| 120.0 * x * x * x).collect();
                let up = values(n, 2);
                let mut outs = [x.clone(), x.clone(), x.clone()];
                activate(kernels, Activation::Silu, &mut outs[0], Some(&up));
                activate(kernels, Activation::GeluTanh, &mut outs[1], None);
                soft_cap(kernels, &mut outs[2], 30.0);
                for i in 0..n {
                    let x = f64::from(x[i]);
                    let exact = [silu(x) * f64::from(up[i]), gelu(x), cap(x)];
                    let bound =
                        |factor: f64, exact: f64| 2f64.powi(-21) * exact.abs() + factor * 2f64.powi(-20);
                    let bounds = [
                        bound(f64::from(up[i]).abs(), exact[0]),
                        bound(1.0, exact[1]),
                        30.0 * 2f64.powi(-21),
                    ];
                    for ((out, exact), bound) in outs.iter().zip(exact).zip(bounds) {
                        assert!((f64::from(out[i]) - exact).abs() <= bound, "{x}: {} {exact}", out[i]);
                    }
                }
            }
        }
    }

    #[test]
    fn rotations_turn_the_right_pairs() {
        let x = values(10, 1);
        let (cos, sin): (Vec<f32>, Vec<f32>) =
            (0..4).map(|i| (0.3 * i as f32).sin_cos()).map(|(s, c)| (c, s)).unzip();
        let (mut neighbours, mut halves) = (x.clone(), x.clone());
        rotate_neighbours(&mut neighbours, &cos, &sin);
        rotate_halves(&mut halves, &cos, &sin);
        for i in 0..4 {
            for (out, a, b) in [(&neighbours, 2 * i, 2 * i + 1), (&halves, i, i + 4)] {
                assert_eq!(out[a], x[a] * cos[i] - x[b] * sin[i]);
                assert_eq!(out[b], x[a] * sin[i] + x[b] * cos[i]);
            }
        }
        assert_eq!((&neighbours[8..], &halves[8..]), (&x[8..], &x[8..]));
    }

    #[test]
    fn norms_match_f64() {
        for kernels in every_isa() {
            for n in [1, 16, 31, 37, 64, 576, 4096] {
                // Far from centred, so that the mean matters.
                let x: Vec<f32> = values(n, 1).iter().map(|x| x + 0.5).collect();
                let weight = values(n, 2);
                let unit = 2f64.powi(-23);
                let mut out = vec![0.0; n];
                rms_norm(kernels, &x, &weight, 1e-5, &mut out);
                let mean =
                    |f: &dyn Fn(f64) -> f64| x.iter().map(|&x| f(f64::from(x))).sum::<f64>() / n as f64;
                let deviation = (mean(&|x| x * x) + 1e-5).sqrt();
                for i in 0..n {
                    let exact = f64::from(x[i]) / deviation * f64::from(weight[i]);
                    let bound = (n as f64 / 64.0 + 4.0) * unit * exact.abs();
                    assert!((f64::from(out[i]) - exact).abs() <= bound, "{n}: {} {exact}", out[i]);
                }

                for bias in [None, Some(x.as_slice())] {
                    layer_norm(kernels, &x, &weight, bias, 1e-5, &mut out);
                    let centre = mean(&|x| x);
                    let deviation = (mean(&|x| (x - centre) * (x - centre)) + 1e-5).sqrt();
                    for i in 0..n {
                        let (x, weight) = (f64::from(x[i]), f64::from(weight[i]));
                        let exact =
                            (x - centre) / deviation * weight + bias.map_or(0.0, |bias| bias[i].into());
                        let size = (x.abs() + mean(&f64::abs)) / deviation * weight.abs();
                        let bound = (n as f64 / 16.0 + 8.0) * unit * size + unit * exact.abs();
                        assert!((f64::from(out[i]) - exact).abs() <= bound, "{n}: {} {exact}", out[i]);
                    }
                }
            }
        }
    }
}
