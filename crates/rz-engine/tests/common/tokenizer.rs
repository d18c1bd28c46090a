//! A small tokenizer.

#![allow(dead_code, unreachable_pub)] // each test binary uses its own part

use rz_formats::{Metadata, StringArray};
use rz_tokenizer::Tokenizer;

pub const END: u32 = 2;
pub const PIECES: [&str; 7] = ["a", "b", "ab", "▁a", "é", "ba", "!"];

/// The token of a byte, and of one of the pieces.
pub fn byte(value: u8) -> u32 {
    3 + u32::from(value)
}

pub fn piece(text: &str) -> u32 {
    259 + PIECES.iter().position(|p| *p == text).unwrap() as u32
}

/// A vocabulary of bytes and a few pieces.
pub fn tokenizer() -> Tokenizer {
    let bytes: Vec<String> = (0..=255).map(|b| format!("<0x{b:02X}>")).collect();
    let tokens = ["<unk>", "<s>", "</s>"].into_iter().chain(bytes.iter().map(String::as_str)).chain(PIECES);
    let types = [2, 3, 3].into_iter().chain([6; 256]).chain([1; PIECES.len()]);
    let mut meta = Metadata::new();
    meta.insert("tokenizer.ggml.model", "llama");
    meta.insert("tokenizer.ggml.tokens", StringArray::from_iter(tokens));
    meta.insert("tokenizer.ggml.token_type", types.collect::<Vec<i32>>());
    meta.insert("tokenizer.ggml.scores", vec![0f32; 259 + PIECES.len()]);
    meta.insert("tokenizer.ggml.eos_token_id", END);
    Tokenizer::from_gguf(&meta).unwrap()
}
