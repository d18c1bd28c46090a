//! Equality of `tokenizer.json` pipelines with the `tokenizers` crate on random text, and
//! with the same vocabularies out of GGUF files.

use std::sync::LazyLock;

use proptest::prelude::*;
use rz_formats::{Gguf, Metadata};
use rz_testkit::{committed, fixture};
use rz_tokenizer::{DecodeOptions, EncodeOptions, Tokenizer, TokenizerFiles};
use serde_json::{Value, json};

/// One file in both implementations.
struct Pair {
    name: &'static str,
    ours: Tokenizer,
    oracle: tokenizers::Tokenizer,
    /// The oracle, when special tokens in a text are text.
    plain: tokenizers::Tokenizer,
}

impl Pair {
    fn committed(name: &'static str) -> Self {
        Self::new(name, &std::fs::read(committed(&format!("tokenizer-json/{name}.json"))).unwrap())
    }

    fn new(name: &'static str, json: &[u8]) -> Self {
        let ours = ours(json).unwrap();
        let mut oracle = tokenizers::Tokenizer::from_bytes(json).unwrap();
        // What ends a generation is special here, whatever the file says.
        let special = oracle.get_added_tokens_decoder().into_values().map(|token| {
            let special = token.special || ours.is_special(ours.id(&token.content).unwrap());
            token.special(special)
        });
        oracle.add_special_tokens(special.collect::<Vec<_>>()).unwrap();
        let mut plain = oracle.clone();
        plain.set_encode_special_tokens(true);
        Pair { name, ours, oracle, plain }
    }

    fn check(&self, text: &str) -> Result<(), TestCaseError> {
        for (add_special, parse_special) in [(false, false), (false, true), (true, false), (true, true)] {
            let oracle = if parse_special { &self.oracle } else { &self.plain };
            let expected = oracle.encode_fast(text, add_special).unwrap();
            // A text that has its begin or end token gets no other from us.
            if add_special && parse_special {
                let bare = self.oracle.encode_fast(text, false).unwrap();
                let around = self.oracle.encode_fast("", true).unwrap();
                let ends = |id: Option<&u32>| id.is_some_and(|id| around.get_ids().contains(id));
                if ends(bare.get_ids().first()) || ends(bare.get_ids().last()) {
                    continue;
                }
            }
            let ids = self.ours.encode(text, EncodeOptions { add_special, parse_special });
            prop_assert_eq!(
                &ids,
                expected.get_ids(),
                "{} of {:?}, add {}, parse {}",
                self.name,
                text,
                add_special,
                parse_special
            );
            if add_special {
                continue;
            }
            let decoded = self.ours.decode(&ids);
            prop_assert_eq!(&decoded, &self.oracle.decode(&ids, true).unwrap(), "{}: {:?}", self.name, ids);
            let mut decoder = self.ours.decoder();
            let mut streamed: String = ids.iter().map(|&id| decoder.push(id).to_owned()).collect();
            streamed.push_str(decoder.finish());
            prop_assert_eq!(streamed, decoded, "{}: {:?}", self.name, ids);
        }
        Ok(())
    }
}

fn ours(json: &[u8]) -> Result<Tokenizer, rz_tokenizer::TokenizerError> {
    Tokenizer::from_files("tiny", &TokenizerFiles { tokenizer: json, ..TokenizerFiles::default() })
}

static NATIVE: LazyLock<Vec<Pair>> = LazyLock::new(|| {
    let names = [
        "gpt2", "phi2", "llama3", "tekken", "qwen2", "smollm", "flags", "llama2", "mistral", "words",
        "gemma3", "gaps",
    ];
    names.into_iter().map(Pair::committed).collect()
});

/// Text of the kinds that pipelines treat apart, special tokens, and any other.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[ \t\r\n]{1,9}",
        "['’](s|S|t|re|RE|ve|m|ll|LL|d|ſ)",
        "[a-zA-Z]{1,12}",
        "[0-9]{1,9}",
        r"[\p{L}\p{M}]{1,6}",
        r"[\p{N}\p{P}\p{S}]{1,6}",
        r"[\s\u{85}\u{a0}\u{3000}\u{200b}]{1,4}",
        r"[a-z\u{212b}\u{300}-\u{330}\u{1100}-\u{1112}\u{1161}-\u{1175}\u{11a8}-\u{11c2}\u{1611e}\u{1612}\u{11de1}]{1,8}",
        "(日本語|한국어|العربية|हिन्दी|🙂|👩‍👩‍👧|é|e\u{301}|ﬁ|Ⅷ|²|▁|Ġ|¶|\u{0}|\u{7f})",
        "(the|of|and| Darcy| wife|fn main|    return|https://|<0x0A>|word|wordy|a word b)",
        "(<s>|</s>|<unk>|<\\|endoftext\\|>|<\\|im_start\\|>|<\\|im_end\\|>|<bos>|<eos>|<start_of_turn>|<end_of_turn>)",
        "(<left>|<right>|<both>|<le|ft><|  |é\\||<div>|▁▁|\n\n|<unused0>|<tool_call>|<\\|fim_pad\\|>|<think>)",
        "(<\\|begin_of_text\\|>|<\\|end_of_text\\|>|<\\|eot_id\\|>|<\\|eot|\\[INST\\]|\\[/INST\\]|<\\|user\\|>)",
        any::<String>(),
    ];
    prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn pipelines_of_the_families_are_equal(text in text()) {
        for pair in NATIVE.iter() {
            pair.check(&text)?;
        }
    }

    #[test]
    fn any_tokens_become_the_same_text(ids in prop::collection::vec(0u32..1200, 0..40)) {
        for pair in NATIVE.iter() {
            // The oracle shows bytes that are no character in another way.
            let is_byte = |id: u32| pair.ours.token(id).is_some_and(|text| text.starts_with("<0x"));
            let ids: Vec<_> = ids.iter().map(|id| id % pair.ours.len() as u32).filter(|&id| !is_byte(id)).collect();
            prop_assert_eq!(pair.ours.decode(&ids), pair.oracle.decode(&ids, true).unwrap(), "{}: {:?}", pair.name, ids);
            let shown = DecodeOptions { special: true, continues: true };
            if !matches!(pair.name, "llama2" | "mistral" | "words") {
                let expected = pair.oracle.decode(&ids, false).unwrap();
                prop_assert_eq!(pair.ours.decode_with(&ids, shown), expected, "{}: {:?}", pair.name, ids);
            }
        }
    }
}

#[test]
fn nasty_texts_are_equal() {
    let texts = [
        "",
        " ",
        "  ",
        "\n",
        "▁",
        "▁ ▁",
        " ▁a",
        "<s>",
        "<s> a",
        "a<s>b </s> c",
        " <s>  a",
        "<left><right>",
        "  <left>  <right>  <both>  ",
        "<both> <both>",
        "   <both>   <left>  x",
        "word words sword word_ word, éword",
        "<left><left><",
        "<le<left>",
        "é|é",
        "e\u{301}| e\u{301}",
        "\u{2126}\u{212b}\u{1e9b}\u{323}",
        "\u{1161}\u{1100}\u{1161}\u{11a8}",
        "a\u{323}\u{307}\u{31b}",
        "\u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af}",
        "\u{378}\u{e000}\u{10ffff}\u{feff}",
        "日月火水\u{1f600}日",
        "\u{1f600}\u{1f600}日日",
        "Ā𐍈\u{fffd}\u{0}\u{1}\u{7f}\u{80}",
        "e the e the  the",
        "\n\n\n\n\n    \n\t\t\t\t\t\t",
        "<|im_start|>user\nHi<|im_end|>\n",
        "<tool_call>{\"a\": 1}</tool_call><|fim_pad|>",
        "1234567890 12,345.67 ٣٤٥ ²³ Ⅷ½",
        "<|eot <|eot_id|> <|eot",
        "we'll WE'LL we’ll 'ſ I'M",
    ];
    for pair in NATIVE.iter() {
        for text in texts {
            pair.check(text).unwrap();
            pair.check(&format!("{text}{text} {text}")).unwrap();
        }
    }
}

#[test]
fn real_text_and_source_code_are_equal() {
    let text = std::fs::read_to_string(committed("references/ppl.txt")).unwrap();
    for pair in NATIVE.iter() {
        for text in [&text[..40_000], include_str!("json.rs"), include_str!("../src/json/plan.rs")] {
            pair.check(text).unwrap();
        }
    }
}

/// A quadratic way would take many minutes.
#[test]
fn long_texts_without_spaces_take_no_longer_than_others() {
    for pair in NATIVE.iter() {
        for pattern in
            ["a", " ", "\n", "ab", "é", "e\u{301}", "日", "▁", "<le", "word", "<right> ", "\u{301}"]
        {
            let text = pattern.repeat((1 << 17) / pattern.len());
            assert!(
                !pair.ours.encode(&text, EncodeOptions { add_special: true, parse_special: true }).is_empty()
            );
        }
    }
}

/// A `tokenizer.json` of the vocabulary of a GGUF file.
fn of_gguf(
    file: &str,
    pre_tokenizer: Value,
    normalizer: Value,
    ignore_merges: bool,
    begins: bool,
) -> (Metadata, Vec<u8>) {
    let meta = Gguf::open(fixture(file)).unwrap().metadata().clone();
    let tokens = meta.require_strings("tokenizer.ggml.tokens").unwrap();
    let types = meta.require_i32s("tokenizer.ggml.token_type").unwrap();
    let vocab: serde_json::Map<_, _> =
        (0..).zip(tokens.iter()).map(|(id, text): (u32, _)| (text.to_owned(), id.into())).collect();
    let merges: Vec<_> = meta
        .require_strings("tokenizer.ggml.merges")
        .unwrap()
        .iter()
        .map(|merge| merge.split_once(' ').unwrap())
        .collect();
    let added: Vec<_> = (0..)
        .zip(tokens.iter().zip(types.iter()))
        .filter(|(_, (_, kind))| matches!(kind, 3 | 4))
        .map(|(id, (text, kind)): (u32, _)| {
            json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": *kind == 3})
        })
        .collect();
    let bos = meta.u32("tokenizer.ggml.bos_token_id").unwrap().unwrap();
    let template = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "b", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"b": {"id": "b", "ids": [bos], "tokens": ["b"]}},
    });
    let file = json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": if begins { template } else { Value::Null },
        "decoder": byte_level(true),
        "model": {"type": "BPE", "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges},
    });
    (meta, serde_json::to_vec(&file).unwrap())
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn split(regex: &str) -> Value {
    let split =
        json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
}

/// Real vocabularies, with the tokenizer of their GGUF file.
static REAL: LazyLock<Vec<(Tokenizer, Pair)>> = LazyLock::new(|| {
    const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let digits = json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, byte_level(true)]});
    let qwen2 = split(&LLAMA3.replace("{1,3}", ""));
    [
        ("ggml-vocab-gpt-2.gguf", byte_level(true), Value::Null, false, false),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", digits, Value::Null, false, false),
        ("ggml-vocab-llama-bpe.gguf", split(LLAMA3), Value::Null, true, true),
        ("ggml-vocab-qwen2.gguf", qwen2, json!({"type": "NFC"}), false, false),
    ]
    .into_iter()
    .map(|(file, pre, normalizer, ignore_merges, begins)| {
        let (meta, json) = of_gguf(file, pre, normalizer, ignore_merges, begins);
        (Tokenizer::from_gguf(&meta).unwrap(), Pair::new(file, &json))
    })
    .collect()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn real_vocabularies_are_equal_from_either_file(text in text()) {
        for (gguf, pair) in REAL.iter() {
            pair.check(&text)?;
            // A GGUF file says nothing of composing.
            if pair.name == "ggml-vocab-qwen2.gguf" && !text.is_ascii() {
                continue;
            }
            for parse_special in [false, true] {
                for add_special in [false, true] {
                    let options = EncodeOptions { add_special, parse_special };
                    let ids = pair.ours.encode(&text, options);
                    prop_assert_eq!(&ids, &gguf.encode(&text, options), "{}: {:?}", pair.name, &text);
                    prop_assert_eq!(pair.ours.decode(&ids), gguf.decode(&ids));
                }
            }
        }
    }
}

#[test]
fn real_vocabularies_say_the_same_of_their_tokens() {
    for (gguf, pair) in REAL.iter() {
        let ours = &pair.ours;
        assert_eq!((ours.len(), ours.adds_bos()), (gguf.len(), gguf.adds_bos()), "{}", pair.name);
        for id in (0..ours.len() as u32 + 1)
            .step_by(97)
            .chain(0..4)
            .chain(ours.len() as u32 - 260..ours.len() as u32)
        {
            assert_eq!(ours.token(id), gguf.token(id));
            assert_eq!(ours.token_bytes(id), gguf.token_bytes(id));
            assert_eq!(ours.is_special(id), gguf.is_special(id), "{}: {:?}", pair.name, ours.token(id));
        }
    }
}
