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

/// Root-mean-square norm (Zhang and Sennrich 2019): `out = x / sqrt(mean(x^2) + epsilon) * weight`.
///
/// # Panics
/// When the lengths differ.
pub fn rms_norm(kernels: Kernels, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len());
    let mut squares = [0.0];
    dot_rows(kernels, &[x], x, &mut squares);
    let scale = 1.0 / (squares[0] / x.len() as f32 + epsilon).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

/// Turns neighbouring pairs of `x` by the angles whose cosines and sines are given;
/// components beyond the last pair stay.
///
/// # Panics
/// When there are more pairs than `x` has, or the numbers of cosines and sines differ.
pub fn rotate_pairs(x: &mut [f32], cosines: &[f32], sines: &[f32]) {
    assert!(cosines.len() == sines.len() && 2 * cosines.len() <= x.len());
    let (pairs, _) = x.as_chunks_mut::<2>();
    for (pair, (cos, sin)) in pairs.iter_mut().zip(cosines.iter().zip(sines)) {
        let [a, b] = *pair;
        *pair = [a * cos - b * sin, a * sin + b * cos];
    }
}

/// Adds `x` to `sum`.
///
/// # Panics
/// When the lengths differ.
pub fn add_assign(sum: &mut [f32], x: &[f32]) {
    assert_eq!(sum.len(), x.len());
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
}

/// `gate = silu(gate) * up`, with `silu(x) = x / (1 + exp(-x))`.
///
/// # Panics
/// When the lengths differ.
pub fn silu_mul(kernels: Kernels, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    kernels.run(SiluMul { gate, up });
}

struct SiluMul<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl SimdOp for SiluMul<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let (gates, gate_rest) = self.gate.as_chunks_mut::<LANES>();
        let (ups, up_rest) = self.up.as_chunks::<LANES>();
        for (gate, up) in gates.iter_mut().zip(ups) {
            silu_mul_lanes(isa, gate, up);
        }
        if !gate_rest.is_empty() {
            let mut gate = padded(gate_rest);
            silu_mul_lanes(isa, &mut gate, &padded(up_rest));
            gate_rest.copy_from_slice(&gate[..gate_rest.len()]);
        }
    }
}

#[inline(always)]
fn silu_mul_lanes<I: Isa>(isa: I, gate: &mut [f32; LANES], up: &[f32; LANES]) {
    let x = isa.load(gate);
    let denominator = isa.add(isa.splat(1.0), exp(isa, isa.sub(isa.splat(0.0), x)));
    isa.store(isa.mul(isa.div(x, denominator), isa.load(up)), gate);
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
    fn norm_and_activation_match_f64() {
        for kernels in every_isa() {
            for n in [1, 16, 37, 576] {
                let (x, weight) = (values(n, 1), values(n, 2));
                let mut out = vec![0.0; n];
                rms_norm(kernels, &x, &weight, 1e-5, &mut out);
                let mean = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / n as f64;
                for i in 0..n {
                    let exact = f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(weight[i]);
                    assert!((f64::from(out[i]) - exact).abs() <= 1e-6 * (exact.abs() + 1e-3));
                }

                let mut gate: Vec<f32> = x.iter().map(|x| 120.0 * x).collect();
                let exact: Vec<f64> = gate
                    .iter()
                    .zip(&weight)
                    .map(|(&g, &u)| f64::from(g) / (1.0 + f64::from(-g).exp()) * f64::from(u))
                    .collect();
                silu_mul(kernels, &mut gate, &weight);
                for (got, exact) in gate.iter().zip(exact) {
                    assert!((f64::from(*got) - exact).abs() <= 1e-6 * exact.abs() + 1e-30, "{got} {exact}");
                }
            }
        }
    }
}
