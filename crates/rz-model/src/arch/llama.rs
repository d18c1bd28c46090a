//! Llama and what shares its shape: Llama 2 and 3, Mistral, TinyLlama, SmolLM.
//!
//! Root-mean-square norms, rotary positions over neighbouring pairs (files hold the
//! rows of Q and K in that order), grouped-query attention, a gated feed-forward
//! network with SiLU. `rope_freqs.weight` carries the frequency factors of Llama 3.1.

use super::{Arch, Keys};
use crate::ModelError;
use crate::spec::{LayerSpec, ModelSpec};

pub(super) const ARCH: Arch = Arch { name: "llama", read };

fn read(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let width = keys.size("embedding_length", 1 << 20)?;
    let norm = keys.rms_norm()?;
    let layer = LayerSpec {
        norm,
        attention: keys.attention(width)?,
        feed_forward: keys.size("feed_forward_length", 1 << 24)?,
    };
    Ok(ModelSpec {
        family: keys.family(),
        vocabulary: keys.vocabulary(width)?,
        width,
        context: keys.size("context_length", 1 << 30)?,
        output_norm: norm,
        layers: vec![layer; keys.block_count()?],
    })
}
