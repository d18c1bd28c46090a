//! One row's part of a panel block: where `rz_kernels::PanelKind` puts its bits.

/// Writes the values of row `lane`, 32 for each step, into the bit planes of a panel
/// block: `BASE` low bits, then `EXTRA` high ones.
pub(super) fn store<const BASE: usize, const EXTRA: usize>(q: &[u8], lane: usize, planes: &mut [u8]) {
    let (steps, _) = q.as_chunks::<32>();
    for (q, planes) in steps.iter().zip(planes.chunks_exact_mut(64 * (BASE + EXTRA))) {
        let (base, extra) = planes.split_at_mut(64 * BASE);
        store_plane::<BASE>(q, 0, lane, base);
        if EXTRA > 0 {
            store_plane::<EXTRA>(q, BASE, lane, extra);
        }
    }
}

/// The inverse of [`store`].
pub(super) fn load<const BASE: usize, const EXTRA: usize, const N: usize>(
    planes: &[u8],
    lane: usize,
) -> [u8; N] {
    let mut q = [0; N];
    let (steps, _) = q.as_chunks_mut::<32>();
    for (q, planes) in steps.iter_mut().zip(planes.chunks_exact(64 * (BASE + EXTRA))) {
        let (base, extra) = planes.split_at(64 * BASE);
        load_plane::<BASE>(q, 0, lane, base);
        if EXTRA > 0 {
            load_plane::<EXTRA>(q, BASE, lane, extra);
        }
    }
    q
}

// Which columns share a byte: from the first, how many, how far apart.
const fn sharing(bits: usize, plane: usize) -> (usize, usize, usize) {
    match bits {
        8 => (4 * plane, 1, 0),
        4 => (4 * plane, 2, 16),
        2 => (16 * plane, 4, 4),
        _ => (0, 8, 4),
    }
}

#[inline(always)]
fn store_plane<const BITS: usize>(q: &[u8; 32], at: usize, lane: usize, planes: &mut [u8]) {
    let mask = ((1u32 << BITS) - 1) as u8;
    for (plane, bytes) in planes.chunks_exact_mut(64).enumerate() {
        let (first, count, stride) = sharing(BITS, plane);
        for (i, byte) in bytes[4 * lane..][..4].iter_mut().enumerate() {
            let value = |j: usize| (q[first + i + j * stride] >> at & mask) << (j * BITS);
            *byte = (0..count).fold(0, |byte, j| byte | value(j));
        }
    }
}

#[inline(always)]
fn load_plane<const BITS: usize>(q: &mut [u8; 32], at: usize, lane: usize, planes: &[u8]) {
    let mask = ((1u32 << BITS) - 1) as u8;
    for (plane, bytes) in planes.chunks_exact(64).enumerate() {
        let (first, count, stride) = sharing(BITS, plane);
        for (i, byte) in bytes[4 * lane..][..4].iter().enumerate() {
            for j in 0..count {
                q[first + i + j * stride] |= (byte >> (j * BITS) & mask) << at;
            }
        }
    }
}

/// Writes the half-precision field of row `lane` into 32 bytes of a header.
pub(super) fn store_half(field: [u8; 2], lane: usize, fields: &mut [u8]) {
    fields[2 * lane..][..2].copy_from_slice(&field);
}

/// The inverse of [`store_half`].
pub(super) fn load_half(fields: &[u8], lane: usize) -> [u8; 2] {
    [fields[2 * lane], fields[2 * lane + 1]]
}

/// Writes byte `i` of row `lane` into the `i`th 16 bytes of a header.
pub(super) fn store_bytes(bytes: &[u8], lane: usize, header: &mut [u8]) {
    for (byte, rows) in bytes.iter().zip(header.chunks_exact_mut(16)) {
        rows[lane] = *byte;
    }
}

/// The inverse of [`store_bytes`].
pub(super) fn load_bytes<const N: usize>(header: &[u8], lane: usize) -> [u8; N] {
    std::array::from_fn(|i| header[16 * i + lane])
}
