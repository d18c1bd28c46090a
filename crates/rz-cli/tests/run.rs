//! `rz run` and `rz chat` as programs use them: prompts from everywhere, results as text and data.

mod common;

use std::ffi::OsStr;

use common::{ids, json, model, output, rz, stdout_of, with_model};
use rz_testkit::gguf::TinyLlama;
use serde_json::Value;

/// Tokens of the answers.
const COUNT: &str = "12";

fn answer(arguments: &[&str], input: &str) -> String {
    let model = model();
    let fixed = ["run", "--greedy", "-n", COUNT];
    let all = fixed.iter().chain(arguments).map(OsStr::new).chain(with_model(&model));
    stdout_of(all, input.as_bytes())
}

#[test]
fn prompts_come_from_arguments_files_and_pipes() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, "of France is\n").expect("a file");
    let file = file.to_str().expect("a path");
    let whole = answer(&["--no-template", "The capital\nof France is"], "");
    assert!(!whole.trim().is_empty());
    assert_eq!(answer(&["--no-template"], "The capital\nof France is\n"), whole);
    assert_eq!(answer(&["--no-template", "The capital"], "of France is\r\n"), whole);
    assert_eq!(answer(&["--no-template", "The capital", "--prompt-file", file], ""), whole);
    assert_eq!(answer(&["--no-template", "The capital\n", "--prompt-file", file], "\n"), whole);
    assert_ne!(answer(&["--no-template", "The capital"], ""), whole);
}

#[test]
fn the_chat_template_is_the_models_own() {
    // What the template of this model makes of a conversation, as its publisher documents it.
    let written =
        "<|im_start|>system\nBe terse.<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(answer(&["--system", "Be terse.", "Hi!"], ""), answer(&["--no-template", written], ""));
    let default = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
                   <|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(answer(&["Hi!"], ""), answer(&["--no-template", default], ""));
}

fn result(arguments: &[&str]) -> Value {
    let model = model();
    let fixed = ["run", "--json", "--no-template", "--greedy"];
    json(fixed.iter().chain(arguments).map(OsStr::new).chain(with_model(&model)))
}

#[test]
fn a_result_as_data_has_everything() {
    let whole = result(&["-n", "20", "--ignore-eos", "--seed", "5", "Once upon a time, there was a little"]);
    assert_eq!((&whole["finish"], &whole["seed"]), (&"max_tokens".into(), &5.into()));
    assert_eq!(ids(&whole["tokens"]).len(), 20);
    assert_eq!(ids(&whole["prompt_tokens"]).len(), 9);
    let stats = &whole["stats"];
    assert_eq!((&stats["prompt_tokens"], &stats["generated_tokens"]), (&9.into(), &20.into()));
    for name in ["load_s", "prefill_tok_s", "decode_tok_s", "first_token_s", "start_to_first_token_s"] {
        assert!(stats[name].as_f64().expect(name) > 0.0, "{name}");
    }

    // " girl named Emma who loved to play in the sun. ..."
    let text = whole["text"].as_str().expect("a text");
    assert!(text.starts_with(" girl named Emma who"), "{text}");
    let stopped =
        result(&["-n", "20", "--stop", "xyz", "--stop", "mma wh", "Once upon a time, there was a little"]);
    assert_eq!((&stopped["finish"], &stopped["text"]), (&"stop".into(), &" girl named E".into()));
    let none = result(&["-n", "0", "Once upon a time, there was a little"]);
    assert_eq!((&none["finish"], &none["text"]), (&"max_tokens".into(), &"".into()));
    let ended = result(&["-n", "40", "The capital of France is"]);
    assert_eq!(ended["finish"], "end");
    let full = result(&["-c", "12", "Once upon a time, there was a little"]);
    assert_eq!((&full["finish"], ids(&full["tokens"]).len()), (&"context_full".into(), 4));
}

#[test]
fn statistics_go_to_standard_error() {
    let mut command = rz();
    command.args(["run", "--stats", "--seed", "123", "-n", "3", "-t", "2", "Hi!", "-m"]).arg(model());
    let output = output(command, b"");
    let stats = String::from_utf8(output.stderr).expect("text");
    for word in ["loading", "prompt ", "tokens/s", "first token", "2 threads", "123"] {
        assert!(stats.contains(word), "{word}: {stats}");
    }
    assert!(!String::from_utf8_lossy(&output.stdout).contains("tokens/s"));
}

#[test]
fn seeds_are_random_unless_given() {
    let folder = tempfile::tempdir().expect("a folder");
    let tiny = TinyLlama::default().write(folder.path());
    let seed = || {
        let fixed = ["run", "--json", "--no-template", "-n", "1", "a"].map(OsStr::new);
        json(fixed.into_iter().chain(with_model(&tiny)))["seed"].clone()
    };
    assert_ne!(seed(), seed());
}

#[test]
fn a_model_without_template_continues_the_prompt() {
    let folder = tempfile::tempdir().expect("a folder");
    let tiny = TinyLlama::default().write(folder.path());
    let run = |more: &[&str]| {
        let mut command = rz();
        command.args(["run", "--greedy", "-n", "5", "-m"]).arg(&tiny).args(more).arg("a b");
        let output = output(command, b"");
        assert!(output.status.success(), "{output:?}");
        (output.stdout, String::from_utf8(output.stderr).expect("text"))
    };
    let (plain, note) = run(&[]);
    assert!(note.starts_with("note: the model has no chat template"), "{note}");
    assert_eq!(run(&["--no-template"]), (plain, String::new()));
}

fn chat(more: &[&str], input: &str) -> (String, String) {
    let mut command = rz();
    command.args(["chat", "--greedy", "-n", COUNT, "-m"]).arg(model()).args(more);
    let output = output(command, input.as_bytes());
    assert!(output.status.success(), "{output:?}");
    (String::from_utf8(output.stdout).expect("text"), String::from_utf8(output.stderr).expect("text"))
}

#[test]
fn a_conversation_goes_on_from_what_was_said() {
    let (first, _) = chat(&[], "My name is Ada.\n");
    assert_eq!(first.trim_end(), answer(&["My name is Ada."], "").trim_end());
    let (both, stats) = chat(&["--stats"], "My name is Ada.\n\nWhat is two and two?\n");
    assert!(both.starts_with(&first) && both.len() > first.len(), "{both}");
    assert!(stats.contains("from the cache"), "{stats}");
    // A turn is the template of all that was said before, with the same answer to it.
    let written = format!(
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\nMy name is Ada.<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n\
         <|im_start|>user\nWhat is two and two?<|im_end|>\n<|im_start|>assistant\n",
        first.strip_suffix('\n').expect("a line")
    );
    assert_eq!(both[first.len()..].trim_end(), answer(&["--no-template", &written], "").trim_end());
}

#[test]
fn commands_of_a_conversation() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("talk.json");
    let name = file.to_str().expect("a path");
    let (once, _) = chat(&[], "Say one word.\n");
    let input = format!(
        "Say one word.\n/save {name}\n/reset\nSay one word.\n/help\n/save {name}\n/quit\nnever read\n"
    );
    let (twice, notes) = chat(&[], &input);
    assert_eq!(twice, once.repeat(2));
    assert!(notes.contains("/system TEXT") && notes.contains("saved to"), "{notes}");
    let saved: Value =
        serde_json::from_str(&std::fs::read_to_string(&file).expect("the file")).expect("JSON");
    assert_eq!(saved[0], serde_json::json!({ "role": "user", "content": "Say one word." }));
    assert_eq!((&saved[1]["role"], saved.as_array().expect("messages").len()), (&"assistant".into(), 2));

    let (terse, _) = chat(&["--system", "Be terse."], "Hi!\n");
    assert_eq!(chat(&[], "/system Be terse.\nHi!\n").0, terse);
    assert_eq!(chat(&[], "\"\"\"Hi!\n\"\"\"\n").0, chat(&[], "Hi!\n").0);
    assert_eq!(chat(&[], "a\\\nb\n").0, chat(&[], "\"\"\"\na\nb\n\"\"\"\n").0);
    assert_eq!(chat(&[], "").0, "");

    // Another conversation does not write over the file.
    let mut command = rz();
    command.args(["chat", "-m"]).arg(model());
    let message = common::refusal(command, format!("/save {name}\n").as_bytes());
    assert!(message.contains("talk.json"), "{message}");
    assert!(std::fs::read_to_string(&file).expect("the file").contains("Say one word."));
}

#[test]
fn answers_are_what_they_must_be() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("a path").to_owned()
    };
    let schema = r#"{"type": "object", "properties": {"city": {"type": "string", "maxLength": 20},
        "people": {"type": "integer", "minimum": 1, "maximum": 99}}, "required": ["city", "people"],
        "additionalProperties": false}"#;
    let file = write("city.json", schema);
    for given in [schema, &file] {
        let whole = result(&["-n", "60", "--json-schema", given, "About Paris:"]);
        let value: Value = serde_json::from_str(whole["text"].as_str().expect("text")).expect("JSON");
        assert!(value["city"].is_string() && (1..=99).contains(&value["people"].as_i64().expect("a number")));
        assert_eq!(whole["finish"], "complete");
    }
    // Nothing is allowed that the expression does not match, however unlikely the rest is.
    let number = result(&["--regex", "[0-9]{3}-[0-9]{4}", "My number is"]);
    let text = number["text"].as_str().expect("text");
    assert!(text.len() == 8 && text.as_bytes()[3] == b'-', "{text}");
    let choice = result(&["--choice", "zebra", "--choice", "quark", "The capital of France is"]);
    assert!(["zebra", "quark"].contains(&choice["text"].as_str().expect("text")), "{choice}");
    for (name, grammar) in [
        ("g.lark", "start: \"<\" (/[a-z]{2}/ | start) \">\""),
        ("g.gbnf", "root ::= \"<\" ([a-z]{2} | root) \">\""),
    ] {
        let whole = result(&["-n", "40", "--grammar-file", &write(name, grammar), "Tag:"]);
        let text = whole["text"].as_str().expect("text");
        assert!(text.starts_with('<'), "{text}");
        if whole["finish"] == "complete" {
            assert_eq!(text.matches('<').count(), text.matches('>').count(), "{text}");
        }
    }
    // What is cut is the beginning of what it would have been.
    let whole = result(&["-n", "60", "--json-schema", schema, "About Paris:"]);
    let mut command = rz();
    command.args(["run", "--greedy", "--no-template", "-n", "5", "--json-schema", schema, "About Paris:"]);
    command.args(with_model(&model()));
    let cut = output(command, b"");
    assert!(
        whole["text"].as_str().expect("text").starts_with(String::from_utf8_lossy(&cut.stdout).trim_end())
    );
    assert!(String::from_utf8_lossy(&cut.stderr).contains("not complete"), "{cut:?}");
}

#[test]
fn constraints_that_cannot_be_used_are_refused() {
    for (arguments, named) in [
        (&["--regex", "("][..], "the regular expression cannot be used"),
        (&["--json-schema", "{\"type\": 5}"], "the JSON schema cannot be used"),
        (&["--json-schema", "{\"type\": "], "--json-schema is not JSON"),
        (&["--json-schema", "/no/such/file.json"], "/no/such/file.json"),
        (&["--grammar-file", "/no/such/file.gbnf"], "/no/such/file.gbnf"),
        (&["--regex", "a", "--choice", "b"], "cannot be used with"),
        (&["--regex", "(?<=a)b"], "the regular expression cannot be used"),
        (&["--choice", ""], "a choice is empty"),
    ] {
        let mut command = rz();
        command.args(["run", "Hi"]).args(arguments).args(with_model(&model()));
        let output = output(command, b"");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(named), "{arguments:?}: {said}");
    }
}
