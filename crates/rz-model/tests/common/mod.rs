//! Feeding a model in chunks.

use std::path::Path;

use rz_formats::Gguf;
use rz_kernels::Runtime;
use rz_model::{Batch, CpuModel, Forward, KV_BLOCK, LoadOptions, Output, Want};

pub(crate) fn load(path: &Path, threads: usize, options: LoadOptions) -> CpuModel {
    let gguf = Gguf::open(path).expect("a readable file");
    let runtime = Runtime::new(Some(threads)).expect("threads");
    CpuModel::load(&gguf, &runtime, options, &mut |_, _| ()).expect("a supported model")
}

/// The logits of every token, fed `chunk` at a time at positions from 0, with the blocks
/// of the cache in reverse order.
pub(crate) fn logits(model: &mut dyn Forward, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let blocks = tokens.len().div_ceil(KV_BLOCK) as u32;
    let table: Vec<u32> = (0..blocks).rev().collect();
    let (mut all, mut out) = (Vec::new(), Output::default());
    for (i, tokens) in tokens.chunks(chunk).enumerate() {
        let start = (i * chunk) as u32;
        let positions: Vec<u32> = (start..start + tokens.len() as u32).collect();
        let batch = Batch {
            tokens,
            positions: &positions,
            sequences: &vec![0; tokens.len()],
            tables: &[&table],
            outputs: &vec![Want::Logits; tokens.len()],
        };
        let layers = 0..model.layers();
        model.forward(&batch, layers, &mut out).expect("a valid batch");
        all.extend_from_slice(&out.logits);
    }
    all
}
