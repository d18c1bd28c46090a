//! How much memory a product takes beside its weights (hypothesis H2 of docs/performance.md): the packed matrix and
//! everything that multiplying with it needs are at most twice the blocks of the file, and nowhere are the weights in
//! single precision.
//!
//! The one test of this program, because it counts what the whole program allocates.

use std::sync::Arc;

use rz_kernels::{Activations, Arena, Kernels, Pool};
use rz_quant::{DType, Input, Matrix, matmul, pack};
use rz_testkit::memory::{self, Counting};

#[global_allocator]
static COUNTING: Counting = Counting;

const ROWS: usize = 1024;
const COLUMNS: usize = 1024;
const TOKENS: usize = 8;

#[test]
fn a_product_takes_little_more_than_its_weights() {
    let pool = Pool::new(2).expect("threads");
    for dtype in DType::ALL.iter().copied().filter(|dtype| dtype.panel().is_some()) {
        let mut blocks = Vec::new();
        dtype.encode(&vec![0.5; COLUMNS], &mut blocks);
        let blocks = blocks.repeat(ROWS);
        let size = Matrix::packed_bytes(dtype, ROWS, COLUMNS).expect("a panel kind");
        let x = vec![0.25; TOKENS * COLUMNS];
        let mut out = vec![0.0; TOKENS * ROWS];

        let ((), beside) = memory::peak(|| {
            // An arena is mapped, so that the allocator does not see it.
            let mut arena = Arena::new(size).expect("memory");
            pool.step(|team| {
                pack(Kernels::detect(), team, dtype, ROWS, COLUMNS, &blocks, &mut arena[..size])
            })
            .expect("a matrix");
            let matrix = Matrix::from_panels(dtype, ROWS, COLUMNS, Arc::new(arena), 0..size);
            pool.step(|team| {
                let mut quantized = Activations::default();
                if matrix.reads_quantized() {
                    quantized.quantize(Kernels::detect(), team, &x, COLUMNS);
                }
                matmul(
                    Kernels::detect(),
                    team,
                    Input { values: &x, quantized: &quantized },
                    [(&matrix, &mut out)],
                );
            });
        });

        assert!(out.iter().all(|&sum| (sum - 0.125 * COLUMNS as f32).abs() < 8.0), "{dtype}: {}", out[0]);
        assert!(
            size as f64 <= 1.03 * blocks.len() as f64,
            "{dtype}: {size} bytes packed, {} not",
            blocks.len()
        );
        assert!(size + beside <= 2 * blocks.len(), "{dtype}: {size} + {beside} bytes");
        let single = 4 * ROWS * COLUMNS;
        assert!(beside <= single / 32, "{dtype}: {beside} bytes beside {single} in single precision");
    }
}
