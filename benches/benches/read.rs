//! How fast memory is read: the yardstick of everything that streams weights.

use std::hint::black_box;

use benches::{cold_bytes, criterion};
use criterion::Throughput;
use rz_kernels::{Arena, Runtime, read_all};

fn main() {
    let mut memory = Arena::new(cold_bytes()).expect("memory");
    memory.fill(1);
    let mut criterion = criterion();
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Bytes(memory.len() as u64));
    for (name, threads) in [("one thread", Some(1)), ("all threads", None)] {
        let runtime = Runtime::new(threads).expect("threads");
        group.bench_function(name, |bench| {
            bench.iter(|| {
                runtime.pool.step(|team| {
                    team.ranges(memory.len(), 1 << 20, |range| {
                        black_box(read_all(runtime.kernels, &memory[range]));
                    });
                });
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
