//! Health, metrics, draining.

use std::time::Duration;

use rz_server::{Config, Health, ModelState, Stats};
use serde_json::json;

use crate::chat::until;
use crate::fake::{Script, TEMPLATE, server, server_with};

const HELLO: &str = r#"{"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}"#;

#[tokio::test]
async fn health_tells_what_the_server_does() {
    let server = server(&["x"]);
    let state = async || {
        let answer = server.get("/health").await;
        (answer.status.as_u16(), answer.json()["status"].as_str().unwrap().to_owned())
    };
    assert_eq!(state().await, (200, "ok".into()));
    server.app.registry().preload("tiny");
    until(|| server.app.registry().models().any(|(_, state)| state == ModelState::Ready)).await;
    assert_eq!(state().await, (200, "ok".into()));
    *server.model.stats.lock().unwrap() = Stats { stalled: Duration::from_secs(1000), ..Stats::default() };
    assert_eq!(state().await, (503, "wedged".into()));
    *server.model.stats.lock().unwrap() = Stats::default();
    server.app.drain();
    assert_eq!(state().await, (503, "draining".into()));
    let refused = server.post_text("/v1/chat/completions", HELLO).await;
    assert_eq!((refused.status.as_u16(), refused.headers.contains_key("retry-after")), (503, true));
    assert_eq!(server.get("/v1/models").await.status, 200);
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_an_error_and_is_tried_again_later() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let loader = Arc::new(crate::fake::FakeLoader { model: None, loads: AtomicUsize::new(0), bytes: None });
    let config = Config::default();
    let registry = rz_server::Registry::new(crate::fake::served(), loader.clone(), &config).unwrap();
    let app = Arc::new(rz_server::App::new(config, registry));
    let server =
        crate::fake::Server { routes: rz_server::router(app.clone()), app, ..crate::fake::server(&[]) };
    for _ in 0..3 {
        let answer = server.post_text("/v1/chat/completions", HELLO).await;
        assert_eq!(answer.status, 503);
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains("the file is damaged"));
    }
    assert_eq!(loader.loads.load(Ordering::SeqCst), 1);
    assert!(matches!(server.app.health(), Health::Failed(_)));
    assert_eq!(server.get("/health").await.status, 503);
}

#[tokio::test]
async fn metrics_count_requests_and_tokens() {
    let server = server_with(TEMPLATE, Script::Say(vec!["a", "b", "c"]), Config::default());
    for _ in 0..2 {
        server.post_text("/v1/chat/completions", HELLO).await;
    }
    server.get("/nowhere").await;
    *server.model.stats.lock().unwrap() = Stats {
        running: 3,
        waiting: 5,
        kv_blocks: 10,
        kv_blocks_used: 4,
        block_tokens: 32,
        ..Stats::default()
    };
    let answer = server.get("/metrics").await;
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    let prompt = server.model.jobs.lock().unwrap()[0].prompt.len() * 2;
    for line in [
        "vllm:num_requests_running{model_name=\"tiny\"} 3".to_owned(),
        "vllm:num_requests_waiting{model_name=\"tiny\"} 5".to_owned(),
        "vllm:kv_cache_usage_perc{model_name=\"tiny\"} 0.4".to_owned(),
        "vllm:cache_config_info{model_name=\"tiny\",block_size=\"32\",num_gpu_blocks=\"10\"} 1".to_owned(),
        "vllm:generation_tokens_total{model_name=\"tiny\"} 6".to_owned(),
        format!("rz_prompt_tokens_total{{model=\"tiny\"}} {prompt}"),
        "rz_time_to_first_token_seconds_count{model=\"tiny\"} 2".to_owned(),
        "rz_inter_token_latency_seconds_count{model=\"tiny\"} 4".to_owned(),
        "vllm:e2e_request_latency_seconds_count{model_name=\"tiny\"} 2".to_owned(),
        "vllm:request_success_total{model_name=\"tiny\",finished_reason=\"stop\"} 2".to_owned(),
        "rz_http_responses_total{class=\"4xx\"} 1".to_owned(),
        "rz_http_responses_total{class=\"2xx\"} 2".to_owned(),
    ] {
        assert!(answer.text.lines().any(|found| found == line), "{line}\n{}", answer.text);
    }
}

#[tokio::test]
async fn routers_find_what_they_look_for() {
    let server = server(&["x"]);
    server.post_text("/v1/chat/completions", HELLO).await;
    *server.model.stats.lock().unwrap() =
        Stats { running: 1, kv_blocks: 10, kv_blocks_used: 5, block_tokens: 32, ..Stats::default() };
    let loads = server.get("/v1/loads").await.json();
    assert_eq!(
        (&loads["loads"][0]["num_running_reqs"], &loads["loads"][0]["token_usage"]),
        (&json!(1), &json!(0.5))
    );
    assert_eq!(server.get("/version").await.json()["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(server.get("/model_info").await.json()["max_context_length"], 2048);
    assert_eq!(server.get("/server_info").await.json()["models"], json!(["tiny", "org/other"]));
}
