//! GPT-2: layer norms, biases everywhere, learned positions, a plain feed-forward network
//! with GELU. Files hold the rows of Q, K and V in one matrix.

use super::{Arch, Keys};
use crate::ModelError;
use crate::spec::{Activation, AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, NormKind, Residual};

pub(super) const ARCH: Arch = Arch { name: "gpt2", read };

fn read(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let layer = LayerSpec {
        norm: keys.norm(NormKind::Layer)?,
        attention: AttentionSpec { rope: None, input_bias: true, output_bias: true, ..keys.attention()? },
        feed_forward: FeedForwardSpec { bias: true, ..keys.feed_forward(Activation::GeluTanh, false)? },
        residual: Residual::Sequential,
        post_norms: false,
    };
    Ok(ModelSpec { learned_positions: true, ..keys.model(layer, Vec::new())? })
}
