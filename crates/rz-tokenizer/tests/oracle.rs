//! Equality with the `tokenizers` crate, built from the same vocabularies, on random
//! text, and the round trip back to the text.

use std::sync::LazyLock;

use proptest::prelude::*;
use rz_formats::{Gguf, Metadata};
use rz_testkit::{committed, fixture};
use rz_tokenizer::{DecodeOptions, EncodeOptions, Tokenizer};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Prepend, Replace};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

/// One vocabulary in both implementations.
struct Pair {
    ours: Tokenizer,
    oracle: tokenizers::Tokenizer,
}

impl Pair {
    fn byte_level(file: &str, ignore_merges: bool, pre: Vec<PreTokenizerWrapper>) -> Self {
        let (ours, meta) = open(file);
        let merges = meta.require_strings("tokenizer.ggml.merges").unwrap();
        let merges: Merges = merges
            .iter()
            .map(|merge| merge.split_once(' ').unwrap())
            .map(|(left, right)| (left.to_owned(), right.to_owned()))
            .collect();
        let model = BPE::builder()
            .vocab_and_merges(vocab(&meta), merges)
            .ignore_merges(ignore_merges)
            .build()
            .unwrap();
        let mut oracle = tokenizers::Tokenizer::new(model);
        oracle.with_pre_tokenizer(Some(Sequence::new(pre)));
        Pair { ours, oracle }
    }

    /// SentencePiece's merges, made from the scores as converters do.
    fn sentence_piece(file: &str) -> Self {
        let (ours, meta) = open(file);
        let vocab = vocab(&meta);
        let tokens = meta.require_strings("tokenizer.ggml.tokens").unwrap();
        let scores = meta.require_f32s("tokenizer.ggml.scores").unwrap();
        let types = meta.require_i32s("tokenizer.ggml.token_type").unwrap();
        let mut merges = Vec::new();
        for ((token, &score), &kind) in tokens.iter().zip(scores.iter()).zip(types.iter()) {
            for (at, _) in token.char_indices().skip(1).filter(|_| kind == 1) {
                let (left, right) = token.split_at(at);
                let is_text = |text: &str| vocab.get(text).is_some_and(|&id| types[id as usize] == 1);
                if is_text(left) && is_text(right) {
                    merges.push((score, left.to_owned(), right.to_owned()));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0));
        let merges: Merges = merges.into_iter().map(|(_, left, right)| (left, right)).collect();
        let model = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .unk_token("<unk>".to_owned())
            .fuse_unk(true)
            .byte_fallback(true)
            .build()
            .unwrap();
        let mut oracle = tokenizers::Tokenizer::new(model);
        let spaces = Replace::new(" ", "▁").unwrap();
        let normalizers = vec![
            NormalizerWrapper::Prepend(Prepend::new("▁".to_owned())),
            NormalizerWrapper::Replace(spaces),
        ];
        oracle.with_normalizer(Some(tokenizers::normalizers::Sequence::new(normalizers))).unwrap();
        Pair { ours, oracle }
    }

    fn check(&self, text: &str) -> Result<(), TestCaseError> {
        let ours = self.ours.encode(text, EncodeOptions::default());
        let oracle = self.oracle.encode_fast(text, false).unwrap();
        let same = ours.iter().zip(oracle.get_ids()).take_while(|(ours, oracle)| ours == oracle).count();
        prop_assert!(
            ours == oracle.get_ids(),
            "{:?}… from token {same}: {:?}, expected {:?}",
            &text[..text.floor_char_boundary(400)],
            &ours[same..ours.len().min(same + 20)],
            &oracle.get_ids()[same..oracle.len().min(same + 20)]
        );
        Ok(())
    }
}

fn open(file: &str) -> (Tokenizer, Metadata) {
    let meta = Gguf::open(fixture(file)).unwrap().metadata().clone();
    (Tokenizer::from_gguf(&meta).unwrap(), meta)
}

fn vocab(meta: &Metadata) -> Vocab {
    let tokens = meta.require_strings("tokenizer.ggml.tokens").unwrap();
    tokens.iter().map(str::to_owned).zip(0u32..).collect()
}

fn byte_level(use_regex: bool) -> PreTokenizerWrapper {
    PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, use_regex))
}

fn split(pattern: &str) -> PreTokenizerWrapper {
    let pattern = SplitPattern::Regex(pattern.to_owned());
    PreTokenizerWrapper::Split(Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap())
}

static SMOLLM2: LazyLock<Pair> = LazyLock::new(|| {
    let digits = PreTokenizerWrapper::Digits(Digits::new(true));
    let mut pair = Pair::byte_level("SmolLM2-135M-Instruct.Q4_1.gguf", false, vec![digits, byte_level(true)]);
    let special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    pair.oracle.add_special_tokens(special.map(|text| AddedToken::from(text, true))).unwrap();
    pair
});

static GPT2: LazyLock<Pair> =
    LazyLock::new(|| Pair::byte_level("ggml-vocab-gpt-2.gguf", false, vec![byte_level(true)]));

static LLAMA3: LazyLock<Pair> = LazyLock::new(|| {
    let pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    Pair::byte_level("ggml-vocab-llama-bpe.gguf", true, vec![split(pattern), byte_level(false)])
});

static QWEN2: LazyLock<Pair> = LazyLock::new(|| {
    let pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    Pair::byte_level("ggml-vocab-qwen2.gguf", false, vec![split(pattern), byte_level(false)])
});

static LLAMA_SPM: LazyLock<Pair> = LazyLock::new(|| Pair::sentence_piece("ggml-vocab-llama-spm.gguf"));

/// Text of the kinds that pre-tokenizers treat apart, and any other.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[ \t\r\n]{1,6}",
        "['’](s|S|t|re|RE|ve|m|ll|LL|d|ſ)",
        "[a-zA-Z]{1,12}",
        "[0-9]{1,9}",
        r"[\p{L}\p{M}]{1,6}",
        r"[\p{N}\p{P}\p{S}]{1,6}",
        r"[\s\u{85}\u{a0}\u{3000}\u{200b}]{1,4}",
        "[_({;=>}.,!?\"-]{1,6}",
        "(日本語|한국어|العربية|हिन्दी|🙂|👩‍👩‍👧|é|e\u{301}|ﬁ|Ⅷ|²|▁|Ġ|\u{0})",
        "(the|of|and|fn main|    return|https://|<0x0A>|</s>)",
        any::<String>(),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn smollm2_is_equal(text in text()) {
        SMOLLM2.check(&text)?;
    }

    #[test]
    fn gpt2_is_equal(text in text()) {
        GPT2.check(&text)?;
    }

    #[test]
    fn llama3_is_equal(text in text()) {
        LLAMA3.check(&text)?;
    }

    #[test]
    fn qwen2_is_equal(text in text()) {
        QWEN2.check(&text)?;
    }

    #[test]
    fn llama_spm_is_equal(text in text().prop_filter("an empty text stays empty", |text| !text.is_empty())) {
        LLAMA_SPM.check(&text)?;
    }

    #[test]
    fn decoding_is_the_way_back(text in text()) {
        for pair in [&*GPT2, &*LLAMA3, &*QWEN2] {
            let ids = pair.ours.encode(&text, EncodeOptions::default());
            prop_assert_eq!(pair.ours.decode(&ids), text.as_str());
        }
        // A ▁ of the text is a space afterwards: SentencePiece has no other.
        let ids = LLAMA_SPM.ours.encode(&text, EncodeOptions { add_special: true, parse_special: false });
        prop_assert_eq!(LLAMA_SPM.ours.decode(&ids), text.replace('▁', " "));
    }

    #[test]
    fn decoding_by_parts_is_decoding_at_once(ids in prop::collection::vec(0u32..50_300, 0..60), special: bool, continues: bool) {
        for tokenizer in [&SMOLLM2.ours, &GPT2.ours, &LLAMA_SPM.ours] {
            let options = DecodeOptions { special, continues };
            let mut decoder = tokenizer.decoder_with(options);
            let mut text = String::new();
            let mut bytes = Vec::new();
            for &id in &ids {
                text.push_str(decoder.push(id));
                match tokenizer.token_bytes(id) {
                    None => bytes.extend_from_slice("\u{fffd}".as_bytes()),
                    Some(_) if tokenizer.is_special(id) && !special => {}
                    Some(token) => bytes.extend(token),
                }
            }
            text.push_str(decoder.finish());
            prop_assert_eq!(&text, &tokenizer.decode_with(&ids, options));
            let lossy = String::from_utf8_lossy(&bytes);
            prop_assert!(text == lossy || lossy.strip_prefix(' ') == Some(&text));
        }
    }
}

#[test]
fn real_text_is_equal() {
    let text = std::fs::read_to_string(committed("references/ppl.txt")).unwrap();
    for pair in [&*SMOLLM2, &*GPT2, &*LLAMA3, &*QWEN2, &*LLAMA_SPM] {
        pair.check(&text).unwrap();
        for paragraph in text.split_inclusive("\n\n").take(300) {
            pair.check(paragraph).unwrap();
        }
    }
}

#[test]
fn source_code_is_equal() {
    for code in
        [include_str!("../src/bpe.rs"), include_str!("../src/merge.rs"), include_str!("../Cargo.toml")]
    {
        for pair in [&*SMOLLM2, &*GPT2, &*LLAMA3, &*QWEN2, &*LLAMA_SPM] {
            pair.check(code).unwrap();
            pair.check(&code.replace("    ", "\t").replace('\n', "\r\n")).unwrap();
        }
    }
}

#[test]
fn special_tokens_in_the_text_are_equal() {
    let parse = EncodeOptions { add_special: false, parse_special: true };
    for text in [
        "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>  spaces  <|im_end|>  \n\n<|endoftext|>",
        "<|im_start|><|im_start|><|im_end",
        "a<|im_end|>b <|im_end|> 12<|endoftext|>34",
    ] {
        let oracle = SMOLLM2.oracle.encode_fast(text, false).unwrap();
        assert_eq!(SMOLLM2.ours.encode(text, parse), oracle.get_ids(), "{text:?}");
    }
}
