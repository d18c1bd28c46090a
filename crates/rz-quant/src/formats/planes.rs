//! Bit planes: how the quantized values of a block are spread over its bytes.
//!
//! Every GGUF block stores the bits of its values in *planes* of 1, 2 or 4 bits.
//! A plane is a sequence of runs; a run of `RUN` bytes holds `RUN * 8 / BITS`
//! values: value `i` lies in byte `i % RUN`, from bit `BITS * (i / RUN)` on.

/// Ors the values of a plane into `q`, shifted left by `at`.
#[inline(always)]
pub(super) fn read<const BITS: usize, const RUN: usize>(plane: &[u8], at: usize, q: &mut [u8]) {
    let mask = (1 << BITS) - 1;
    if RUN == 1 {
        for (byte, q) in plane.iter().zip(q.chunks_exact_mut(8 / BITS)) {
            q.iter_mut().enumerate().for_each(|(part, q)| *q |= (byte >> (part * BITS) & mask) << at);
        }
        return;
    }
    for (run, q) in plane.chunks_exact(RUN).zip(q.chunks_exact_mut(RUN * 8 / BITS)) {
        for (part, q) in q.chunks_exact_mut(RUN).enumerate() {
            for (q, byte) in q.iter_mut().zip(run) {
                *q |= (byte >> (part * BITS) & mask) << at;
            }
        }
    }
}

/// Writes the plane of `BITS` bits of each value from bit `at` on.
#[inline(always)]
pub(super) fn write<const BITS: usize, const RUN: usize, const BYTES: usize>(
    q: &[u8],
    at: usize,
) -> [u8; BYTES] {
    let mask = (1 << BITS) - 1;
    let mut plane = [0; BYTES];
    for (run, q) in plane.chunks_exact_mut(RUN).zip(q.chunks_exact(RUN * 8 / BITS)) {
        for (part, q) in q.chunks_exact(RUN).enumerate() {
            for (byte, q) in run.iter_mut().zip(q) {
                *byte |= (q >> at & mask) << (part * BITS);
            }
        }
    }
    plane
}

/// The eight 6-bit scales and the eight 6-bit minimums of Q4_K and Q5_K.
///
/// | bytes | bits 0..6 | bits 6..8 |
/// | --- | --- | --- |
/// | 0..4 | scales 0..4 | high two bits of scales 4..8 |
/// | 4..8 | minimums 0..4 | high two bits of minimums 4..8 |
///
/// Bytes 8..12 hold the low four bits of scales 4..8 in their low, of minimums
/// 4..8 in their high halves.
#[inline(always)]
pub(super) fn read_scales(bytes: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for j in 0..4 {
        let (scale, min, low) = (bytes[j], bytes[j + 4], bytes[j + 8]);
        (scales[j], scales[j + 4]) = (scale & 63, low & 15 | scale >> 6 << 4);
        (mins[j], mins[j + 4]) = (min & 63, low >> 4 | min >> 6 << 4);
    }
    (scales, mins)
}

/// The inverse of [`read_scales`].
pub(super) fn write_scales(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for j in 0..4 {
        bytes[j] = scales[j] | scales[j + 4] >> 4 << 6;
        bytes[j + 4] = mins[j] | mins[j + 4] >> 4 << 6;
        bytes[j + 8] = scales[j + 4] & 15 | mins[j + 4] << 4;
    }
    bytes
}
