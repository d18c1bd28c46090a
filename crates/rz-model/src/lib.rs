//! Transformers described as data, with one forward pass and its samplers.

pub mod arch;
mod batch;
mod cpu;
mod error;
mod kv;
pub mod sampler;
mod spec;
mod weights;

pub use batch::{Batch, Forward, KV_BLOCK, Output, Want};
pub use cpu::{CpuModel, LoadOptions};
pub use error::ModelError;
pub use kv::KvType;
pub use spec::{AttentionSpec, LayerSpec, ModelSpec, Norm, Rope};
pub use weights::LoadProgress;
