//! Products of packed weights: with one token and few, whose speed is that of memory, and
//! with many, whose speed is that of arithmetic.

use benches::{cold_bytes, criterion, matrices, multiply, values};
use criterion::{Criterion, Throughput};
use rz_kernels::Runtime;
use rz_quant::DType;

const DTYPES: [DType; 7] =
    [DType::Q4_0, DType::Q4_1, DType::Q8_0, DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::F16];

fn main() {
    let runtime = Runtime::new(None).expect("threads");
    let mut criterion = criterion();
    streamed(&mut criterion, &runtime);
    computed(&mut criterion, &runtime);
    criterion.final_summary();
}

/// Weights of several times the last level of cache, and others that lie in it.
fn streamed(criterion: &mut Criterion, runtime: &Runtime) {
    const ROWS: usize = 2048;
    const COLUMNS: usize = 2048;
    const CACHED: usize = 1024;
    for dtype in DTYPES {
        let cold = matrices(runtime, dtype, ROWS, COLUMNS, cold_bytes());
        let cached = matrices(runtime, dtype, CACHED, CACHED, 1);
        for tokens in [1, 8] {
            let (x, mut out) = (values(tokens * COLUMNS), vec![0.0; tokens * ROWS]);
            let mut group = criterion.benchmark_group(format!("product/{dtype}/{tokens} tokens"));
            let bytes: usize = cold.iter().map(|matrix| matrix.bytes()).sum();
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function("cold", |bench| bench.iter(|| multiply(runtime, &cold, &x, 1, &mut out)));
            // Often within one step, as the layers of a small model are.
            const ROUNDS: usize = 20;
            let (x, out) = (&x[..tokens * CACHED], &mut out[..tokens * CACHED]);
            group.throughput(Throughput::Bytes((ROUNDS * cached[0].bytes()) as u64));
            group.bench_function("cached", |bench| bench.iter(|| multiply(runtime, &cached, x, ROUNDS, out)));
        }
    }
}

/// Elements are multiplications and additions: tokens x rows x columns.
fn computed(criterion: &mut Criterion, runtime: &Runtime) {
    const ROWS: usize = 1024;
    const COLUMNS: usize = 1024;
    for dtype in DTYPES {
        let weights = matrices(runtime, dtype, ROWS, COLUMNS, 1);
        for tokens in [64, 512] {
            let (x, mut out) = (values(tokens * COLUMNS), vec![0.0; tokens * ROWS]);
            let mut group = criterion.benchmark_group(format!("product/{dtype}/{tokens} tokens"));
            group.throughput(Throughput::Elements((tokens * ROWS * COLUMNS) as u64));
            group.bench_function("tile", |bench| bench.iter(|| multiply(runtime, &weights, &x, 1, &mut out)));
        }
    }
}
