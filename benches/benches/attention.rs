//! Attention over keys and values in each type: one token, as in decoding, over the layers of a
//! model one after the other, so that no cache holds them; and neighbouring tokens of one layer,
//! as in prefill. The shape is that of TinyLlama: 22 layers, 4 KV heads of 64, 8 query heads for
//! each.

use benches::{Cache, criterion};
use criterion::{Criterion, Throughput};
use half::f16;
use rz_kernels::{
    KvFormat, Q8_0, QUERIES, Query, Runtime, SPAN, attend, attend_span, merge_spans, read_all, span_row,
};

const LAYERS: usize = 22;
const HEADS: usize = 4;
const GROUP: usize = 8;
const SIZE: usize = 64;

fn main() {
    let runtime = Runtime::new(None).expect("threads");
    let mut criterion = criterion();
    decode::<f16>(&mut criterion, &runtime, "f16");
    decode::<Q8_0>(&mut criterion, &runtime, "q8_0");
    prefill::<f16>(&mut criterion, &runtime, "f16");
    prefill::<Q8_0>(&mut criterion, &runtime, "q8_0");
    criterion.final_summary();
}

/// All keys and values are read once: the speed is that of memory, beside a plain read of the
/// same bytes.
fn decode<F: KvFormat>(criterion: &mut Criterion, runtime: &Runtime, name: &str) {
    const POSITIONS: usize = 4096;
    let mut group = criterion.benchmark_group(format!("attention/decode/{name}"));
    let cache = Cache::<F>::new(LAYERS, POSITIONS, HEADS, SIZE);
    let row = span_row(SIZE);
    let spans = POSITIONS / SPAN;
    let mut parts = vec![0.0; spans * HEADS * GROUP * row];
    let mut out = vec![0.0; HEADS * GROUP * SIZE];
    group.throughput(Throughput::Bytes(cache.bytes() as u64));
    group.bench_function(format!("{POSITIONS} positions"), |bench| {
        bench.iter(|| {
            runtime.pool.step(|team| {
                for layer in 0..LAYERS {
                    team.rows(&mut parts, GROUP * row, |first, rows| {
                        for (i, parts) in rows.chunks_exact_mut(GROUP * row).enumerate() {
                            let (span, head) = ((first + i) / HEADS, (first + i) % HEADS);
                            let queries: [Query<'_>; QUERIES] =
                                std::array::from_fn(|j| cache.query(j, POSITIONS));
                            attend_span::<F>(runtime.kernels, cache.view(layer, head), &queries, span, parts);
                        }
                    });
                    let parts = &parts;
                    team.rows(&mut out, SIZE, |first, rows| {
                        for (i, out) in rows.chunks_exact_mut(SIZE).enumerate() {
                            let spans = parts.chunks_exact(row).skip(first + i).step_by(HEADS * GROUP);
                            merge_spans(runtime.kernels, spans, out);
                        }
                    });
                }
            });
        });
    });
    let plain = vec![1u8; cache.bytes()];
    group.bench_function("plain read", |bench| {
        bench.iter(|| {
            runtime.pool.step(|team| {
                team.ranges(plain.len(), 1 << 20, |range| {
                    std::hint::black_box(read_all(runtime.kernels, &plain[range]));
                });
            });
        });
    });
}

/// Elements are pairs of a query and a key that it sees.
fn prefill<F: KvFormat>(criterion: &mut Criterion, runtime: &Runtime, name: &str) {
    const TOKENS: usize = 128;
    let mut group = criterion.benchmark_group(format!("attention/prefill/{name}"));
    for before in [0, 384, 1920] {
        let cache = Cache::<F>::new(1, before + TOKENS, HEADS, SIZE);
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
                                attend::<F>(runtime.kernels, cache.view(0, head), &queries, out);
                            }
                        }
                    });
                });
            });
        });
    }
}
