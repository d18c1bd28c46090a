//! OpenAI's chat.

use rz_server::{Config, ConstraintSpec, Finish, Refusal};
use serde_json::{Value, json};

use crate::fake::{Script, Server, TEMPLATE, THINKING, server, server_with};

const PATH: &str = "/v1/chat/completions";

fn hello() -> Value {
    json!({ "model": "tiny", "messages": [{ "role": "user", "content": "Hi" }] })
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

fn weather_tool() -> Value {
    json!([{ "type": "function", "function": {
        "name": "weather", "description": "of a city", "parameters": { "type": "object", "properties": { "city": { "type": "string" } } }
    } }])
}

#[tokio::test]
async fn an_answer_is_a_completion() {
    let server = server(&["Hello", " there"]);
    let body = server.ask(PATH, hello()).await;
    assert_eq!(body["object"], "chat.completion");
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(body["model"], "tiny");
    let choice = &body["choices"][0];
    assert_eq!(choice["message"], json!({ "role": "assistant", "content": "Hello there", "refusal": null }));
    assert_eq!((&choice["finish_reason"], &choice["logprobs"]), (&json!("stop"), &Value::Null));
    let prompt = server.model.jobs.lock().unwrap()[0].prompt.len();
    assert_eq!(
        body["usage"],
        json!({
            "prompt_tokens": prompt, "completion_tokens": 2, "total_tokens": prompt + 2,
            "prompt_tokens_details": { "cached_tokens": 3 },
            "completion_tokens_details": { "reasoning_tokens": 0 },
        })
    );
    assert_eq!(server.model.prompt(0), "[user]Hi\n[assistant]");
}

#[tokio::test]
async fn an_answer_streams() {
    let server = server(&["Hello", " there"]);
    let body = with(hello(), "stream", json!(true));
    let answer = server.post(PATH, &with(body, "stream_options", json!({ "include_usage": true }))).await;
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    assert!(answer.text.ends_with("data: [DONE]\n\n"), "{}", answer.text);
    let chunks = answer.values();
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == chunks[0]["id"])
    );
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "Hello there");
    let (last, rest) = chunks.split_last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(2)));
    assert!(rest.iter().all(|chunk| chunk["usage"].is_null()));
    assert_eq!(rest.last().unwrap()["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn several_answers_share_their_prompt() {
    let server = server(&["a"]);
    let body = server.ask(PATH, with(hello(), "n", json!(3))).await;
    let indices: Vec<_> =
        body["choices"].as_array().unwrap().iter().map(|choice| choice["index"].clone()).collect();
    assert_eq!(indices, [0, 1, 2]);
    assert_eq!(server.model.jobs.lock().unwrap().len(), 1);
    let prompt = server.model.jobs.lock().unwrap()[0].prompt.len();
    assert_eq!(
        (&body["usage"]["prompt_tokens"], &body["usage"]["completion_tokens"]),
        (&json!(prompt), &json!(3))
    );

    let streamed = server.post(PATH, &with(with(hello(), "n", json!(2)), "stream", json!(true))).await;
    for index in 0..2 {
        let own = |chunk: &&Value| chunk["choices"][0]["index"] == index;
        let chunks = streamed.values();
        let text: String = chunks
            .iter()
            .filter(own)
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
            .collect();
        assert_eq!(text, "a");
    }
}

#[tokio::test]
async fn parameters_reach_the_model() {
    let server = server(&["a", "b", "c"]);
    let mut body = hello();
    for (name, value) in [
        ("temperature", json!(0.25)),
        ("top_p", json!(0.5)),
        ("top_k", json!(7)),
        ("seed", json!(42)),
        ("stop", json!(["x", "y"])),
        ("max_completion_tokens", json!(2)),
        ("logit_bias", json!({ "5": -100 })),
        ("user", json!("somebody")),
        ("metadata", json!({ "a": "b" })),
        ("service_tier", json!("auto")),
        ("presence_penalty", json!(0)),
        ("frequency_penalty", json!(0.0)),
    ] {
        body[name] = value;
    }
    let answer = server.ask(PATH, body).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["choices"][0]["message"]["content"], "ab");
    let generate = server.model.generate(0);
    assert_eq!((generate.seed, generate.max_tokens, generate.choices), (42, Some(2), 1));
    assert_eq!(generate.stop, ["x", "y"]);
    assert_eq!(generate.logit_bias, [(5, -100.0)]);
    let setting = |name: &str| {
        let param = rz_model::sampler::SAMPLERS.iter().flat_map(|sampler| sampler.params);
        generate.settings.float(param.into_iter().find(|param| param.name == name).unwrap())
    };
    assert_eq!((setting("temperature"), setting("top_p"), setting("top_k")), (0.25, 0.5, 7.0));
}

#[tokio::test]
async fn log_probabilities_come_with_their_tokens() {
    let server = server(&["a", "b"]);
    let body = with(with(hello(), "logprobs", json!(true)), "top_logprobs", json!(2));
    let answer = server.ask(PATH, body.clone()).await;
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(content.len(), 2);
    assert_eq!(
        (&content[0]["token"], &content[0]["logprob"], &content[0]["bytes"]),
        (&json!("a"), &json!(-0.5), &json!([97]))
    );
    assert_eq!(content[0]["top_logprobs"].as_array().unwrap().len(), 2);
    let streamed = server.post(PATH, &with(body, "stream", json!(true))).await;
    let count = |chunk: &Value| chunk["choices"][0]["logprobs"]["content"].as_array().map_or(0, Vec::len);
    assert_eq!(streamed.values().iter().map(count).sum::<usize>(), 2);
    let error = server.post(PATH, &with(hello(), "top_logprobs", json!(2))).await;
    assert_eq!((error.status.as_u16(), &error.json()["error"]["param"]), (400, &json!("top_logprobs")));
}

#[tokio::test]
async fn conversations_are_written_by_the_template() {
    let server = server(&["ok"]);
    let messages = json!([
        { "role": "developer", "content": "Be brief." },
        { "role": "user", "content": [{ "type": "text", "text": "one " }, { "type": "text", "text": "two" }] },
        { "role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
            { "id": "c1", "type": "function", "function": { "name": "weather", "arguments": "{\"city\": \"Paris\"}" } }
        ] },
        { "role": "tool", "tool_call_id": "c1", "content": "sunny" },
    ]);
    let body = with(with(hello(), "messages", messages), "tools", weather_tool());
    server.ask(PATH, body).await;
    let prompt = server.model.prompt(0);
    let (tools, rest) = prompt.split_once('\n').unwrap();
    assert_eq!(serde_json::from_str::<Value>(tools).unwrap(), weather_tool());
    assert_eq!(
        rest,
        "[system]Be brief.\n[user]one two\n[assistant](hm)<tool_call>{\"name\": \"weather\", \
         \"arguments\": {\"city\": \"Paris\"}}</tool_call>\n[tool]sunny\n[assistant]"
    );
}

const CALL: [&str; 5] =
    ["<tool_", "call>{\"name\": \"weather\",", " \"arguments\": {\"city\":", " \"Paris\"}}", "</tool_call>"];

#[tokio::test]
async fn functions_are_called() {
    let server = server(&CALL);
    let body = with(hello(), "tools", weather_tool());
    let answer = server.ask(PATH, body.clone()).await;
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &Value::Null)
    );
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["type"], "function");
    assert_eq!(call["function"], json!({ "name": "weather", "arguments": "{\"city\": \"Paris\"}" }));

    let chunks = server.post(PATH, &with(body.clone(), "stream", json!(true))).await.values();
    let calls: Vec<Value> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].get(0).cloned())
        .collect();
    assert_eq!((&calls[0]["function"]["name"], &calls[0]["index"]), (&json!("weather"), &json!(0)));
    assert!(calls[0]["id"].as_str().unwrap().starts_with("call_"));
    let arguments: Vec<&str> =
        calls.iter().map(|call| call["function"]["arguments"].as_str().unwrap()).collect();
    assert_eq!(arguments.concat(), "{\"city\": \"Paris\"}");
    assert!(arguments.len() > 2, "the arguments come as they are written: {arguments:?}");
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");

    // With `none` the model is not told of the tools, and what it writes is text.
    let text = server.ask(PATH, with(body, "tool_choice", json!("none"))).await;
    assert_eq!(text["choices"][0]["message"]["content"], CALL.concat());
    assert_eq!(server.model.prompt(2), "[user]Hi\n[assistant]");
}

#[tokio::test]
async fn a_call_that_must_be_is_begun_and_constrained() {
    let server = server(&["{\"name\": \"weather\", \"arguments\": {}}"]);
    let body = with(hello(), "tools", weather_tool());
    for choice in [json!("required"), json!({ "type": "function", "function": { "name": "weather" } })] {
        let answer = server.ask(PATH, with(body.clone(), "tool_choice", choice)).await;
        assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "weather");
        assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    }
    assert!(server.model.prompt(0).ends_with("[assistant]<tool_call>\n"));
    let Some(ConstraintSpec::JsonSchema(schema)) = server.model.generate(0).constraint else { panic!() };
    assert_eq!(schema["properties"]["name"], json!({ "const": "weather" }));
    for (choice, tools) in [
        (json!("required"), json!([])),
        (json!({ "type": "function", "function": { "name": "no" } }), weather_tool()),
    ] {
        let body = with(with(hello(), "tools", tools), "tool_choice", choice);
        assert_eq!(server.post(PATH, &body).await.json()["error"]["param"], "tool_choice");
    }
}

#[tokio::test]
async fn templates_that_know_no_tools_are_helped() {
    let server = server_with(THINKING, Script::Say(CALL.to_vec()), Config::default());
    let body = with(hello(), "tools", weather_tool());
    let answer = server.ask(PATH, body).await;
    assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "weather");
    let prompt = server.model.prompt(0);
    assert!(
        prompt.starts_with("[system]You can call functions.") && prompt.contains("of a city"),
        "{prompt}"
    );
}

#[tokio::test]
async fn thoughts_stand_apart() {
    let pieces = vec!["<think>", "so", " it is</th", "ink>\n\n", "Yes"];
    let server = server_with(THINKING, Script::Say(pieces), Config::default());
    let answer = server.ask(PATH, hello()).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!((&message["content"], &message["reasoning_content"]), (&json!("Yes"), &json!("so it is")));
    assert!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap() >= 2);
    let chunks = server.post(PATH, &with(hello(), "stream", json!(true))).await.values();
    let all = |name: &str| -> String {
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"][name].as_str()).collect()
    };
    assert_eq!((all("reasoning_content"), all("content")), ("so it is".into(), "Yes".into()));
    server.ask(PATH, with(hello(), "reasoning_effort", json!("none"))).await;
    assert!(server.model.prompt(2).ends_with("[assistant]<think></think>"));
    let own = json!({ "enable_thinking": false });
    server.ask(PATH, with(hello(), "chat_template_kwargs", own)).await;
    assert!(server.model.prompt(3).ends_with("[assistant]<think></think>"));
}

#[tokio::test]
async fn formats_become_constraints() {
    let server = server(&["{}"]);
    let schema = json!({ "type": "object" });
    let cases = [
        (json!({ "type": "text" }), None),
        (json!({ "type": "json_object" }), Some(ConstraintSpec::JsonObject)),
        (
            json!({ "type": "json_schema", "json_schema": { "name": "x", "strict": true, "schema": schema } }),
            Some(ConstraintSpec::JsonSchema(schema.clone())),
        ),
    ];
    for (index, (format, expected)) in cases.into_iter().enumerate() {
        server.ask(PATH, with(hello(), "response_format", format)).await;
        assert_eq!(server.model.generate(index).constraint, expected);
    }
}

#[tokio::test]
async fn refusals_of_the_model_are_answers() {
    for (refusal, status, code) in [
        (Refusal::Busy { retry_after: 7 }, 429, json!("queue_full")),
        (Refusal::Closed, 503, Value::Null),
        (Refusal::TooLong { tokens: 9, context: 8 }, 400, json!("context_length_exceeded")),
        (
            Refusal::Unsupported { param: "response_format", message: "no".into() },
            400,
            json!("unsupported_parameter"),
        ),
        (Refusal::Invalid("no".into()), 400, Value::Null),
    ] {
        let server = server_with(TEMPLATE, Script::Refuse(refusal), Config::default());
        let answer = server.post(PATH, &hello()).await;
        assert_eq!((answer.status.as_u16(), answer.json()["error"]["code"].clone()), (status, code));
        if status == 429 {
            assert_eq!(answer.headers["retry-after"], "7");
        }
    }
}

#[tokio::test]
async fn a_model_that_breaks_gives_an_error() {
    let server = server_with(TEMPLATE, Script::Fail(vec!["Hel"]), Config::default());
    let answer = server.post(PATH, &hello()).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["type"]), (500, &json!("server_error")));
    let streamed = server.post(PATH, &with(hello(), "stream", json!(true))).await;
    let values = streamed.values();
    assert_eq!(values.last().unwrap()["error"]["message"], "the back end broke");
    assert!(streamed.text.ends_with("data: [DONE]\n\n"));
}

/// Waits until something holds, without a clock.
pub async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request() {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt;
    let server = server_with(TEMPLATE, Script::Hang(vec!["Hel"]), Config::default());
    for (before, stream) in [false, true].into_iter().enumerate() {
        let body = with(hello(), "stream", json!(stream)).to_string();
        let request =
            Request::post(PATH).header("content-type", "application/json").body(Body::from(body)).unwrap();
        let asking = tokio::spawn(server.routes.clone().oneshot(request));
        // Its first token has come.
        let line = format!("rz_time_to_first_token_seconds_count{{model=\"tiny\"}} {}", before + 1);
        while !server.get("/metrics").await.text.lines().any(|found| found == line) {
            tokio::task::yield_now().await;
        }
        if stream {
            drop(asking.await.unwrap().unwrap());
        } else {
            asking.abort();
        }
        until(|| server.app.busy() == 0 && server.model.all_cancelled()).await;
    }
    let metrics = server.get("/metrics").await.text;
    let line = "rz_requests_total{model=\"tiny\",finished_reason=\"abort\"} 2";
    assert!(metrics.lines().any(|found| found == line), "{metrics}");
}

#[tokio::test]
async fn time_limits_end_a_request_with_what_there_is() {
    let mut config = Config::default();
    config.request_time = Some(std::time::Duration::from_millis(30));
    let server: Server = server_with(TEMPLATE, Script::Hang(vec!["Hel", "lo"]), config);
    let answer = server.ask(PATH, hello()).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "Hello");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    until(|| server.model.all_cancelled()).await;
}

#[tokio::test]
async fn stop_strings_are_a_stop() {
    let script = Script::End(vec!["a"], Finish::StopString("x".into()));
    let server = server_with(TEMPLATE, script, Config::default());
    assert_eq!(server.ask(PATH, hello()).await["choices"][0]["finish_reason"], "stop");
}
