//! Products of every format on every instruction set of this machine, against sums in
//! `f64` over the decoded weights.

use std::sync::Arc;

use rz_kernels::{ActivationType, Activations, Arena, IsaKind, Kernels, Pool};
use rz_quant::{DType, Input, Matrix, matmul, pack};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    fn uniform(&mut self) -> f32 {
        self.next() as f32 / (1u32 << 30) as f32 - 1.0
    }
}

fn every_isa() -> impl Iterator<Item = Kernels> {
    IsaKind::ALL.iter().filter_map(|&isa| Kernels::with(isa))
}

/// Every instruction set with every type of activations.
fn every_way() -> impl Iterator<Item = (Kernels, ActivationType)> {
    every_isa().flat_map(|kernels| ActivationType::ALL.iter().map(move |&(_, kind)| (kernels, kind)))
}

/// Whole numbers of at most 127, which every span of 128 reaches, times a power of
/// two: quantizing them to steps of a 127th or a 16256th (128 * 127) of the peak loses nothing.
fn exact_activations(random: &mut Random, tokens: usize, columns: usize) -> Vec<f32> {
    (0..tokens * columns)
        .map(|i| {
            let span = i / columns + i % columns / 128;
            let scale = 2.0f32.powi((span % 7) as i32 - 3);
            let q = if i % 32 == 7 { 127 } else { random.next() as i32 % 255 - 127 };
            q.clamp(-127, 127) as f32 * scale
        })
        .collect()
}

fn encoded(random: &mut Random, dtype: DType, rows: usize, columns: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in 0..rows {
        let scale = 2.0f32.powi(row as i32 % 9 - 4);
        let x: Vec<f32> = (0..columns).map(|_| scale * random.uniform()).collect();
        dtype.encode(&x, &mut bytes);
    }
    bytes
}

fn packed(dtype: DType, rows: usize, columns: usize, bytes: &[u8]) -> Matrix {
    let size = Matrix::packed_bytes(dtype, rows, columns).unwrap();
    let mut arena = Arena::new(size).unwrap();
    let pool = Pool::new(2).unwrap();
    pool.step(|team| pack(Kernels::detect(), team, dtype, rows, columns, bytes, &mut arena[..size])).unwrap();
    Matrix::from_panels(dtype, rows, columns, Arc::new(arena), 0..size)
}

fn product(
    (kernels, kind): (Kernels, ActivationType),
    threads: usize,
    matrix: &Matrix,
    x: &[f32],
) -> Vec<f32> {
    let tokens = x.len() / matrix.columns();
    let mut out = vec![f32::NAN; tokens * matrix.rows()];
    let mut quantized = Activations::new(kind);
    Pool::new(threads).unwrap().step(|team| {
        if matrix.reads_quantized() {
            quantized.quantize(kernels, team, x, matrix.columns());
        }
        let input = Input { values: x, quantized: &quantized };
        matmul(kernels, team, input, [(matrix, &mut out)]);
    });
    out
}

fn assert_is_product(dtype: DType, bytes: &[u8], columns: usize, x: &[f32], out: &[f32], what: &str) {
    let mut weights = vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block_elements()];
    dtype.decode(bytes, &mut weights);
    let rows = weights.len() / columns;
    for (token, x) in x.chunks_exact(columns).enumerate() {
        for (row, weights) in weights.chunks_exact(columns).enumerate() {
            let terms = || weights.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
            let exact: f64 = terms().sum();
            let size: f64 = terms().map(f64::abs).sum();
            let got = f64::from(out[token * rows + row]);
            let bound = columns as f64 * f64::from(f32::EPSILON) * size + 1e-30;
            assert!((got - exact).abs() <= bound, "{what}: token {token} row {row}: {got} for {exact}");
        }
    }
}

#[test]
fn every_format_on_every_instruction_set() {
    let mut random = Random(1);
    for &dtype in DType::ALL {
        let block = dtype.block_elements();
        for (rows, blocks) in [(1, 1), (3, 2), (16, 3), (17, 1), (40, 5)] {
            let columns = if block == 1 { 37 * blocks } else { block * blocks };
            let bytes = encoded(&mut random, dtype, rows, columns);
            let unpacked =
                Matrix::from_blocks(dtype, rows, columns, Box::new(bytes.clone())).expect("its own shape");
            for tokens in [1, 2, 3, 4, 5, 8, 9, 17] {
                let x = exact_activations(&mut random, tokens, columns);
                for way in every_way() {
                    let what = format!("{dtype} {rows}x{columns}, {tokens} tokens, {way:?}");
                    let out = product(way, 1, &unpacked, &x);
                    assert_is_product(dtype, &bytes, columns, &x, &out, &what);
                    if dtype.panel().is_some() {
                        let out = product(way, 1, &packed(dtype, rows, columns, &bytes), &x);
                        assert_is_product(dtype, &bytes, columns, &x, &out, &format!("{what}, packed"));
                    }
                }
            }
        }
    }
}

/// Blocks of arbitrary bits, with the extreme weights that an encoder seldom writes.
#[test]
fn extreme_blocks_are_exact() {
    let (rows, columns) = (16, 512);
    let mut random = Random(2);
    let quantized = |dtype: &&DType| dtype.panel().is_some_and(|kind| !kind.is_float());
    for &dtype in DType::ALL.iter().filter(quantized) {
        // The fields of half precision stay as they were encoded.
        let halves = match dtype {
            DType::Q2_K => 80..84,
            DType::Q3_K => 108..110,
            DType::Q4_K | DType::Q5_K => 0..4,
            DType::Q6_K => 208..210,
            DType::Q4_1 | DType::Q5_1 => 0..4,
            DType::MXFP4 => 0..1,
            _ => 0..2,
        };
        for fill in [0x00u8, 0x80, 0x7f, 0xff, 0x81, 0x0f, 0xf0] {
            let mut bytes = encoded(&mut random, dtype, rows, columns);
            for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
                block[..halves.start].fill(fill);
                block[halves.end..].fill(fill);
            }
            let matrix = packed(dtype, rows, columns, &bytes);
            for sign in [127.0f32, -127.0] {
                let x = vec![sign; 3 * columns];
                for way in every_way() {
                    let out = product(way, 1, &matrix, &x);
                    let what = format!("{dtype} of {fill:#x} on {way:?}");
                    assert_is_product(dtype, &bytes, columns, &x, &out, &what);
                }
            }
        }
    }
}

/// So many tokens that panels are expanded, and some of a tile that is not whole.
#[test]
fn a_token_does_not_depend_on_its_neighbours_or_on_the_threads() {
    let (rows, columns, tokens) = (50, 256, 45);
    let mut random = Random(3);
    for &dtype in DType::ALL {
        let bytes = encoded(&mut random, dtype, rows, columns);
        let mut matrices =
            vec![Matrix::from_blocks(dtype, rows, columns, Box::new(bytes.clone())).expect("its own shape")];
        if dtype.panel().is_some() {
            matrices.push(packed(dtype, rows, columns, &bytes));
        }
        let x: Vec<f32> = (0..tokens * columns).map(|_| random.uniform()).collect();
        for matrix in &matrices {
            for way in every_way() {
                let together = product(way, 1, matrix, &x);
                for threads in [2, 3] {
                    assert_eq!(product(way, threads, matrix, &x), together);
                }
                for (x, together) in x.chunks_exact(columns).zip(together.chunks_exact(rows)) {
                    assert_eq!(product(way, 2, matrix, x), together);
                }
            }
        }
    }
}

/// Rounding activations costs what rounding costs, and not more: with steps of a 127th or
/// a 16256th of the peak.
#[test]
fn quantized_activations_stay_close() {
    let (rows, columns) = (32, 1024);
    let mut random = Random(4);
    for &dtype in DType::ALL.iter().filter(|dtype| dtype.panel().is_some()) {
        let bytes = encoded(&mut random, dtype, rows, columns);
        let x: Vec<f32> = (0..columns).map(|_| random.uniform()).collect();
        let exact =
            Matrix::from_blocks(dtype, rows, columns, Box::new(bytes.clone())).expect("its own shape");
        let packed = packed(dtype, rows, columns, &bytes);
        for way in every_way() {
            let exact = product(way, 1, &exact, &x);
            let got = product(way, 1, &packed, &x);
            let bound = if way.1 != ActivationType::I16 && packed.reads_quantized() { 1e-4 } else { 1e-8 };
            let error: f32 = got.iter().zip(&exact).map(|(a, b)| (a - b).powi(2)).sum();
            let power: f32 = exact.iter().map(|x| x * x).sum();
            assert!(error / power < bound, "{dtype}, {way:?}: {}", error / power);
        }
    }
}

#[test]
fn packed_rows_are_the_rows() {
    let (rows, columns) = (37, 512);
    let mut random = Random(5);
    for &dtype in DType::ALL.iter().filter(|dtype| dtype.panel().is_some()) {
        let bytes = encoded(&mut random, dtype, rows, columns);
        let blocks = Matrix::from_blocks(dtype, rows, columns, Box::new(bytes.clone())).unwrap();
        let panels = packed(dtype, rows, columns, &bytes);
        let (mut a, mut b) = (vec![0.0; columns], vec![0.0; columns]);
        for row in 0..rows {
            blocks.row(row, &mut a);
            panels.row(row, &mut b);
            assert_eq!(a, b, "{dtype} row {row}");
        }
    }
}

#[test]
fn a_wrong_shape_is_refused() {
    let bytes = vec![0u8; DType::Q4_0.block_bytes() * 4];
    for (rows, columns) in [(4, 33), (5, 32), (0, 32), (4, 0), (usize::MAX, 32)] {
        let result = Matrix::from_blocks(DType::Q4_0, rows, columns, Box::new(bytes.clone()));
        assert!(result.is_err(), "{rows} x {columns}");
    }
}
