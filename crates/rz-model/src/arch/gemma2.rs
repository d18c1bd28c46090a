//! Gemma 2: root-mean-square norms before and after attention and the gated feed-forward
//! network with GELU, scaled embeddings, soft caps on scores and logits. Every second
//! layer sees all positions, the others a window. (Files hold norm weights with their 1
//! added.)

use super::{Arch, Keys};
use crate::ModelError;
use crate::layout::{Differs, Layout};
use crate::spec::{Activation, AttentionSpec, LayerSpec, ModelSpec, NormKind, Pairs, Residual};

pub(super) const ARCH: Arch = Arch {
    name: "gemma2",
    read,
    folder: Some(Layout {
        model_types: &["gemma2"],
        keys: &[
            ("attn_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ],
        activations: &["gelu_pytorch_tanh"],
        defaults: &[
            ("gemma2", "rms_norm_eps", 1e-6),
            ("gemma2", "head_dim", 256.0),
            ("gemma2", "query_pre_attn_scalar", 256.0),
            ("gemma2", "sliding_window", 4096.0),
            ("gemma2", "attn_logit_softcapping", 50.0),
            ("gemma2", "final_logit_softcapping", 30.0),
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

const GLOBAL_EVERY: usize = 2;
// The 27B model, alone, scales scores by the width of a head as if heads filled the
// residual stream; files do not always say so.
const LAYERS_OF_27B: usize = 46;

fn read(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let plain = keys.attention()?;
    let (width, layers) = (keys.width()?, keys.layers()?);
    let scale = match keys.positive("attention.scale")? {
        Some(scale) => scale,
        None if layers == LAYERS_OF_27B => 1.0 / ((width / plain.heads) as f32).sqrt(),
        None => plain.scale,
    };
    let attention = AttentionSpec { scale, score_cap: keys.positive("attn_logit_softcapping")?, ..plain };
    let rope = keys.rope(Pairs::Halves, attention.key_size)?;
    let layer = LayerSpec {
        norm: keys.norm(NormKind::Rms)?,
        attention,
        feed_forward: keys.feed_forward(Activation::GeluTanh, true)?,
        residual: Residual::Sequential,
        post_norms: true,
    };
    let mut spec = keys.model(layer, vec![rope])?;
    spec.embedding_scale = (width as f32).sqrt();
    spec.logit_cap = keys.positive("final_logit_softcapping")?;
    if let Some(window) = keys.window()? {
        for (layer, windowed) in spec.layers.iter_mut().zip(keys.windowed(layers, GLOBAL_EVERY)?) {
            layer.attention.window = windowed.then_some(window);
        }
    }
    Ok(spec)
}
