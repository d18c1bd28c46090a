//! Every kernel on its own: `cargo bench -p benches --bench operators`.
//!
//! - By itself it prints how fast each is, with its data from memory and from the cache, beside how fast the same
//!   threads read memory and multiply bytes in registers.
//! - `-- --json` prints the same as JSON, for `cargo xtask bench`.
//! - `-- --dispatch` runs each kernel on every instruction set of this processor and fails when the one that is
//!   chosen is not the fastest within 5%.
//! - `-- --quick` takes fewer samples.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use benches::{Cache, cold_bytes, matrices, multiply_as, values};
use half::f16;
use rz_kernels::{
    Activation, ActivationType, Activations, Arena, IsaKind, Kernels, Pool, QUERIES, Query, Runtime,
    activate, attend, dot_peak, dot_rows, layer_norm, read_all, rms_norm, soft_cap,
};
use rz_quant::{DType, Matrix};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let given = |name: &str| std::env::args().any(|argument| argument == name);
    // Cargo asks every benchmark of the workspace for its list of tests.
    if given("--list") {
        return ExitCode::SUCCESS;
    }
    let samples = if given("--quick") { 3 } else { 9 };
    if given("--dispatch") {
        return dispatch(samples);
    }
    let runtime = Runtime::new(None).expect("threads");
    let mut report = Report { roofs: Roofs::of(&runtime), samples, json: given("--json"), rows: Vec::new() };
    products(&mut report, &runtime);
    others(&mut report, &runtime);
    if report.json {
        println!("{}", Value::Array(report.rows));
    }
    ExitCode::SUCCESS
}

/// What the machine does on the same threads, taken anew before each operator.
struct Roofs<'a> {
    runtime: &'a Runtime,
    memory: Arena,
}

impl Roofs<'_> {
    fn of(runtime: &Runtime) -> Roofs<'_> {
        let mut memory = Arena::new(cold_bytes()).expect("memory to read");
        memory.fill(1);
        Roofs { runtime, memory }
    }

    /// GB/s and GMAC/s.
    fn measure(&self) -> [f64; 2] {
        const PIECE: usize = 1 << 20;
        const ROUNDS: usize = 2000;
        let Runtime { kernels, pool } = self.runtime;
        let read = seconds(|| {
            pool.step(|team| {
                team.ranges(self.memory.len(), PIECE, |range| {
                    black_box(read_all(*kernels, &self.memory[range]));
                });
            });
        });
        let tasks = 8 * pool.threads();
        let macs = tasks as u64 * dot_peak(*kernels, ROUNDS);
        let dot = seconds(|| {
            pool.step(|team| {
                team.run(tasks, &|_| {
                    black_box(dot_peak(*kernels, ROUNDS));
                });
            });
        });
        [self.memory.len() as f64 / read / 1e9, macs as f64 / dot / 1e9]
    }
}

struct Report<'a> {
    roofs: Roofs<'a>,
    samples: usize,
    json: bool,
    rows: Vec<Value>,
}

/// What a run of an operator amounts to.
struct Amount {
    tokens: usize,
    place: &'static str,
    /// Bytes read, and multiplications and additions; 0 where that is not what counts.
    bytes: usize,
    macs: usize,
}

impl Report<'_> {
    fn add(&mut self, name: &str, amount: Amount, mut work: impl FnMut()) {
        let Amount { tokens, place, bytes, macs } = amount;
        work();
        let mut figures = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..self.samples {
            let [read, dot] = self.roofs.measure();
            // The threads are awake by now, as they are within a model.
            for (figures, figure) in figures.iter_mut().zip([seconds(&mut work), read, dot]) {
                figures.push(figure);
            }
        }
        let [seconds, read, dot] = figures;
        if !self.json {
            let speed = |amount: usize| amount as f64 / median(&seconds) / 1e9;
            println!(
                "{name:<24} {tokens:>4} tokens from {place:<6} {:>8.2} GB/s of {:>6.2} {:>8.1} GMAC/s of {:>6.1}",
                speed(bytes),
                median(&read),
                speed(macs),
                median(&dot)
            );
        }
        self.rows.push(json!({
            "name": name, "tokens": tokens, "place": place, "seconds": seconds, "bytes": bytes, "macs": macs,
            "read_gb_s": median(&read), "dot_gmac_s": median(&dot),
        }));
    }
}

/// Products of every format that is packed: weights of several times the last level of cache, and others that lie
/// in it.
fn products(report: &mut Report<'_>, runtime: &Runtime) {
    const SIZE: usize = 2048;
    const CACHED: usize = 1024;
    for dtype in packed() {
        let cold = matrices(runtime, dtype, SIZE, SIZE, cold_bytes());
        let cached = matrices(runtime, dtype, CACHED, CACHED, 1);
        for &(kind_name, kind) in kinds(&cached[0]) {
            let name = match cached[0].reads_quantized() {
                true => format!("product {dtype} x {kind_name}"),
                false => format!("product {dtype}"),
            };
            for (place, weights, size, rounds) in [("memory", &cold, SIZE, 1), ("cache", &cached, CACHED, 20)]
            {
                for tokens in [1, 8] {
                    let (x, mut out) = (values(tokens * size), vec![0.0; tokens * size]);
                    let bytes = rounds * weights.iter().map(|matrix| matrix.bytes()).sum::<usize>();
                    let macs = rounds * weights.len() * size * size * tokens;
                    report.add(&name, Amount { tokens, place, bytes, macs }, || {
                        multiply_as(kind, runtime, weights, &x, rounds, &mut out);
                    });
                }
            }
            const TOKENS: usize = 512;
            let (x, mut out) = (values(TOKENS * CACHED), vec![0.0; TOKENS * CACHED]);
            let amount = Amount { tokens: TOKENS, place: "cache", bytes: 0, macs: TOKENS * CACHED * CACHED };
            report.add(&name, amount, || multiply_as(kind, runtime, &cached, &x, 1, &mut out));
        }
    }
}

/// The types of activations that matter to a matrix.
fn kinds(matrix: &Matrix) -> &'static [(&'static str, ActivationType)] {
    if matrix.reads_quantized() { ActivationType::ALL } else { &ActivationType::ALL[..1] }
}

/// Attention and what surrounds products, on one thread.
fn others(report: &mut Report<'_>, runtime: &Runtime) {
    const POSITIONS: usize = 4096;
    const SIZE: usize = 64;
    let cache = Cache::<f16>::new(1, POSITIONS, 1, SIZE);
    let queries: Vec<Query<'_>> = (0..QUERIES).map(|i| cache.query(i, POSITIONS)).collect();
    let mut out = vec![0.0; QUERIES * SIZE];
    let amount =
        Amount { tokens: 1, place: "cache", bytes: cache.bytes(), macs: 2 * QUERIES * POSITIONS * SIZE };
    report.add("attention f16, 64", amount, || {
        attend::<f16>(runtime.kernels, cache.view(0, 0), black_box(&queries), &mut out);
    });

    const WIDTH: usize = 4096;
    for (name, work) in vector_kernels(WIDTH) {
        const TIMES: usize = 64;
        let amount = Amount { tokens: TIMES, place: "cache", bytes: TIMES * 4 * WIDTH, macs: 0 };
        report.add(name, amount, || (0..TIMES).for_each(|_| work(runtime.kernels)));
    }

    let tokens = 64;
    let x = values(tokens * WIDTH);
    let mut quantized = Activations::default();
    let amount = Amount { tokens, place: "cache", bytes: 4 * x.len(), macs: 0 };
    report.add("quantize activations", amount, || {
        runtime.pool.step(|team| quantized.quantize(runtime.kernels, team, black_box(&x), WIDTH));
    });
}

type VectorKernel = Box<dyn Fn(Kernels)>;

/// The kernels over one vector of this width.
fn vector_kernels(width: usize) -> Vec<(&'static str, VectorKernel)> {
    let (x, weight) = (values(width), values(width));
    let with = |work: fn(Kernels, &[f32], &[f32], &mut [f32])| -> VectorKernel {
        let (x, weight) = (x.clone(), weight.clone());
        Box::new(move |kernels| {
            thread_local! {
                static OUT: std::cell::RefCell<Vec<f32>> = const { std::cell::RefCell::new(Vec::new()) };
            }
            OUT.with_borrow_mut(|out| {
                out.clear();
                out.extend_from_slice(&x);
                work(kernels, black_box(&x), black_box(&weight), black_box(out));
            });
        })
    };
    vec![
        ("dot product", with(|kernels, x, y, out| dot_rows(kernels, &[x], y, &mut out[..1]))),
        ("rms norm", with(|kernels, x, weight, out| rms_norm(kernels, x, weight, 1e-5, out))),
        ("layer norm", with(|kernels, x, weight, out| layer_norm(kernels, x, weight, Some(x), 1e-5, out))),
        ("silu", with(|kernels, _, up, out| activate(kernels, Activation::Silu, out, Some(up)))),
        ("gelu", with(|kernels, _, up, out| activate(kernels, Activation::GeluTanh, out, Some(up)))),
        ("soft cap", with(|kernels, _, _, out| soft_cap(kernels, out, 30.0))),
    ]
}

/// Formats with a panel kind.
fn packed() -> impl Iterator<Item = DType> {
    DType::ALL.iter().copied().filter(|dtype| dtype.panel().is_some())
}

/// Every kernel on one thread, its data in the cache.
fn kernels() -> Vec<(String, VectorKernel)> {
    let pool = Arc::new(Pool::new(1).expect("no thread"));
    let runtime = Runtime { kernels: Kernels::detect(), pool };
    let mut all: Vec<(String, VectorKernel)> = Vec::new();
    for dtype in packed() {
        const ROWS: usize = 64;
        const COLUMNS: usize = 1024;
        let weights = Arc::new(matrices(&runtime, dtype, ROWS, COLUMNS, 1));
        for (&(name, kind), tokens) in kinds(&weights[0]).iter().flat_map(|kind| [(kind, 1), (kind, 8)]) {
            let (x, runtime, weights) = (values(tokens * COLUMNS), runtime.clone(), weights.clone());
            let work = move |kernels| {
                let runtime = Runtime { kernels, ..runtime.clone() };
                multiply_as(kind, &runtime, &weights, black_box(&x), 1, &mut vec![0.0; tokens * ROWS]);
            };
            all.push((format!("product {dtype} x {name}, {tokens} tokens"), Box::new(work)));
        }
    }
    for count in [1, QUERIES] {
        let cache = Cache::<f16>::new(1, 512, 1, 64);
        let work = move |kernels| {
            let queries: Vec<Query<'_>> = (0..count).map(|i| cache.query(i, 512)).collect();
            attend::<f16>(kernels, cache.view(0, 0), black_box(&queries), &mut vec![0.0; count * 64]);
        };
        all.push((format!("attention of {count} queries"), Box::new(work)));
    }
    let x = values(8 * 2048);
    let work = move |kernels| {
        let mut quantized = Activations::default();
        runtime.pool.step(|team| quantized.quantize(kernels, team, black_box(&x), 2048));
        black_box(&quantized);
    };
    all.push(("quantize activations".to_owned(), Box::new(work)));
    all.extend(vector_kernels(2048).into_iter().map(|(name, work)| (name.to_owned(), work)));
    all
}

/// Compares the chosen instruction set with the others, kernel by kernel.
fn dispatch(samples: usize) -> ExitCode {
    const ALLOWED: f64 = 1.05;
    // Another process may take the core in between.
    const ATTEMPTS: usize = 4;
    let chosen = Kernels::detect();
    let others: Vec<Kernels> = IsaKind::ALL
        .iter()
        .filter_map(|&isa| Kernels::with(isa))
        .filter(|kernels| *kernels != chosen)
        .collect();
    println!("chosen: {}", chosen.isa().name());
    let mut slower = 0;
    for (name, work) in kernels() {
        let mut worst = (0.0, chosen);
        for _ in 0..ATTEMPTS {
            let ratio = |other: &Kernels| (ratio(&work, chosen, *other, samples), *other);
            worst = others.iter().map(ratio).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, chosen));
            if worst.0 <= ALLOWED {
                break;
            }
        }
        let (ratio, other) = worst;
        let verdict = if ratio <= ALLOWED { "holds" } else { "FALSIFIED" };
        println!("{name:<32} takes {ratio:.2} of the time on {}: {verdict}", other.isa().name());
        slower += usize::from(ratio > ALLOWED);
    }
    if slower > 0 {
        println!("{slower} kernels would be faster on another instruction set");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The median of the times on one set over those on the other, taken in turns.
fn ratio(work: &VectorKernel, chosen: Kernels, other: Kernels, samples: usize) -> f64 {
    // As often as takes a quarter of a millisecond.
    let once = seconds(|| work(chosen)).max(1e-7);
    let times = ((2.5e-4 / once) as usize).clamp(1, 10_000);
    let run = |kernels| seconds(|| (0..times).for_each(|_| work(kernels)));
    let mut ratios = Vec::new();
    for _ in 0..samples {
        let (first, second) = (run(chosen), run(other));
        ratios.push(first / second);
    }
    median(&ratios)
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_owned();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}
