//! Any blocks, whatever their scales, meet any activations: nothing panics, packed rows are
//! the rows, and where all is finite, each instruction set gives the product within the
//! error of its arithmetic.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use rz_kernels::{Activations, Arena, IsaKind, Kernels, Pool};
use rz_quant::{DType, Input, Matrix, matmul, pack};

static POOL: LazyLock<Pool> = LazyLock::new(|| Pool::new(2).unwrap());

fuzz_target!(|data: &[u8]| {
    let Some((&[dtype, rows, columns, tokens, kind], rest)) = data.split_first_chunk() else { return };
    if rest.is_empty() {
        return;
    }
    let dtype = DType::ALL[usize::from(dtype) % DType::ALL.len()];
    let rows = 1 + usize::from(rows) % 40;
    let columns = match dtype.block_elements() {
        1 => 1 + usize::from(columns) % 70,
        elements => elements * (1 + usize::from(columns) % 3),
    };
    let tokens = 1 + usize::from(tokens) % 18;

    // What is left serves the activations first, then the blocks, again and again.
    let mut bytes = rest.iter().copied().cycle();
    let mut number = || f32::from_le_bytes(std::array::from_fn(|_| bytes.next().unwrap()));
    let x: Vec<f32> = (0..tokens * columns)
        .map(|_| match kind % 3 {
            0 => number(),
            1 => f32::from(number().to_bits() as i16) / 256.0,
            _ => number().clamp(-4.0, 4.0),
        })
        .collect();
    let blocks: Vec<u8> = bytes.take(rows * dtype.row_bytes(columns).unwrap()).collect();
    check(dtype, rows, columns, &blocks, &x);
});

fn check(dtype: DType, rows: usize, columns: usize, blocks: &[u8], x: &[f32]) {
    let plain = Matrix::from_blocks(dtype, rows, columns, Box::new(blocks.to_vec())).unwrap();
    let mut matrices = vec![&plain];
    let packed = Matrix::packed_bytes(dtype, rows, columns).map(|size| {
        let mut arena = Arena::new(size).unwrap();
        POOL.step(|team| pack(Kernels::detect(), team, dtype, rows, columns, blocks, &mut arena[..size])).unwrap();
        Matrix::from_panels(dtype, rows, columns, Arc::new(arena), 0..size)
    });
    if let Some(packed) = &packed {
        let (mut a, mut b) = (vec![0.0; columns], vec![0.0; columns]);
        for row in 0..rows {
            plain.row(row, &mut a);
            packed.row(row, &mut b);
            assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()), "{dtype}, row {row}");
        }
        matrices.push(packed);
    }
    let oracle = Oracle::new(dtype, rows, columns, blocks, x);
    for kernels in IsaKind::ALL.iter().filter_map(|&isa| Kernels::with(isa)) {
        for matrix in &matrices {
            let mut out = vec![0.0; x.len() / columns * rows];
            POOL.step(|team| {
                let mut quantized = Activations::default();
                if matrix.reads_quantized() {
                    quantized.quantize(kernels, team, x, columns);
                }
                matmul(kernels, team, Input { values: x, quantized: &quantized }, [(matrix, &mut out)]);
            });
            oracle.compare(&out, &format!("{dtype} on {}", kernels.isa().name()));
        }
    }
}

/// The product in `f64` over decoded weights.
struct Oracle<'a> {
    rows: usize,
    columns: usize,
    weights: Vec<f32>,
    /// How large a weight's scale and offset can make it: what is added and taken away
    /// again while a product is formed.
    sizes: Vec<f64>,
    x: &'a [f32],
}

impl<'a> Oracle<'a> {
    fn new(dtype: DType, rows: usize, columns: usize, blocks: &[u8], x: &'a [f32]) -> Oracle<'a> {
        let decode = |bytes: &[u8]| {
            let mut out = vec![0.0; rows * columns];
            dtype.decode(bytes, &mut out);
            out
        };
        let weights = decode(blocks);
        let mut sizes: Vec<f64> = weights.iter().map(|w| f64::from(w.abs())).collect();
        // The same scales with the least and the largest quantized values.
        if let Some(planes) = planes(dtype) {
            for fill in [0x00, 0xff, 0x80, 0x7f] {
                let mut bytes = blocks.to_vec();
                for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
                    block[planes.clone()].fill(fill);
                }
                for (size, w) in sizes.iter_mut().zip(decode(&bytes)) {
                    *size = size.max(f64::from(w.abs()));
                }
            }
            sizes.iter_mut().for_each(|size| *size *= 3.0);
        }
        Oracle { rows, columns, weights, sizes, x }
    }

    fn compare(&self, out: &[f32], what: &str) {
        for (token, x) in self.x.chunks_exact(self.columns).enumerate() {
            // A step of the quantized activations, of which half is the error of rounding.
            let steps: Vec<f64> = (x.chunks(32))
                .flat_map(|block| {
                    let peak = block.iter().fold(0.0f32, |peak, x| peak.max(x.abs()));
                    // A block of almost nothing counts as zero.
                    let step = if peak < 1.2e-34 { peak } else { peak / 32512.0 };
                    vec![f64::from(step); block.len()]
                })
                .collect();
            let total: f64 = x.iter().map(|x| f64::from(x.abs())).sum();
            for row in 0..self.rows {
                let at = row * self.columns..(row + 1) * self.columns;
                let (mut exact, mut size, mut rounding) = (0.0, 0.0, 0.0);
                let weights = self.weights[at.clone()].iter().zip(&self.sizes[at]);
                for (((w, most), x), step) in weights.zip(x).zip(&steps) {
                    exact += f64::from(*w) * f64::from(*x);
                    size += most * f64::from(x.abs());
                    rounding += most * step;
                }
                // Near the largest numbers, a part may overflow that the whole does not have.
                if !(size + total < f64::from(f32::MAX) / 1e3) {
                    continue;
                }
                let got = f64::from(out[token * self.rows + row]);
                let terms = (self.columns + 16) as f64;
                let bound = terms * f64::from(f32::EPSILON) * size + 1.02 * rounding + terms * 1e-37;
                assert!((got - exact).abs() <= bound, "{what}: {got} for {exact}, {bound}");
            }
        }
    }
}

/// Where the quantized values of a block lie, its scales apart.
fn planes(dtype: DType) -> Option<std::ops::Range<usize>> {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => None,
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::IQ4_NL => Some(2..dtype.block_bytes()),
        DType::Q4_1 | DType::Q5_1 => Some(4..dtype.block_bytes()),
        DType::Q2_K => Some(16..80),
        DType::Q3_K => Some(0..96),
        DType::Q4_K | DType::Q5_K => Some(16..dtype.block_bytes()),
        DType::Q6_K => Some(0..192),
        DType::IQ4_XS => Some(8..dtype.block_bytes()),
        DType::MXFP4 => Some(1..dtype.block_bytes()),
    }
}
