//! Probabilities as integers.

/// Binary digits of a weight: a candidate as good as the best one weighs 2^40.
pub(super) const WEIGHT_BITS: u32 = 40;

/// `exp(below) * 2^40`, rounded, for `below <= 0`: the weight of a candidate whose score is `below` that
/// of the best.
///
/// Integers because their sums do not depend on the order of adding, and additions, multiplications and
/// bit moves alone because those give the same bits on every platform, which a library's `exp` does not.
/// What is less likely than the best by a factor of 2^41 weighs nothing.
#[inline]
pub(super) fn weight(below: f64) -> u64 {
    use std::f64::consts::{LN_2, LOG2_E};
    /// Added to a number, it leaves the nearest integer in the low bits.
    const NEAREST: f64 = 1.5 * (1u64 << 52) as f64;
    /// The same for numbers that are not negative, with nothing but the integer below the exponent.
    const NEAREST_POSITIVE: f64 = (1u64 << 52) as f64;
    /// 1/n! for n = 12 down to 0: the series of the exponential, exact to 2e-16 for |x| <= ln(2) / 2.
    const SERIES: [f64; 13] = [
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        1.0 / 2.0,
        1.0,
        1.0,
    ];
    let below = if below > -29.0 { below } else { -29.0 };
    let exponent = below * LOG2_E + f64::from(WEIGHT_BITS);
    let shifted = exponent + NEAREST;
    let rest = (exponent - (shifted - NEAREST)) * LN_2;
    let power = f64::from_bits((shifted.to_bits() + 1023) << 52);
    let exponential = SERIES.iter().fold(0.0, |sum, term| sum * rest + term) * power;
    (exponential + NEAREST_POSITIVE).to_bits() & ((1 << 52) - 1)
}

/// The lowest difference to the best score at which the weight is at least `share` of the best one's.
/// Finds it by halving, so that it agrees with [`weight`] exactly.
pub(super) fn lowest_difference(share: f64) -> f64 {
    let needed = (share * (1u64 << WEIGHT_BITS) as f64).ceil() as u64;
    let (mut out, mut within) = (-30.0, 0.0);
    if weight(out) >= needed {
        return f64::NEG_INFINITY;
    }
    loop {
        let middle = (out + within) * 0.5;
        if middle <= out || middle >= within {
            return within;
        }
        if weight(middle) >= needed {
            within = middle;
        } else {
            out = middle;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_rounded_exponential() {
        for i in 0..=400_000 {
            let below = -f64::from(i) / 10_000.0;
            let exact = below.exp() * 2f64.powi(40);
            // Half a unit of rounding, and the library's and our own last digits.
            assert!((weight(below) as f64 - exact).abs() <= 0.5 + exact * 2e-14, "{below}");
        }
        assert_eq!(weight(0.0), 1 << 40);
        assert_eq!(weight(f64::NEG_INFINITY), 0);
        assert_eq!(weight(-f64::MAX), 0);
    }

    #[test]
    fn never_rises_as_the_score_falls() {
        let mut above = weight(0.0);
        for i in 1..3_000_000 {
            let next = weight(-f64::from(i) * 1e-5);
            assert!(next <= above);
            above = next;
        }
    }

    #[test]
    fn lowest_difference_is_the_logarithm() {
        for share in [1.0, 0.5, 0.05, 1e-3, 1e-6, 1e-9] {
            let found = lowest_difference(share);
            assert!((found - share.ln()).abs() < 1e-12 / share, "{share}: {found}");
            assert!(weight(found) >= (share * 2f64.powi(40)).ceil() as u64);
        }
        assert_eq!(lowest_difference(0.0), f64::NEG_INFINITY);
    }
}
