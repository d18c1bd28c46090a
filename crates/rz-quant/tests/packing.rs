//! Packing of whole matrices: the bits that come out again, and the layout that files keep.

use rz_kernels::{IsaKind, Kernels, PANEL_ROWS, Pool};
use rz_quant::{BlockFormat, DType, FormatVisitor, Matrix, PACKED_LAYOUT, pack};

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn packed(
    kernels: Kernels,
    threads: usize,
    dtype: DType,
    (rows, columns): (usize, usize),
    blocks: &[u8],
) -> Vec<u8> {
    // Whatever is in the memory before must not show.
    let mut out = vec![0xa5; Matrix::packed_bytes(dtype, rows, columns).unwrap()];
    let pool = Pool::new(threads).unwrap();
    pool.step(|team| pack(kernels, team, dtype, rows, columns, blocks, &mut out)).unwrap();
    out
}

/// Row `index` of a packed matrix, as it lay in the file.
struct Row<'a> {
    panels: &'a [u8],
    columns: usize,
    index: usize,
}

impl FormatVisitor for Row<'_> {
    type Output = Vec<u8>;

    fn visit<F: BlockFormat>(self) -> Vec<u8> {
        let block = F::PANEL.unwrap().block_bytes() * F::ELEMENTS / F::PANEL.unwrap().block_columns();
        let panel = self.columns / F::ELEMENTS * block;
        let panel = &self.panels[self.index / PANEL_ROWS * panel..][..panel];
        let blocks: Vec<F::Block> =
            panel.chunks_exact(block).map(|block| F::unpack(block, self.index % PANEL_ROWS)).collect();
        bytemuck::cast_slice(&blocks).to_vec()
    }
}

#[test]
fn every_row_comes_back_bit_for_bit() {
    for &dtype in DType::ALL.iter().filter(|dtype| dtype.panel().is_some()) {
        // Rows that leave a panel in part.
        for (rows, elements) in [(1, 256), (15, 512), (16, 256), (17, 2560), (50, 7680)] {
            let columns = elements / 256 * dtype.block_elements().max(32);
            let row = dtype.row_bytes(columns).unwrap();
            let blocks = bytes(rows as u64, rows * row);
            let panels = packed(Kernels::detect(), 1, dtype, (rows, columns), &blocks);
            for kernels in IsaKind::ALL.iter().filter_map(|&isa| Kernels::with(isa)) {
                let again = packed(kernels, 3, dtype, (rows, columns), &blocks);
                assert!(panels == again, "{dtype} on {}", kernels.isa().name());
            }
            for (index, expected) in blocks.chunks_exact(row).enumerate() {
                let found = dtype.visit(Row { panels: &panels, columns, index });
                assert!(found == expected, "{dtype}: row {index} of {rows} x {columns}");
            }
        }
    }
}

#[test]
fn what_is_not_the_matrix_is_refused() {
    let pool = Pool::new(1).unwrap();
    let mut out = vec![0; Matrix::packed_bytes(DType::Q4_0, 16, 32).unwrap()];
    for (rows, columns, len) in [(16, 32, 287), (16, 32, 289), (0, 32, 0), (16, 33, 288)] {
        let result = pool
            .step(|team| pack(Kernels::detect(), team, DType::Q4_0, rows, columns, &vec![0; len], &mut out));
        assert!(result.is_err(), "{rows} x {columns} in {len} bytes");
    }
}

/// Files hold panels. Whoever changes a layout counts [`PACKED_LAYOUT`] up, so that files of
/// the old one are packed again, and then renews these numbers (the test prints them).
#[test]
fn the_layout_is_the_one_of_its_version() {
    const LAYOUT: u32 = 1;
    const DIGESTS: &[(&str, u64)] = &[
        ("F32", 0x83d8_7f92_5332_7671),
        ("F16", 0x9351_815f_6ead_2f74),
        ("Q4_0", 0xd59e_6b36_53eb_842d),
        ("Q4_1", 0x4e5_fe01_21f1_072c),
        ("Q5_0", 0x7d2_61d4_c450_462d),
        ("Q5_1", 0x5aae_d127_17e2_0b61),
        ("Q8_0", 0x0ad9_a5c5_4877_77c8),
        ("Q2_K", 0x76c8_3940_9165_b214),
        ("Q3_K", 0x5907_e4ad_b3f0_2326),
        ("Q4_K", 0xb454_91d4_6f0d_2d3a),
        ("Q5_K", 0x6474_7d94_1e62_b4ba),
        ("Q6_K", 0xeffd_d9a7_e76c_851c),
        ("IQ4_NL", 0xd59e_6b36_53eb_842d),
        ("IQ4_XS", 0x40a5_9cad_ca0a_bf54),
        ("BF16", 0x9351_815f_6ead_2f74),
        ("MXFP4", 0xff92_c8e9_520c_6c38),
    ];
    let mut found = Vec::new();
    for &dtype in DType::ALL.iter().filter(|dtype| dtype.panel().is_some()) {
        let (rows, columns) = (19, 512);
        let blocks = bytes(7, rows * dtype.row_bytes(columns).unwrap());
        // FNV-1a.
        let digest = packed(Kernels::detect(), 1, dtype, (rows, columns), &blocks)
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
            });
        found.push((dtype.name(), digest));
    }
    let known = |(name, _): &&(&str, u64)| DIGESTS.iter().any(|(other, _)| other == name);
    let changed: Vec<_> = found.iter().filter(known).filter(|row| !DIGESTS.contains(row)).collect();
    assert!(changed.is_empty(), "the layout changed: count PACKED_LAYOUT up; {changed:x?}");
    assert!(found.iter().all(|row| known(&row)), "formats without a row: {found:#x?}");
    assert_eq!(PACKED_LAYOUT, LAYOUT, "renew the digests: {found:#x?}");
}
