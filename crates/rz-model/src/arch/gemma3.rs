//! Gemma 3 (text): root-mean-square norms before and after attention and the gated
//! feed-forward network with GELU, norms on every head's query and key, scaled
//! embeddings. Most layers see a window, with a rope base of their own; every sixth sees
//! all. (Files hold norm weights with their 1 added.)

use super::{Arch, Keys};
use crate::ModelError;
use crate::layout::{Differs, Layout};
use crate::spec::{Activation, AttentionSpec, LayerSpec, ModelSpec, NormKind, Pairs, Residual, Rope};

pub(super) const ARCH: Arch = Arch {
    name: "gemma3",
    read,
    folder: Some(Layout {
        model_types: &["gemma3_text"],
        keys: &[
            ("rope.freq_base_swa", "rope_local_base_freq"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ],
        activations: &["gelu_pytorch_tanh"],
        defaults: &[
            ("gemma3_text", "rms_norm_eps", 1e-6),
            ("gemma3_text", "head_dim", 256.0),
            ("gemma3_text", "query_pre_attn_scalar", 256.0),
            ("gemma3_text", "sliding_window", 4096.0),
            ("gemma3_text", "rope_theta", 1e6),
            ("gemma3_text", "rope_local_base_freq", 1e4),
        ],
        windowed: true,
        tied: true,
        layers: "model.layers",
        layer: &[
            ("attn_norm", "input_layernorm", Differs::MinusOne),
            ("attn_q", "self_attn.q_proj", Differs::No),
            ("attn_k", "self_attn.k_proj", Differs::No),
            ("attn_v", "self_attn.v_proj", Differs::No),
            ("attn_output", "self_attn.o_proj", Differs::No),
            ("attn_q_norm", "self_attn.q_norm", Differs::MinusOne),
            ("attn_k_norm", "self_attn.k_norm", Differs::MinusOne),
            ("post_attention_norm", "post_attention_layernorm", Differs::MinusOne),
            ("ffn_norm", "pre_feedforward_layernorm", Differs::MinusOne),
            ("ffn_gate", "mlp.gate_proj", Differs::No),
            ("ffn_up", "mlp.up_proj", Differs::No),
            ("ffn_down", "mlp.down_proj", Differs::No),
            ("post_ffw_norm", "post_feedforward_layernorm", Differs::MinusOne),
        ],
        others: &[
            ("token_embd", "model.embed_tokens", Differs::No),
            ("output_norm", "model.norm", Differs::MinusOne),
            ("output", "lm_head", Differs::No),
        ],
    }),
};

const GLOBAL_EVERY: usize = 6;
// The 27B model, alone, scales scores by the width of a head as if heads filled the
// residual stream; files do not always say so.
const LAYERS_OF_27B: usize = 62;

fn read(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let plain = keys.attention()?;
    let (width, layers) = (keys.width()?, keys.layers()?);
    let scale = match keys.positive("attention.scale")? {
        Some(scale) => scale,
        None if layers == LAYERS_OF_27B => 1.0 / ((width / plain.heads) as f32).sqrt(),
        None => plain.scale,
    };
    let global = AttentionSpec { head_norms: true, scale, ..plain };
    let rope = keys.rope(Pairs::Halves, global.key_size)?;
    let local_base = keys.positive("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let local_rope = Rope::new(Pairs::Halves, local_base, keys.rope_size(global.key_size)?, 1.0, None);
    let layer = LayerSpec {
        norm: keys.norm(NormKind::Rms)?,
        attention: global,
        feed_forward: keys.feed_forward(Activation::GeluTanh, true)?,
        residual: Residual::Sequential,
        post_norms: true,
    };
    let mut spec = keys.model(layer, vec![rope, local_rope])?;
    spec.embedding_scale = (width as f32).sqrt();
    spec.logit_cap = keys.positive("final_logit_softcapping")?;
    if let Some(window) = keys.window()? {
        for (layer, windowed) in spec.layers.iter_mut().zip(keys.windowed(layers, GLOBAL_EVERY)?) {
            if windowed {
                layer.attention.window = Some(window);
                layer.attention.rope = Some(1);
            }
        }
    }
    Ok(spec)
}
