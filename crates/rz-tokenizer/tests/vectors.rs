//! The published vectors: texts and the ids that the model's own tokenizer gives them.

use std::fs;

use rz_formats::Gguf;
use rz_testkit::fixture;
use rz_tokenizer::{EncodeOptions, Tokenizer};

fn check(name: &str) {
    let path = |suffix| fixture(&format!("ggml-vocab-{name}.gguf{suffix}"));
    let tokenizer = Tokenizer::from_gguf(Gguf::open(path("")).unwrap().metadata()).unwrap();
    let inputs = fs::read_to_string(path(".inp")).unwrap();
    let outputs = fs::read_to_string(path(".out")).unwrap();
    let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
    let outputs: Vec<Vec<u32>> = outputs
        .lines()
        .map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect())
        .collect();
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
    falcon = "falcon",
    gpt_2 = "gpt-2",
    llama_bpe = "llama-bpe",
    llama_spm = "llama-spm",
    mpt = "mpt",
    phi_3 = "phi-3",
    qwen2 = "qwen2",
    refact = "refact",
    starcoder = "starcoder",
}
