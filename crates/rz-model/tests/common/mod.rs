//! Loading models and feeding them.
#![allow(dead_code)] // Each test program uses its own part of this.

pub(crate) mod bad;
pub(crate) mod recorded;
pub(crate) mod tables;

use std::path::Path;
use std::sync::Arc;

use rz_formats::{Gguf, Metadata};
use rz_kernels::{IsaKind, Kernels, Pool, Runtime};
use rz_model::{Batch, CpuModel, Forward, LoadOptions, Output, Want};
use rz_quant::DType;
use rz_testkit::gguf::{TinyLlama, TinyTensor, gguf_bytes};
use tables::Tables;

pub(crate) fn load(path: &Path, threads: usize, options: LoadOptions) -> CpuModel {
    let gguf = Gguf::open(path).expect("a readable file");
    let runtime = Runtime::new(Some(threads)).expect("threads");
    CpuModel::load(&gguf, &runtime, options, &mut |_, _| ()).expect("a supported model")
}

/// A runtime of `threads` threads for each instruction set that this machine has.
pub(crate) fn every_runtime(threads: usize) -> impl Iterator<Item = Runtime> {
    let pool = Arc::new(Pool::new(threads).expect("threads"));
    let kernels = IsaKind::ALL.iter().filter_map(|&isa| Kernels::with(isa));
    kernels.map(move |kernels| Runtime { kernels, pool: pool.clone() })
}

/// The parts of a tiny model's file. A matrix whose rows do not fill whole blocks of the
/// model's type is stored as F32.
pub(crate) fn tiny_parts(tiny: &TinyLlama) -> (Metadata, Vec<TinyTensor>) {
    let mut tensors = tiny.tensors();
    for tensor in &mut tensors {
        if !(tensor.shape[0] as usize).is_multiple_of(tensor.dtype.block_elements()) {
            tensor.dtype = DType::F32;
        }
    }
    (tiny.metadata(), tensors)
}

/// The file of [`tiny_parts`].
pub(crate) fn tiny_file(tiny: &TinyLlama) -> Gguf {
    let (metadata, tensors) = tiny_parts(tiny);
    Gguf::from_bytes("tiny.gguf", gguf_bytes(metadata, &tensors)).expect("a valid file")
}

/// The logits of every token, fed `chunk` at a time at positions from 0.
pub(crate) fn logits(model: &mut dyn Forward, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut tables = Tables::new(model.kv_groups(), 1, 1);
    let (mut all, mut out) = (Vec::new(), Output::default());
    for (i, tokens) in tokens.chunks(chunk).enumerate() {
        let start = (i * chunk) as u32;
        tables.make_room(0, start as usize..start as usize + tokens.len());
        let positions: Vec<u32> = (start..start + tokens.len() as u32).collect();
        let batch = Batch {
            tokens,
            positions: &positions,
            sequences: &vec![0; tokens.len()],
            tables: &tables.named(),
            outputs: &vec![Want::Logits; tokens.len()],
        };
        let layers = 0..model.layers();
        model.forward(&batch, layers, &mut out).expect("a valid batch");
        all.extend_from_slice(&out.logits);
    }
    all
}
