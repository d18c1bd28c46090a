//! The server as a process: over a real socket, with the real model.
#![cfg(feature = "serve")]

mod common;

use std::io::Read;
use std::net::TcpListener;
use std::process::Command;

use common::server::{start, start_by};
use common::{json, model, refusal, rz};
use serde_json::{Value, json};

#[test]
fn answers_are_those_of_rz_run() {
    let file = model();
    let file = file.to_str().expect("a path");
    let prompt = "Name three colours.";
    let direct = json(["run", "-m", file, "--greedy", "-n", "24", "--json", prompt]);
    let mut server = start(&["-m", file, "--alias", "other-name"]);

    let messages = json!([{ "role": "user", "content": prompt }]);
    let body = json!({ "model": "other-name", "messages": messages, "temperature": 0, "max_tokens": 24 });
    let chat = server.ask("/v1/chat/completions", &body);
    assert_eq!(chat["choices"][0]["message"]["content"], direct["text"]);
    assert_eq!(chat["usage"]["prompt_tokens"], direct["prompt_tokens"].as_array().expect("ids").len());

    // The same conversation in the other families' words.
    let anthropic =
        json!({ "model": "other-name", "messages": messages, "temperature": 0, "max_tokens": 24 });
    assert_eq!(server.ask("/v1/messages", &anthropic)["content"][0]["text"], direct["text"]);
    let ollama = json!({ "model": "other-name", "messages": messages, "stream": false,
                         "options": { "temperature": 0, "num_predict": 24 } });
    assert_eq!(server.ask("/api/chat", &ollama)["message"]["content"], direct["text"]);
    let responses = json!({ "input": prompt, "temperature": 0, "max_output_tokens": 24 });
    assert_eq!(server.ask("/v1/responses", &responses)["output"][0]["content"][0]["text"], direct["text"]);
    let template = server.ask("/apply-template", &json!({ "messages": messages }));
    let llama = json!({ "prompt": template["prompt"], "temperature": 0, "n_predict": 24 });
    assert_eq!(server.ask("/completion", &llama)["content"], direct["text"]);

    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let (status, events) = server.send("POST", "/v1/chat/completions", "", &streamed.to_string());
    assert_eq!(status, 200);
    let text: String = events
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok())
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(text, direct["text"].as_str().expect("text"));

    let vector = server.ask("/v1/embeddings", &json!({ "input": prompt }));
    let vector = vector["data"][0]["embedding"].as_array().expect("numbers");
    let length: f64 = vector.iter().map(|number| number.as_f64().expect("a number").powi(2)).sum();
    assert!(vector.len() > 100 && (length - 1.0).abs() < 1e-3, "{length}");

    let (status, health) = server.send("GET", "/health", "", "");
    assert_eq!((status, health.as_str()), (200, "{\"status\":\"ok\"}"));
    assert_eq!(server.send("GET", "/health", "host: evil.example\r\n", "").0, 400, "two hosts");

    #[cfg(unix)]
    {
        let sent = Command::new("kill").args(["-s", "TERM", &server.child.id().to_string()]).status();
        assert!(sent.expect("kill can be started").success());
        assert!(server.child.wait().expect("an end").success());
        let mut rest = String::new();
        server.out.read_to_string(&mut rest).expect("text");
        assert!(rest.is_empty(), "{rest}");
    }
}

#[test]
fn many_at_once_get_what_each_gets_alone() {
    let file = model();
    let server = start(&["-m", file.to_str().expect("a path")]);
    let body = |index: usize| {
        let content = format!("Count upwards from {}.{}", index * 7, " Please.".repeat(index * 3));
        json!({ "messages": [{ "role": "user", "content": content }], "temperature": 0, "max_tokens": 12 })
    };
    let text = |answer: Value| answer["choices"][0]["message"]["content"].as_str().expect("text").to_owned();
    let together: Vec<String> = std::thread::scope(|scope| {
        let server = &server;
        let asking: Vec<_> = (0..12)
            .map(|index| scope.spawn(move || text(server.ask("/v1/chat/completions", &body(index)))))
            .collect();
        asking.into_iter().map(|asked| asked.join().expect("an answer")).collect()
    });
    for (index, answer) in together.iter().enumerate() {
        assert_eq!(*answer, text(server.ask("/v1/chat/completions", &body(index))), "{index}");
    }
    // The beginning of a prompt that was computed before is not computed again.
    let again = server.ask("/v1/chat/completions", &body(11));
    assert!(
        again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number") > 0,
        "{again}"
    );
}

#[test]
fn keys_are_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("keys");
    std::fs::write(&keys, "# test\nsecret-key\n").expect("a file");
    let file = model();
    let server = start(&[
        "-m",
        file.to_str().expect("a path"),
        "--lazy",
        "--api-key-file",
        keys.to_str().expect("a path"),
    ]);
    assert_eq!(server.send("GET", "/v1/models", "", "").0, 401);
    let (status, models) = server.send("GET", "/v1/models", "authorization: Bearer secret-key\r\n", "");
    assert!(status == 200 && models.contains("SmolLM2-135M-Instruct"), "{models}");
}

#[cfg(unix)]
#[test]
fn a_folder_with_one_file_is_a_model() {
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink(model(), folder.path().join("weights.gguf")).expect("a link");
    let named = format!("mine={}", folder.path().display());
    let server = start(&[&named, "--lazy"]);
    let body = json!({ "model": "mine", "prompt": "One, two,", "max_tokens": 2, "temperature": 0 });
    assert_eq!(server.ask("/v1/completions", &body)["usage"]["completion_tokens"], 2);
    // Also where its name looks like that of a model.
    let mut command = rz();
    command.current_dir(folder.path().parent().expect("a folder around it"));
    let name = folder.path().file_name().and_then(|name| name.to_str()).expect("a name");
    let server = start_by(command, &[&format!("mine={name}"), "--lazy"]);
    assert!(server.send("GET", "/v1/models/mine", "", "").0 == 200);
    std::os::unix::fs::symlink(model(), folder.path().join("others.gguf")).expect("a link");
    let mut command = rz();
    command.args(["serve", &named]);
    assert!(refusal(command, b"").contains("2 models"));
}

#[test]
fn wrong_flags_are_refused_before_anything_is_loaded() {
    let file = model();
    let file = file.to_str().expect("a path");
    let refused = |arguments: &[&str]| {
        let mut command = rz();
        command.arg("serve").args(arguments);
        refusal(command, b"")
    };
    assert!(refused(&["-m", "/nowhere/model.gguf"]).contains("nowhere"));
    assert!(refused(&["-m", file, "--api-key-file", "/nowhere/keys"]).contains("keys"));
    assert!(refused(&["-m", file, "--cors-origin", "app.example"]).contains("origin"));
    assert!(
        refused(&["-m", file, "--alias", "x", &format!("x={file}")]).contains("two models are called 'x'")
    );
    assert!(refused(&[&format!("a={file}"), &format!("a={file}")]).contains("two models are called 'a'"));
    assert!(refused(&["-m", file, "--tls-cert", file, "--tls-key", file]).contains("certificate"));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let port = taken.local_addr().expect("its address").port().to_string();
    let mut command = rz();
    command.args(["serve", "-m", file, "--port", &port]);
    let ended = command.output().expect("rz can be started");
    let error = String::from_utf8(ended.stderr).expect("text");
    assert!(ended.status.code() == Some(1) && error.contains("give another --port"), "{error}");
}

/// Who starts a server that can never answer sees it end, and why; with --lazy, each request is told.
#[test]
fn a_server_none_of_whose_models_can_be_loaded_ends() {
    let file = model();
    let file = file.to_str().expect("a path");
    let (one, two) = (format!("one={file}"), format!("two={file}"));
    let mut command = rz();
    command.args(["serve", &one, &two, "--port", "0", "--kv-memory", "1", "--log-level", "off"]);
    let ended = command.output().expect("rz can be started");
    let error = String::from_utf8(ended.stderr).expect("text");
    assert_eq!(ended.status.code(), Some(1), "{error}");
    let last = error.lines().last().expect("a line");
    assert!(
        last.starts_with("error: the model 'one' cannot be loaded: 1 bytes for keys and values"),
        "{error}"
    );

    let server = start(&[&one, "--lazy", "--kv-memory", "1"]);
    assert_eq!(server.send("GET", "/health", "", "").0, 200);
    let (status, answer) = server.send("POST", "/v1/completions", "", "{\"prompt\": \"x\"}");
    assert!(status == 503 && answer.contains("1 bytes for keys and values"), "{status} {answer}");
    assert_eq!(server.send("GET", "/health", "", "").0, 503);
}
