//! Folders as published on Hugging Face, through the command: answering, showing, refusing.

mod common;

use std::path::Path;

use common::{json, output, refusal, rz, stdout};
use rz_formats::SafetensorsWriter;
use rz_quant::DType;
use rz_testkit::committed;
use rz_testkit::gguf::Random;

const CONFIG: &str = r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32,
    "num_hidden_layers": 1, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5, "max_position_embeddings": 256, "vocab_size": 720, "hidden_act": "silu",
    "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2}"#;

const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A made-up model whose embedding has a few rows more than its tokenizer has ids.
fn write_model(folder: &Path, dtype: DType) {
    let mut random = Random::new(5);
    let mut writer = SafetensorsWriter::new();
    let mut add = |name: &str, shape: &[u64]| {
        let count: u64 = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| 0.1 * random.normal()).collect();
        let mut bytes = Vec::new();
        dtype.encode(&values, &mut bytes);
        writer.tensor(name, shape, dtype, bytes).expect("a tensor");
    };
    add("model.embed_tokens.weight", &[32, 720]);
    add("model.layers.0.input_layernorm.weight", &[32]);
    add("model.layers.0.self_attn.q_proj.weight", &[32, 32]);
    add("model.layers.0.self_attn.k_proj.weight", &[32, 16]);
    add("model.layers.0.self_attn.v_proj.weight", &[32, 16]);
    add("model.layers.0.self_attn.o_proj.weight", &[32, 32]);
    add("model.layers.0.post_attention_layernorm.weight", &[32]);
    add("model.layers.0.mlp.gate_proj.weight", &[32, 48]);
    add("model.layers.0.mlp.up_proj.weight", &[32, 48]);
    add("model.layers.0.mlp.down_proj.weight", &[48, 32]);
    add("model.norm.weight", &[32]);
    writer.write(folder.join("model.safetensors")).expect("a file");
}

fn model_folder(dtype: DType) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    write_model(folder.path(), dtype);
    std::fs::write(folder.path().join("config.json"), CONFIG).expect("a file");
    std::fs::copy(committed("tokenizer-json/smollm.json"), folder.path().join("tokenizer.json"))
        .expect("a copy");
    let settings = serde_json::json!({ "chat_template": TEMPLATE, "eos_token": "<|im_end|>" }).to_string();
    std::fs::write(folder.path().join("tokenizer_config.json"), settings).expect("a file");
    folder
}

#[test]
fn a_folder_answers() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let folder = model_folder(dtype);
        let path = folder.path().to_str().expect("text");
        let file = format!("{path}/model.safetensors");
        for named in [path, &file] {
            let answer = json(["run", "-m", named, "--greedy", "-n", "8", "--ignore-eos", "--json", "Hello"]);
            assert_eq!(common::ids(&answer["tokens"]).len(), 8, "{answer}");
        }
    }
}

#[test]
fn a_folder_is_shown() {
    let folder = model_folder(DType::F32);
    let path = folder.path().to_str().expect("text");
    let shown = json(["inspect", path, "--json"]);
    assert_eq!(shown["format"], "safetensors");
    assert_eq!(shown["architecture"], "llama");
    assert_eq!(shown["supported"], true, "{shown}");
    assert_eq!(shown["chat_template"], true);
    assert_eq!(shown["model"]["heads"], 4);
    assert_eq!(shown["model"]["tied_output"], true);
    assert_eq!(shown["metadata"]["hidden_size"], 32);
    assert_eq!(shown["tensors"].as_array().map(Vec::len), Some(11));
    assert!(stdout(["inspect", path]).contains("rotary over neighbours"));
    let ids = stdout(["tokenize", "-m", path, "--ids", "Hello world"]);
    let ids: Vec<&str> = ids.split_whitespace().collect();
    let text = stdout(["tokenize", "-m", path, "--decode", &ids.join(",")]);
    assert_eq!(text.trim_end(), "Hello world");
}

fn refused(change: impl FnOnce(&Path), words: &[&str]) {
    let folder = model_folder(DType::F32);
    change(folder.path());
    let mut command = rz();
    command.args(["run", "-n", "1", "-m"]).arg(folder.path()).arg("hi");
    let message = refusal(command, b"");
    for word in words {
        assert!(message.contains(word), "expected {word:?} in: {message}");
    }
}

fn header(folder: &Path, len: u64, json: &[u8]) {
    let bytes = [&len.to_le_bytes()[..], json].concat();
    std::fs::write(folder.join("model.safetensors"), bytes).expect("a file");
}

fn index(folder: &Path, shard: &str) {
    std::fs::remove_file(folder.join("model.safetensors")).expect("the file");
    let index = serde_json::json!({ "metadata": {}, "weight_map": { "model.norm.weight": shard } });
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).expect("a file");
}

fn config(folder: &Path, from: &str, to: &str) {
    let text = CONFIG.replace(from, to);
    assert_ne!(text, CONFIG);
    std::fs::write(folder.join("config.json"), text).expect("a file");
}

#[test]
fn files_that_lie_are_refused() {
    refused(|folder| header(folder, 1 << 63, b"{}"), &["model.safetensors"]);
    refused(|folder| header(folder, 1000, b"{}"), &["model.safetensors"]);
    refused(|folder| header(folder, 20_000, &[b'['; 20_000]), &["model.safetensors"]);
    let overlapping = br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}            "#;
    refused(|folder| header(folder, overlapping.len() as u64 - 12, overlapping), &["model.safetensors"]);
    refused(|folder| index(folder, "missing.safetensors"), &["missing.safetensors"]);
    refused(|folder| index(folder, "../model.safetensors"), &["../model.safetensors"]);
    refused(|folder| index(folder, "/etc/passwd"), &["/etc/passwd"]);
    refused(|folder| std::fs::remove_file(folder.join("config.json")).expect("the file"), &["config.json"]);
    refused(|folder| std::fs::remove_file(folder.join("tokenizer.json")).expect("the file"), &["tokenizer"]);
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    refused(|folder| std::fs::write(folder.join("config.json"), &deep).expect("a file"), &["config.json"]);
    refused(
        |folder| std::fs::write(folder.join("tokenizer.json"), &deep).expect("a file"),
        &["tokenizer.json"],
    );
}

#[test]
fn settings_that_disagree_are_refused() {
    refused(|folder| config(folder, r#""llama""#, r#""mixtral""#), &["mixtral", "supported"]);
    refused(|folder| config(folder, "48", "47"), &["mlp.gate_proj", "47"]);
    refused(|folder| config(folder, "720", "721"), &["vocab_size", "721"]);
    refused(|folder| config(folder, r#""num_hidden_layers": 1"#, r#""num_hidden_layers": 2"#), &["layers.1"]);
    refused(|folder| config(folder, r#""silu""#, r#""relu""#), &["hidden_act", "relu"]);
    // More ids than the embedding has rows.
    let many = committed("tokenizer-json/gaps.json");
    refused(
        |folder| {
            std::fs::copy(&many, folder.join("tokenizer.json")).expect("a copy");
        },
        &["tokenizer", "720"],
    );
}

#[test]
fn a_folder_without_a_model_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = rz();
    command.args(["inspect"]).arg(folder.path());
    let shown = output(command, b"");
    assert_eq!(shown.status.code(), Some(2), "{shown:?}");
}
