//! OpenAI's responses.

use rz_server::{Config, Finish};
use serde_json::{Value, json};

use crate::chat::until;
use crate::fake::{Script, Server, TEMPLATE, server, server_with};

const PATH: &str = "/v1/responses";

fn hello() -> Value {
    json!({ "model": "tiny", "input": "Hi" })
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

fn tools() -> Value {
    json!([{ "type": "function", "name": "f", "parameters": { "type": "object" } }])
}

async fn send(server: &Server, method: &str, path: &str) -> crate::fake::Answer {
    let request = axum::http::Request::builder().method(method).uri(path);
    server.send(request.body(axum::body::Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_response_has_items_and_is_kept() {
    let server = server(&["Hello", " there"]);
    let body = server
        .ask(PATH, with(with(hello(), "instructions", json!("Be brief.")), "metadata", json!({ "a": "b" })))
        .await;
    assert_eq!(
        (&body["object"], &body["status"], &body["model"]),
        (&json!("response"), &json!("completed"), &json!("tiny"))
    );
    let item = &body["output"][0];
    assert_eq!(
        (&item["type"], &item["role"], &item["status"]),
        (&json!("message"), &json!("assistant"), &json!("completed"))
    );
    assert_eq!(
        (&item["content"][0]["type"], &item["content"][0]["text"]),
        (&json!("output_text"), &json!("Hello there"))
    );
    assert_eq!(
        (&body["usage"]["output_tokens"], &body["usage"]["input_tokens_details"]["cached_tokens"]),
        (&json!(2), &json!(3))
    );
    assert_eq!(
        (&body["instructions"], &body["metadata"], &body["store"]),
        (&json!("Be brief."), &json!({ "a": "b" }), &json!(true))
    );
    assert_eq!(server.model.prompt(0), "[system]Be brief.\n[user]Hi\n[assistant]");

    let path = format!("{PATH}/{}", body["id"].as_str().unwrap());
    assert_eq!(server.get(&path).await.json(), body);
    // A cancelled end stays the end that it was.
    assert_eq!(send(&server, "POST", &format!("{path}/cancel")).await.json()["status"], "completed");
    assert_eq!(send(&server, "DELETE", &path).await.json()["deleted"], true);
    assert_eq!(server.get(&path).await.status, 404);
    let unkept = server.ask(PATH, with(hello(), "store", json!(false))).await;
    assert_eq!(server.get(&format!("{PATH}/{}", unkept["id"].as_str().unwrap())).await.status, 404);
}

#[tokio::test]
async fn a_conversation_goes_on_from_a_kept_response() {
    let server = server(&["ok"]);
    let first = server.ask(PATH, with(hello(), "instructions", json!("Be brief."))).await;
    let next = with(hello(), "previous_response_id", first["id"].clone());
    let second = server.ask(PATH, with(next, "input", json!([{ "role": "user", "content": "And?" }]))).await;
    assert_eq!(server.model.prompt(1), "[user]Hi\n[assistant]ok\n[user]And?\n[assistant]");
    assert_eq!(second["previous_response_id"], first["id"]);
    server.ask(PATH, with(hello(), "previous_response_id", second["id"].clone())).await;
    assert!(
        server.model.prompt(2).starts_with("[user]Hi\n[assistant]ok\n[user]And?\n[assistant]ok\n[user]Hi")
    );
    assert_eq!(
        server.post(PATH, &with(hello(), "previous_response_id", json!("resp_none"))).await.status,
        404
    );
}

#[tokio::test]
async fn a_stream_is_numbered_and_complete() {
    let pieces = vec![
        "<think>hm</think>",
        "Look",
        ": ",
        "<tool_call>{\"name\": \"f\", \"arguments\": ",
        "{\"a\": 1}}</tool_call>",
    ];
    let server = server_with(&format!("{TEMPLATE}{{# <think> #}}"), Script::Say(pieces), Config::default());
    let answer = server.post(PATH, &with(with(hello(), "stream", json!(true)), "tools", tools())).await;
    let events = answer.values();
    let numbers: Vec<_> = events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..2], ["response.created", "response.in_progress"]);
    let added: Vec<_> = events.iter().filter(|event| event["type"] == "response.output_item.added").collect();
    let items: Vec<_> = added.iter().map(|event| event["item"]["type"].as_str().unwrap()).collect();
    assert_eq!(items, ["reasoning", "message", "function_call"]);
    let deltas = |kind: &str| -> String {
        events
            .iter()
            .filter(|event| event["type"] == kind)
            .map(|event| event["delta"].as_str().unwrap())
            .collect()
    };
    assert_eq!(deltas("response.output_text.delta"), "Look:");
    assert_eq!(deltas("response.reasoning_text.delta"), "hm");
    assert_eq!(deltas("response.function_call_arguments.delta"), "{\"a\": 1}");
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.completed");
    let output = last["response"]["output"].as_array().unwrap();
    assert_eq!(
        (&output[1]["content"][0]["text"], &output[2]["arguments"]),
        (&json!("Look:"), &json!("{\"a\": 1}"))
    );
    let done: Vec<_> = events
        .iter()
        .filter(|event| event["type"] == "response.output_item.done")
        .map(|event| event["item"].clone())
        .collect();
    assert_eq!(done, *output);

    // The results of the call come as an item.
    let items = json!([
        { "role": "user", "content": [{ "type": "input_text", "text": "Go" }] },
        output[0], output[1], output[2],
        { "type": "function_call_output", "call_id": output[2]["call_id"], "output": "3" },
    ]);
    server.ask(PATH, with(with(hello(), "input", items), "tools", tools())).await;
    let prompt = server.model.prompt(1);
    let expected = "[user]Go\n[assistant]Look:<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>\n[tool]3\n[assistant]";
    assert!(prompt.ends_with(expected), "{prompt}");
}

#[tokio::test]
async fn an_end_before_the_end_is_incomplete() {
    let server = server_with(TEMPLATE, Script::End(vec!["Hel"], Finish::Length), Config::default());
    let body = server.ask(PATH, with(hello(), "max_output_tokens", json!(1))).await;
    assert_eq!(
        (&body["status"], &body["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    assert_eq!(body["output"][0]["status"], "incomplete");
    let broken = server_with(TEMPLATE, Script::Fail(vec!["Hel"]), Config::default());
    assert_eq!(broken.post(PATH, &hello()).await.status, 500);
    let events = broken.post(PATH, &with(hello(), "stream", json!(true))).await.values();
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["response"]["status"]), (&json!("response.failed"), &json!("failed")));
}

#[tokio::test]
async fn a_response_can_be_cancelled() {
    use axum::body::Body;
    use axum::http::Request;
    let server = server_with(TEMPLATE, Script::Hang(vec!["Hel"]), Config::default());
    let body = with(hello(), "stream", json!(true)).to_string();
    let request = Request::post(PATH).body(Body::from(body)).unwrap();
    let response = tower::ServiceExt::oneshot(server.routes.clone(), request).await.unwrap();
    let mut stream = response.into_body();
    let mut text = String::new();
    // Up to the first piece of the answer.
    while !text.contains("response.output_text.delta") {
        let frame = std::future::poll_fn(|context| {
            http_body::Body::poll_frame(std::pin::Pin::new(&mut stream), context)
        });
        text += std::str::from_utf8(&frame.await.unwrap().unwrap().into_data().unwrap()).unwrap();
    }
    let id = text.split("\"id\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    assert_eq!(server.get(&format!("{PATH}/{id}")).await.json()["status"], "in_progress");
    assert_eq!(send(&server, "POST", &format!("{PATH}/{id}/cancel")).await.json()["status"], "cancelled");
    text += std::str::from_utf8(&axum::body::to_bytes(stream, 1 << 20).await.unwrap()).unwrap();
    assert!(text.trim_end().ends_with('}') && text.contains("\"status\":\"cancelled\""), "{text}");
    until(|| server.app.busy() == 0 && server.model.all_cancelled()).await;
    let kept = server.get(&format!("{PATH}/{id}")).await.json();
    assert_eq!(
        (&kept["status"], &kept["output"][0]["content"][0]["text"]),
        (&json!("cancelled"), &json!("Hel"))
    );
    assert_eq!(send(&server, "POST", &format!("{PATH}/resp_none/cancel")).await.status, 404);
}

#[tokio::test]
async fn what_is_not_supported_is_refused_by_name() {
    let server = server(&["x"]);
    for (name, value) in [
        ("input", json!([])),
        ("input", json!([{ "type": "input_image" }])),
        ("input", json!([{ "type": "function_call", "name": "f", "arguments": "{" }])),
        ("tools", json!([{ "type": "web_search" }])),
        ("tool_choice", json!("required")),
        ("background", json!(true)),
        ("truncation", json!("auto")),
        ("include", json!(["file_search_call.results"])),
        ("reasoning", json!({ "effort": "extreme" })),
        ("text", json!({ "format": { "type": "xml" } })),
        ("conversation", json!("conv_1")),
        ("max_output_tokens", json!(0)),
        ("temperature", json!("hot")),
    ] {
        let answer = server.post(PATH, &with(hello(), name, value.clone())).await;
        assert_eq!(answer.status, 400, "{name} {value}: {}", answer.text);
        assert!(answer.text.contains(name), "{name}: {}", answer.text);
    }
}
