//! How much memory refusing a file takes, and that passes take none once warm.
//!
//! The one test of this program, because it counts what the whole program allocates.

mod common;

use common::{bad, load, logits};
use rz_kernels::Runtime;
use rz_model::{Batch, CpuModel, Forward, LoadOptions, Output, Want};
use rz_testkit::fixture;
use rz_testkit::memory::{self, Counting};

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn memory_is_taken_once_and_not_on_the_word_of_a_file() {
    refusals();
    passes();
}

/// The good model's weights are some 200 KB: what is refused takes less.
fn refusals() {
    let runtime = Runtime::new(Some(1)).expect("threads");
    for bad in bad::files() {
        let (result, peak) =
            memory::peak(|| CpuModel::load(&bad.gguf, &runtime, LoadOptions::default(), &mut |_, _| ()));
        assert!(result.is_err(), "{}: accepted", bad.what);
        assert!(peak < 256 << 10, "{}: {peak} bytes", bad.what);
    }
}

/// Passes of the real model, with one thread: with more, calling the workers takes a few
/// hundred bytes.
fn passes() {
    let options = LoadOptions { context: 256, max_batch: 64, ..LoadOptions::default() };
    let mut model = load(&fixture("SmolLM2-135M-Instruct.Q4_1.gguf"), 1, options);
    let tokens: Vec<u32> = (0..64).map(|i| i * 37 + 5).collect();
    let positions: Vec<u32> = (0..64).collect();
    let (sequences, outputs) = ([0; 64], [Want::Logits; 64]);
    let mut out = Output::default();
    logits(&mut model, &tokens, 64);
    for (round, count) in [64, 1, 7, 1, 64].into_iter().enumerate() {
        let batch = Batch {
            tokens: &tokens[..count],
            positions: &positions[..count],
            sequences: &sequences[..count],
            tables: &[&[5, 2]],
            outputs: &outputs[..count],
        };
        let (result, calls) = memory::calls(|| model.forward(&batch, 0..30, &mut out));
        result.expect("a valid batch");
        // The first one makes room for the results.
        assert!(round == 0 || calls == 0, "{calls} allocations for {count} tokens");
    }
}
