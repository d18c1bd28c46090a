//! Anthropic's messages.

use rz_server::{Config, Finish};
use serde_json::{Value, json};

use crate::fake::{Script, TEMPLATE, THINKING, server, server_with};

const PATH: &str = "/v1/messages";

fn hello() -> Value {
    json!({ "model": "tiny", "max_tokens": 10, "messages": [{ "role": "user", "content": "Hi" }] })
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

#[tokio::test]
async fn an_answer_is_a_message() {
    let server = server(&["Hello", " there"]);
    let body =
        server.ask(PATH, with(hello(), "system", json!([{ "type": "text", "text": "Be brief." }]))).await;
    assert_eq!(
        (&body["type"], &body["role"], &body["stop_reason"]),
        (&json!("message"), &json!("assistant"), &json!("end_turn"))
    );
    assert_eq!(body["content"], json!([{ "type": "text", "text": "Hello there" }]));
    let prompt = server.model.jobs.lock().unwrap()[0].prompt.len();
    assert_eq!(
        (&body["usage"]["input_tokens"], &body["usage"]["cache_read_input_tokens"]),
        (&json!(prompt - 3), &json!(3))
    );
    assert_eq!(body["usage"]["output_tokens"], 2);
    assert_eq!(server.model.prompt(0), "[system]Be brief.\n[user]Hi\n[assistant]");
}

#[tokio::test]
async fn stops_are_told_apart() {
    for (finish, reason, sequence) in [
        (Finish::Length, "max_tokens", Value::Null),
        (Finish::StopString("END".into()), "stop_sequence", json!("END")),
        (Finish::Stop, "end_turn", Value::Null),
    ] {
        let server = server_with(TEMPLATE, Script::End(vec!["x"], finish), Config::default());
        let body = server.ask(PATH, with(hello(), "stop_sequences", json!(["END"]))).await;
        assert_eq!((&body["stop_reason"], &body["stop_sequence"]), (&json!(reason), &sequence));
    }
}

#[tokio::test]
async fn a_stream_has_blocks() {
    let pieces = vec![
        "<think>hm</think>",
        "Look: ",
        "<tool_call>{\"name\": \"f\", \"arguments\": ",
        "{\"a\": 1}}</tool_call>",
    ];
    let server = server_with(&format!("{TEMPLATE}{{# <think> #}}"), Script::Say(pieces), Config::default());
    let tools = json!([{ "name": "f", "input_schema": { "type": "object" } }]);
    let body = with(with(hello(), "tools", tools), "stream", json!(true));
    let answer = server.post(PATH, &body).await;
    let events = answer.values();
    for (event, line) in events.iter().zip(answer.text.lines().filter(|line| line.starts_with("event: "))) {
        assert_eq!(line, format!("event: {}", event["type"].as_str().unwrap()));
    }
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], *kinds.last().unwrap()), ("message_start", "message_stop"));
    assert!(events[0]["message"]["usage"]["input_tokens"].as_u64().unwrap() > 0);
    let starts: Vec<_> = events.iter().filter(|event| event["type"] == "content_block_start").collect();
    let blocks: Vec<_> =
        starts.iter().map(|start| start["content_block"]["type"].as_str().unwrap()).collect();
    assert_eq!(blocks, ["thinking", "text", "tool_use"]);
    let indices: Vec<_> = starts.iter().map(|start| start["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [0, 1, 2]);
    let deltas = |kind: &str, field: &str| -> String {
        let deltas = events.iter().filter(|event| event["delta"]["type"] == kind);
        deltas.map(|event| event["delta"][field].as_str().unwrap()).collect()
    };
    assert_eq!(deltas("thinking_delta", "thinking"), "hm");
    assert_eq!(deltas("text_delta", "text"), "Look:");
    assert_eq!(deltas("input_json_delta", "partial_json"), "{\"a\": 1}");
    let end = events.iter().find(|event| event["type"] == "message_delta").unwrap();
    assert_eq!(
        (&end["delta"]["stop_reason"], &end["usage"]["output_tokens"]),
        (&json!("tool_use"), &json!(4))
    );
}

#[tokio::test]
async fn conversations_with_tools_are_understood() {
    let server = server(&["<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>"]);
    let messages = json!([
        { "role": "user", "content": "Go" },
        { "role": "assistant", "content": [
            { "type": "thinking", "thinking": "hm", "signature": "" },
            { "type": "text", "text": "Calling." },
            { "type": "tool_use", "id": "t1", "name": "f", "input": { "x": 2 } },
        ] },
        { "role": "user", "content": [
            { "type": "tool_result", "tool_use_id": "t1", "content": [{ "type": "text", "text": "ok" }] },
            { "type": "text", "text": "and now?" },
        ] },
    ]);
    let tools = json!([{ "name": "f", "description": "d", "input_schema": { "type": "object" } }]);
    let body = server.ask(PATH, with(with(hello(), "messages", messages), "tools", tools)).await;
    assert_eq!(body["stop_reason"], "tool_use");
    assert_eq!(
        (&body["content"][0]["type"], &body["content"][0]["input"]),
        (&json!("tool_use"), &json!({ "a": 1 }))
    );
    let prompt = server.model.prompt(0);
    assert!(
        prompt.ends_with(
            "[user]Go\n[assistant](hm)Calling.<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 2}}</tool_call>\n\
             [tool]ok\n[user]and now?\n[assistant]"
        ),
        "{prompt}"
    );
}

#[tokio::test]
async fn an_answer_can_be_begun() {
    let server = server_with(THINKING, Script::Say(vec![" 42"]), Config::default());
    let messages = json!([{ "role": "user", "content": "?" }, { "role": "assistant", "content": "It is" }]);
    server.ask(PATH, with(hello(), "messages", messages)).await;
    assert_eq!(server.model.prompt(0), "[user]?\n[assistant]It is");
}

#[tokio::test]
async fn an_answer_can_be_held_to_a_schema() {
    let server = server(&["{}"]);
    let schema = json!({ "type": "object" });
    let output = json!({ "effort": "low", "format": { "type": "json_schema", "schema": schema } });
    server.ask(PATH, with(hello(), "output_config", output)).await;
    assert_eq!(server.model.generate(0).constraint, Some(rz_server::ConstraintSpec::JsonSchema(schema)));
    let wrong =
        server.post(PATH, &with(hello(), "output_config", json!({ "format": { "type": "xml" } }))).await;
    assert!(wrong.status == 400 && wrong.text.contains("output_config.format.type"), "{}", wrong.text);
}

#[tokio::test]
async fn tokens_are_counted_without_an_answer() {
    let server = server(&["x"]);
    let body = server
        .ask("/v1/messages/count_tokens", json!({ "model": "tiny", "messages": hello()["messages"] }))
        .await;
    assert!(server.model.jobs.lock().unwrap().is_empty());
    server.ask(PATH, hello()).await;
    assert_eq!(body["input_tokens"], server.model.jobs.lock().unwrap()[0].prompt.len());
}

#[tokio::test]
async fn what_is_missing_or_not_supported_is_refused() {
    let server = server(&["x"]);
    for (name, value) in [
        ("max_tokens", Value::Null),
        ("model", Value::Null),
        ("messages", json!([])),
        ("messages", json!([{ "role": "system", "content": "x" }])),
        ("messages", json!([{ "role": "user", "content": [{ "type": "image", "source": {} }] }])),
        ("tools", json!([{ "type": "bash_20250124", "name": "bash" }])),
        ("tool_choice", json!({ "type": "any" })),
        ("mcp_servers", json!([])),
        ("max_tokens", json!(0)),
    ] {
        let answer = server.post(PATH, &with(hello(), name, value.clone())).await;
        assert_eq!(answer.status, 400, "{name} {value}: {}", answer.text);
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
        assert!(answer.text.contains(name.split('_').next().unwrap()), "{name}: {}", answer.text);
    }
}
