//! Phi 1, 1.5 and 2: layer norms, biases everywhere, attention and a plain feed-forward
//! network with GELU on the same normalised input, rotary positions over the halves of a
//! part of each head.

use super::{Arch, Keys};
use crate::ModelError;
use crate::spec::{
    Activation, AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, NormKind, Pairs, Residual,
};

pub(super) const ARCH: Arch = Arch { name: "phi2", read };

fn read(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let attention = AttentionSpec { input_bias: true, output_bias: true, ..keys.attention()? };
    let rope = keys.rope(Pairs::Halves, attention.key_size)?;
    let layer = LayerSpec {
        norm: keys.norm(NormKind::Layer)?,
        attention,
        feed_forward: FeedForwardSpec { bias: true, ..keys.feed_forward(Activation::GeluTanh, false)? },
        residual: Residual::Parallel,
        post_norms: false,
    };
    Ok(ModelSpec { output_bias: true, ..keys.model(layer, vec![rope])? })
}
