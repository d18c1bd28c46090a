//! Folders as published on Hugging Face: against what transformers computes from them,
//! and bit for bit against the same weights in a GGUF file.

mod common;

use std::path::Path;

use common::logits;
use common::recorded::{DEFAULT, EXACT};
use rz_formats::{Gguf, Metadata, ModelFolder, SafetensorsWriter};
use rz_kernels::Runtime;
use rz_model::{CpuModel, ModelError};
use rz_quant::DType;
use rz_testkit::committed;
use rz_testkit::gguf::{Random, TinyTensor, gguf_bytes};

fn load_folder(path: &Path, options: rz_model::LoadOptions) -> Result<CpuModel, ModelError> {
    let folder = ModelFolder::open(path).expect("a readable folder");
    CpuModel::load(&folder, &Runtime::new(Some(2)).expect("threads"), options, &mut |_, _| ())
}

#[test]
fn logits_are_those_of_transformers() {
    let mut folders: Vec<_> = std::fs::read_dir(committed("hf-tiny"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    folders.sort();
    assert!(folders.len() >= 5, "{folders:?}");
    for folder in folders {
        let family = folder.display();
        let text = std::fs::read_to_string(folder.join("ref.json")).expect("the reference");
        let reference: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let numbers = |key: &str| -> Vec<f64> {
            reference[key].as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
        };
        let tokens: Vec<u32> = numbers("input_ids").into_iter().map(|id| id as u32).collect();
        let expected = numbers("logits_last");
        for (options, tolerance) in [(EXACT, 1e-4), (DEFAULT, 2e-3)] {
            let mut model = load_folder(&folder, options).expect("a supported model");
            let all = logits(&mut model, &tokens, 64);
            let last = &all[all.len() - expected.len()..];
            let size = expected.iter().fold(0.0f64, |size, x| size.max(x.abs()));
            for (got, expected) in last.iter().zip(&expected) {
                let error = (f64::from(*got) - expected).abs() / size;
                assert!(error <= tolerance, "{family}: {got} for {expected}");
            }
            assert_eq!(logits(&mut model, &tokens, 5), all, "{family}");
        }
    }
}

/// A made-up model, and its parts in both conventions.
struct Both {
    folder: SafetensorsWriter<'static>,
    gguf: Vec<TinyTensor>,
    random: Random,
}

impl Both {
    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| 0.3 * self.random.normal()).collect()
    }

    /// Adds a tensor of `shape` (rows first) that a folder calls `own` and GGUF `name`, where its values
    /// are `change`d.
    fn add(&mut self, own: &str, name: &str, shape: &[usize], change: impl Fn(Vec<f32>) -> Vec<f32>) {
        let values = self.values(shape.iter().product());
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let shape: Vec<u64> = shape.iter().rev().map(|&n| n as u64).collect();
        self.folder.tensor(own, &shape, DType::F32, bytes).expect("a tensor");
        self.gguf.push(TinyTensor {
            name: name.to_owned(),
            shape,
            dtype: DType::F32,
            values: change(values),
        });
    }

    fn check(self, config: &str, metadata: Metadata) {
        let place = tempfile::tempdir().expect("a folder");
        std::fs::write(place.path().join("config.json"), config).expect("a file");
        self.folder.write(place.path().join("model.safetensors")).expect("a file");
        let gguf = Gguf::from_bytes("same.gguf", gguf_bytes(metadata, &self.gguf)).expect("a valid file");
        let tokens: Vec<u32> = (0..40).map(|i| (i * 7 + 3) % 32).collect();
        for options in [EXACT, DEFAULT] {
            let mut folder = load_folder(place.path(), options).expect("a supported model");
            let runtime = Runtime::new(Some(2)).expect("threads");
            let mut file =
                CpuModel::load(&gguf, &runtime, options, &mut |_, _| ()).expect("a supported model");
            assert_eq!(folder.spec(), file.spec());
            assert_eq!(folder.unused_tensors(), &[] as &[String]);
            assert_eq!(logits(&mut folder, &tokens, 16), logits(&mut file, &tokens, 16));
        }
    }
}

fn both() -> Both {
    Both { folder: SafetensorsWriter::new(), gguf: Vec::new(), random: Random::new(1) }
}

fn same(values: Vec<f32>) -> Vec<f32> {
    values
}

/// Row `i` of a head and row `i + 4` become neighbours, for rows of 16 and heads of 8.
fn paired(values: Vec<f32>) -> Vec<f32> {
    let rows: Vec<&[f32]> = values.chunks_exact(16).collect();
    let heads = rows.chunks_exact(8);
    heads.flat_map(|head| (0..4).flat_map(move |i| [head[i], head[i + 4]])).flatten().copied().collect()
}

#[test]
fn a_llama_folder_is_the_gguf_file() {
    let mut both = both();
    both.add("model.embed_tokens.weight", "token_embd.weight", &[32, 16], same);
    for layer in 0..2 {
        let mut add = |own: &str, name: &str, shape: &[usize], change: fn(Vec<f32>) -> Vec<f32>| {
            both.add(
                &format!("model.layers.{layer}.{own}.weight"),
                &format!("blk.{layer}.{name}.weight"),
                shape,
                change,
            );
        };
        add("input_layernorm", "attn_norm", &[16], same);
        add("self_attn.q_proj", "attn_q", &[32, 16], paired);
        add("self_attn.k_proj", "attn_k", &[16, 16], paired);
        add("self_attn.v_proj", "attn_v", &[16, 16], same);
        add("self_attn.o_proj", "attn_output", &[16, 32], same);
        add("post_attention_layernorm", "ffn_norm", &[16], same);
        add("mlp.gate_proj", "ffn_gate", &[24, 16], same);
        add("mlp.up_proj", "ffn_up", &[24, 16], same);
        add("mlp.down_proj", "ffn_down", &[16, 24], same);
    }
    both.add("model.norm.weight", "output_norm.weight", &[16], same);
    both.add("lm_head.weight", "output.weight", &[32, 16], same);
    let metadata = Metadata::from_iter([
        ("general.architecture", rz_formats::Value::from("llama")),
        ("llama.context_length", 64u32.into()),
        ("llama.embedding_length", 16u32.into()),
        ("llama.block_count", 2u32.into()),
        ("llama.feed_forward_length", 24u32.into()),
        ("llama.attention.head_count", 4u32.into()),
        ("llama.attention.head_count_kv", 2u32.into()),
        ("llama.attention.key_length", 8u32.into()),
        ("llama.attention.value_length", 8u32.into()),
        ("llama.attention.layer_norm_rms_epsilon", 1e-5f32.into()),
        ("llama.rope.freq_base", 500.0f32.into()),
    ]);
    both.check(
        r#"{"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 64, "vocab_size": 32, "rope_theta": 500.0, "hidden_act": "silu"}"#,
        metadata,
    );
}

#[test]
fn a_gemma3_folder_is_the_gguf_file() {
    let mut both = both();
    let plus_one = |values: Vec<f32>| values.into_iter().map(|x| x + 1.0).collect();
    both.add("model.embed_tokens.weight", "token_embd.weight", &[32, 16], same);
    for layer in 0..3 {
        let own = |name: &str| format!("model.layers.{layer}.{name}.weight");
        let name = |name: &str| format!("blk.{layer}.{name}.weight");
        for (from, to, size) in [
            ("input_layernorm", "attn_norm", 16),
            ("post_attention_layernorm", "post_attention_norm", 16),
            ("pre_feedforward_layernorm", "ffn_norm", 16),
            ("post_feedforward_layernorm", "post_ffw_norm", 16),
            ("self_attn.q_norm", "attn_q_norm", 8),
            ("self_attn.k_norm", "attn_k_norm", 8),
        ] {
            both.add(&own(from), &name(to), &[size], plus_one);
        }
        for (from, to, shape) in [
            ("self_attn.q_proj", "attn_q", [16, 16]),
            ("self_attn.k_proj", "attn_k", [8, 16]),
            ("self_attn.v_proj", "attn_v", [8, 16]),
            ("self_attn.o_proj", "attn_output", [16, 16]),
            ("mlp.gate_proj", "ffn_gate", [24, 16]),
            ("mlp.up_proj", "ffn_up", [24, 16]),
            ("mlp.down_proj", "ffn_down", [16, 24]),
        ] {
            both.add(&own(from), &name(to), &shape, same);
        }
    }
    both.add("model.norm.weight", "output_norm.weight", &[16], plus_one);
    let metadata = Metadata::from_iter([
        ("general.architecture", rz_formats::Value::from("gemma3")),
        ("gemma3.context_length", 64u32.into()),
        ("gemma3.embedding_length", 16u32.into()),
        ("gemma3.block_count", 3u32.into()),
        ("gemma3.feed_forward_length", 24u32.into()),
        ("gemma3.attention.head_count", 2u32.into()),
        ("gemma3.attention.head_count_kv", 1u32.into()),
        ("gemma3.attention.key_length", 8u32.into()),
        ("gemma3.attention.value_length", 8u32.into()),
        ("gemma3.attention.layer_norm_rms_epsilon", 1e-6f32.into()),
        ("gemma3.attention.scale", 0.25f32.into()),
        ("gemma3.attention.sliding_window", 5u32.into()),
        ("gemma3.attention.sliding_window_pattern", vec![true, false, true].into()),
        ("gemma3.rope.freq_base", 1e6f32.into()),
        ("gemma3.rope.freq_base_swa", 1e4f32.into()),
    ]);
    both.check(
        r#"{"model_type": "gemma3_text", "hidden_size": 16, "num_hidden_layers": 3, "intermediate_size": 24,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64,
            "vocab_size": 32, "query_pre_attn_scalar": 16, "sliding_window": 5, "final_logit_softcapping": null,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6},
                                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
            "hidden_activation": "gelu_pytorch_tanh"}"#,
        metadata,
    );
}

/// Settings that would change results and are not supported, and settings that disagree with the tensors.
#[test]
fn what_cannot_be_honoured_is_refused() {
    let original = std::fs::read_to_string(committed("hf-tiny/llama/config.json")).expect("a file");
    let place = tempfile::tempdir().expect("a folder");
    std::fs::copy(committed("hf-tiny/llama/model.safetensors"), place.path().join("model.safetensors"))
        .expect("a copy");
    for (key, value) in [
        ("model_type", r#""mixtral""#),
        ("model_type", "7"),
        ("hidden_act", r#""relu""#),
        ("quantization_config", r#"{"quant_method": "gptq"}"#),
        ("num_local_experts", "8"),
        ("attn_logit_softcapping", "50.0"),
        ("vocab_size", "500"),
        ("hidden_size", "63"),
        ("hidden_size", "-64"),
        ("hidden_size", r#""64""#),
        ("intermediate_size", "127"),
        ("num_attention_heads", "3"),
        ("num_attention_heads", "8"),
        ("num_key_value_heads", "3"),
        ("num_hidden_layers", "3"),
        ("num_hidden_layers", "4000000000"),
        ("rms_norm_eps", "0"),
        ("rope_scaling", r#"{"rope_type": "yarn", "factor": 4.0}"#),
        ("rope_scaling", r#"{"rope_type": "linear"}"#),
        ("rope_scaling", "5"),
        ("layer_types", r#"["full_attention", "linear_attention"]"#),
        ("tie_word_embeddings", "1"),
        ("scale_attn_weights", "false"),
        ("partial_rotary_factor", "2.0"),
    ] {
        let mut config: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&original).expect("JSON");
        config.remove("rope_parameters");
        config.insert(key.to_owned(), serde_json::from_str(value).expect("JSON"));
        let config = serde_json::to_string(&config).expect("JSON");
        std::fs::write(place.path().join("config.json"), config).expect("a file");
        let Err(error) = load_folder(place.path(), EXACT) else { panic!("{key}: {value} was accepted") };
        let message = error.to_string();
        assert!(!message.contains('\n') && message.len() < 400, "{message}");
    }
}
