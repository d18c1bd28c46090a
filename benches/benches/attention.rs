//! Attention over keys and values in half precision: one token, as in decoding, and
//! neighbouring tokens, as in prefill. Eight KV heads of 64, four query heads for each.

use benches::{Cache, criterion};
use criterion::{Criterion, Throughput};
use half::f16;
use rz_kernels::{QUERIES, Query, Runtime, Split, attend};

const HEADS: usize = 8;
const GROUP: usize = 4;
const SIZE: usize = 64;

fn main() {
    let runtime = Runtime::new(None).expect("threads");
    let mut criterion = criterion();
    decode(&mut criterion, &runtime);
    prefill(&mut criterion, &runtime);
    criterion.final_summary();
}

/// Each KV head's keys and values are read once: the speed is that of memory.
fn decode(criterion: &mut Criterion, runtime: &Runtime) {
    let mut group = criterion.benchmark_group("attention/decode");
    for positions in [512, 4096, 32768] {
        let cache = Cache::<f16>::new(positions, HEADS, SIZE);
        let mut out = vec![0.0; HEADS * GROUP * SIZE];
        group.throughput(Throughput::Bytes(cache.bytes() as u64));
        group.bench_function(format!("{positions} positions"), |bench| {
            bench.iter(|| {
                runtime.pool.step(|team| {
                    let split = Split { data: &mut out, columns: HEADS * GROUP * SIZE, grain: GROUP * SIZE };
                    team.columns([split], |_, mut columns| {
                        let first = columns.columns().start / (GROUP * SIZE);
                        for (i, out) in columns.row(0).chunks_exact_mut(GROUP * SIZE).enumerate() {
                            let queries: [Query<'_>; QUERIES] =
                                std::array::from_fn(|j| cache.query(j, positions));
                            attend(runtime.kernels, cache.view(first + i), &queries, out);
                        }
                    });
                });
            });
        });
    }
}

/// Elements are pairs of a query and a key that it sees.
fn prefill(criterion: &mut Criterion, runtime: &Runtime) {
    const TOKENS: usize = 128;
    let mut group = criterion.benchmark_group("attention/prefill");
    for before in [0, 2048] {
        let cache = Cache::<f16>::new(before + TOKENS, HEADS, SIZE);
        let mut out = vec![0.0; TOKENS * HEADS * GROUP * SIZE];
        let pairs: usize = (1..=TOKENS).map(|token| before + token).sum();
        group.throughput(Throughput::Elements((pairs * HEADS * GROUP) as u64));
        group.bench_function(format!("{TOKENS} tokens after {before}"), |bench| {
            bench.iter(|| {
                runtime.pool.step(|team| {
                    team.rows(&mut out, HEADS * GROUP * SIZE, |first, rows| {
                        for (i, row) in rows.chunks_exact_mut(HEADS * GROUP * SIZE).enumerate() {
                            let end = before + first + i + 1;
                            for (head, out) in row.chunks_exact_mut(GROUP * SIZE).enumerate() {
                                let queries: [Query<'_>; QUERIES] =
                                    std::array::from_fn(|j| cache.query(j, end));
                                attend(runtime.kernels, cache.view(head), &queries, out);
                            }
                        }
                    });
                });
            });
        });
    }
}
