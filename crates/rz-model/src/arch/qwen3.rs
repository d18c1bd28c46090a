//! Qwen 3: Llama's shape with a norm on every head's query and key, and rotary positions
//! over halves.

use super::{Arch, Keys};
use crate::ModelError;
use crate::spec::{Activation, AttentionSpec, LayerSpec, ModelSpec, NormKind, Pairs, Residual};

pub(super) const ARCH: Arch = Arch { name: "qwen3", read };

fn read(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let attention = AttentionSpec { head_norms: true, ..keys.attention()? };
    let rope = keys.rope(Pairs::Halves, attention.key_size)?;
    let layer = LayerSpec {
        norm: keys.norm(NormKind::Rms)?,
        attention,
        feed_forward: keys.feed_forward(Activation::Silu, true)?,
        residual: Residual::Sequential,
        post_norms: false,
    };
    keys.model(layer, vec![rope])
}
