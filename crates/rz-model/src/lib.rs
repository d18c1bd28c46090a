//! Transformers described as data, with one forward pass and its samplers.

mod batch;
pub mod sampler;

pub use batch::{Batch, Forward, KV_BLOCK, ModelError, Output, Want};
