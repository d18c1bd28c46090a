//! Phi 1, 1.5 and 2: layer norms, biases everywhere, attention and a plain feed-forward
//! network with GELU on the same normalised input, rotary positions over the halves of a
//! part of each head.

use super::{Arch, Keys};
use crate::ModelError;
use crate::layout::{Differs, Layout};
use crate::spec::{
    Activation, AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, NormKind, Pairs, Residual,
};

pub(super) const ARCH: Arch = Arch {
    name: "phi2",
    read,
    folder: Some(Layout {
        model_types: &["phi"],
        keys: &[("attention.layer_norm_epsilon", "layer_norm_eps")],
        activations: &["gelu_new", "gelu_pytorch_tanh"],
        defaults: &[("phi", "layer_norm_eps", 1e-5), ("phi", "partial_rotary_factor", 0.5)],
        windowed: false,
        tied: false,
        layers: "model.layers",
        layer: &[
            ("attn_norm", "input_layernorm", Differs::No),
            ("attn_q", "self_attn.q_proj", Differs::No),
            ("attn_k", "self_attn.k_proj", Differs::No),
            ("attn_v", "self_attn.v_proj", Differs::No),
            ("attn_output", "self_attn.dense", Differs::No),
            ("ffn_up", "mlp.fc1", Differs::No),
            ("ffn_down", "mlp.fc2", Differs::No),
        ],
        others: &[
            ("token_embd", "model.embed_tokens", Differs::No),
            ("output_norm", "model.final_layernorm", Differs::No),
            ("output", "lm_head", Differs::No),
        ],
    }),
};

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
