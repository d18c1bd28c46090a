//! Folders: what stands beside `tokenizer.json`, files that contradict themselves, and
//! pipelines that run on the `tokenizers` crate.

use rz_formats::{ModelFolder, SafetensorsWriter, TensorType};
use rz_testkit::committed;
use rz_tokenizer::{
    ChatTemplate, EncodeOptions, MergeProblem, Message, Tokenizer, TokenizerError, TokenizerFiles,
};
use serde_json::{Map, Value, json};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const PARSE: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const ADD: EncodeOptions = EncodeOptions { add_special: true, parse_special: false };
const BOTH: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

/// A byte-level file of few letters: a b ab, and added tokens from 3 on.
fn tiny(added: &[(&str, bool)]) -> Value {
    let added = added.iter().zip(3..).map(|((text, special), id)| token(id, text, *special));
    json!({
        "version": "1.0",
        "truncation": {"max_length": 1, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 4_000_000_000u32}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"},
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "unk_token": null, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
    })
}

fn token(id: u32, text: &str, special: bool) -> Value {
    json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special})
}

/// The tokenizer of a file and, in this order, `tokenizer_config.json`, `config.json` and
/// `generation_config.json`.
fn with(tokenizer: &Value, beside: [Value; 3]) -> Result<Tokenizer, TokenizerError> {
    let json = serde_json::to_vec(tokenizer).unwrap();
    let [tokenizer_config, config, generation_config] = beside;
    let object = |value: Value| if let Value::Object(map) = value { Some(map) } else { None };
    let maps = [tokenizer_config, config, generation_config].map(object);
    let [tokenizer_config, config, generation_config] = maps.each_ref().map(Option::as_ref);
    Tokenizer::from_files(
        "m",
        &TokenizerFiles { tokenizer: &json, tokenizer_config, generation_config, config },
    )
}

fn alone(tokenizer: &Value) -> Result<Tokenizer, TokenizerError> {
    with(tokenizer, [Value::Null, Value::Null, Value::Null])
}

const CHAT: [(&str, bool); 4] = [("<s>", true), ("</s>", true), ("<|im_end|>", true), ("<tool>", false)];

fn texts(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    ids.iter().map(|&id| tokenizer.token(id).unwrap().to_owned()).collect()
}

#[test]
fn begin_and_end_tokens_come_from_the_most_telling_file() {
    let file = tiny(&CHAT);
    let of = |beside| with(&file, beside).unwrap();
    let none = of([json!({}), json!({}), json!({})]);
    assert_eq!((none.bos(), none.eos(), none.unknown()), (None, None, None));
    assert_eq!(texts(&none, none.end_of_generation()), ["</s>", "<|im_end|>"]);

    let named = json!({"bos_token": "<s>", "eos_token": {"content": "<|im_end|>", "lstrip": false}});
    let ids = json!({"bos_token_id": 0, "eos_token_id": [1, 4]});
    let tokenizer = of([named.clone(), json!({"eos_token_id": 2}), ids.clone()]);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(3), Some(5)));
    assert_eq!(tokenizer.end_of_generation(), [1, 2, 4, 5]);
    assert!(!tokenizer.adds_bos() && tokenizer.encode("ab", BOTH) == [2]);

    let tokenizer = of([Value::Null, json!({"eos_token_id": 2, "bos_token_id": null}), ids]);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(0), Some(1)));
    let nested = of([Value::Null, json!({"text_config": {"eos_token_id": 2}}), Value::Null]);
    assert_eq!(nested.eos(), Some(2));

    // A known end that the file takes for text steers the model all the same.
    let text = tiny(&[("<|im_end|>", false), ("<tool>", false)]);
    let tokenizer = alone(&text).unwrap();
    assert!(tokenizer.is_special(3) && !tokenizer.is_special(4));
    assert_eq!(tokenizer.encode("<tool>a", PLAIN), [4, 0]);
    // One that is only a word of the vocabulary is just that.
    let mut word = tiny(&[]);
    word["model"]["vocab"]["</s>"] = json!(3);
    assert!(alone(&word).unwrap().end_of_generation().is_empty());
}

#[test]
fn begin_and_end_tokens_are_added_as_the_files_say() {
    let named = json!({"bos_token": "<s>", "eos_token": "</s>"});
    let of = |post: Value, config: Value| {
        let mut file = tiny(&CHAT);
        file["post_processor"] = post;
        let mut all = named.clone();
        all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        with(&file, [all, Value::Null, Value::Null]).unwrap()
    };
    let special = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let template = |single: Value| {
        json!({
            "type": "TemplateProcessing", "single": single, "pair": [],
            "special_tokens": {"B": {"id": "B", "ids": [3], "tokens": ["<s>"]}, "E": {"id": "E", "ids": [5, 4], "tokens": ["x", "y"]}},
        })
    };
    let begin = template(json!([special("B"), text]));
    let both = template(json!([special("B"), text, special("E")]));
    let levels = json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, both]});
    assert_eq!(of(begin.clone(), json!({})).encode("ab", ADD), [3, 2]);
    assert_eq!(of(begin.clone(), json!({})).encode("", ADD), [3]);
    assert_eq!(of(begin.clone(), json!({})).encode("<s>ab", BOTH), [3, 2]);
    assert_eq!(of(levels.clone(), json!({})).encode("ab", ADD), [3, 2, 5, 4]);
    let roberta = json!({"type": "RobertaProcessing", "cls": ["<s>", 3], "sep": ["</s>", 4], "trim_offsets": true, "add_prefix_space": false});
    assert_eq!(of(roberta, json!({})).encode("ab", ADD), [3, 2, 4]);
    // The other file has the last word.
    assert_eq!(of(begin.clone(), json!({"add_bos_token": false})).encode("ab", ADD), [2]);
    assert_eq!(of(begin, json!({"add_bos_token": true, "add_eos_token": true})).encode("ab", ADD), [3, 2, 4]);
    assert_eq!(of(levels, json!({"add_eos_token": false})).encode("ab", ADD), [3, 2, 5]);
    let tokenizer = of(Value::Null, json!({"add_bos_token": true}));
    assert_eq!((tokenizer.encode("ab", ADD), tokenizer.adds_bos()), (vec![3, 2], true));
}

#[test]
fn what_the_files_say_in_vain_is_a_warning() {
    let file = tiny(&CHAT);
    let beside = [
        json!({"bos_token": "<bos>", "add_bos_token": true}),
        json!({"eos_token_id": [2, 4_000_000_000u32, -1]}),
        Value::Null,
    ];
    let tokenizer = with(&file, beside).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (None, Some(2)));
    let warnings = tokenizer.warnings().join("\n");
    for words in
        ["bos_token \"<bos>\" is no token", "no begin token is added", "4000000000 is beyond the 7 tokens"]
    {
        assert!(warnings.contains(words), "{warnings}");
    }
    // Ids of added tokens follow from their places.
    let mut file = tiny(&CHAT);
    file["added_tokens"][1]["id"] = json!(u32::MAX);
    let tokenizer = alone(&file).unwrap();
    assert_eq!((tokenizer.id("</s>"), tokenizer.len()), (Some(4), 7));
    assert!(tokenizer.warnings().iter().any(|warning| warning.contains("4294967295, but is 4")));
}

#[test]
fn more_added_tokens_may_stand_in_the_other_file() {
    let decoder = json!({"added_tokens_decoder": {
        "4": {"content": "</s>", "special": true, "normalized": false, "rstrip": true},
        "7": {"content": "<new>", "special": true},
    }});
    let tokenizer = with(&tiny(&CHAT), [decoder, Value::Null, Value::Null]).unwrap();
    assert_eq!((tokenizer.id("<new>"), tokenizer.len()), (Some(7), 8));
    assert_eq!(tokenizer.encode("a<new></s>  b", PARSE), [0, 7, 4, 1]);
    assert!(tokenizer.warnings().iter().all(|warning| warning.contains("byte values")));

    // Gemma 3 that takes no images has a token for them beyond its embedding.
    let mut file = tiny(&[("<s>", true), ("<image_soft_token>", true)]);
    assert_eq!(with(&file, [Value::Null, json!({"vocab_size": 4}), Value::Null]).unwrap().len(), 4);
    assert_eq!(with(&file, [Value::Null, json!({"vocab_size": 5}), Value::Null]).unwrap().len(), 5);
    file["added_tokens"][1]["content"] = json!("<other>");
    assert_eq!(with(&file, [Value::Null, json!({"vocab_size": 4}), Value::Null]).unwrap().len(), 5);
}

#[test]
fn ids_may_have_gaps() {
    let mut file = tiny(&[]);
    file["model"]["vocab"]["b"] = json!(1000);
    let tokenizer = alone(&file).unwrap();
    assert_eq!((tokenizer.len(), tokenizer.token(999)), (1001, Some("")));
    assert_eq!(tokenizer.encode("bab", PLAIN), [1000, 2]);
    assert_eq!(tokenizer.decode(&[1000, 500, 0]), "ba");
}

#[test]
fn of_equal_merges_the_last_counts() {
    let mut file = tiny(&[]);
    file["model"]["vocab"]["aa"] = json!(3);
    let ids = |merges: Value| {
        let mut file = file.clone();
        file["model"]["merges"] = merges;
        let oracle = tokenizers::Tokenizer::from_bytes(without_padding(&file)).unwrap();
        let ids = alone(&file).unwrap().encode("aab", PLAIN);
        assert_eq!(ids, oracle.encode_fast("aab", false).unwrap().get_ids());
        ids
    };
    assert_eq!(ids(json!(["a b", "a a"])), [0, 2]);
    assert_eq!(ids(json!(["#version: 0.2", "a b", "a a", "a b"])), [3, 1]);
}

fn without_padding(file: &Value) -> Vec<u8> {
    let mut file = file.clone();
    (file["padding"], file["truncation"]) = (Value::Null, Value::Null);
    serde_json::to_vec(&file).unwrap()
}

fn refused(file: &[u8]) -> TokenizerError {
    let files = TokenizerFiles { tokenizer: file, ..TokenizerFiles::default() };
    let Err(error) = Tokenizer::from_files("m", &files) else {
        panic!("accepted: {}", String::from_utf8_lossy(&file[..file.len().min(500)]))
    };
    let message = error.to_string();
    assert!(message.starts_with("m/tokenizer.json: "), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.len() < 600, "{message}");
    error
}

/// Checks that a file is refused in these words.
fn says(file: &Value, words: &str) {
    let message = refused(&serde_json::to_vec(file).unwrap()).to_string();
    assert!(message.contains(words), "{message}");
}

fn change(change: impl FnOnce(&mut Value)) -> Value {
    let mut file = tiny(&CHAT);
    change(&mut file);
    file
}

#[test]
fn broken_json_is_refused_in_one_line() {
    assert!(alone(&tiny(&CHAT)).is_ok());
    let whole = serde_json::to_vec(&tiny(&CHAT)).unwrap();
    for end in (0..whole.len()).step_by(7) {
        assert!(matches!(refused(&whole[..end]), TokenizerError::Json { .. }));
    }
    let say = |json: &str, words: &str| {
        let message = refused(json.as_bytes()).to_string();
        assert!(message.contains(words), "{message}");
    };
    say("[]", "line 1 column");
    say("{}", "missing field `model`");
    say("{\"model\": {}} x", "trailing characters");
    say("{\"model\": 1}", "expected an object");
    say("{\"version\": \"2.0\", \"model\": {}}", "version");
    say("{\"model\": {}, \"model\": {}}", "the key \"model\" occurs twice");
    say("{\"model\": {\"vocab\": {\"a\": -1}}}", "expected u32");
    say("{\"model\": {\"vocab\": {\"a\": 4294967296}}}", "expected u32");
    say("{\"model\": {\"vocab\": {\"a\": 1.5}}}", "expected u32");
    say("{\"model\": {\"merges\": [[\"a\"]]}}", "expected two tokens");
    say("{\"model\": {\"merges\": [[\"a\", \"b\", \"c\"]]}}", "more than two");
    say("{\"model\": {\"merges\": [7]}}", "a merge");
    say("{\"added_tokens\": [{\"id\": 0}], \"model\": {}}", "missing field");
    say(&format!("{{\"decoder\": {}", "[".repeat(10_000)), "recursion limit");
    say(&format!("{{\"x\": {}", "[".repeat(10_000)), "recursion limit");
    say(&format!("{{\"decoder\": [{}0], \"model\": {{}}}}", "0,".repeat(1 << 17)), "more than 65536 values");
    say(&format!("{{\"{}\": \"a\\n\u{7f}\", \"model\": 1}}", "x".repeat(100_000)), "expected an object");
}

#[test]
fn contradictions_are_refused() {
    says(
        &json!({"model": {"vocab": {}, "merges": []}, "decoder": {"type": "ByteLevel"}, "pre_tokenizer": tiny(&[])["pre_tokenizer"]}),
        "has 0 tokens",
    );
    says(
        &change(|file| file["model"]["vocab"]["x"] = json!(4_000_000_000u32)),
        "has the id 4000000000, expected less than 1048576",
    );
    says(&change(|file| file["model"]["vocab"]["x"] = json!(1)), "\"b\" and \"x\" have the same id 1");
    let twice = serde_json::to_string(&tiny(&[])).unwrap().replace("\"ab\":2", "\"ab\":2,\"a\":3");
    assert!(matches!(refused(twice.as_bytes()), TokenizerError::DuplicateToken { first: 0, second: 3, .. }));
    // The next id, which an added token takes, belongs to another.
    says(&change(|file| file["model"]["vocab"]["x"] = json!(5)), "have the same id 5");
    for (merge, expected) in [
        (json!("ab"), MergeProblem::NoSpace),
        (json!("a b c"), MergeProblem::NoSpace),
        (json!(["x", "b"]), MergeProblem::UnknownLeft),
        (json!("a x"), MergeProblem::UnknownRight),
        (json!(["b", "a"]), MergeProblem::UnknownResult),
        (json!(["<s>", "a"]), MergeProblem::UnknownLeft),
    ] {
        let file = change(|file| file["model"]["merges"] = json!(["a b", merge]));
        let error = refused(&serde_json::to_vec(&file).unwrap());
        assert!(
            matches!(&error, TokenizerError::Merge { index: 1, problem, .. } if *problem == expected),
            "{error}"
        );
    }
    says(&change(|file| file["model"]["dropout"] = json!(0.1)), "model.dropout is \"0.1\"");
    says(&change(|file| file["added_tokens"][0]["content"] = json!("x".repeat(5 << 20))), "expected at most");
    let post = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}], "special_tokens": {"x": {"ids": [99]}}});
    says(
        &change(|file| file["post_processor"] = post),
        "post_processor is 99, but the vocabulary has only 7",
    );
    says(&change(|file| file["post_processor"] = json!({"type": "Other"})), "post_processor is \"{");
    let sequence =
        json!({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "B"}}], "special_tokens": {}});
    says(&change(|file| file["post_processor"] = sequence), "tokens before and after one text");

    let spelled = std::fs::read_to_string(committed("tokenizer-json/llama2.json")).unwrap();
    let message = refused(spelled.replace("<0x0A>", "<0xZZ>").as_bytes()).to_string();
    assert!(message.contains("\"<0xZZ>\", expected a byte"), "{message}");
}

#[test]
fn settings_of_the_wrong_kind_are_refused() {
    let file = tiny(&CHAT);
    let config = |config: Value| [config, Value::Null, Value::Null];
    for (beside, words) in [
        (config(json!({"bos_token": 1})), "m/tokenizer_config.json: bos_token is \"1\", expected a token"),
        (config(json!({"add_bos_token": "yes"})), "add_bos_token"),
        (config(json!({"added_tokens_decoder": []})), "added_tokens_decoder"),
        (config(json!({"added_tokens_decoder": {"x": {"content": "a"}}})), "tokens by their ids"),
        (config(json!({"added_tokens_decoder": {"1": {}}})), "tokens by their ids"),
        ([Value::Null, json!({"eos_token_id": "2"}), Value::Null], "m/config.json: eos_token_id"),
        (
            [Value::Null, Value::Null, json!({"eos_token_id": [1, 2.5]})],
            "m/generation_config.json: eos_token_id is \"2.5\"",
        ),
    ] {
        let message = with(&file, beside).err().expect(words).to_string();
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_folder_has_its_tokenizer_and_template() {
    let folder = tempfile::tempdir().unwrap();
    let write =
        |name: &str, value: &Value| std::fs::write(folder.path().join(name), value.to_string()).unwrap();
    let mut writer = SafetensorsWriter::new();
    writer.tensor("x", &[1], TensorType::from_id(0).unwrap(), vec![0; 4]).unwrap();
    writer.write(folder.path().join("model.safetensors")).unwrap();
    write("config.json", &json!({"model_type": "llama", "eos_token_id": 2}));
    let open = || ModelFolder::open(folder.path()).unwrap();
    let message = Tokenizer::from_folder(&open()).err().unwrap().to_string();
    assert!(message.contains("has no tokenizer.json"), "{message}");

    write("tokenizer.json", &tiny(&CHAT));
    let tokenizer = Tokenizer::from_folder(&open()).unwrap();
    assert_eq!(tokenizer.eos(), Some(2));
    assert!(ChatTemplate::from_folder(&open(), &tokenizer).unwrap().is_none());

    let chat = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}";
    let tools =
        json!([{"name": "default", "template": chat}, {"name": "tool_use", "template": "T{{ bos_token }}"}]);
    for template in [json!(chat), tools] {
        write(
            "tokenizer_config.json",
            &json!({"bos_token": "<s>", "eos_token": "<|im_end|>", "chat_template": template}),
        );
        write("generation_config.json", &json!({"eos_token_id": [4]}));
        let tokenizer = Tokenizer::from_folder(&open()).unwrap();
        assert_eq!(tokenizer.end_of_generation(), [2, 4, 5]);
        let chat = ChatTemplate::from_folder(&open(), &tokenizer).unwrap().unwrap();
        let text = chat.render(&[Message::new("user", "ab")], false).unwrap();
        assert_eq!(text, "<s>ab<|im_end|>");
        assert_eq!(tokenizer.encode(&text, BOTH), [3, 2, 5]);
    }
    let tokenizer = Tokenizer::from_folder(&open()).unwrap();
    let named = |name| ChatTemplate::from_folder_named(&open(), &tokenizer, name);
    assert_eq!(named("tool_use").unwrap().unwrap().render(&[], false).unwrap(), "T<s>");
    assert!(named("none").unwrap().is_none());

    std::fs::write(folder.path().join("chat_template.jinja"), "{{ x").unwrap();
    let message = named("default").err().unwrap().to_string();
    assert!(message.contains("chat template \"default\", line 1: not a valid template"), "{message}");
}

/// What only the `tokenizers` crate runs, each with the part that says so.
fn foreign() -> Vec<(Vec<u8>, &'static str)> {
    let mut files: Vec<_> = [("wordpiece", "model"), ("unigram", "model"), ("prefix", "pre_tokenizer")]
        .into_iter()
        .map(|(name, part)| (std::fs::read(committed(&format!("tokenizer-json/{name}.json"))).unwrap(), part))
        .collect();
    let gpt2: Value =
        serde_json::from_slice(&std::fs::read(committed("tokenizer-json/gpt2.json")).unwrap()).unwrap();
    let mut changed = |part: &'static str, change: &dyn Fn(&mut Map<String, Value>)| {
        let mut file = gpt2.clone();
        change(file.as_object_mut().unwrap());
        files.push((serde_json::to_vec(&file).unwrap(), part));
    };
    changed("normalizer", &|file| drop(file.insert("normalizer".into(), json!({"type": "Lowercase"}))));
    changed("decoder", &|file| drop(file.insert("decoder".into(), json!({"type": "Fuse"}))));
    let split = json!({"type": "Split", "pattern": {"Regex": r"\w+(?=x)|."}, "behavior": "Isolated", "invert": false});
    let level = gpt2["pre_tokenizer"].clone();
    let sequence = json!({"type": "Sequence", "pretokenizers": [split, level]});
    changed("pre_tokenizer", &|file| drop(file.insert("pre_tokenizer".into(), sequence.clone())));
    files
}

#[cfg(not(feature = "hf-tokenizers"))]
#[test]
fn other_pipelines_are_refused_by_name() {
    for (json, part) in foreign() {
        let message = refused(&json).to_string();
        assert!(message.contains(&format!(": {part} is ")), "{message}");
        assert!(message.contains("feature hf-tokenizers"), "{message}");
    }
}

#[cfg(feature = "hf-tokenizers")]
mod hf {
    use super::*;
    use rz_tokenizer::DecodeOptions;

    #[test]
    fn other_pipelines_run_on_the_tokenizers_crate() {
        let texts = [
            "",
            "It is a truth universally acknowledged, that a single man",
            "  two  spaces \n\n and\tTabs ",
            "déjà vu ﬁ Ⅷ 日本語 🙂 \u{0}x",
            "[CLS] a [SEP]</s> <|endoftext|> <unk>",
            "fn main() { let x = [1, 22, 333]; }",
        ];
        for (json, part) in foreign() {
            let ours = alone(&serde_json::from_slice(&json).unwrap()).unwrap();
            let oracle = tokenizers::Tokenizer::from_bytes(&json).unwrap();
            for text in texts {
                let ids = ours.encode(text, PARSE);
                assert_eq!(ids, oracle.encode_fast(text, false).unwrap().get_ids(), "{part}: {text:?}");
                let added = ours.encode(text, EncodeOptions { add_special: true, parse_special: false });
                let mut plain = oracle.clone();
                plain.set_encode_special_tokens(true);
                // The model of one file knows the texts of special tokens as words.
                if !text.contains("</s>") {
                    assert_eq!(added, plain.encode_fast(text, true).unwrap().get_ids(), "{part}: {text:?}");
                }
                assert!(
                    ours.encode(text, PLAIN)
                        .iter()
                        .all(|&id| !ours.is_special(id) || ours.unknown() == Some(id))
                );

                let decoded = ours.decode(&ids);
                assert_eq!(decoded, oracle.decode(&ids, true).unwrap(), "{part}: {ids:?}");
                let mut decoder = ours.decoder();
                let mut parts: String = ids.iter().map(|&id| decoder.push(id).to_owned()).collect();
                parts.push_str(decoder.finish());
                assert_eq!(parts, decoded);
                // What a model adds to a prompt is what follows it in the text of both.
                let continues = DecodeOptions { special: false, continues: true };
                for at in 1..ids.len() {
                    let before = ours.decode(&ids[..at]);
                    if ids[at..].iter().any(|&id| ours.is_special(id))
                        || before.is_empty()
                        || !decoded.starts_with(&before)
                        || before.ends_with('\u{fffd}')
                    {
                        continue;
                    }
                    let rest = ours.decode_with(&ids[at..], continues);
                    assert_eq!(format!("{before}{rest}"), decoded, "{part}: {:?}", &ids[at..]);
                }
            }
            for id in 0..ours.len() as u32 {
                assert_eq!(ours.token(id), oracle.id_to_token(id).as_deref(), "{part}: {id}");
            }
            assert_eq!(ours.decode(&[u32::MAX]), "\u{fffd}");
        }
    }

    #[test]
    fn what_the_tokenizers_crate_cannot_deal_with_is_refused() {
        let normalizer = |value: Value| change(|file| file["normalizer"] = value);
        says(&normalizer(json!({"type": "NoSuch"})), "not a valid tokenizer.json");
        says(
            &normalizer(json!({"type": "Replace", "pattern": {"Regex": "("}, "content": ""})),
            "not a valid tokenizer.json",
        );
        says(
            &normalizer(json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"})),
            "not a valid tokenizer.json",
        );
        says(&change(|file| file["model"]["type"] = json!("Other")), "not a valid tokenizer.json");
        // Longer together than any token: an index out of bounds over there.
        let file = change(|file| {
            file["normalizer"] = json!({"type": "Lowercase"});
            file["model"]["merges"] = json!([["ab", "ab"]]);
        });
        says(&file, "whose parts do not make a token");
        // Neither the padding nor the length that the file asks for is heeded.
        let ids = alone(&normalizer(json!({"type": "Lowercase"}))).unwrap().encode("ABAB", PLAIN);
        assert_eq!(ids, [2, 2]);
    }
}
