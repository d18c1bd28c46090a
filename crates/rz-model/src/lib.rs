//! Transformers described as data, with one forward pass and its samplers.

pub mod arch;
mod attend;
mod batch;
mod cpu;
mod error;
mod folder;
mod groups;
mod kv;
mod layout;
mod loading;
mod origin;
mod packed;
mod pass;
pub mod sampler;
mod source;
mod spec;
mod weights;

pub use batch::{Batch, Forward, KV_BLOCK, Output, Want};
pub use cpu::{CpuModel, LoadOptions};
pub use error::ModelError;
pub use groups::{KvGroup, KvRoom, NO_BLOCK};
pub use kv::KvType;
pub use loading::{LoadProgress, Loader, Placement};
pub use packed::{PACKED_SOURCE, PackProgress, write_packed};
pub use source::Source;
pub use spec::{
    Activation, ActivationType, AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, Norm, NormKind, Pairs,
    Residual, Rope,
};

// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
