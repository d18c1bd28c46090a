//! The published vectors: texts and the ids that the model's own tokenizer gives them.

use std::fs;

use rz_formats::Gguf;
use rz_testkit::fixture;
use rz_tokenizer::{EncodeOptions, Tokenizer, TokenizerError};

fn check(name: &str) {
    let path = |suffix| fixture(&format!("ggml-vocab-{name}.gguf{suffix}"));
    let tokenizer = Tokenizer::from_gguf(Gguf::open(path("")).unwrap().metadata()).unwrap();
    let inputs = fs::read_to_string(path(".inp")).unwrap();
    let outputs = fs::read_to_string(path(".out")).unwrap();
    let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
    let outputs: Vec<Vec<u32>> =
        outputs.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect()).collect();
    // Each text ends with a separator.
    assert_eq!((outputs.len() + 1, inputs.last()), (inputs.len(), Some(&"")));
    for (text, expected) in inputs.iter().zip(&outputs) {
        let ids = tokenizer.encode(text, EncodeOptions::default());
        assert_eq!(&ids, expected, "{name}: {text:?}");
    }
}

macro_rules! vectors {
    ($($test:ident = $name:literal),* $(,)?) => {
        $(#[test] fn $test() { check($name); })*
    };
}

vectors! {
    command_r = "command-r",
    deepseek_coder = "deepseek-coder",
    deepseek_llm = "deepseek-llm",
    falcon = "falcon",
    gpt_2 = "gpt-2",
    llama_bpe = "llama-bpe",
    llama_spm = "llama-spm",
    mpt = "mpt",
    phi_3 = "phi-3",
    qwen2 = "qwen2",
    qwen35 = "qwen35",
    refact = "refact",
    starcoder = "starcoder",
}

#[test]
fn other_vocabularies_load_or_are_refused_by_name() {
    let open = |name| Gguf::open(fixture(name)).unwrap();
    for name in ["ggml-vocab-aquila.gguf", "ggml-vocab-baichuan.gguf", "ggml-vocab-gpt-neox.gguf"] {
        let tokenizer = Tokenizer::from_gguf(open(name).metadata()).unwrap();
        let text = "Hello, wörld! 日本 🙂\n";
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, EncodeOptions::default())), text, "{name}");
    }
    for (name, model) in [
        ("ggml-vocab-bert-bge.gguf", "bert"),
        ("ggml-vocab-nomic-bert-moe.gguf", "t5"),
        ("ggml-vocab-gemma-4.gguf", "gemma4"),
    ] {
        let error = Tokenizer::from_gguf(open(name).metadata()).err().unwrap();
        assert!(matches!(&error, TokenizerError::Model { found, .. } if found == model), "{error}");
    }
}
