//! Special tokens, begin and end tokens, decoding, recorded ids, and long texts.

use rz_formats::{Gguf, Metadata, StringArray};
use rz_testkit::{committed, fixture};
use rz_tokenizer::{DecodeOptions, EncodeOptions, Tokenizer};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const PARSE: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const ADD: EncodeOptions = EncodeOptions { add_special: true, parse_special: false };
const BOTH: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

fn real(file: &str) -> Tokenizer {
    Tokenizer::from_gguf(Gguf::open(fixture(file)).unwrap().metadata()).unwrap()
}

fn strings<'a>(strings: impl IntoIterator<Item = &'a str>) -> StringArray {
    strings.into_iter().collect()
}

/// A SentencePiece vocabulary: <unk> <s> </s>, the bytes, then `tokens`.
fn spm(tokens: &[(&str, f32, i32)]) -> Metadata {
    let bytes: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    let special = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)];
    let bytes = bytes.iter().map(|byte| (byte.as_str(), 0.0, BYTE));
    let all: Vec<_> = special.into_iter().chain(bytes).chain(tokens.iter().copied()).collect();
    let mut meta = Metadata::of_file("tiny.gguf");
    meta.insert("tokenizer.ggml.model", "llama");
    meta.insert("tokenizer.ggml.tokens", strings(all.iter().map(|token| token.0)));
    meta.insert("tokenizer.ggml.scores", all.iter().map(|token| token.1).collect::<Vec<f32>>());
    meta.insert("tokenizer.ggml.token_type", all.iter().map(|token| token.2).collect::<Vec<i32>>());
    meta
}

/// First id after those that [`spm`] puts in front.
const FIRST: u32 = 259;

/// A byte-level vocabulary of the letters of `letters` and then `tokens`.
fn bpe(letters: &str, tokens: &[(&str, i32)], merges: &[&str]) -> Metadata {
    let letters: Vec<String> = letters.chars().map(String::from).collect();
    let all: Vec<_> =
        letters.iter().map(|letter| (letter.as_str(), NORMAL)).chain(tokens.iter().copied()).collect();
    let mut meta = Metadata::of_file("tiny.gguf");
    meta.insert("tokenizer.ggml.model", "gpt2");
    meta.insert("tokenizer.ggml.pre", "gpt-2");
    meta.insert("tokenizer.ggml.tokens", strings(all.iter().map(|token| token.0)));
    meta.insert("tokenizer.ggml.token_type", all.iter().map(|token| token.1).collect::<Vec<i32>>());
    meta.insert("tokenizer.ggml.merges", strings(merges.iter().copied()));
    meta
}

#[test]
fn recorded_prompts_have_the_recorded_ids() {
    let reference = std::fs::read_to_string(committed("references/smollm2_ref.json")).unwrap();
    let reference: serde_json::Value = serde_json::from_str(&reference).unwrap();
    let tokenizer = real("SmolLM2-135M-Instruct.Q4_1.gguf");
    let ids = |ids: &serde_json::Value| -> Vec<u32> {
        ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let results = reference["results"].as_array().unwrap();
    assert!(results.len() >= 3);
    for result in results {
        let prompt = result["prompt"].as_str().unwrap();
        assert_eq!(tokenizer.encode(prompt, BOTH), ids(&result["prompt_ids"]), "{prompt:?}");
        let shown = DecodeOptions { special: true, continues: true };
        let generated = tokenizer.decode_with(&ids(&result["generated_ids"]), shown);
        assert_eq!(generated, result["generated_text"].as_str().unwrap());
    }
}

#[test]
fn the_default_model_is_as_its_file_says() {
    let tokenizer = real("SmolLM2-135M-Instruct.Q4_1.gguf");
    assert_eq!(tokenizer.len(), 49152);
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.unknown()), (Some(1), Some(2), Some(0)));
    assert!(!tokenizer.adds_bos() && !tokenizer.adds_eos());
    assert_eq!(tokenizer.encode("Hi", ADD), tokenizer.encode("Hi", PLAIN));
    let ends: Vec<_> = tokenizer.end_of_generation().iter().map(|&id| tokenizer.token(id).unwrap()).collect();
    assert_eq!(ends, ["<|endoftext|>", "<|im_end|>", "<reponame>"]);
    assert!(tokenizer.is_end_of_generation(2) && !tokenizer.is_end_of_generation(1));
    assert!(tokenizer.is_special(1) && !tokenizer.is_special(100));
    assert_eq!(tokenizer.id("<|im_start|>"), Some(1));
    assert_eq!((tokenizer.token(49151).is_some(), tokenizer.token(49152)), (true, None));
}

#[test]
fn control_tokens_come_from_text_only_on_request() {
    let tokenizer = real("SmolLM2-135M-Instruct.Q4_1.gguf");
    let text = "<|im_start|>user\nHi<|im_end|>";
    let parsed = tokenizer.encode(text, PARSE);
    assert_eq!((parsed[0], *parsed.last().unwrap()), (1, 2));
    let plain = tokenizer.encode(text, PLAIN);
    assert!(plain.iter().all(|&id| !tokenizer.is_special(id)), "{plain:?}");
    assert_eq!(tokenizer.decode(&plain), text);
    assert_eq!(tokenizer.decode(&parsed), "user\nHi");
    assert_eq!(tokenizer.decode_with(&parsed, DecodeOptions { special: true, continues: false }), text);
}

#[test]
fn of_special_tokens_that_start_together_the_longest_counts() {
    let special = [("<a>", CONTROL), ("<a><b>", CONTROL), ("<b>", USER_DEFINED), ("aa", USER_DEFINED)];
    let tokenizer = Tokenizer::from_gguf(&bpe("<>ab", &special, &[])).unwrap();
    let (less, more, a, b) = (0, 1, 2, 3);
    let (ta, tab, tb, taa) = (4, 5, 6, 7);
    assert_eq!(tokenizer.encode("<a><b><b><a>", PARSE), [tab, tb, ta]);
    assert_eq!(tokenizer.encode("<a><b>", PLAIN), [less, a, more, tb]);
    assert_eq!(tokenizer.encode("aaaaa<a", PARSE), [taa, taa, a, less, a]);
    assert_eq!(tokenizer.encode("b<a>a", PARSE), [b, ta, a]);
    assert_eq!(tokenizer.encode("", BOTH), [0u32; 0]);
}

#[test]
fn begin_and_end_tokens_follow_the_file() {
    let control = [("<s>", CONTROL), ("</s>", CONTROL)];
    let tokenizer = |keys: &[(&str, bool)], ids: bool| {
        let mut meta = bpe("ab", &control, &[]);
        if ids {
            meta.insert("tokenizer.ggml.bos_token_id", 2u32);
            meta.insert("tokenizer.ggml.eos_token_id", 3u32);
        }
        keys.iter().for_each(|&(key, value)| drop(meta.insert(key, value)));
        Tokenizer::from_gguf(&meta).unwrap()
    };
    let (bos, eos) = ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token");
    assert_eq!(tokenizer(&[], true).encode("a", BOTH), [0]);
    assert_eq!(tokenizer(&[(bos, true)], true).encode("a", ADD), [2, 0]);
    assert_eq!(tokenizer(&[(bos, true), (eos, true)], true).encode("a", ADD), [2, 0, 3]);
    assert_eq!(tokenizer(&[(bos, true), (eos, true)], true).encode("a", PLAIN), [0]);
    assert_eq!(tokenizer(&[(bos, true), (eos, true)], true).encode("", ADD), [2, 3]);
    // A text that has them already gets no others.
    assert_eq!(tokenizer(&[(bos, true), (eos, true)], true).encode("<s>a</s>", BOTH), [2, 0, 3]);
    // Without an id there is nothing to add, and that is said.
    let without = tokenizer(&[(bos, true)], false);
    assert_eq!(without.encode("a", ADD), [0]);
    assert!(!without.adds_bos());
    assert!(
        without.warnings().iter().any(|warning| warning.contains("begin token")),
        "{:?}",
        without.warnings()
    );

    // SentencePiece files begin texts unless they say no.
    assert_eq!(Tokenizer::from_gguf(&spm(&[])).unwrap().encode("", ADD), [1]);
    let mut meta = spm(&[]);
    meta.insert(bos, false);
    assert_eq!(Tokenizer::from_gguf(&meta).unwrap().encode("", ADD), [0u32; 0]);
    // So do Llama 3 files.
    let llama3 = real("ggml-vocab-llama-bpe.gguf");
    assert_eq!(llama3.encode("Hi", ADD)[0], 128000);
}

#[test]
fn sentence_piece_adds_a_space_to_the_start_only() {
    let tokenizer = real("ggml-vocab-llama-spm.gguf");
    let id = |text: &str| tokenizer.id(text).unwrap();
    assert_eq!(tokenizer.encode("Hello", PLAIN), [id("▁Hello")]);
    assert_eq!(tokenizer.encode("Hello", ADD), [1, id("▁Hello")]);
    // A begin token written out is the same as one that is added.
    assert_eq!(tokenizer.encode("<s>Hello", BOTH), [1, id("▁Hello")]);
    assert_eq!(tokenizer.encode("</s>Hello", PARSE), [2, id("Hello")]);
    assert_eq!(tokenizer.encode("a</s>\nb", PARSE), [id("▁a"), 2, id("<0x0A>"), id("b")]);
    // A recorded prompt of TinyLlama, which has this vocabulary.
    let prompt = "<|user|>\nWrite a Python function that adds two numbers.</s>\n<|assistant|>\n";
    let ids = [
        529, 29989, 1792, 29989, 29958, 13, 6113, 263, 5132, 740, 393, 12778, 1023, 3694, 29889, 2, 13,
        29966, 29989, 465, 22137, 29989, 29958, 13,
    ];
    assert_eq!(tokenizer.encode(prompt, PARSE), ids);

    for text in ["Hello", " Hello", "  two", "", " ", "\n", "日本 🙂\u{0}"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, ADD)), text);
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, PLAIN)), text);
    }
    let ids = tokenizer.encode("Hello there", ADD);
    let shown = |special, continues| tokenizer.decode_with(&ids, DecodeOptions { special, continues });
    assert_eq!(shown(true, false), "<s>Hello there");
    assert_eq!(shown(false, true), " Hello there");

    let mut meta = spm(&[("▁a", -1.0, NORMAL), ("a", -2.0, NORMAL), ("▁", -3.0, NORMAL)]);
    meta.insert("tokenizer.ggml.add_space_prefix", false);
    let tokenizer = Tokenizer::from_gguf(&meta).unwrap();
    assert_eq!(tokenizer.encode("a a", PLAIN), [FIRST + 1, FIRST]);
    assert_eq!(tokenizer.decode(&[FIRST, FIRST]), " a a");
}

#[test]
fn scores_order_the_joins_of_sentence_piece() {
    let tokens = [
        ("a", -9.0, NORMAL),
        ("b", -9.0, NORMAL),
        ("c", -9.0, NORMAL),
        ("ab", -2.0, NORMAL),
        ("bc", -1.0, NORMAL),
        ("abc", -5.0, NORMAL),
        ("aa", -1.0, NORMAL),
        ("a b", -0.5, USER_DEFINED),
        ("</", -1.0, NORMAL),
        ("s>", -1.0, NORMAL),
    ];
    let mut meta = spm(&tokens);
    meta.insert("tokenizer.ggml.add_space_prefix", false);
    let tokenizer = Tokenizer::from_gguf(&meta).unwrap();
    let [a, b, c, ab, bc, abc, aa, a_b] = std::array::from_fn(|at| FIRST + at as u32);
    assert_eq!(tokenizer.encode("ab", PLAIN), [ab]);
    assert_eq!(tokenizer.encode("abc", PLAIN), [abc]);
    assert_eq!(tokenizer.encode("cbc", PLAIN), [c, bc]);
    assert_eq!(tokenizer.encode("aaa", PLAIN), [aa, a]);
    assert_eq!(tokenizer.encode("aaab", PLAIN), [aa, ab]);
    assert_eq!(tokenizer.encode("ba bb", PLAIN), [b, a_b, b]);
    // Bytes for what has no token; a control token never comes from its letters.
    assert_eq!(tokenizer.encode("é", PLAIN), [3 + 0xc3, 3 + 0xa9]);
    assert!(!tokenizer.encode("</s>", PLAIN).contains(&2));
    assert_eq!(tokenizer.encode("</s>", PARSE), [2]);
}

#[test]
fn without_byte_tokens_unknown_stands_for_the_rest() {
    let mut meta = Metadata::new();
    meta.insert("tokenizer.ggml.model", "llama");
    meta.insert("tokenizer.ggml.tokens", strings(["<unk>", "<s>", "</s>", "a"]));
    meta.insert("tokenizer.ggml.scores", vec![0i32; 4]);
    meta.insert("tokenizer.ggml.token_type", vec![2i32, 3, 3, 1]);
    meta.insert("tokenizer.ggml.add_space_prefix", false);
    let tokenizer = Tokenizer::from_gguf(&meta).unwrap();
    assert_eq!(tokenizer.encode("aéa", PLAIN), [3, 0, 3]);
    assert_eq!(tokenizer.decode(&[3, 0, 3]), "aa");
    assert!(
        tokenizer.warnings()[0].contains("no token for 210 of the byte values"),
        "{:?}",
        tokenizer.warnings()
    );
}

#[test]
fn a_file_that_names_no_pre_tokenizer_gets_the_default_and_a_warning() {
    let mut meta = bpe("ab", &[], &[]);
    meta.remove("tokenizer.ggml.pre");
    let tokenizer = Tokenizer::from_gguf(&meta).unwrap();
    assert!(tokenizer.warnings()[0].contains("tokenizer.ggml.pre"), "{:?}", tokenizer.warnings());
}

#[test]
fn ends_of_generation_are_found_by_key_and_by_text() {
    let ends = |tokens: &[(&str, i32)], keys: &[(&str, u32)]| -> Vec<u32> {
        let mut meta = bpe("", tokens, &[]);
        keys.iter().for_each(|&(key, id)| drop(meta.insert(key, id)));
        Tokenizer::from_gguf(&meta).unwrap().end_of_generation().to_vec()
    };
    let eos = "tokenizer.ggml.eos_token_id";
    assert_eq!(ends(&[("x", NORMAL), ("y", CONTROL)], &[]), [0u32; 0]);
    assert_eq!(ends(&[("x", NORMAL), ("y", CONTROL)], &[(eos, 1)]), [1]);
    assert_eq!(
        ends(&[("<|im_end|>", CONTROL), ("<|eot_id|>", NORMAL), ("y", CONTROL)], &[(eos, 2)]),
        [0, 1, 2]
    );
    assert_eq!(
        ends(&[("a", NORMAL), ("b", CONTROL), ("c", CONTROL)], &[("tokenizer.ggml.eot_token_id", 2)]),
        [2]
    );
    // A tag of HTML, not an end.
    assert_eq!(ends(&[("</s>", NORMAL), ("<eos>", CONTROL)], &[(eos, 1)]), [1]);
    assert_eq!(ends(&[("</s>", CONTROL), ("<eos>", CONTROL)], &[(eos, 1)]), [0, 1]);
    // The end of a message, where others end the turn.
    let harmony = [("<|end|>", CONTROL), ("<|return|>", CONTROL), ("<|call|>", CONTROL)];
    assert_eq!(ends(&harmony, &[(eos, 1)]), [1, 2]);
    assert_eq!(ends(&harmony[..2], &[(eos, 1)]), [0, 1]);
}

#[test]
fn phi_3_swallows_the_white_space_after_its_special_tokens() {
    let tokenizer = real("ggml-vocab-phi-3.gguf");
    let (user, end) = (tokenizer.id("<|user|>").unwrap(), tokenizer.id("<|end|>").unwrap());
    let ids = tokenizer.encode("<|user|>\n Hi<|end|>\n", PARSE);
    assert_eq!((ids[0], *ids.last().unwrap(), ids.len()), (user, end, 3), "{ids:?}");
}

#[test]
fn ids_beyond_the_vocabulary_and_broken_characters_are_shown_as_such() {
    let tokenizer = real("ggml-vocab-gpt-2.gguf");
    assert_eq!(tokenizer.decode(&[u32::MAX, 64, 50257]), "\u{fffd}a\u{fffd}");
    assert_eq!(tokenizer.token_bytes(u32::MAX), None);

    let smile = tokenizer.encode("🙂", PLAIN);
    assert!(smile.len() > 1);
    let mut decoder = tokenizer.decoder();
    let (last, first) = smile.split_last().unwrap();
    assert!(first.iter().all(|&id| decoder.push(id).is_empty()));
    assert_eq!(decoder.push(*last), "🙂");
    assert_eq!(decoder.finish(), "");
    // Cut off in the middle, at the end and by another character.
    decoder.push(first[0]);
    assert_eq!(decoder.finish(), "\u{fffd}");
    decoder.push(first[0]);
    assert_eq!(decoder.push(64), "\u{fffd}a");
    assert_eq!(decoder.finish(), "");
}

/// A quadratic way would take many minutes.
#[test]
fn long_texts_without_spaces_take_no_longer_than_others() {
    for file in ["ggml-vocab-gpt-2.gguf", "ggml-vocab-llama-bpe.gguf", "ggml-vocab-llama-spm.gguf"] {
        let tokenizer = real(file);
        for pattern in
            ["a", " ", "\n", "ab", "0", "!", " \n", "é", "日本語", "🙂", "\u{0}", "a b", "'s", "\t \u{3000}"]
        {
            let text = pattern.repeat((1 << 18) / pattern.len());
            let ids = tokenizer.encode(&text, PLAIN);
            assert!(tokenizer.decode(&ids) == text, "{file}: {pattern:?}");
        }
    }
    let special = real("SmolLM2-135M-Instruct.Q4_1.gguf");
    for pattern in ["<|im_start|>", "<|im_end|", "<", "<|<|<|im_"] {
        let text = pattern.repeat((1 << 18) / pattern.len());
        let shown = DecodeOptions { special: true, continues: false };
        assert!(special.decode_with(&special.encode(&text, BOTH), shown) == text, "{pattern:?}");
    }
}
