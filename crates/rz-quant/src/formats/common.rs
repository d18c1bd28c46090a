//! What several formats share: half-precision fields, the formula of a sub-block, and
//! the limits and scales of the encoders.

use half::f16;

/// The largest finite value of a half-precision field.
pub(super) const HALF_MAX: f32 = 65504.0;

/// A half-precision field as it lies in a file.
///
/// Straight-line code, so that loops over it vectorise on every processor.
#[inline(always)]
pub(super) fn half(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    // Exponent and fraction in their places leave the exponent short by the
    // difference of the biases, 112; a product with a power of two is exact.
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}

/// The bytes of a half-precision field, rounded to the nearest even.
pub(super) fn to_half(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

/// `scale * (q - centre)`.
#[inline(always)]
pub(super) fn centred(scale: f32, centre: f32, q: &[u8], out: &mut [f32]) {
    for (out, q) in out.iter_mut().zip(q) {
        *out = scale * (f32::from(*q) - centre);
    }
}

/// `scale * q + offset`.
#[inline(always)]
pub(super) fn affine(scale: f32, offset: f32, q: &[u8], out: &mut [f32]) {
    for (out, q) in out.iter_mut().zip(q) {
        *out = scale * f32::from(*q) + offset;
    }
}

/// The first `N` elements with NaN as 0 and the rest limited to `low..=high`,
/// which a block encoder chooses so that its scales stay finite.
pub(super) fn limited<const N: usize>(x: &[f32], low: f32, high: f32) -> [f32; N] {
    let x: &[f32; N] = x.first_chunk().expect("a whole block");
    x.map(|v| if v.is_nan() { 0.0 } else { v.clamp(low, high) })
}

/// The element of the largest magnitude, the first of equals, with its sign.
pub(super) fn peak(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m: f32, &v| if v.abs() > m.abs() { v } else { m })
}

/// The smallest and the largest element, the first of equals (0 and -0 are).
pub(super) fn range(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| {
        (if v < low { v } else { low }, if v > high { v } else { high })
    })
}

/// `1 / d`, or 0 for a scale of 0.
pub(super) fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

#[cfg(test)]
mod tests {
    use super::half;

    #[test]
    fn every_half_widens_exactly() {
        for bits in 0..=u16::MAX {
            let (ours, other) = (half(bits.to_le_bytes()), half::f16::from_bits(bits).to_f32());
            assert!(
                ours.to_bits() == other.to_bits() || (ours.is_nan() && other.is_nan()),
                "{bits:#06x}: {ours:e} against {other:e}"
            );
        }
    }
}
