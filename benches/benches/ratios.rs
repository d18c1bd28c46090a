//! Claims about speed as ratios, each pair of figures taken in turns within one run:
//! `cargo bench -p benches --bench ratios`.
//!
//! - H1: the SIMD dot product beats plain Rust from 64 elements on, by 1.5 on AVX2.
//! - H3: work on all threads is at least half as efficient as on one, prefill 0.9. (Only where no
//!   other process has the cores: a thread that is waiting for one is not waited for.)
//! - H5: SIMD attention is at least 1.5 times plain Rust at a head size of 64.
//! - IMP-001: a product reads Q4_K at 10 GB/s and more from the cache, four times what
//!   decoding the blocks in plain Rust does.
//! - IMP-002: mapped files are read at 5 GB/s and more.
//! - IMP-004: 100,000 keys and values a second go to the cache, and a token after 512 others is
//!   at least 3 times quicker than computing them all.
//!
//! Plain Rust is the portable instruction set of the same production functions, which the
//! compiler vectorises for what every processor of this architecture has. Keys and values
//! are in single precision: most processors of that kind cannot convert halves.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use benches::{Cache, cold_bytes, matrices, multiply, values};
use rz_formats::{Gguf, GgufWriter, Metadata};
use rz_kernels::{IsaKind, Kernels, Pool, QUERIES, Query, Runtime, attend, dot_rows, read_all};
use rz_model::{Batch, CpuModel, Forward, KV_BLOCK, LoadOptions, Output, Want};
use rz_quant::DType;
use rz_testkit::gguf::TinyLlama;

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
    fused();
    mapped();
    cache();
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
    let cache = Cache::<f32>::new(1, POSITIONS, 1, SIZE);
    for count in [1, QUERIES] {
        let queries: Vec<Query<'_>> = (0..count).map(|i| cache.query(i, POSITIONS)).collect();
        let work = |kernels: Kernels| {
            let mut out = vec![0.0; count * SIZE];
            for _ in 0..8 {
                attend::<f32>(kernels, cache.view(0, 0), black_box(&queries), &mut out);
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
    // As many regions in one step as a decoded token takes.
    let cases = [
        ("memory, 1 token", cold_bytes(), 1, 1, 0.5),
        ("cache, 1 token", 1, 100, 1, 0.5),
        ("cache, 256 tokens", 1, 1, 256, 0.9),
    ];
    for (place, bytes, rounds, tokens, efficiency) in cases {
        let weights = matrices(&all, DType::Q4_0, SIZE, SIZE, bytes);
        let x = values(tokens * SIZE);
        let work = |runtime: &Runtime| multiply(runtime, &weights, &x, rounds, &mut vec![0.0; tokens * SIZE]);
        let what = format!("product from {place}, {count} threads to one");
        report("H3", &what, efficiency * count as f64, || {
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

/// Decoding within the product, against decoding alone: both on one thread.
fn fused() {
    const SIZE: usize = 512;
    const ROUNDS: usize = 50;
    let one = Runtime {
        pool: Arc::new(Pool::new(1).expect("no thread")),
        ..Runtime::new(Some(1)).expect("threads")
    };
    let weights = matrices(&one, DType::Q4_K, SIZE, SIZE, 1);
    let (x, mut out) = (values(SIZE), vec![0.0; SIZE]);
    let mut blocks = Vec::new();
    DType::Q4_K.encode(&values(SIZE * 16), &mut blocks);
    let mut decoded = vec![0.0; SIZE * 16];
    let mut product = || seconds(|| multiply(&one, &weights, &x, ROUNDS, &mut out));
    let bytes = (ROUNDS * weights[0].bytes()) as f64;
    report("IMP-001", "GB/s of Q4_K, one thread", 10.0, || (bytes / 1e9, product()));
    report("IMP-001", "product of Q4_K to decoding in plain Rust", 4.0, || {
        let plain = seconds(|| {
            for _ in 0..ROUNDS * SIZE / 16 {
                DType::Q4_K.decode(black_box(&blocks), &mut decoded);
            }
        });
        (plain, product())
    });
}

/// A file in the page cache, mapped anew each time.
fn mapped() {
    let bytes = cold_bytes();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("weights.gguf");
    let mut writer = GgufWriter::new(Metadata::new());
    writer.tensor("weights", &[bytes as u64 / 2], DType::F16, vec![1u8; bytes]).expect("a tensor");
    writer.write(&path).expect("a file");
    let runtime = Runtime::new(None).expect("threads");
    report("IMP-002", "GB/s of a mapped file", 5.0, || {
        let taken = seconds(|| {
            let file = Gguf::open(&path).expect("a model file");
            let tensor = file.tensor("weights").expect("the tensor");
            let data = tensor.bytes();
            runtime.pool.step(|team| {
                team.ranges(data.len(), 1 << 20, |range| {
                    black_box(read_all(runtime.kernels, &data[range]));
                });
            });
        });
        (bytes as f64 / 1e9, taken)
    });
}

/// What a cache of keys and values takes and saves, with a tiny model.
fn cache() {
    const POSITIONS: usize = 512;
    let file = Gguf::from_bytes("tiny", TinyLlama { context: 1024, ..TinyLlama::default() }.to_bytes());
    let runtime = Runtime::new(None).expect("threads");
    let options = LoadOptions { context: 2 * POSITIONS, max_batch: POSITIONS, ..LoadOptions::default() };
    let mut model =
        CpuModel::load(&file.expect("a model file"), &runtime, options, &mut |_, _| ()).expect("a model");
    let table: Vec<u32> = (0..(2 * POSITIONS).div_ceil(KV_BLOCK) as u32).collect();
    let mut out = Output::default();
    let mut pass = |positions: std::ops::Range<usize>| {
        let positions: Vec<u32> = positions.map(|position| position as u32).collect();
        let mut outputs = vec![Want::Nothing; positions.len()];
        *outputs.last_mut().expect("a position") = Want::Logits;
        let batch = Batch {
            tokens: &positions.iter().map(|position| position % 300).collect::<Vec<u32>>(),
            positions: &positions,
            sequences: &vec![0; positions.len()],
            tables: &[&table],
            outputs: &outputs,
        };
        let layers = model.layers();
        seconds(|| model.forward(&batch, 0..layers, &mut out).expect("a valid batch"))
    };
    let written = (POSITIONS * TinyLlama::default().layers as usize) as f64;
    report("IMP-004", "100,000 keys and values a second", 1.0, || (written / 1e5, pass(0..POSITIONS)));
    report("IMP-004", "all tokens to the one after them", 3.0, || {
        (pass(0..POSITIONS), pass(POSITIONS..POSITIONS + 1))
    });
}

/// Prints the median of the ratios of both times, and whether the claim holds.
fn report(claim: &str, what: &str, least: f64, mut both: impl FnMut() -> (f64, f64)) {
    const ROUNDS: usize = 15;
    both();
    let mut ratios: Vec<f64> = (0..ROUNDS).map(|_| both()).map(|(slow, quick)| slow / quick).collect();
    ratios.sort_by(f64::total_cmp);
    let (median, low, high) = (ratios[ROUNDS / 2], ratios[ROUNDS / 4], ratios[3 * ROUNDS / 4]);
    let verdict = if median >= least { "holds" } else { "FALSIFIED" };
    println!("{claim:<8}{what:<52} {median:6.2}  ({low:.2} to {high:.2}), claimed {least:.2}: {verdict}");
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}
