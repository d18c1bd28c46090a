//! How fast weights are packed, beside a plain copy of as many bytes, both into fresh
//! memory of the same kind and in turns: `cargo bench -p benches --bench packing`.
//!
//! - Claim: packing takes at most twice as long as the copy, for every format.

use std::hint::black_box;
use std::time::Instant;

use benches::values;
use rz_kernels::{Arena, Runtime};
use rz_quant::{DType, Matrix, pack};

const ROUNDS: usize = 7;
const BYTES: usize = 96 << 20;
const CLAIM: f64 = 2.0;

fn main() {
    // Cargo asks every benchmark of the workspace for its list of tests.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let only: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |dtype: &&DType| only.is_empty() || only.iter().any(|name| name == dtype.name());
    let formats = || DType::ALL.iter().filter(|dtype| dtype.panel().is_some()).filter(wanted);
    for threads in [Some(1), None] {
        let runtime = Runtime::new(threads).expect("threads");
        for &dtype in formats() {
            measure(&runtime, dtype);
        }
    }
}

fn measure(runtime: &Runtime, dtype: DType) {
    const COLUMNS: usize = 2048;
    let mut some = Vec::new();
    dtype.encode(&values(16 * COLUMNS), &mut some);
    let row = some.len() / 16;
    let rows = BYTES / row / 16 * 16;
    let blocks: Vec<u8> = (0..rows / 16).flat_map(|_| &some).copied().collect();
    let size = Matrix::packed_bytes(dtype, rows, COLUMNS).expect("a type with a panel kind");
    let packing = || {
        let start = Instant::now();
        let mut arena = Arena::new(size).expect("memory");
        let out = &mut arena[..size];
        runtime
            .pool
            .step(|team| pack(runtime.kernels, team, dtype, rows, COLUMNS, &blocks, out))
            .expect("a whole matrix");
        black_box(&arena[0]);
        start.elapsed().as_secs_f64()
    };
    let copying = || {
        let start = Instant::now();
        let mut arena = Arena::new(blocks.len()).expect("memory");
        runtime.pool.step(|team| {
            team.rows(&mut arena[..rows * row], row, |first, out| {
                out.copy_from_slice(&blocks[first * row..][..out.len()]);
            });
        });
        black_box(&arena[0]);
        start.elapsed().as_secs_f64()
    };
    let mut times: Vec<(f64, f64)> = (0..ROUNDS).map(|_| (packing(), copying())).collect();
    times.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
    let ratio = |i: usize| times[i].0 / times[i].1;
    let (median, low, high) = (ratio(ROUNDS / 2), ratio(1), ratio(ROUNDS - 2));
    let best = times.iter().map(|time| time.0).fold(f64::INFINITY, f64::min);
    let verdict = if median <= CLAIM { "holds" } else { "FALSIFIED" };
    println!(
        "{:<5} {} threads  {:6.2} GB/s, {median:5.2} of the time of a copy ({low:.2} to {high:.2}), claimed {CLAIM:.2}: {verdict}",
        dtype.name(),
        runtime.pool.threads(),
        blocks.len() as f64 / best / 1e9,
    );
}
