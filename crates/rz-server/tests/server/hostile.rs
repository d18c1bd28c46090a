//! Requests that mean harm: each gets an answer that says what is wrong, and nothing reaches the model.

use serde_json::{Value, json};

use crate::fake::server;

/// A good request for each route that answers with a model.
pub fn good() -> Vec<(&'static str, Value)> {
    let messages = json!([{ "role": "user", "content": "Hi" }]);
    vec![
        ("/v1/chat/completions", json!({ "model": "tiny", "messages": messages })),
        ("/v1/completions", json!({ "model": "tiny", "prompt": "Hi" })),
        ("/v1/embeddings", json!({ "model": "tiny", "input": "Hi" })),
        ("/v1/responses", json!({ "model": "tiny", "input": "Hi" })),
        ("/v1/messages", json!({ "model": "tiny", "max_tokens": 5, "messages": messages })),
        ("/api/chat", json!({ "model": "tiny", "stream": false, "messages": messages })),
        ("/api/generate", json!({ "model": "tiny", "stream": false, "prompt": "Hi" })),
        ("/api/embed", json!({ "model": "tiny", "input": "Hi" })),
        ("/completion", json!({ "model": "tiny", "prompt": "Hi" })),
        ("/tokenize", json!({ "model": "tiny", "content": "Hi" })),
        ("/detokenize", json!({ "model": "tiny", "tokens": [5] })),
        ("/apply-template", json!({ "model": "tiny", "messages": messages })),
        ("/embedding", json!({ "model": "tiny", "content": "Hi" })),
    ]
}

#[tokio::test]
async fn the_good_requests_are_good() {
    let server = server(&["x"]);
    for (path, body) in good() {
        server.ask(path, body).await;
    }
}

#[tokio::test]
async fn every_field_of_a_wrong_kind_is_refused_by_its_name() {
    let server = server(&["x"]);
    server.ask("/v1/chat/completions", good()[0].1.clone()).await;
    let before = server.model.jobs.lock().unwrap().len();
    for (path, body) in good() {
        let fields: Vec<String> = body.as_object().unwrap().keys().cloned().collect();
        for field in fields {
            for value in [json!({ "a": 1 }), json!(-1.5), json!([[[]]])] {
                let mut body = body.clone();
                body[&field] = value.clone();
                let answer = server.post(path, &body).await;
                assert_eq!(answer.status, 400, "{path} {field} {value}: {}", answer.text);
                assert!(answer.text.contains(&field), "{path} {field} {value}: {}", answer.text);
            }
        }
        let mut body = body.clone();
        body["no_such_parameter"] = json!(1);
        let answer = server.post(path, &body).await;
        assert!(answer.status == 400 && answer.text.contains("no_such_parameter"), "{path}: {}", answer.text);
    }
    assert_eq!(server.model.jobs.lock().unwrap().len(), before);
}

#[tokio::test]
async fn what_others_have_tried_is_refused() {
    let server = server(&["x"]);
    server.ask("/v1/chat/completions", good()[0].1.clone()).await;
    let before = server.model.jobs.lock().unwrap().len();
    let deep = (0..200).fold(json!({}), |inner, _| json!({ "items": inner }));
    let deep_schema = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": deep } });
    let long = "word ".repeat(5000);
    let chat = [
        ("n", json!(1_000_000)),
        ("n", json!(0)),
        ("max_tokens", json!(-5)),
        ("max_tokens", json!(1_000_000_000_000_i64)),
        ("max_tokens", json!("many")),
        ("messages", json!([])),
        ("messages", json!([{}])),
        ("messages", json!([{ "role": "wizard", "content": "x" }])),
        ("messages", json!([{ "role": "user" }])),
        ("messages", json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] }])),
        ("messages", json!([{ "role": "user", "content": long }])),
        (
            "messages",
            json!([{ "role": "assistant", "content": null, "tool_calls": [
            { "type": "function", "function": { "name": "f", "arguments": "{not json" } }
        ] }]),
        ),
        (
            "messages",
            json!([{ "role": "assistant", "content": null, "tool_calls": [
            { "type": "function", "function": { "name": "f", "arguments": "[1]" } }
        ] }]),
        ),
        ("temperature", json!(1e300)),
        ("temperature", json!(-0.1)),
        ("top_p", json!(2)),
        ("seed", json!(1.5)),
        ("stop", json!([""])),
        ("stop", json!("x".repeat(10_000))),
        ("logit_bias", json!({ "99999": 1 })),
        ("logit_bias", json!({ "-1": 1 })),
        ("response_format", deep_schema),
        ("response_format", json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": "no" } })),
        ("guided_regex", json!("a".repeat(300_000))),
        ("tools", json!([{ "type": "function", "function": { "name": "../../etc/passwd" } }])),
        ("tools", json!([{ "type": "function", "function": { "name": "f", "parameters": 3 } }])),
        ("tools", json!([{ "type": "code_interpreter" }])),
        ("tool_choice", json!("always")),
        ("chat_template_kwargs", json!({ "messages": [] })),
        ("chat_template_kwargs", json!({ "raise_exception": 1 })),
        ("chat_template_kwargs", json!({ "__class__": 1 })),
        ("top_logprobs", json!(21)),
        ("logprobs", json!(3)),
        ("stream_options", json!({ "include_usage": true })),
        ("functions", json!([])),
        ("audio", json!({})),
        ("store", json!(true)),
        ("prediction", json!({})),
        ("presence_penalty", json!("high")),
    ];
    for (name, value) in chat {
        let mut body = good()[0].1.clone();
        body[name] = value.clone();
        let answer = server.post("/v1/chat/completions", &body).await;
        let shown: String = value.to_string().chars().take(80).collect();
        assert_eq!(answer.status, 400, "{name} {shown}: {}", answer.text);
        let error = answer.json()["error"].clone();
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty() && text.len() < 1000));
        assert_eq!(error["type"], "invalid_request_error");
    }
    assert_eq!(server.model.jobs.lock().unwrap().len(), before);
}

/// An error as OpenAI's clients read it, or as those of the other families do.
fn is_error_object(path: &str, answer: &crate::fake::Answer) -> bool {
    let body = answer.json();
    let message = match path.starts_with("/api/") {
        true => &body["error"],
        false => &body["error"]["message"],
    };
    message.as_str().is_some_and(|text| !text.is_empty() && text.len() < 1000 && !text.contains('\n'))
}

/// Whether a schema allows a value, as far as its own type says; nothing when that is not said.
fn allows(schema: &Value, value: &Value) -> Option<bool> {
    let name = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is = |kind: &Value| kind == name || (kind == "number" && name == "integer");
    match &schema["type"] {
        Value::Null => None,
        Value::Array(kinds) => Some(kinds.iter().any(is)),
        kind => Some(is(kind)),
    }
}

#[tokio::test]
async fn every_parameter_of_every_route_withstands_every_kind_of_value() {
    let server = server(&["x"]);
    let document = server.get("/openapi.json").await.json();
    let values = [
        json!(true),
        json!(-1),
        json!(-1.5),
        json!(1e308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!("\u{0}\u{202e}\u{ffff}"),
        json!("NaN"),
        json!([]),
        json!([[[null]]]),
        json!({ "$": 1 }),
    ];
    let mut refused = 0;
    for (path, good) in good() {
        let pointer = format!(
            "/paths/{}/post/requestBody/content/application~1json/schema/$ref",
            path.replace('/', "~1")
        );
        let reference =
            document.pointer(&pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{path}"));
        let schema = document.pointer(reference.trim_start_matches('#')).unwrap();
        for (name, schema) in schema["properties"].as_object().unwrap() {
            for value in &values {
                let mut body = good.clone();
                body[name] = value.clone();
                let answer = server.post(path, &body).await;
                let status = answer.status.as_u16();
                assert!(
                    status == 200 || (400..500).contains(&status),
                    "{path} {name} {value}: {}",
                    answer.text
                );
                assert!(
                    status == 200 || is_error_object(path, &answer),
                    "{path} {name} {value}: {}",
                    answer.text
                );
                if allows(schema, value) == Some(false) {
                    assert_eq!(status, 400, "{path} {name} {value}: {}", answer.text);
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 500, "{refused}");
}

#[tokio::test]
async fn what_asks_for_nothing_is_refused() {
    let server = server(&["x"]);
    for (path, body) in [
        ("/v1/chat/completions", json!({ "messages": [] })),
        ("/v1/chat/completions", json!({})),
        ("/v1/completions", json!({ "prompt": "" })),
        ("/v1/completions", json!({ "prompt": [] })),
        ("/v1/completions", json!({ "prompt": [""] })),
        ("/v1/completions", json!({ "prompt": [[]] })),
        ("/v1/completions", json!({})),
        ("/v1/embeddings", json!({ "input": "" })),
        ("/v1/embeddings", json!({ "input": [] })),
        ("/v1/embeddings", json!({ "input": [""] })),
        ("/v1/responses", json!({ "input": [] })),
        ("/v1/responses", json!({ "input": "" })),
        ("/v1/messages", json!({ "model": "tiny", "max_tokens": 5, "messages": [] })),
        ("/api/embed", json!({ "model": "tiny", "input": "" })),
        ("/completion", json!({ "prompt": "" })),
        ("/completion", json!({ "prompt": [] })),
        ("/embedding", json!({ "content": "" })),
    ] {
        let answer = server.post(path, &body).await;
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text);
        assert!(is_error_object(path, &answer), "{path} {body}: {}", answer.text);
    }
    assert!(server.model.jobs.lock().unwrap().is_empty());
}

#[tokio::test]
async fn numbers_that_are_none_are_refused() {
    let server = server(&["x"]);
    let good = good()[0].1.to_string();
    for name in ["temperature", "top_p", "n", "max_tokens", "seed", "presence_penalty", "top_logprobs"] {
        for number in [
            "NaN",
            "Infinity",
            "-Infinity",
            "nan",
            "1e999",
            "-1e999",
            "0x10",
            "1_000",
            "+1",
            "\"NaN\"",
            "\"1\"",
            "1e400",
        ] {
            let body = good.replacen('{', &format!("{{\"{name}\": {number}, "), 1);
            let answer = server.post_text("/v1/chat/completions", body).await;
            assert_eq!(answer.status, 400, "{name} {number}: {}", answer.text);
            assert!(is_error_object("/v1", &answer));
        }
    }
}

#[tokio::test]
async fn names_of_models_lead_nowhere() {
    let mut config = rz_server::Config::default();
    config.manage_models = true;
    let server = crate::fake::server_with(crate::fake::TEMPLATE, crate::fake::Script::Say(vec!["x"]), config);
    let long = "x".repeat(100_000);
    for name in [
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        "tiny/../../x",
        "tiny\0",
        "file:///etc/passwd",
        "\u{202e}",
        &long,
    ] {
        for (path, mut body) in good() {
            body["model"] = json!(name);
            let answer = server.post(path, &body).await;
            assert!(matches!(answer.status.as_u16(), 400 | 404), "{path} {}", answer.text);
            assert!(is_error_object(path, &answer), "{path}: {}", answer.text);
        }
        let shown = server.post("/api/show", &json!({ "model": name })).await;
        assert!(matches!(shown.status.as_u16(), 400 | 404), "{}", shown.text);
    }
    for path in [
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/v1/models/%2fetc%2fpasswd",
        "/props?model=..%2f..",
        "/slots?model=%00",
    ] {
        let answer = server.get(path).await;
        assert!(answer.status == 404 && is_error_object(path, &answer), "{path}: {}", answer.text);
    }
}

#[tokio::test]
async fn random_json_never_breaks_a_route() {
    let server = server(&["x"]);
    let mut state = 7u64;
    let mut next = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(1e308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(""),
        json!("x"),
        json!("\u{0}\u{202e}"),
        json!([]),
        json!([null]),
        json!([1, "a", {}]),
        json!({}),
        json!({ "type": "text" }),
        json!({ "role": "user", "content": "x" }),
        json!([{ "role": "user", "content": "x" }]),
        json!(["a", "b"]),
    ];
    let names = [
        "model",
        "messages",
        "prompt",
        "input",
        "content",
        "tokens",
        "stream",
        "n",
        "max_tokens",
        "stop",
        "tools",
        "tool_choice",
        "options",
        "format",
        "system",
        "seed",
        "temperature",
        "logit_bias",
        "response_format",
        "instructions",
        "think",
        "keep_alive",
        "text",
        "reasoning",
        "metadata",
        "thinking",
        "stop_sequences",
        "n_predict",
        "n_probs",
        "echo",
        "logprobs",
    ];
    let paths: Vec<_> = good().into_iter().chain([("/api/show", json!({ "model": "tiny" }))]).collect();
    for _ in 0..3000 {
        let (path, mut body) = paths[next(paths.len() as u64) as usize].clone();
        for _ in 0..=next(3) {
            body[names[next(names.len() as u64) as usize]] =
                values[next(values.len() as u64) as usize].clone();
        }
        let answer = server.post(path, &body).await;
        assert!(answer.status.as_u16() < 500, "{path} {body}: {} {}", answer.status, answer.text);
    }
}
