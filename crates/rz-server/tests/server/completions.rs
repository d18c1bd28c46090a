//! OpenAI's older completions.

use rz_server::Config;
use serde_json::{Value, json};

use crate::fake::{Script, TEMPLATE, server, server_with};

const PATH: &str = "/v1/completions";

#[tokio::test]
async fn a_text_is_continued_without_a_template() {
    let server = server(&["there", " was"]);
    let body = server.ask(PATH, json!({ "prompt": "Once upon a time", "max_tokens": 5 })).await;
    assert_eq!(
        (&body["object"], &body["choices"][0]["text"]),
        (&json!("text_completion"), &json!("there was"))
    );
    assert_eq!(server.model.prompt(0), "Once upon a time");
}

#[tokio::test]
async fn prompts_are_texts_or_tokens_or_several_of_them() {
    for (prompt, count) in [
        (json!("a"), 1),
        (json!(["a", "b"]), 2),
        (json!([5, 6, 7]), 1),
        (json!([[5, 6], [7]]), 2),
        (json!(["a", [5]]), 2),
    ] {
        let server = server(&["x"]);
        let body = server.ask(PATH, json!({ "prompt": prompt, "n": 2, "best_of": 2.0 })).await;
        let choices = body["choices"].as_array().unwrap();
        assert_eq!(choices.len(), count * 2, "{prompt}");
        let indices: Vec<_> = choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect();
        assert_eq!(indices, (0..count as u64 * 2).collect::<Vec<_>>());
        assert_eq!(server.model.jobs.lock().unwrap().len(), count);
        let tokens: usize = server.model.jobs.lock().unwrap().iter().map(|job| job.prompt.len()).sum();
        assert_eq!(body["usage"]["prompt_tokens"], tokens);
    }
    let server = server(&["x"]);
    server.ask(PATH, json!({ "prompt": [5, 6, 7] })).await;
    assert_eq!(server.model.jobs.lock().unwrap()[0].prompt, [5, 6, 7]);
}

#[tokio::test]
async fn sixteen_tokens_are_enough_unless_more_are_asked_for() {
    let server = server(&["x"; 20]);
    let body = server.ask(PATH, json!({ "prompt": "a" })).await;
    assert_eq!(
        (&body["choices"][0]["text"], &body["choices"][0]["finish_reason"]),
        (&json!("x".repeat(16)), &json!("length"))
    );
    let mut config = Config::default();
    config.max_tokens = Some(5);
    let server = server_with(TEMPLATE, Script::Say(vec!["x"; 20]), config);
    let body = server.ask(PATH, json!({ "prompt": "a", "max_tokens": 10 })).await;
    assert_eq!(body["choices"][0]["text"], "xxxxx");
}

#[tokio::test]
async fn the_prompt_is_echoed_with_its_scores() {
    let server = server(&["b", "c"]);
    let ask = json!({ "prompt": "aa", "echo": true, "logprobs": 2, "max_tokens": 2 });
    let body = server.ask(PATH, ask.clone()).await;
    let choice = &body["choices"][0];
    assert_eq!(choice["text"], "aabc");
    let prompt = server.model.jobs.lock().unwrap()[0].prompt.len();
    let logprobs = &choice["logprobs"];
    let len = |name: &str| logprobs[name].as_array().unwrap().len();
    assert_eq!(
        (len("tokens"), len("token_logprobs"), len("top_logprobs"), len("text_offset")),
        (prompt + 2, prompt + 2, prompt + 2, prompt + 2)
    );
    assert_eq!(
        (&logprobs["token_logprobs"][0], &logprobs["token_logprobs"][1]),
        (&Value::Null, &json!(-1.0))
    );

    let mut twice = ask.clone();
    twice["n"] = json!(2);
    let body = server.ask(PATH, twice).await;
    assert_eq!(body["choices"][1]["logprobs"], *logprobs);

    // Only the prompt, as those who measure models ask for it.
    let mut only = ask.clone();
    only["max_tokens"] = json!(0);
    let body = server.ask(PATH, only).await;
    assert_eq!(body["choices"][0]["text"], "aa");
    assert_eq!(body["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(), prompt);
    assert_eq!(
        (&body["usage"]["completion_tokens"], &body["choices"][0]["finish_reason"]),
        (&json!(0), &json!("length"))
    );

    let mut stream = ask;
    stream["stream"] = json!(true);
    let values = server.post(PATH, &stream).await.values();
    let text: String = values.iter().filter_map(|value| value["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "aabc");
    let plain = server.post(PATH, &json!({ "prompt": "aa", "echo": true, "stream": true })).await.values();
    let text: String = plain.iter().filter_map(|value| value["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "aabc");
}

#[tokio::test]
async fn what_is_not_done_is_refused_by_name() {
    let server = server(&["x"]);
    for (name, value) in [
        ("suffix", json!("the end")),
        ("best_of", json!(3)),
        ("logprobs", json!(6)),
        ("prompt", json!([])),
        ("prompt", json!({})),
        ("prompt", json!([5, "a"])),
        ("prompt", json!([-1])),
        ("prompt", json!([600])),
        ("prompt", json!([4_294_967_296_u64])),
        ("max_tokens", json!(0)),
        ("stream_options", json!({ "include_usage": true })),
        ("messages", json!([])),
    ] {
        let mut body = json!({ "prompt": "a" });
        body[name] = value.clone();
        let answer = server.post(PATH, &body).await;
        assert_eq!(answer.status, 400, "{name} {value}: {}", answer.text);
        let param = answer.json()["error"]["param"].as_str().unwrap().to_owned();
        assert!(param.starts_with(name), "{name} {value}: {param}");
    }
    assert!(server.model.jobs.lock().unwrap().is_empty());
}
