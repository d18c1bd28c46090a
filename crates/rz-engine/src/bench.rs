//! How fast a model runs on this machine, beside how fast the machine reads memory.

use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

use rz_kernels::{Arena, Runtime, last_level_cache, read_all};
use rz_model::{Batch, Forward, KV_BLOCK, KvGroup, Output, Want};

use crate::EngineError;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens to generate.
    pub generate: usize,
    /// Tokens that are in the cache before either.
    pub depth: usize,
    /// How often everything is repeated.
    pub repetitions: usize,
}

/// The figures of every repetition.
#[derive(Clone, Debug, Default)]
pub struct BenchReport {
    /// Tokens of the prompt per second.
    pub prefill: Vec<f64>,
    /// Generated tokens per second.
    pub decode: Vec<f64>,
    /// Weights, keys and values that decoding read, in 10^9 bytes per second.
    pub decode_bytes: Vec<f64>,
    /// A plain read of memory by the same threads, in 10^9 bytes per second.
    pub read: Vec<f64>,
}

/// Runs the model and, in turn with it, plain reads of memory: the machine's speed
/// drifts, and only figures of the same minute can be compared.
///
/// A plain read takes eight times the last level of cache, from the same kind of memory
/// as packed weights, with as many threads as decoding. `bytes(p)` says what a token with `p` positions before it reads.
///
/// # Errors
/// When the model's cache is too small, or it fails.
pub fn bench<F: Forward>(
    forward: &mut F,
    runtime: &Runtime,
    options: BenchOptions,
    bytes: impl Fn(usize) -> usize,
) -> Result<BenchReport, EngineError> {
    let mut memory = Arena::new(8 * last_level_cache())
        .map_err(|cause| EngineError::Memory { purpose: "measuring the read bandwidth", cause })?;
    memory.fill(1);
    let mut runner = Runner::new(forward, options.depth + options.prompt.max(options.generate));
    let depth = options.depth;
    runner.feed(0..depth, usize::MAX)?;
    let mut report = BenchReport::default();
    // The first, uncounted round takes the page faults and wakes the threads.
    for round in 0..=options.repetitions {
        let read = seconds(|| read_memory(runtime, &memory));
        let decode = timed(|| runner.feed(depth..depth + options.generate, 1))?;
        let prefill = timed(|| runner.feed(depth..depth + options.prompt, usize::MAX))?;
        if round == 0 {
            continue;
        }
        let touched: usize = (depth..depth + options.generate).map(&bytes).sum();
        report.read.push(memory.len() as f64 / read / 1e9);
        if options.generate > 0 {
            report.decode.push(options.generate as f64 / decode);
            report.decode_bytes.push(touched as f64 / decode / 1e9);
        }
        if options.prompt > 0 {
            report.prefill.push(options.prompt as f64 / prefill);
        }
    }
    Ok(report)
}

/// The median, or NaN for no figures.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_owned();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n.is_multiple_of(2) => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
        n => sorted[n / 2],
    }
}

/// The read bandwidth of as many threads as `runtime` decodes with, in 10^9 bytes per second: the median
/// of a few passes over eight times the last level of cache.
///
/// # Errors
/// When the system has no memory for it.
pub fn read_bandwidth(runtime: &Runtime) -> std::io::Result<f64> {
    const PASSES: usize = 7;
    let mut memory = Arena::new(8 * last_level_cache())?;
    memory.fill(1);
    let pass = |_| memory.len() as f64 / seconds(|| read_memory(runtime, &memory)) / 1e9;
    Ok(median(&(0..PASSES).map(pass).collect::<Vec<f64>>()))
}

fn read_memory(runtime: &Runtime, memory: &[u8]) {
    const PIECE: usize = 1 << 20;
    runtime.pool.step_of(runtime.pool.threads(), |team| {
        team.ranges(memory.len(), PIECE, |range| {
            black_box(read_all(runtime.kernels, &memory[range]));
        });
    });
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn timed(work: impl FnOnce() -> Result<(), EngineError>) -> Result<f64, EngineError> {
    let mut result = Ok(());
    let taken = seconds(|| result = work());
    result.map(|()| taken)
}

/// One sequence of made-up tokens.
struct Runner<'a, F> {
    forward: &'a mut F,
    tables: Vec<Vec<u32>>,
    out: Output,
}

impl<'a, F: Forward> Runner<'a, F> {
    fn new(forward: &'a mut F, positions: usize) -> Runner<'a, F> {
        // In a group with a window, blocks take turns. What they held does not matter here.
        let blocks = 0..positions.div_ceil(KV_BLOCK);
        let table = |group: &KvGroup| blocks.clone().map(|i| (i % group.blocks) as u32).collect();
        let tables = forward.kv_groups().iter().map(table).collect();
        Runner { forward, tables, out: Output::default() }
    }

    // Computes the positions, at most `chunk` at a time, and the logits of each chunk's last.
    fn feed(&mut self, positions: Range<usize>, chunk: usize) -> Result<(), EngineError> {
        let chunk = chunk.min(self.forward.max_batch());
        let vocabulary = self.forward.vocabulary() as u32;
        let tables: Vec<&[u32]> = self.tables.iter().map(Vec::as_slice).collect();
        let positions: Vec<u32> = positions.map(|position| position as u32).collect();
        for positions in positions.chunks(chunk) {
            let tokens: Vec<u32> =
                positions.iter().map(|position| position.wrapping_mul(2_654_435_761) % vocabulary).collect();
            let mut outputs = vec![Want::Nothing; tokens.len()];
            if let Some(last) = outputs.last_mut() {
                *last = Want::Logits;
            }
            let batch = Batch {
                tokens: &tokens,
                positions,
                sequences: &vec![0; tokens.len()],
                tables: &tables,
                outputs: &outputs,
            };
            let layers = 0..self.forward.layers();
            self.forward.forward(&batch, layers, &mut self.out)?;
        }
        Ok(())
    }
}
