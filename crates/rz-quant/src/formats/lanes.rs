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

/// Writes bytes that hold a row's bits as planes want them, four to each plane.
#[inline(always)]
pub(super) fn store_bits(bytes: &[u8], lane: usize, planes: &mut [u8]) {
    for (plane, four) in planes.chunks_exact_mut(64).zip(bytes.chunks_exact(4)) {
        plane[4 * lane..][..4].copy_from_slice(four);
    }
}

/// The inverse of [`store_bits`].
pub(super) fn load_bits<const N: usize>(planes: &[u8], lane: usize) -> [u8; N] {
    let mut bytes = [0; N];
    for (four, plane) in bytes.chunks_exact_mut(4).zip(planes.chunks_exact(64)) {
        four.copy_from_slice(&plane[4 * lane..][..4]);
    }
    bytes
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

// The bytes of a row in the planes of `BITS` bits, plane after plane, four each.
#[inline(always)]
fn gather<const BITS: usize>(q: &[u8; 32], at: usize) -> [u8; 32] {
    let mask = ((1u32 << BITS) - 1) as u8;
    let value = |column: usize| q[column] >> at & mask;
    let mut bytes = [0; 32];
    // Every fourth column from `first` on shares a byte, or, of four bits, every sixteenth.
    for (k, byte) in bytes[..4 * BITS].iter_mut().enumerate() {
        *byte = match BITS {
            8 => value(k),
            4 => value(k) | value(16 + k) << 4,
            2 => {
                let first = k / 4 * 16 + k % 4;
                value(first) | value(first + 4) << 2 | value(first + 8) << 4 | value(first + 12) << 6
            }
            _ => {
                let low = value(k) | value(4 + k) << 1 | value(8 + k) << 2 | value(12 + k) << 3;
                let high = value(16 + k) | value(20 + k) << 1 | value(24 + k) << 2 | value(28 + k) << 3;
                low | high << 4
            }
        };
    }
    bytes
}

#[inline(always)]
fn store_plane<const BITS: usize>(q: &[u8; 32], at: usize, lane: usize, planes: &mut [u8]) {
    store_bits(&gather::<BITS>(q, at)[..4 * BITS], lane, planes);
}

#[inline(always)]
fn load_plane<const BITS: usize>(q: &mut [u8; 32], at: usize, lane: usize, planes: &[u8]) {
    let mask = ((1u32 << BITS) - 1) as u8;
    // From the first column of a byte, how many share it, how far apart.
    let sharing = |plane: usize| match BITS {
        8 => (4 * plane, 1, 0),
        4 => (4 * plane, 2, 16),
        2 => (16 * plane, 4, 4),
        _ => (0, 8, 4),
    };
    for (plane, bytes) in planes.chunks_exact(64).enumerate() {
        let (first, count, stride) = sharing(plane);
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
