//! Files, models, prompts and flags that cannot be used: one clear line, exit code 2, soon, and without much
//! memory.

mod common;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{model, refusal, rz};
use rz_formats::{Metadata, StringArray};
use rz_testkit::gguf::{RawGguf, TinyLlama, TinyTensor, gguf_bytes};

/// What a refusal may take, with room for a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// `rz run` on a file, in at most two gigabytes of address space where the system can limit that.
fn run(file: &Path, more: &[&str]) -> Command {
    let mut command = rz();
    if cfg!(target_os = "linux") {
        let limited = format!("ulimit -v 2000000; exec {} \"$@\"", env!("CARGO_BIN_EXE_rz"));
        let mut shell = Command::new("sh");
        shell.args(["-c", &limited, "rz"]);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        command = shell;
    }
    // Stacks of many threads would count as address space, too.
    command.args(["run", "-n", "1", "-t", "2", "-m"]).arg(file).args(more).arg("a b");
    command
}

/// Runs a file of these bytes, and expects a refusal that says all of `words`.
fn refused(name: &str, bytes: &[u8], words: &[&str]) {
    refused_with(name, bytes, &["--no-template"], words);
}

fn refused_with(name: &str, bytes: &[u8], more: &[&str], words: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bad.gguf");
    std::fs::write(&file, bytes).expect("a file");
    let started = Instant::now();
    let message = refusal(run(&file, more), b"");
    assert!(started.elapsed() < SOON, "{name}: {:?}", started.elapsed());
    for word in words {
        assert!(message.contains(word), "{name}: expected {word:?} in: {message}");
    }
}

/// A key of a value that is put together by hand, in a file without tensors.
fn one_key(type_id: u32, value: impl FnOnce(RawGguf) -> RawGguf) -> Vec<u8> {
    value(RawGguf::new(0, 1).key("k", type_id)).0
}

/// A file with these tensors of one f32 each, given by name, shape, type and offset, and 64 bytes of data.
fn tensors(infos: &[(&str, &[u64], u32, u64)]) -> Vec<u8> {
    let start = RawGguf::new(infos.len() as u64, 1).key_u32("general.alignment", 32);
    let all =
        infos.iter().fold(start, |raw, (name, shape, kind, offset)| raw.tensor(name, shape, *kind, *offset));
    all.data(32, 64).0
}

#[test]
fn the_real_model_cut_short_anywhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("cut.gguf");
    let whole = std::fs::copy(model(), &file).expect("a copy");
    for sixteenth in (0..16).rev() {
        std::fs::File::options()
            .write(true)
            .open(&file)
            .and_then(|opened| opened.set_len(whole * sixteenth / 16))
            .expect("a shorter file");
        let started = Instant::now();
        let message = refusal(run(&file, &[]), b"");
        assert!(started.elapsed() < SOON, "{sixteenth}/16: {:?}", started.elapsed());
        let expected = if sixteenth == 0 { "is empty" } else { "truncated or damaged" };
        assert!(message.contains(expected), "{sixteenth}/16: {message}");
    }
}

#[test]
fn a_tiny_model_cut_short_anywhere() {
    let whole = TinyLlama::default().to_bytes();
    for sixteenth in 1..16 {
        refused(&format!("{sixteenth}/16"), &whole[..whole.len() * sixteenth / 16], &[]);
    }
}

macro_rules! containers {
    ($($name:ident: $bytes:expr, [$($word:literal),*];)*) => { mod container { use super::*; $(
        #[test]
        fn $name() {
            refused(stringify!($name), &$bytes, &[$($word),*]);
        }
    )* } };
}

containers! {
    an_empty_file: [], ["is empty"];
    a_text_file: *b"# A model\n\nThis is not one.\n", ["not a GGUF file", "# A"];
    a_web_page: *b"<!DOCTYPE html><html><body>404</body></html>", ["not a GGUF file"];
    bad_magic: RawGguf(b"GGUX".to_vec()).u32(3).u64(0).u64(0).0, ["GGUX"];
    version_1: RawGguf::with_version(1, 0, 0).0, ["version 1 is not supported"];
    version_99: RawGguf::with_version(99, 0, 0).0, ["version 99 is not supported"];
    a_tensor_count_of_2_to_the_63: RawGguf::new(1 << 63, 0).0, ["9223372036854775808"];
    a_key_count_of_2_to_the_63: RawGguf::new(0, 1 << 63).0, ["9223372036854775808"];
    a_string_of_2_to_the_62: one_key(8, |raw| raw.u64(1 << 62).bytes(&[b'v'; 64])), ["4611686018427387904"];
    a_key_of_2_to_the_62: RawGguf::new(0, 1).u64(1 << 62).bytes(&[b'k'; 64]).0, ["4611686018427387904"];
    an_array_of_2_to_the_61: one_key(9, |raw| raw.u32(4).u64(1 << 61)), ["2305843009213693952"];
    an_array_of_strings_of_2_to_the_61: one_key(9, |raw| raw.u32(8).u64(1 << 61)), ["2305843009213693952"];
    arrays_nested_1000_deep:
        one_key(9, |raw| (0..1000).fold(raw, |raw, _| raw.u32(9).u64(1)).u32(4).u64(0)), ["nests arrays"];
    an_unknown_value_type: one_key(13, |raw| raw.u64(0)), ["value type 13"];
    a_key_twice: RawGguf::new(0, 2).key_u32("k", 1).key_u32("k", 2).0, ["\"k\" occurs twice"];
    no_dimensions: tensors(&[("t", &[], 0, 0)]), ["0 dimensions"];
    nine_dimensions: tensors(&[("t", &[1; 9], 0, 0)]), ["9 dimensions"];
    a_dimension_of_zero: tensors(&[("t", &[4, 0], 0, 0)]), ["0"];
    dimensions_whose_product_overflows: tensors(&[("t", &[1 << 32, 1 << 32, 4], 0, 0)]), ["overflows"];
    bytes_that_overflow: tensors(&[("t", &[1 << 31, 1 << 31], 0, 0)]), [];
    a_tensor_twice: tensors(&[("t", &[8], 0, 0), ("t", &[8], 0, 32)]), ["\"t\" occurs twice"];
    an_offset_past_the_end: tensors(&[("t", &[8], 0, 1 << 20)]), ["\"t\""];
    a_tensor_that_reaches_past_the_end: tensors(&[("t", &[32], 0, 0)]), ["\"t\""];
    a_misaligned_offset: tensors(&[("t", &[8], 0, 4)]), ["\"t\"", "4"];
    an_alignment_of_0: RawGguf::new(0, 1).key_u32("general.alignment", 0).0, ["general.alignment is 0"];
    an_alignment_of_3: RawGguf::new(0, 1).key_u32("general.alignment", 3).0, ["general.alignment is 3"];
    an_alignment_of_2_to_the_40:
        RawGguf::new(0, 1).key("general.alignment", 10).u64(1 << 40).0, ["1099511627776"];
    an_unknown_tensor_type: tensors(&[("t", &[8], 99, 0)]), ["unknown type 99"];
    a_removed_tensor_type: tensors(&[("t", &[32], 4, 0)]), ["Q4_2"];
    a_row_that_is_no_whole_block: tensors(&[("t", &[33], 2, 0)]), ["33"];
    no_keys_at_all: RawGguf::new(0, 0).0, ["general.architecture"];
}

/// A tiny model, changed.
fn changed(change: impl FnOnce(&mut Metadata, &mut Vec<TinyTensor>)) -> Vec<u8> {
    let tiny = TinyLlama::default();
    let (mut metadata, mut tensors) = (tiny.metadata(), tiny.tensors());
    change(&mut metadata, &mut tensors);
    gguf_bytes(metadata, &tensors)
}

fn with_key(key: &str, value: impl Into<rz_formats::Value>) -> Vec<u8> {
    changed(|metadata, _| drop(metadata.insert(key, value)))
}

fn without_key(key: &str) -> Vec<u8> {
    changed(|metadata, _| drop(metadata.remove(key)))
}

/// A tiny model whose tokenizer has other texts at some places.
fn with_tokens(texts: &[(usize, &str)]) -> Vec<u8> {
    changed(|metadata, _| {
        let tokens = metadata.require_strings("tokenizer.ggml.tokens").expect("the tokens").clone();
        let text = |at: usize, old: &str| {
            texts.iter().find(|(place, _)| *place == at).map_or(old.to_owned(), |(_, new)| (*new).to_owned())
        };
        let tokens: Vec<String> = tokens.iter().enumerate().map(|(at, old)| text(at, old)).collect();
        metadata.insert("tokenizer.ggml.tokens", tokens.iter().collect::<StringArray>());
    })
}

/// A model of one tensor type that is named by files and not computed with.
fn with_tensor_type(name: &str, id: u32) -> Vec<u8> {
    let tiny = TinyLlama::default();
    let mut bytes = tiny.to_bytes();
    // The entry of a tensor: its name, the number of dimensions, the dimensions, the type.
    let at = bytes.windows(name.len()).position(|window| window == name.as_bytes()).expect("the tensor");
    let kind = at + name.len() + 4 + 2 * 8;
    bytes[kind..kind + 4].copy_from_slice(&id.to_le_bytes());
    bytes
}

macro_rules! models {
    ($($name:ident: $bytes:expr, [$($word:literal),*];)*) => { mod content { use super::*; $(
        #[test]
        fn $name() {
            refused(stringify!($name), &$bytes, &[$($word),*]);
        }
    )* } };
}

models! {
    an_unknown_family: with_key("general.architecture", "mamba9"), ["mamba9", "not supported", "llama"];
    a_family_that_is_a_number: with_key("general.architecture", 7u32), ["general.architecture"];
    a_tensor_type_that_is_not_computed_with:
        // I32 has the size of F32, so all else in the file is right.
        with_tensor_type("blk.0.attn_q.weight", 26), ["blk.0.attn_q.weight", "I32", "not supported"];
    a_missing_tensor: changed(|_, tensors| tensors.retain(|tensor| tensor.name != "blk.1.ffn_up.weight")),
        ["blk.1.ffn_up.weight", "missing"];
    no_embedding: changed(|_, tensors| tensors.retain(|tensor| tensor.name != "token_embd.weight")),
        ["token_embd.weight", "missing"];
    a_tensor_of_the_wrong_shape:
        changed(|_, tensors| {
            let tensor = tensors.iter_mut().find(|tensor| tensor.name == "blk.0.attn_k.weight").unwrap();
            tensor.shape = vec![32, 64];
        }),
        ["blk.0.attn_k.weight", "[32, 64]", "[64, 32]"];
    a_vector_of_the_wrong_length:
        changed(|_, tensors| {
            let tensor = tensors.iter_mut().find(|tensor| tensor.name == "output_norm.weight").unwrap();
            tensor.shape = vec![32];
            tensor.values.truncate(32);
        }),
        ["output_norm.weight", "[32]", "[64]"];
    no_head_count: without_key("llama.attention.head_count"), ["llama.attention.head_count", "missing"];
    no_width: without_key("llama.embedding_length"), ["llama.embedding_length", "missing"];
    no_epsilon: without_key("llama.attention.layer_norm_rms_epsilon"), ["layer_norm_rms_epsilon"];
    no_context: without_key("llama.context_length"), ["llama.context_length", "missing"];
    no_heads: with_key("llama.attention.head_count", 0u32), ["llama.attention.head_count", "0"];
    heads_that_kv_heads_do_not_divide: with_key("llama.attention.head_count_kv", 3u32), ["head_count_kv", "3"];
    heads_that_do_not_divide_the_width:
        changed(|metadata, _| {
            metadata.insert("llama.attention.head_count", 5u32);
            metadata.insert("llama.attention.head_count_kv", 5u32);
            metadata.remove("llama.attention.key_length");
            metadata.remove("llama.attention.value_length");
        }),
        ["head_count", "5"];
    an_odd_head_size: with_key("llama.attention.key_length", 15u32), ["key_length", "15"];
    a_head_size_of_2_to_the_31: with_key("llama.attention.key_length", 1u32 << 31), ["key_length"];
    a_block_count_of_2_to_the_31: with_key("llama.block_count", 1u32 << 31), ["block_count", "2147483648"];
    a_block_count_of_0: with_key("llama.block_count", 0u32), ["block_count", "0"];
    a_block_count_that_is_text: with_key("llama.block_count", "two"), ["block_count", "string"];
    a_negative_width: with_key("llama.embedding_length", -64i32), ["embedding_length", "-64"];
    an_epsilon_that_is_no_number:
        with_key("llama.attention.layer_norm_rms_epsilon", f32::NAN), ["layer_norm_rms_epsilon", "NaN"];
    a_negative_rope_base: with_key("llama.rope.freq_base", -1f32), ["freq_base"];
    experts_that_are_not_run: with_key("llama.expert_count", 8u32), ["expert_count", "8"];
    more_tokens_than_rows:
        changed(|metadata, _| {
            for (key, value) in rz_testkit::gguf::spm_tokenizer(400).iter() {
                metadata.insert(key, value.clone());
            }
        }),
        ["400", "320"];
    no_tokenizer: gguf_bytes(
        TinyLlama { tokenizer: false, ..TinyLlama::default() }.metadata(),
        &TinyLlama::default().tensors(),
    ), ["tokenizer.ggml.model", "missing"];
    an_unknown_tokenizer: with_key("tokenizer.ggml.model", "hieroglyphs"), ["hieroglyphs", "not supported"];
    an_unknown_pre_tokenizer:
        changed(|metadata, _| {
            metadata.insert("tokenizer.ggml.model", "gpt2");
            metadata.insert("tokenizer.ggml.pre", "quipu");
        }),
        ["quipu"];
    a_byte_token_that_is_none: with_tokens(&[(3, "<0xZZ>")]), ["<0xZZ>"];
    a_token_twice: with_tokens(&[(300, "e"), (301, "e")]), ["same text"];
    fewer_scores_than_tokens: with_key("tokenizer.ggml.scores", vec![0f32; 10]), ["scores", "10", "320"];
    an_end_token_beyond_the_vocabulary: with_key("tokenizer.ggml.eos_token_id", 320u32), ["eos_token_id", "320"];
}

macro_rules! templates {
    ($($name:ident: $template:expr, [$($word:literal),*];)*) => { mod template { use super::*; $(
        #[test]
        fn $name() {
            refused_with(stringify!($name), &with_key("tokenizer.chat_template", $template), &[], &[$($word),*]);
        }
    )* } };
}

templates! {
    one_that_never_ends:
        "{% for a in range(100000) %}{% for b in range(100000) %}{% set c = b %}{% endfor %}{% endfor %}",
        ["template was stopped"];
    one_that_makes_ever_more_text:
        "{% set ns = namespace(t='abcdefgh') %}{% for i in range(1000) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}",
        ["template"];
    one_that_calls_itself:
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", ["template"];
    one_that_is_not_valid: "{% for message in messages %}{{ message.content ", ["not a valid template"];
    one_that_refuses: "{{ raise_exception('no, thank you') }}", ["no, thank you"];
    one_that_is_a_number: 7u32, ["chat_template"];
}

#[test]
fn a_system_message_that_cannot_be_told() {
    refused_with("no template", &TinyLlama::default().to_bytes(), &["--system", "x"], &["chat template"]);
}

#[test]
fn surplus_rows_are_fine() {
    let bytes = changed(|metadata, _| {
        for (key, value) in rz_testkit::gguf::spm_tokenizer(300).iter() {
            metadata.insert(key, value.clone());
        }
    });
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("surplus.gguf");
    std::fs::write(&file, bytes).expect("a file");
    for seed in 0..8 {
        let mut command = rz();
        command.args([
            "run",
            "--json",
            "--no-template",
            "--ignore-eos",
            "-n",
            "50",
            "--top-k",
            "0",
            "--top-p",
            "1",
        ]);
        command
            .args(["--min-p", "0", "--temp", "5", "--seed", &seed.to_string(), "-m"])
            .arg(&file)
            .arg("a b");
        let output = common::output(command, b"");
        assert!(output.status.success(), "{output:?}");
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(common::ids(&result["tokens"]).iter().all(|id| *id < 300), "{result}");
    }
}

fn usage(arguments: &[&str], input: &[u8]) -> String {
    let mut command = rz();
    command.args(arguments);
    refusal(command, input)
}

#[test]
fn models_that_are_not_there() {
    assert!(usage(&["run", "-m", "no/such.gguf", "x"], b"").contains("no/such.gguf"));
    assert!(usage(&["run", "-m", "smolm2:135m", "x"], b"").contains("did you mean 'smollm2:135m'"));
    assert!(usage(&["run", "-m", "https://example.com/m.gguf", "x"], b"").contains("https://example.com"));
    assert!(usage(&["inspect", "."], b"").contains("a folder"));
    assert!(usage(&["rm", "smollm2:135m"], b"").contains("not in the store"));
    assert!(usage(&["rm", "./m.gguf"], b"").contains("delete the file yourself"));
}

#[test]
fn a_model_that_is_not_here_and_no_network() {
    let mut command = rz();
    command.args(["run", "x"]);
    let output = common::output(command, b"");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.starts_with("error: 'smollm2:135m' is not in the store") && message.contains("offline"));
}

#[test]
fn prompts_that_cannot_be_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let tiny = TinyLlama::default().write(folder.path());
    let tiny = tiny.to_str().expect("a path");
    let run = ["run", "--no-template", "-m", tiny];
    let with = |more: &[&'static str]| [&run[..], more].concat();
    assert!(usage(&run, b"").contains("there is no prompt"));
    assert!(usage(&run, b"\xff\xfe").contains("not UTF-8"));
    assert!(usage(&with(&["--prompt-file", "no/such"]), b"").contains("no/such"));
    let long = "word ".repeat(500);
    let message = usage(&run, long.as_bytes());
    assert!(message.contains("the context holds 256") && message.contains("--ctx"), "{message}");
    assert!(usage(&with(&["-c", "4", "a b c d e"]), b"").contains("the context holds 4"));
}

#[test]
fn contexts_that_cannot_be() {
    let folder = tempfile::tempdir().expect("a folder");
    let large = TinyLlama { context: 1 << 30, kv_heads: 4, head_size: 128, ..TinyLlama::default() };
    let tiny = large.write(folder.path());
    let tiny = tiny.to_str().expect("a path");
    if cfg!(target_os = "linux") {
        // Two layers of four heads of 128 keys and 128 values: 4 KiB a token in f16, 4 TiB in all.
        let message = usage(&["run", "-m", tiny, "-c", "1073741824", "--no-template", "x"], b"");
        assert!(message.contains("4.4 TB") && message.contains("give --ctx"), "{message}");
        assert_eq!(usage(&["run", "-m", tiny, "-c", "0", "--no-template", "x"], b""), message);
    }
}

#[test]
fn tokens_that_cannot_be_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let tiny = TinyLlama::default().write(folder.path());
    let tiny = tiny.to_str().expect("a path");
    let out = folder.path().join("out.f32");
    let out = out.to_str().expect("a path");
    let logits = |tokens: &str| usage(&["logits", "-m", tiny, "--out", out, "--tokens", tokens], b"");
    assert!(logits("1,320").contains("320 rows"));
    assert!(logits("").contains("no tokens"));
    assert!(logits("1,x").contains("'x' is not a token id"));
    assert!(
        usage(&["logits", "-m", tiny, "--tokens", "1", "--out", "no/such/folder/x"], b"").contains("no/such")
    );
    assert!(usage(&["tokenize", "-m", tiny, "--decode", "320"], b"").contains("320"));
    assert!(usage(&["tokenize", "-m", tiny, "--stdin"], b"\xff").contains("not UTF-8"));
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("the folder").collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn texts_that_are_too_short_to_measure() {
    let folder = tempfile::tempdir().expect("a folder");
    let tiny = TinyLlama::default().write(folder.path());
    let tiny = tiny.to_str().expect("a path");
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "a few words").expect("a file");
    let text = text.to_str().expect("a path");
    assert!(usage(&["perplexity", "-m", tiny, text], b"").contains("window needs 512"));
    assert!(usage(&["perplexity", "-m", tiny, "-c", "2", text], b"").contains("at least 4"));
    assert!(usage(&["perplexity", "-m", tiny, "-c", "8", "--stride", "0", text], b"").contains("stride"));
    assert!(usage(&["perplexity", "-m", tiny, "no/such.txt"], b"").contains("no/such.txt"));
    assert!(usage(&["bench", "-m", tiny, "-p", "0", "-n", "0"], b"").contains("nothing to measure"));
    assert!(usage(&["chat", "-m", tiny], b"").contains("no chat template"));
}

/// What clap refuses may take several lines, and ends with the same code.
#[test]
fn wrong_flags() {
    for arguments in [
        &["run", "--temp", "-1", "x"][..],
        &["run", "--temp", "warm", "x"],
        &["run", "--top-p", "1.5", "x"],
        &["run", "--top-k", "1.5", "x"],
        &["run", "--stop", "", "x"],
        &["run", "-t", "0", "x"],
        &["run", "-t", "two", "x"],
        &["run", "-c", "-5", "x"],
        &["run", "--isa", "abacus", "x"],
        &["run", "--kv-type", "f8", "x"],
        &["run", "--batch", "0", "x"],
        &["run", "--no-template", "--system", "s", "x"],
        &["run", "--no-such-flag", "x"],
        &["logits", "--tokens", "1"],
        &["tokenize", "x", "--stdin"],
        &["tokenize", "x", "--decode", "1"],
        &["bench", "-r", "0"],
        &["rm"],
        &["frobnicate"],
    ] {
        let mut command = rz();
        command.args(arguments);
        let output = common::output(command, b"");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.starts_with("error: ") && output.stdout.is_empty(), "{arguments:?}: {message}");
    }
}
