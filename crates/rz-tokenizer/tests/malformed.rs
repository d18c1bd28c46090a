//! Descriptions of tokenizers that contradict themselves or are not supported: each
//! gives one clear line.

use rz_formats::{Metadata, StringArray, Value};
use rz_tokenizer::{ChatTemplate, EncodeOptions, MergeProblem, Tokenizer, TokenizerError};

fn strings(strings: &[&str]) -> StringArray {
    strings.iter().collect()
}

fn bpe() -> Metadata {
    let mut meta = Metadata::of_file("m.gguf");
    meta.insert("tokenizer.ggml.model", "gpt2");
    meta.insert("tokenizer.ggml.pre", "gpt-2");
    meta.insert("tokenizer.ggml.tokens", strings(&["a", "b", "ab", "<s>"]));
    meta.insert("tokenizer.ggml.token_type", vec![1i32, 1, 1, 3]);
    meta.insert("tokenizer.ggml.merges", strings(&["a b"]));
    meta
}

fn spm() -> Metadata {
    let mut meta = Metadata::of_file("m.gguf");
    meta.insert("tokenizer.ggml.model", "llama");
    meta.insert("tokenizer.ggml.tokens", strings(&["<unk>", "<s>", "</s>", "<0x0A>", "▁a"]));
    meta.insert("tokenizer.ggml.scores", vec![0f32; 5]);
    meta.insert("tokenizer.ggml.token_type", vec![2i32, 3, 3, 6, 1]);
    meta
}

fn with(mut meta: Metadata, key: &str, value: impl Into<Value>) -> Metadata {
    meta.insert(key, value);
    meta
}

fn without(mut meta: Metadata, key: &str) -> Metadata {
    meta.remove(key);
    meta
}

fn refused(meta: &Metadata) -> TokenizerError {
    let Err(error) = Tokenizer::from_gguf(meta) else { panic!("accepted: {meta:?}") };
    let message = error.to_string();
    assert!(message.starts_with("m.gguf: "), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.len() < 600, "{message}");
    error
}

/// Checks that the description is refused in these words.
fn says(meta: &Metadata, words: &str) {
    let message = refused(meta).to_string();
    assert!(message.contains(words), "{message}");
}

#[test]
fn the_descriptions_to_be_broken_are_whole() {
    for meta in [bpe(), spm()] {
        assert!(Tokenizer::from_gguf(&meta).is_ok());
    }
    assert!(Tokenizer::from_gguf(&without(bpe(), "tokenizer.ggml.token_type")).is_ok());
}

#[test]
fn other_kinds_of_tokenizer_are_refused_by_name() {
    for model in ["bert", "t5", "rwkv", "plamo2", "no_vocab", "none", "test", "gemma4", "GPT2", "", "x\ny"] {
        let meta = with(bpe(), "tokenizer.ggml.model", model);
        assert!(matches!(refused(&meta), TokenizerError::Model { found, .. } if found == model));
    }
    says(&without(bpe(), "tokenizer.ggml.model"), "tokenizer.ggml.model");
    says(&with(bpe(), "tokenizer.ggml.model", 1u32), "expected string");
    for pre in ["no-such", "Qwen2", "", "gpt-2 "] {
        let meta = with(bpe(), "tokenizer.ggml.pre", pre);
        assert!(matches!(refused(&meta), TokenizerError::Pretokenizer { found, .. } if found == pre));
    }
}

#[test]
fn arrays_that_are_missing_or_wrong_are_refused() {
    for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
        says(&without(bpe(), key), key);
        says(&with(bpe(), key, vec![1i32]), "expected array of string");
        says(&with(bpe(), key, "text"), "expected array of string");
    }
    for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.scores"] {
        says(&without(spm(), key), key);
    }
    says(&with(spm(), "tokenizer.ggml.scores", strings(&["a"; 5])), "expected array of f32");
    says(&with(spm(), "tokenizer.ggml.token_type", vec![1f32; 5]), "expected array of i32");
    for count in [0, 3, 5] {
        let meta = with(bpe(), "tokenizer.ggml.token_type", vec![1i32; count]);
        says(&meta, &format!("tokenizer.ggml.token_type has {count} entries, expected 4"));
    }
    for count in [0, 4, 6] {
        let meta = with(spm(), "tokenizer.ggml.scores", vec![0f32; count]);
        says(&meta, &format!("tokenizer.ggml.scores has {count} entries, expected 5"));
    }
    says(&with(bpe(), "tokenizer.ggml.tokens", strings(&[])), "has 0 tokens");
    for kind in [-1, 7, i32::MAX] {
        says(
            &with(bpe(), "tokenizer.ggml.token_type", vec![1, 1, kind, 3]),
            &format!("token 2 has the type {kind}"),
        );
    }
}

#[test]
fn ids_beyond_the_vocabulary_are_refused() {
    for key in [
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.eom_token_id",
        "tokenizer.ggml.unknown_token_id",
    ] {
        assert!(Tokenizer::from_gguf(&with(bpe(), key, 3u32)).is_ok());
        says(&with(bpe(), key, 4u32), &format!("{key} is 4, but the vocabulary has only 4 tokens"));
        says(&with(bpe(), key, u64::MAX), key);
        says(&with(bpe(), key, -1i32), key);
        says(&with(bpe(), key, "1"), key);
    }
    says(&with(bpe(), "tokenizer.ggml.add_bos_token", 1u32), "expected bool");
    says(&with(spm(), "tokenizer.ggml.add_space_prefix", "yes"), "expected bool");
}

#[test]
fn tokens_of_one_text_are_refused() {
    let meta = with(bpe(), "tokenizer.ggml.tokens", strings(&["a", "b", "ab", "b"]));
    says(&meta, r#"the tokens 1 and 3 have the same text "b""#);
    // Padding is no text.
    let meta = with(bpe(), "tokenizer.ggml.tokens", strings(&["a", "b", "ab", ""]));
    assert!(Tokenizer::from_gguf(&meta).is_ok());
    let meta = with(
        with(bpe(), "tokenizer.ggml.tokens", strings(&["a", "b", "ab", "", "", ""])),
        "tokenizer.ggml.token_type",
        vec![1i32, 1, 1, 5, 3, 4],
    );
    let tokenizer = Tokenizer::from_gguf(&meta).unwrap();
    assert_eq!(tokenizer.encode("abba", EncodeOptions { add_special: true, parse_special: true }), [2, 1, 0]);
}

#[test]
fn byte_tokens_must_name_a_byte() {
    for token in ["<0xZZ>", "<0x1>", "<0x100>", "0x0A", "<0x+A>", "<0x0a", "x", "<0xé>", ""] {
        let meta = with(spm(), "tokenizer.ggml.tokens", strings(&["<unk>", "<s>", "</s>", token, "▁a"]));
        assert!(matches!(refused(&meta), TokenizerError::ByteToken { token: 3, .. }), "{token}");
    }
    // Also where the file does not type it as one.
    let tokens = strings(&["<unk>", "<s>", "</s>", "<0x0A>", "<0xZZ>"]);
    says(&with(spm(), "tokenizer.ggml.tokens", tokens), r#"token 4 is "<0xZZ>""#);
    let tokens = strings(&["a", "b", "ab", "<0xZZ>"]);
    says(&with(bpe(), "tokenizer.ggml.tokens", tokens), r#"token 3 is "<0xZZ>""#);
}

#[test]
fn merges_must_be_of_tokens() {
    for (merge, expected) in [
        ("ab", MergeProblem::NoSpace),
        ("", MergeProblem::NoSpace),
        (" ", MergeProblem::NoSpace),
        ("x b", MergeProblem::UnknownLeft),
        ("a x", MergeProblem::UnknownRight),
        ("a ", MergeProblem::UnknownRight),
        ("a b ", MergeProblem::UnknownRight),
        ("b a", MergeProblem::UnknownResult),
    ] {
        let meta = with(bpe(), "tokenizer.ggml.merges", strings(&["a b", merge]));
        let error = refused(&meta);
        assert!(
            matches!(&error, TokenizerError::Merge { index: 1, problem, .. } if *problem == expected),
            "{merge:?}: {error}"
        );
    }
    let long = "x".repeat(1 << 20) + "\n b";
    says(&with(bpe(), "tokenizer.ggml.merges", strings(&[&long])), "…");
}

#[test]
fn special_tokens_cannot_be_endless() {
    let long = "x".repeat(5 << 20);
    let meta = with(bpe(), "tokenizer.ggml.tokens", strings(&["a", "b", "ab", &long]));
    says(&meta, "expected at most");
}

#[test]
fn a_broken_template_is_refused_where_it_is_loaded() {
    let meta = with(bpe(), "tokenizer.chat_template", "\n\n{% for m in messages %}{{ m. }}");
    let tokenizer = Tokenizer::from_gguf(&meta).unwrap();
    let message = ChatTemplate::from_gguf(&meta, &tokenizer).unwrap_err().to_string();
    assert!(
        message.starts_with("m.gguf: tokenizer.chat_template, line 3: not a valid template: "),
        "{message}"
    );
    let meta = with(bpe(), "tokenizer.chat_template", 1u32);
    assert!(ChatTemplate::from_gguf(&meta, &tokenizer).is_err());
    assert!(ChatTemplate::from_gguf(&bpe(), &tokenizer).unwrap().is_none());
}
