//! Vectors, in the ways of OpenAI, Ollama and llama.cpp.

use std::time::Duration;

use rz_server::Config;
use serde_json::{Value, json};

use crate::fake::{Script, TEMPLATE, server, server_with};

#[tokio::test]
async fn vectors_have_length_one() {
    let server = server(&[]);
    let body = server.ask("/v1/embeddings", json!({ "model": "tiny", "input": ["a", "b c"] })).await;
    assert_eq!((&body["object"], body["data"].as_array().unwrap().len()), (&json!("list"), 2));
    let numbers = |value: &Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    };
    let expected = [0.6, 0.0, 0.8, 0.0];
    let close = |found: &Value| numbers(found).iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(close(&body["data"][1]["embedding"]), "{body}");
    assert_eq!(body["data"][1]["index"], 1);
    let tokens: usize = server.model.jobs.lock().unwrap().iter().map(|job| job.prompt.len()).sum();
    assert_eq!(body["usage"], json!({ "prompt_tokens": tokens, "total_tokens": tokens }));

    let body = server.ask("/api/embed", json!({ "model": "tiny", "input": "a" })).await;
    assert!(close(&body["embeddings"][0]) && body["prompt_eval_count"].as_u64().unwrap() > 0, "{body}");
    let body = server.ask("/api/embeddings", json!({ "model": "tiny", "prompt": "a" })).await;
    assert!(close(&body["embedding"]), "{body}");
    let body = server.ask("/embedding", json!({ "content": "a" })).await;
    assert!(close(&body[0]["embedding"][0]), "{body}");
}

#[tokio::test]
async fn vectors_can_come_in_base_64() {
    let server = server(&[]);
    let body = json!({ "input": "a", "encoding_format": "base64" });
    let body = server.ask("/v1/embeddings", body).await;
    // Four numbers of four bytes.
    assert_eq!(body["data"][0]["embedding"].as_str().unwrap().len(), 24);
}

#[tokio::test]
async fn only_ollama_cuts_long_texts() {
    let server = server(&[]);
    let long = "word ".repeat(3000);
    let answer = server.post("/v1/embeddings", &json!({ "input": long })).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error"]["code"]),
        (400, &json!("context_length_exceeded"))
    );
    server.ask("/api/embed", json!({ "model": "tiny", "input": long })).await;
    assert_eq!(server.model.jobs.lock().unwrap()[0].prompt.len(), 2047);
    let whole = json!({ "model": "tiny", "input": long, "truncate": false });
    assert_eq!(server.post("/api/embed", &whole).await.status, 400);
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let server = server(&[]);
    for body in [
        json!({}),
        json!({ "input": [] }),
        json!({ "input": 3 }),
        json!({ "input": vec!["a"; 1000] }),
        json!({ "input": "a", "dimensions": 3 }),
        json!({ "input": "a", "encoding_format": "hex" }),
        json!({ "input": "a", "more": 1 }),
    ] {
        assert_eq!(server.post("/v1/embeddings", &body).await.status, 400, "{body}");
    }
}

#[tokio::test]
async fn many_texts_take_a_part_of_the_queue_and_no_longer_than_a_request_may() {
    let mut config = Config::default();
    config.request_time = Some(Duration::from_millis(50));
    let server = server_with(TEMPLATE, Script::Hang(vec![]), config);
    for (path, body) in [
        ("/v1/embeddings", json!({ "input": vec!["x"; 200] })),
        ("/embedding", json!({ "content": vec!["x"; 200] })),
        ("/api/embed", json!({ "model": "tiny", "input": vec!["x"; 200] })),
    ] {
        let answer = server.post(path, &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.headers.contains_key("retry-after")),
            (503, true),
            "{path}"
        );
        assert!(answer.text.contains("0.05 seconds"), "{}", answer.text);
        assert_eq!(
            std::mem::take(&mut *server.model.jobs.lock().unwrap()).len(),
            Config::default().max_choices
        );
        assert!(server.model.all_cancelled());
    }
    let server = server_with(TEMPLATE, Script::Say(vec![]), Config::default());
    let all = server.ask("/v1/embeddings", json!({ "input": vec!["x"; 200] })).await;
    assert_eq!(all["data"].as_array().unwrap().len(), 200);
    assert_eq!(server.model.jobs.lock().unwrap().len(), 200);
}
