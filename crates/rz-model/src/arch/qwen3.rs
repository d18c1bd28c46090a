//! Qwen 3: Llama's shape with a norm on every head's query and key, and rotary positions
//! over halves.

use super::{Arch, Keys};
use crate::ModelError;
use crate::layout::{Differs, LLAMA_OTHERS, Layout};
use crate::spec::{Activation, AttentionSpec, LayerSpec, ModelSpec, NormKind, Pairs, Residual};

pub(super) const ARCH: Arch = Arch {
    name: "qwen3",
    read,
    folder: Some(Layout {
        model_types: &["qwen3"],
        keys: &[],
        activations: &["silu"],
        defaults: &[("qwen3", "rms_norm_eps", 1e-6), ("qwen3", "head_dim", 128.0)],
        windowed: false,
        tied: false,
        layers: "model.layers",
        layer: &[
            ("attn_norm", "input_layernorm", Differs::No),
            ("attn_q", "self_attn.q_proj", Differs::No),
            ("attn_k", "self_attn.k_proj", Differs::No),
            ("attn_v", "self_attn.v_proj", Differs::No),
            ("attn_output", "self_attn.o_proj", Differs::No),
            ("attn_q_norm", "self_attn.q_norm", Differs::No),
            ("attn_k_norm", "self_attn.k_norm", Differs::No),
            ("ffn_norm", "post_attention_layernorm", Differs::No),
            ("ffn_gate", "mlp.gate_proj", Differs::No),
            ("ffn_up", "mlp.up_proj", Differs::No),
            ("ffn_down", "mlp.down_proj", Differs::No),
        ],
        others: LLAMA_OTHERS,
    }),
};

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
