//! How fast a model runs on this machine, beside how fast the machine reads memory and
//! multiplies.

use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

use rz_kernels::{Arena, Runtime, dot_peak, last_level_cache, read_all};
use rz_model::{Batch, Forward, KV_BLOCK, Output, Want};

use crate::EngineError;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// Tokens of the prompt, of each sequence.
    pub prompt: usize,
    /// Tokens to generate, for each sequence.
    pub generate: usize,
    /// Tokens of each sequence that are in the cache before either.
    pub depth: usize,
    /// Sequences: their prompts are computed one after the other, then they are continued
    /// together.
    pub sequences: usize,
    /// How often everything is repeated.
    pub repetitions: usize,
}

/// The figures of every repetition.
#[derive(Clone, Debug, Default)]
pub struct BenchReport {
    /// Tokens of prompts per second.
    pub prefill: Vec<f64>,
    /// Generated tokens per second, of all sequences together.
    pub decode: Vec<f64>,
    /// Weights, keys and values that decoding read, in 10^9 bytes per second.
    pub decode_bytes: Vec<f64>,
    /// A plain read of memory by the same threads, in 10^9 bytes per second.
    pub read: Vec<f64>,
    /// Multiplications and additions of bytes in registers by the same threads, in 10^9 per
    /// second.
    pub dot: Vec<f64>,
    /// Memory that measuring itself took, in bytes.
    pub own_bytes: usize,
}

/// Runs the model and, in turn with it, plain reads of memory and products of registers:
/// the machine's speed drifts, and only figures of the same minute can be compared.
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
    // What wakes the threads and touches the pages that will be used.
    const WARM_UP: usize = 8;
    let BenchOptions { prompt, generate, depth, repetitions, .. } = options;
    let sequences = options.sequences.max(1);
    let memory = yardstick()
        .map_err(|cause| EngineError::Memory { purpose: "measuring the read bandwidth", cause })?;
    let peak = DotPeak::new(runtime);
    let mut runner = Runner::new(forward, sequences, depth + prompt.max(generate));
    let chunk = runner.forward.max_batch();
    runner.feed(0..depth)?;
    let mut report = BenchReport { own_bytes: memory.len(), ..BenchReport::default() };
    for round in 0..=repetitions {
        let whole = |tokens: usize, least: usize| if round == 0 { tokens.min(least) } else { tokens };
        let read = seconds(|| read_memory(runtime, &memory));
        let dot = peak.measure(runtime);
        let decode = timed(|| runner.generate(depth..depth + whole(generate, WARM_UP)))?;
        let prefill = timed(|| runner.feed(depth..depth + whole(prompt, chunk)))?;
        if round == 0 {
            continue;
        }
        report.read.push(memory.len() as f64 / read / 1e9);
        report.dot.push(dot);
        if generate > 0 {
            let touched: usize =
                (depth..depth + generate).map(|at| bytes_of_pass(&bytes, at, sequences)).sum();
            report.decode.push((sequences * generate) as f64 / decode);
            report.decode_bytes.push(touched as f64 / decode / 1e9);
        }
        if prompt > 0 {
            report.prefill.push((sequences * prompt) as f64 / prefill);
        }
    }
    Ok(report)
}

// Each sequence has keys and values of its own; the weights are read once.
fn bytes_of_pass(bytes: &impl Fn(usize) -> usize, position: usize, sequences: usize) -> usize {
    bytes(position) + (sequences - 1) * (bytes(position) - bytes(0))
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
    let memory = yardstick()?;
    let pass = |_| memory.len() as f64 / seconds(|| read_memory(runtime, &memory)) / 1e9;
    Ok(median(&(0..PASSES).map(pass).collect::<Vec<f64>>()))
}

/// Memory that no cache holds.
fn yardstick() -> std::io::Result<Arena> {
    let mut memory = Arena::new(8 * last_level_cache())?;
    memory.fill(1);
    Ok(memory)
}

fn read_memory(runtime: &Runtime, memory: &[u8]) {
    const PIECE: usize = 1 << 20;
    runtime.pool.step_of(runtime.pool.threads(), |team| {
        team.ranges(memory.len(), PIECE, |range| {
            black_box(read_all(runtime.kernels, &memory[range]));
        });
    });
}

/// How fast all threads multiply bytes in registers.
struct DotPeak {
    // Of one task: about a millisecond.
    rounds: usize,
}

impl DotPeak {
    fn new(runtime: &Runtime) -> DotPeak {
        const TASK: f64 = 1e-3;
        let mut rounds = 1;
        loop {
            // The least of some: an interruption must not pass for work.
            let try_once = |_| {
                seconds(|| {
                    black_box(dot_peak(runtime.kernels, rounds));
                })
            };
            let taken = (0..4).map(try_once).fold(f64::INFINITY, f64::min);
            if taken > TASK / 4.0 {
                return DotPeak { rounds: ((rounds as f64 * TASK / taken) as usize).max(1) };
            }
            rounds *= 2;
        }
    }

    /// In 10^9 multiplications and additions per second.
    fn measure(&self, runtime: &Runtime) -> f64 {
        const TASKS_PER_THREAD: usize = 8;
        let tasks = TASKS_PER_THREAD * runtime.pool.threads();
        let done = std::sync::atomic::AtomicU64::new(0);
        let taken = seconds(|| {
            runtime.pool.step(|team| {
                team.run(tasks, &|_| {
                    let macs = dot_peak(runtime.kernels, self.rounds);
                    done.fetch_add(macs, std::sync::atomic::Ordering::Relaxed);
                });
            });
        });
        done.into_inner() as f64 / taken / 1e9
    }
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

/// Sequences of made-up tokens.
struct Runner<'a, F> {
    forward: &'a mut F,
    sequences: usize,
    /// Of each sequence, for each group of layers.
    tables: Vec<Vec<u32>>,
    out: Output,
}

impl<'a, F: Forward> Runner<'a, F> {
    fn new(forward: &'a mut F, sequences: usize, positions: usize) -> Runner<'a, F> {
        let blocks = positions.div_ceil(KV_BLOCK);
        let mut tables = Vec::new();
        for sequence in 0..sequences {
            for group in forward.kv_groups() {
                // In a group with a window, blocks take turns. What they held does not matter here.
                let block = |i| ((sequence * blocks + i) % group.blocks) as u32;
                tables.push((0..blocks).map(block).collect());
            }
        }
        Runner { forward, sequences, tables, out: Output::default() }
    }

    // Computes the positions of one sequence after the other, and the logits of each chunk's last.
    fn feed(&mut self, positions: Range<usize>) -> Result<(), EngineError> {
        let positions: Vec<u32> = positions.map(|position| position as u32).collect();
        for sequence in 0..self.sequences as u32 {
            for positions in positions.chunks(self.forward.max_batch()) {
                let mut outputs = vec![Want::Nothing; positions.len()];
                if let Some(last) = outputs.last_mut() {
                    *last = Want::Logits;
                }
                self.pass(positions, &vec![sequence; positions.len()], &outputs)?;
            }
        }
        Ok(())
    }

    // Computes one position after the other, of all sequences together, and their logits.
    fn generate(&mut self, positions: Range<usize>) -> Result<(), EngineError> {
        let sequences: Vec<u32> = (0..self.sequences as u32).collect();
        let outputs = vec![Want::Logits; self.sequences];
        for position in positions {
            self.pass(&vec![position as u32; self.sequences], &sequences, &outputs)?;
        }
        Ok(())
    }

    fn pass(&mut self, positions: &[u32], sequences: &[u32], outputs: &[Want]) -> Result<(), EngineError> {
        let vocabulary = self.forward.vocabulary() as u32;
        let token = |(position, sequence): (&u32, &u32)| {
            position.wrapping_add(sequence << 16).wrapping_mul(2_654_435_761) % vocabulary
        };
        let tokens: Vec<u32> = positions.iter().zip(sequences).map(token).collect();
        let tables: Vec<&[u32]> = self.tables.iter().map(Vec::as_slice).collect();
        let batch = Batch { tokens: &tokens, positions, sequences, tables: &tables, outputs };
        let layers = 0..self.forward.layers();
        Ok(self.forward.forward(&batch, layers, &mut self.out)?)
    }
}
