//! Where `rz_kernels::PanelKind` puts the bits of sixteen rows, and those of one row.

use rz_kernels::PANEL_ROWS;

/// Four bytes of each of sixteen rows: one plane of a panel.
pub(super) type Plane = [[u8; 4]; PANEL_ROWS];

/// Four bytes of each row after four bytes of each row: bytes that hold a row's bits as
/// planes want them become planes.
#[inline(always)]
pub(super) fn interleave<B, const N: usize>(
    blocks: &[&B; PANEL_ROWS],
    bytes: impl Fn(&B) -> &[u8; N],
    planes: &mut [u8],
) {
    let planes: &mut [Plane] = bytemuck::cast_slice_mut(planes);
    for lane in 0..PANEL_ROWS {
        let (fours, _) = bytes(blocks[lane]).as_chunks::<4>();
        for (plane, four) in planes.iter_mut().zip(fours) {
            plane[lane] = *four;
        }
    }
}

/// An element of each row after an element of each row.
#[inline(always)]
pub(super) fn interleave_elements<const N: usize>(rows: &[&[[u8; N]]; PANEL_ROWS], out: &mut [u8]) {
    // Each row writes to every line: few enough columns at a time that the lines stay in
    // the first cache until the last row has.
    const TILE: usize = 128;
    let columns: &mut [[[u8; N]; PANEL_ROWS]] = bytemuck::cast_slice_mut(out);
    for (tile, columns) in columns.chunks_mut(TILE).enumerate() {
        for lane in 0..PANEL_ROWS {
            for (column, element) in columns.iter_mut().zip(&rows[lane][tile * TILE..]) {
                column[lane] = *element;
            }
        }
    }
}

/// Writes values that a file keeps in runs of `RUN` bytes (see `planes`), 32 or more, as
/// `BITS` bits each: into the planes that start `first` bytes into each `step` bytes of a
/// panel block. `BYTES` is the length of all runs.
#[inline(always)]
pub(super) fn store_runs<const BITS: usize, const RUN: usize, const BYTES: usize, B>(
    blocks: &[&B; PANEL_ROWS],
    bytes: impl Fn(&B) -> &[u8; BYTES],
    planes: &mut [u8],
    first: usize,
    step: usize,
) {
    const { assert!(RUN.is_multiple_of(32), "a run holds whole steps") };
    let mut runs = [[[0; 4]; PANEL_ROWS]; 32];
    let runs = &mut runs[..BYTES / 4];
    interleave(blocks, bytes, runs.as_flattened_mut().as_flattened_mut());
    let values = RUN * 8 / BITS;
    for (index, planes) in planes.chunks_exact_mut(step).enumerate() {
        let (run, within) = (32 * index / values, 32 * index % values);
        let columns = runs[(run * RUN + within % RUN) / 4..].first_chunk().expect("runs of all steps");
        let (planes, _) = planes[first..].as_chunks_mut::<64>();
        for (i, plane) in planes[..BITS].iter_mut().enumerate() {
            *plane = share::<BITS>(columns, i, within / RUN * BITS);
        }
    }
}

/// Plane `index` of those of `BITS` bits: of 32 columns, each a byte that holds its bits
/// from bit `from` on.
#[inline(always)]
fn share<const BITS: usize>(columns: &[Plane; 8], index: usize, from: usize) -> [u8; 64] {
    // Every fourth column from the plane's first on shares a byte, or, of four bits, every
    // sixteenth. Bytes are shifted eight at a time; the mask drops what crosses over.
    let sharing = 8 / BITS;
    let mask = ((1 << BITS) - 1) * 0x0101_0101_0101_0101u64;
    let mut words = [0u64; 8];
    for j in 0..sharing {
        let column = if BITS == 4 { index + 4 * j } else { index * sharing + j };
        let column: [u64; 8] = bytemuck::cast(columns[column]);
        for (word, column) in words.iter_mut().zip(column) {
            *word |= (u64::from_le(column) >> from & mask) << (BITS * j);
        }
    }
    bytemuck::cast(words.map(u64::to_le))
}

/// Writes the plane of one bit, from words whose bit `c` is that of column `c`.
#[inline(always)]
pub(super) fn store_bits<B>(blocks: &[&B; PANEL_ROWS], bits: impl Fn(&B) -> [u8; 4], plane: &mut [u8]) {
    let (plane, _) = plane.as_chunks_mut();
    for (word, block) in plane[..PANEL_ROWS].iter_mut().zip(blocks) {
        *word = gather_bits(bits(block));
    }
}

/// The word of one row in the plane of one bit: bit `j` of byte `i` is bit `4j + i` of `bits`.
#[inline(always)]
fn gather_bits(bits: [u8; 4]) -> [u8; 4] {
    let word = u32::from_le_bytes(bits);
    let mut gathered = 0;
    for i in 0..4 {
        // Every fourth bit, moved together: two, then four, then eight.
        let spread = word >> i & 0x1111_1111;
        let pairs = (spread | spread >> 3) & 0x0303_0303;
        let fours = (pairs | pairs >> 6) & 0x000f_000f;
        gathered |= ((fours | fours >> 12) & 0xff) << (8 * i);
    }
    gathered.to_le_bytes()
}

/// Writes a half-precision field of each row.
#[inline(always)]
pub(super) fn store_halves<B>(blocks: &[&B; PANEL_ROWS], field: impl Fn(&B) -> [u8; 2], out: &mut [u8]) {
    let (out, _) = out.as_chunks_mut();
    for (out, block) in out[..PANEL_ROWS].iter_mut().zip(blocks) {
        *out = field(block);
    }
}

/// Writes byte `i` of each row into the `i`th 16 bytes of a header.
#[inline(always)]
pub(super) fn store_bytes<B, const N: usize>(
    blocks: &[&B; PANEL_ROWS],
    bytes: impl Fn(&B) -> [u8; N],
    header: &mut [u8],
) {
    let (header, _) = header.as_chunks_mut::<PANEL_ROWS>();
    let header = &mut header[..N];
    for lane in 0..PANEL_ROWS {
        for (out, byte) in header.iter_mut().zip(bytes(blocks[lane])) {
            out[lane] = byte;
        }
    }
}

/// The inverse of [`interleave`] for one row.
pub(super) fn load_bits<const N: usize>(planes: &[u8], lane: usize) -> [u8; N] {
    let mut bytes = [0; N];
    for (four, plane) in bytes.chunks_exact_mut(4).zip(planes.chunks_exact(64)) {
        four.copy_from_slice(&plane[4 * lane..][..4]);
    }
    bytes
}

/// The inverse of [`store_runs`] for the low `BASE` and the high `EXTRA` bits together.
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

/// The inverse of [`store_halves`] for one row.
pub(super) fn load_half(fields: &[u8], lane: usize) -> [u8; 2] {
    [fields[2 * lane], fields[2 * lane + 1]]
}

/// The inverse of [`store_bytes`] for one row.
pub(super) fn load_bytes<const N: usize>(header: &[u8], lane: usize) -> [u8; N] {
    std::array::from_fn(|i| header[16 * i + lane])
}
