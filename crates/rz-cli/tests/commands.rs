//! The commands that look at files and folders, and what they print.

mod common;

use std::ffi::OsStr;

use common::{ids, json, model, output, rz, stdout, stdout_of, with_model};
use rz_testkit::fixture;
use rz_testkit::gguf::TinyLlama;

#[test]
fn help_is_a_manual() {
    let alone = stdout::<&str>([]);
    assert_eq!(alone, stdout(["-h"]));
    assert_eq!(stdout(["help"]), stdout(["--help"]));
    let manual = stdout(["--help"]);
    for word in ["Examples:", "Exit status:", "Environment:", "Files:", "HF_TOKEN", "RZ_CACHE", "130", "pip:"]
    {
        assert!(manual.contains(word), "{word}: {manual}");
    }
    let commands = [
        "run",
        "chat",
        #[cfg(feature = "serve")]
        "serve",
        "inspect",
        "tokenize",
        "pull",
        "pack",
        "list",
        "rm",
        "perplexity",
        "logits",
        "bench",
        "doctor",
        "completions",
        "manual",
    ];
    for command in commands {
        assert!(manual.contains(&format!("\n  {command} ")), "{command}");
        let help = stdout([command, "--help"]);
        for flag in ["--model <REF>", "--threads <N>", "--threads-batch <N>", "--ctx <N>", "RZ_MODEL"] {
            assert!(help.contains(flag), "{command}: {flag}");
        }
        assert_eq!(stdout(["help", command]), help);
        assert!(stdout(["manual", command]).starts_with(".ie"));
    }
    assert!(stdout(["manual"]).contains(".SH"));
    assert!(stdout(["--version"]).starts_with("rz "));
}

#[test]
fn every_sampler_has_its_flags() {
    let help = stdout(["run", "--help"]);
    for sampler in rz_model::sampler::SAMPLERS {
        for param in sampler.params {
            for flag in param.flags {
                assert!(help.contains(&format!("--{flag}")), "{flag}");
            }
            let words: String = help.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words.contains(param.doc), "{}: {}", param.name, param.doc);
        }
    }
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(stdout(["completions", shell]).contains("perplexity"), "{shell}");
    }
}

#[test]
fn pages_are_written_to_a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    stdout([OsStr::new("manual"), OsStr::new("--dir"), folder.path().as_os_str()]);
    let page = std::fs::read_to_string(folder.path().join("rz-run.1")).expect("the page");
    assert!(page.contains("temp"));
    assert!(folder.path().join("rz.1").is_file());
}

#[test]
fn text_becomes_ids_and_back() {
    let model = model();
    let with = |arguments: &[&str], input: &str| {
        stdout_of(arguments.iter().map(OsStr::new).chain(with_model(&model)), input.as_bytes())
    };
    // Ids of the references, made by another implementation.
    assert_eq!(with(&["tokenize", "--ids", "The capital of France is"], ""), "504 3575 282 4649 314\n");
    assert_eq!(
        with(&["tokenize", "--ids", "--stdin"], "The capital of France is"),
        "504 3575 282 4649 314\n"
    );
    assert_eq!(with(&["tokenize", "--decode", "504,3575 282, 4649 314"], ""), "The capital of France is\n");
    assert_eq!(with(&["tokenize", "--decode", "-"], "504 3575\n"), "The capital\n");
    assert_eq!(with(&["tokenize", "--decode", "1,504,2"], ""), "<|im_start|>The<|im_end|>\n");
    assert_eq!(with(&["tokenize", "--no-special", "--decode", "1,504,2"], ""), "The\n");
    assert_eq!(with(&["tokenize", "--ids", "<|im_start|>"], ""), "1\n");
    assert!(with(&["tokenize", "--ids", "--no-special", "<|im_start|>"], "").split(' ').count() > 3);
    assert_eq!(with(&["tokenize", "--ids", "--stdin"], ""), "\n");
    let table = with(&["tokenize", "The capital\n"], "");
    assert_eq!(table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(), ["id", "text"]);
    assert!(table.contains(" 504  \"The\"\n") && table.contains("\"\\n\"\n"), "{table}");
}

#[test]
fn tokenize_takes_files_without_tensors_and_keeps_every_byte() {
    let file = fixture("ggml-vocab-llama-bpe.gguf");
    let result = json(
        [OsStr::new("tokenize"), OsStr::new("--json"), OsStr::new(" a\n")]
            .into_iter()
            .chain(with_model(&file)),
    );
    assert_eq!(result["text"], " a\n");
    let count = ids(&result["ids"]).len();
    assert_eq!(result["pieces"].as_array().expect("pieces").len(), count);
    let read = |name: &str| std::fs::read_to_string(fixture(name)).expect("the vectors");
    let inputs = read("ggml-vocab-llama-bpe.gguf.inp");
    let outputs = read("ggml-vocab-llama-bpe.gguf.out");
    // Each needs a process; every seventh will do, the tokenizer has its own tests.
    for (input, expected) in inputs.split("\n__ggml_vocab_test__\n").zip(outputs.lines()).step_by(7) {
        let ids = ["tokenize", "--ids", "--no-special", "--stdin"];
        let found = stdout_of(ids.iter().map(OsStr::new).chain(with_model(&file)), input.as_bytes());
        assert_eq!(found.trim(), expected.trim(), "{input:?}");
    }
}

#[test]
fn inspect_shows_what_is_there() {
    let model = model();
    let result = json([OsStr::new("inspect"), OsStr::new("--json"), model.as_os_str()]);
    assert_eq!(result["architecture"], "llama");
    assert_eq!((&result["supported"], &result["problems"]), (&true.into(), &serde_json::json!([])));
    assert_eq!(result["metadata"]["llama.block_count"], 30);
    assert_eq!(result["metadata"]["tokenizer.ggml.tokens"]["length"], 49152);
    assert_eq!(result["model"]["layers"], 30);
    assert_eq!(result["tensors"].as_array().expect("tensors").len(), 272);
    assert_eq!(result["tensors"][0]["shape"], serde_json::json!([576, 49152]));
    assert_eq!(result["elements"], 134_515_008);
    let text = stdout([OsStr::new("inspect"), model.as_os_str()]);
    for word in
        ["llama (supported)", "tokenizer.chat_template", "blk.29.ffn_up.weight", "Q4_1", "576 x 49152"]
    {
        assert!(text.contains(word), "{word}");
    }
    assert!(text.lines().all(|line| line.len() < 400), "long values are cut");
    let all = stdout([OsStr::new("inspect"), OsStr::new("-v"), model.as_os_str()]);
    assert!(all.lines().any(|line| line.len() > 400_000), "and in full on request");
}

#[test]
fn inspect_takes_files_that_cannot_be_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let tiny = TinyLlama::default();
    let mut metadata = tiny.metadata();
    metadata.insert("general.architecture", "mamba\u{1b}[31m9");
    metadata.insert("tokenizer.ggml.model", "hieroglyphs");
    let file = folder.path().join("strange.gguf");
    std::fs::write(&file, rz_testkit::gguf::gguf_bytes(metadata, &tiny.tensors())).expect("a file");
    let text = stdout([OsStr::new("inspect"), file.as_os_str()]);
    assert!(text.contains("(not supported)") && text.contains("hieroglyphs"), "{text}");
    assert!(text.contains("mamba\\u{1b}[31m9") && !text.contains('\u{1b}'), "{text}");
    let result = json([OsStr::new("inspect"), OsStr::new("--json"), file.as_os_str()]);
    assert_eq!((&result["supported"], &result["model"]), (&false.into(), &serde_json::Value::Null));
    assert_eq!(result["problems"].as_array().expect("problems").len(), 2, "{result}");
    assert_eq!(result["metadata"]["tokenizer.ggml.model"], "hieroglyphs");
    let bert =
        json([OsStr::new("inspect"), OsStr::new("--json"), fixture("ggml-vocab-bert-bge.gguf").as_os_str()]);
    assert_eq!(bert["supported"], false);
}

#[test]
fn an_empty_store_is_listed() {
    assert_eq!(json(["list", "--json"]), serde_json::json!([]));
    let catalogue = json(["list", "--catalogue", "--json"]);
    assert_eq!(catalogue[0]["reference"], "smollm2:135m");
    assert_eq!(catalogue[0]["fetched"], false);
    assert!(stdout(["list", "--catalogue"]).contains("Apache-2.0"));
}

#[test]
fn a_stored_model_is_listed_used_and_removed() {
    // The folder as the store lays it out, with a link to the file that the tests have.
    let cache = tempfile::tempdir().expect("a folder");
    let folder = cache.path().join("models").join("smollm2-135m");
    std::fs::create_dir_all(&folder).expect("a folder");
    let name = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let bytes = std::fs::copy(model(), folder.join(name)).expect("a copy");
    let manifest = serde_json::json!({
        "reference": "smollm2:135m",
        "licence": "Apache-2.0",
        "files": [{ "file": name, "bytes": bytes, "sha256": "0".repeat(64), "source": "a test" }],
    });
    std::fs::write(folder.join("manifest.json"), manifest.to_string()).expect("the manifest");
    let with_cache = |arguments: &[&str]| {
        let mut command = rz();
        command.args(arguments).env("RZ_CACHE", cache.path());
        let output = output(command, b"");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let list = with_cache(&["list"]);
    let line: Vec<_> = list.lines().nth(1).expect("a line").split_whitespace().collect();
    assert_eq!(line[..4], ["smollm2:135m", "98.4", "MB", "Apache-2.0"]);
    assert_eq!(with_cache(&["pull"]).trim(), folder.join(name).to_str().expect("a path"));
    let doctor: serde_json::Value =
        serde_json::from_str(&with_cache(&["doctor", "--quick", "--json"])).expect("JSON");
    assert_eq!(doctor["cache"]["models"][0]["reference"], "smollm2:135m");
    // The default model, by its name and by none.
    assert_eq!(with_cache(&["tokenize", "--ids", "The capital"]), "504 3575\n");
    assert_eq!(with_cache(&["tokenize", "--ids", "-m", "smollm2", "The capital"]), "504 3575\n");
    assert!(with_cache(&["rm", "smollm2"]).starts_with("removed smollm2:135m, 19"), "with its packed copy");
    assert_eq!(with_cache(&["list", "--json"]).trim(), "[]");
}

#[test]
fn doctor_names_the_machine() {
    let fixed = ["doctor", "--json", "--quick", "-t", "3", "--threads-batch", "2", "--isa", "portable"];
    let result = json(fixed);
    assert_eq!((&result["threads"], &result["isa"]), (&3.into(), &"portable".into()));
    assert_eq!(result["threads_batch"], 2);
    assert_eq!(json(["doctor", "--json", "--quick", "-t", "3"])["threads_batch"], 3);
    assert!(result["isa_available"].as_array().expect("names").contains(&"portable".into()));
    let text = stdout(["doctor"]);
    for word in ["instruction set", "processors", "memory", "huge pages", "read bandwidth", "model folder"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let mut command = rz();
    command
        .args(["doctor", "--quick", "--json"])
        .env("HF_TOKEN", "hf_secret")
        .env("HF_ENDPOINT", "http://me:pw@h");
    let text = String::from_utf8(output(command, b"").stdout).expect("text");
    assert!(text.contains("\"hub_token\":true") && text.contains("http://h"), "{text}");
    assert!(!text.contains("secret") && !text.contains("pw"), "{text}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_computes_on_the_processors_that_it_may_use() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    // A thread's children have its affinity.
    let result = std::thread::spawn(|| {
        let allowed = sched_getaffinity(None).expect("an affinity");
        let first = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).expect("a processor");
        let mut one = CpuSet::new();
        one.set(first);
        sched_setaffinity(None, &one).expect("fewer processors");
        json(["doctor", "--json", "--quick"])
    });
    let result = result.join().expect("a result");
    for name in ["threads", "threads_batch", "usable_processors", "usable_cores"] {
        assert_eq!(result[name], 1, "{name}: {result}");
    }
}

#[test]
fn bench_measures_medians_of_its_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let tiny = TinyLlama::default().write(folder.path());
    let fixed = ["bench", "-p", "20", "-n", "5", "-r", "3", "-d", "7", "-t", "1"].map(OsStr::new);
    let result = json(fixed.into_iter().chain(with_model(&tiny)).chain([OsStr::new("--json")]));
    for name in ["prefill_tok_s", "decode_tok_s", "decode_gb_s", "read_gb_s", "dot_gmac_s"] {
        let mut runs: Vec<f64> = result["runs"][name]
            .as_array()
            .expect("runs")
            .iter()
            .map(|run| run.as_f64().expect("a number"))
            .collect();
        runs.sort_by(f64::total_cmp);
        assert_eq!(runs.len(), 3);
        assert!(runs[0] > 0.0);
        assert_eq!(result[name].as_f64(), Some(runs[1]), "{name}");
    }
    // A layer of the tiny model: Q and the output, K and V, gate, up and down; then its tied output matrix.
    let layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96;
    assert_eq!(result["prefill_macs"].as_u64(), Some(2 * layer));
    assert_eq!(result["decode_macs"].as_u64(), Some(2 * layer + 64 * 320));
    let alone = result["decode_bytes"].as_f64().expect("bytes");
    let weights = result["weight_bytes"].as_f64().expect("bytes");
    let three = ["bench", "-p", "0", "-n", "5", "-r", "1", "-d", "7", "-s", "3"].map(OsStr::new);
    let result = json(three.into_iter().chain(with_model(&tiny)).chain([OsStr::new("--json")]));
    assert_eq!(result["sequences"].as_u64(), Some(3));
    let together = result["decode_bytes"].as_f64().expect("bytes");
    assert!(
        (together - weights - 3.0 * (alone - weights)).abs() < 1.0,
        "{together}: weights once, three caches"
    );

    let text = stdout(fixed.into_iter().chain(with_model(&tiny)));
    assert!(text.contains("prefill 20") && text.contains("decode 5") && text.contains("GB/s"), "{text}");
}
