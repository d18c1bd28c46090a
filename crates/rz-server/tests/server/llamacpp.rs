//! The routes of llama.cpp's server.

use rz_server::{Config, ConstraintSpec, Finish};
use serde_json::{Value, json};

use crate::fake::{Script, TEMPLATE, server, server_with};

#[tokio::test]
async fn a_text_is_continued() {
    let server = server(&["Hello", " there"]);
    let ask = json!({
        "prompt": "Hi", "n_predict": 5, "temperature": 0, "n_probs": 2, "return_tokens": true, "seed": -1,
        "logit_bias": [[5, false], [6, 1.5]], "json_schema": { "type": "object" },
    });
    let body = server.ask("/completion", ask.clone()).await;
    assert_eq!(
        (&body["content"], &body["stop"], &body["stop_type"]),
        (&json!("Hello there"), &json!(true), &json!("eos"))
    );
    assert_eq!((&body["tokens_predicted"], &body["prompt"]), (&json!(2), &json!("Hi")));
    assert_eq!(
        (
            body["tokens"].as_array().unwrap().len(),
            body["completion_probabilities"].as_array().unwrap().len()
        ),
        (2, 2)
    );
    assert!(body["timings"]["predicted_per_second"].is_number());
    let generate = server.model.generate(0);
    assert_eq!(generate.logit_bias, [(5, f32::NEG_INFINITY), (6, 1.5)]);
    assert!(matches!(generate.constraint, Some(ConstraintSpec::JsonSchema(_))));

    let mut stream = ask;
    stream["stream"] = json!(true);
    let values = server.post("/completion", &stream).await.values();
    let text: String = values.iter().map(|value| value["content"].as_str().unwrap()).collect();
    assert_eq!(text, "Hello there");
    let (last, rest) = values.split_last().unwrap();
    assert!(rest.iter().all(|value| value["stop"] == false) && last["stop"] == true);
    assert!(last["timings"].is_object());

    let several = server.ask("/completion", json!({ "prompt": ["a", "b"] })).await;
    assert_eq!((several.as_array().unwrap().len(), &several[1]["index"]), (2, &json!(1)));
}

#[tokio::test]
async fn stops_are_told_apart() {
    for (finish, kind, word) in [
        (Finish::Length, "limit", ""),
        (Finish::StopString("END".into()), "word", "END"),
        (Finish::Stop, "eos", ""),
    ] {
        let server = server_with(TEMPLATE, Script::End(vec!["x"], finish), Config::default());
        let body = server.ask("/completion", json!({ "prompt": "a" })).await;
        assert_eq!((&body["stop_type"], &body["stopping_word"]), (&json!(kind), &json!(word)));
    }
}

#[tokio::test]
async fn texts_become_tokens_and_back() {
    let server = server(&[]);
    let body = server.ask("/tokenize", json!({ "content": "hello wörld" })).await;
    let tokens = body["tokens"].clone();
    assert!(tokens.as_array().unwrap().len() > 1);
    let back = server.ask("/detokenize", json!({ "tokens": tokens })).await;
    assert_eq!(back["content"], "hello wörld");
    let special = server.ask("/tokenize", json!({ "content": "hello wörld", "add_special": true })).await;
    assert_eq!(special["tokens"].as_array().unwrap().len(), tokens.as_array().unwrap().len() + 1);
    let pieces = server.ask("/tokenize", json!({ "content": "é", "with_pieces": true })).await;
    let pieces = pieces["tokens"].as_array().unwrap();
    // A letter of two bytes that the vocabulary lacks: tokens that are no text by themselves.
    assert!(pieces.iter().any(|piece| piece["piece"].is_array()), "{pieces:?}");
    // vLLM's way.
    let body = server.ask("/tokenize", json!({ "model": "tiny", "prompt": "hello wörld" })).await;
    assert_eq!(
        (&body["count"], &body["max_model_len"]),
        (&json!(tokens.as_array().unwrap().len() + 1), &json!(2048))
    );
    let wrong = server.post("/detokenize", &json!({ "tokens": [600] })).await;
    assert_eq!((wrong.status.as_u16(), &wrong.json()["error"]["param"]), (400, &json!("tokens")));
}

#[tokio::test]
async fn the_template_is_applied_and_shown() {
    let server = server(&[]);
    let messages = json!([{ "role": "user", "content": "Hi" }]);
    let body = server.ask("/apply-template", json!({ "messages": messages })).await;
    assert_eq!(body["prompt"], "[user]Hi\n[assistant]");
    let tokens = server.ask("/tokenize", json!({ "messages": messages })).await;
    assert!(tokens["count"].as_u64().unwrap() > 5);
    let props = server.get("/props").await.json();
    assert_eq!(
        (&props["chat_template"], &props["default_generation_settings"]["n_ctx"]),
        (&json!(TEMPLATE), &json!(2048))
    );
    assert_eq!((&props["bos_token"], &props["model_alias"]), (&json!("<s>"), &json!("tiny")));
    assert_eq!(server.get("/props?model=nobody").await.status, 404);
    let slots = server.get("/slots?model=tiny").await.json();
    assert_eq!((&slots[0]["is_processing"], &slots[0]["n_ctx"]), (&json!(false), &json!(2048)));
}

#[tokio::test]
async fn what_is_not_there_says_so() {
    let server = server(&[]);
    for path in ["/infill", "/rerank", "/v1/rerank", "/lora-adapters"] {
        let answer = server.post(path, &json!({})).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["type"]),
            (501, &json!("not_implemented_error"))
        );
    }
    for (name, value) in [
        ("grammar", json!(["root ::= \"a\""])),
        ("id_slot", json!("3")),
        ("mirostat", json!(1)),
        ("n_predict", json!(0)),
        ("logit_bias", json!([[1]])),
        ("logit_bias", json!([["a", 1]])),
        ("n_probs", json!(21)),
        ("image_data", json!([])),
    ] {
        let mut body = json!({ "prompt": "a" });
        body[name] = value.clone();
        let answer = server.post("/completion", &body).await;
        assert_eq!(answer.status, 400, "{name} {value}: {}", answer.text);
        let param = answer.json()["error"]["param"].clone();
        assert!(param.as_str().is_some_and(|param| param.starts_with(name)), "{name}: {param}");
    }
    assert_eq!(server.get("/slots").await.json(), Value::Array(vec![]));
}
