//! Llama and what shares its shape: Llama 2 and 3, Mistral, TinyLlama, SmolLM.
//!
//! Root-mean-square norms, rotary positions over neighbouring pairs (files hold the
//! rows of Q and K in that order), grouped-query attention, a gated feed-forward
//! network with SiLU. `rope_freqs.weight` carries the frequency factors of Llama 3.1;
//! Mistral's first models limit attention to a window.

use super::{Arch, Keys};
use crate::ModelError;
use crate::spec::{Activation, AttentionSpec, LayerSpec, ModelSpec, NormKind, Pairs, Residual};

pub(super) const ARCH: Arch = Arch { name: "llama", read };

fn read(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let attention = AttentionSpec { window: keys.window()?, ..keys.attention()? };
    let rope = keys.rope(Pairs::Neighbours, attention.key_size)?;
    let layer = LayerSpec {
        norm: keys.norm(NormKind::Rms)?,
        attention,
        feed_forward: keys.feed_forward(Activation::Silu, true)?,
        residual: Residual::Sequential,
        post_norms: false,
    };
    keys.model(layer, vec![rope])
}
