//! Claims about speed as ratios, each pair of figures taken in turns within one run:
//! `cargo bench -p benches --bench ratios`.
//!
//! - H1: the SIMD dot product beats plain Rust from 64 elements on, by 1.5 on AVX2.
//! - H3: a product on all threads is at least half as efficient as on one. (Only where no
//!   other process has the cores: a thread that is waiting for one is not waited for.)
//! - H5: SIMD attention is at least 1.5 times plain Rust at a head size of 64.
//!
//! Plain Rust is the portable instruction set of the same production functions, which the
//! compiler vectorises for what every processor of this architecture has. Keys and values
//! are in single precision: most processors of that kind cannot convert halves.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use benches::{Cache, cold_bytes, matrices, multiply, values};
use rz_kernels::{IsaKind, Kernels, Pool, QUERIES, Query, Runtime, attend, dot_rows};
use rz_quant::DType;

fn main() {
    // Cargo asks every benchmark of the workspace for its list of tests.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let portable = Kernels::with(IsaKind::Portable).expect("every processor has it");
    let others = IsaKind::ALL.iter().filter(|&&isa| isa != IsaKind::Portable);
    for kernels in others.filter_map(|&isa| Kernels::with(isa)) {
        dots(portable, kernels);
        attention(portable, kernels);
    }
    threads();
}

fn dots(portable: Kernels, kernels: Kernels) {
    for size in [64, 128, 256, 512, 1024, 2048] {
        let (a, x) = (values(size), values(size));
        let work = |kernels: Kernels| {
            let mut out = [0.0];
            for _ in 0..(1 << 18) / size {
                dot_rows(kernels, &[black_box(&a)], black_box(&x), &mut out);
            }
            black_box(out);
        };
        report("H1", &format!("dot product of {size}, {}", name(kernels)), 1.5, || {
            (seconds(|| work(portable)), seconds(|| work(kernels)))
        });
    }
}

fn attention(portable: Kernels, kernels: Kernels) {
    const POSITIONS: usize = 1024;
    const SIZE: usize = 64;
    let cache = Cache::<f32>::new(POSITIONS, 1, SIZE);
    for count in [1, QUERIES] {
        let queries: Vec<Query<'_>> = (0..count).map(|i| cache.query(i, POSITIONS)).collect();
        let work = |kernels: Kernels| {
            let mut out = vec![0.0; count * SIZE];
            for _ in 0..8 {
                attend(kernels, cache.view(0), black_box(&queries), &mut out);
            }
            black_box(out);
        };
        let what = format!("attention of {count} queries over {POSITIONS}, {}", name(kernels));
        report("H5", &what, 1.5, || (seconds(|| work(portable)), seconds(|| work(kernels))));
    }
}

fn threads() {
    let all = Runtime::new(None).expect("threads");
    let one = Runtime { pool: Arc::new(Pool::new(1).expect("no thread")), ..all.clone() };
    let count = all.pool.threads();
    if count == 1 {
        return println!("H3  one thread only: nothing to compare");
    }
    const SIZE: usize = 2048;
    let x = values(SIZE);
    // As many regions in one step as a decoded token takes.
    for (place, bytes, rounds) in [("memory", cold_bytes(), 1), ("cache", 1, 100)] {
        let weights = matrices(&all, DType::Q4_0, SIZE, SIZE, bytes);
        let work = |runtime: &Runtime| multiply(runtime, &weights, &x, rounds, &mut vec![0.0; SIZE]);
        let what = format!("product from {place}, {count} threads to one");
        report("H3", &what, 0.5 * count as f64, || {
            let slow = seconds(|| work(&one));
            // Twice: the first wakes the threads, which in decoding are awake.
            work(&all);
            (slow, seconds(|| work(&all)))
        });
    }
}

fn name(kernels: Kernels) -> &'static str {
    kernels.isa().name()
}

/// Prints the median of the ratios of both times, and whether the claim holds.
fn report(claim: &str, what: &str, least: f64, mut both: impl FnMut() -> (f64, f64)) {
    const ROUNDS: usize = 15;
    both();
    let mut ratios: Vec<f64> = (0..ROUNDS).map(|_| both()).map(|(slow, quick)| slow / quick).collect();
    ratios.sort_by(f64::total_cmp);
    let (median, low, high) = (ratios[ROUNDS / 2], ratios[ROUNDS / 4], ratios[3 * ROUNDS / 4]);
    let verdict = if median >= least { "holds" } else { "FALSIFIED" };
    println!("{claim}  {what:<46} {median:6.2}  ({low:.2} to {high:.2}), claimed {least:.2}: {verdict}");
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}
