//! Llama and what shares its shape: Llama 2 and 3, Mistral, TinyLlama, SmolLM.
//!
//! Root-mean-square norms, rotary positions over neighbouring pairs (files hold the
//! rows of Q and K in that order), grouped-query attention, a gated feed-forward
//! network with SiLU. `rope_freqs.weight` carries the frequency factors of Llama 3.1;
//! Mistral's first models limit attention to a window.

use super::{Arch, Keys};
use crate::ModelError;
use crate::layout::{Differs, LLAMA_OTHERS, Layout};
use crate::spec::{Activation, AttentionSpec, LayerSpec, ModelSpec, NormKind, Pairs, Residual};

pub(super) const ARCH: Arch = Arch {
    name: "llama",
    read,
    folder: Some(Layout {
        model_types: &["llama", "mistral"],
        keys: &[],
        activations: &["silu"],
        defaults: &[
            ("llama", "rms_norm_eps", 1e-6),
            ("mistral", "rms_norm_eps", 1e-6),
            ("mistral", "sliding_window", 4096.0),
            ("mistral", "num_key_value_heads", 8.0),
        ],
        windowed: true,
        tied: false,
        layers: "model.layers",
        layer: &[
            ("attn_norm", "input_layernorm", Differs::No),
            ("attn_q", "self_attn.q_proj", Differs::QueryRows),
            ("attn_k", "self_attn.k_proj", Differs::KeyRows),
            ("attn_v", "self_attn.v_proj", Differs::No),
            ("attn_output", "self_attn.o_proj", Differs::No),
            ("ffn_norm", "post_attention_layernorm", Differs::No),
            ("ffn_gate", "mlp.gate_proj", Differs::No),
            ("ffn_up", "mlp.up_proj", Differs::No),
            ("ffn_down", "mlp.down_proj", Differs::No),
        ],
        others: LLAMA_OTHERS,
    }),
};

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
