//! GPT-2: layer norms, biases everywhere, learned positions, a plain feed-forward network
//! with GELU. Files hold the rows of Q, K and V in one matrix.

use super::{Arch, Keys};
use crate::ModelError;
use crate::layout::{Differs, Layout};
use crate::spec::{Activation, AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, NormKind, Residual};

pub(super) const ARCH: Arch = Arch {
    name: "gpt2",
    read,
    folder: Some(Layout {
        model_types: &["gpt2"],
        keys: &[
            ("embedding_length", "n_embd"),
            ("block_count", "n_layer"),
            ("feed_forward_length", "n_inner"),
            ("context_length", "n_positions"),
            ("attention.head_count", "n_head"),
            ("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        ],
        activations: &["gelu_new", "gelu_pytorch_tanh"],
        defaults: &[("gpt2", "layer_norm_epsilon", 1e-5)],
        windowed: false,
        tied: true,
        layers: "transformer.h",
        layer: &[
            ("attn_norm", "ln_1", Differs::No),
            ("attn_qkv", "attn.c_attn", Differs::Transposed),
            ("attn_output", "attn.c_proj", Differs::Transposed),
            ("ffn_norm", "ln_2", Differs::No),
            ("ffn_up", "mlp.c_fc", Differs::Transposed),
            ("ffn_down", "mlp.c_proj", Differs::Transposed),
        ],
        others: &[
            ("token_embd", "transformer.wte", Differs::No),
            ("position_embd", "transformer.wpe", Differs::No),
            ("output_norm", "transformer.ln_f", Differs::No),
            ("output", "lm_head", Differs::No),
        ],
    }),
};

fn read(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let width = keys.width()?;
    let layer = LayerSpec {
        norm: keys.norm(NormKind::Layer)?,
        attention: AttentionSpec { rope: None, input_bias: true, output_bias: true, ..keys.attention()? },
        feed_forward: FeedForwardSpec {
            // Folders leave the usual size out.
            size: keys.size_or("feed_forward_length", 1 << 24, 4 * width)?,
            activation: Activation::GeluTanh,
            gated: false,
            bias: true,
        },
        residual: Residual::Sequential,
        post_norms: false,
    };
    Ok(ModelSpec { learned_positions: true, ..keys.model(layer, Vec::new())? })
}
