//! What every request passes.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Method, Request};
use rz_server::{Config, Keys};
use serde_json::{Value, json};

use crate::fake::{Answer, Script, Server, TEMPLATE, server, server_with};

fn with_config(set: impl FnOnce(&mut Config)) -> Server {
    let mut config = Config::default();
    set(&mut config);
    server_with(TEMPLATE, Script::Say(vec!["x"]), config)
}

async fn get(server: &Server, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request = headers
        .iter()
        .fold(Request::builder().uri(path), |request, (name, value)| request.header(*name, *value));
    server.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn every_answer_has_an_id() {
    let server = server(&[]);
    let own = get(&server, "/v1/models", &[("x-request-id", "abc-1")]).await;
    assert_eq!(own.headers["x-request-id"], "abc-1");
    let first = get(&server, "/nowhere", &[]).await;
    let second = get(&server, "/nowhere", &[("x-request-id", &"x".repeat(200))]).await;
    assert_ne!(first.headers["x-request-id"], second.headers["x-request-id"]);
    assert!(second.headers["x-request-id"].to_str().unwrap().starts_with("req-"));
}

#[tokio::test]
async fn errors_have_the_shape_of_their_routes() {
    let server = server(&[]);
    let lost = server.get("/v1/nowhere").await;
    assert_eq!((lost.status.as_u16(), &lost.json()["error"]["type"]), (404, &json!("not_found_error")));
    let wrong = server.get("/v1/chat/completions").await;
    assert_eq!((wrong.status.as_u16(), wrong.headers["allow"].to_str().unwrap()), (405, "POST"));
    assert!(wrong.json()["error"]["message"].as_str().unwrap().contains("GET"));
    let ollama = server.post("/api/chat", &json!({})).await;
    assert!(ollama.json()["error"].as_str().unwrap().contains("'model' is missing"));
    let ollama = server.get("/api/chat").await;
    assert_eq!((ollama.status.as_u16(), ollama.json()["error"].is_string()), (405, true));
    let anthropic = server
        .post(
            "/v1/messages",
            &json!({ "model": "nobody", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}] }),
        )
        .await;
    let body = anthropic.json();
    assert_eq!(
        (anthropic.status.as_u16(), &body["type"], &body["error"]["type"]),
        (404, &json!("error"), &json!("not_found_error"))
    );
    assert_eq!(body["request_id"], anthropic.headers["x-request-id"].to_str().unwrap());
}

#[tokio::test]
async fn keys_let_in() {
    let mut keys = Keys::default();
    assert!(
        keys.add("key-of-one") && keys.add("key-of-two") && !keys.add("short") && !keys.add("with a space")
    );
    let server = with_config(|config| config.keys = keys);
    for (headers, status) in [
        (vec![], 401),
        (vec![("authorization", "Bearer key-of-one")], 200),
        (vec![("authorization", "bearer key-of-two")], 200),
        (vec![("x-api-key", "key-of-two")], 200),
        (vec![("authorization", "Bearer key-of-on")], 401),
        (vec![("authorization", "Basic key-of-one")], 401),
        (vec![("x-api-key", "")], 401),
    ] {
        let answer = get(&server, "/v1/models", &headers).await;
        assert_eq!(answer.status, status, "{headers:?}");
        if status == 401 {
            assert_eq!(answer.json()["error"]["code"], "invalid_api_key");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
    }
    for path in ["/health", "/ready", "/"] {
        assert_eq!(get(&server, path, &[]).await.status, 200, "{path}");
    }
    for path in ["/metrics", "/api/tags", "/props", "/nowhere", "/openapi.json"] {
        assert_eq!(get(&server, path, &[]).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn metrics_are_open_where_they_are_meant_to_be() {
    for (open, status) in [(false, 401), (true, 200)] {
        let server = with_config(|config| {
            config.keys.add("a-good-key");
            config.open_metrics = open;
        });
        assert_eq!(server.get("/metrics").await.status, status);
        assert_eq!(server.get("/v1/models").await.status, 401);
    }
}

#[tokio::test]
async fn only_known_names_of_the_server_are_answered() {
    let server =
        with_config(|config| config.hosts = vec!["localhost".into(), "127.0.0.1".into(), "[::1]".into()]);
    for (host, status) in [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8080", 200),
        ("evil.example", 403),
        ("localhost.evil.example:8080", 403),
        ("", 403),
    ] {
        assert_eq!(get(&server, "/v1/models", &[("host", host)]).await.status, status, "{host}");
    }
}

#[tokio::test]
async fn pages_of_others_are_kept_out_unless_let_in() {
    let server = server(&[]);
    let own = [("host", "localhost:8080"), ("origin", "http://localhost:8080")];
    assert_eq!(get(&server, "/v1/models", &own).await.status, 200);
    for origin in ["http://evil.example", "null", "http://localhost:8081"] {
        let answer = get(&server, "/v1/models", &[("host", "localhost:8080"), ("origin", origin)]).await;
        assert_eq!(
            (answer.status.as_u16(), answer.headers.contains_key("access-control-allow-origin")),
            (403, false)
        );
    }
    let open = with_config(|config| config.origins = vec!["http://app.example".into()]);
    let let_in = get(&open, "/v1/models", &[("origin", "http://app.example")]).await;
    assert_eq!(
        (let_in.status.as_u16(), &let_in.headers["access-control-allow-origin"]),
        (200, &"http://app.example".parse().unwrap())
    );
    assert_eq!(get(&open, "/v1/models", &[("origin", "http://evil.example")]).await.status, 403);
    let preflight = Request::builder().method(Method::OPTIONS).uri("/v1/chat/completions");
    let preflight =
        preflight.header("origin", "http://app.example").header("access-control-request-method", "POST");
    // Browsers take an asterisk for all headers but this one.
    let preflight = preflight.header("access-control-request-headers", "authorization,content-type");
    let answer = open.send(preflight.body(Body::empty()).unwrap()).await;
    assert_eq!(
        (answer.status.as_u16(), answer.headers.contains_key("access-control-allow-methods")),
        (200, true)
    );
    let allowed = answer.headers["access-control-allow-headers"].to_str().unwrap().to_lowercase();
    assert!(allowed.split(',').any(|name| name.trim() == "authorization"), "{allowed}");
}

async fn post_raw(server: &Server, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
    let request = Request::post("/v1/chat/completions");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    server.send(request.body(body.into()).unwrap()).await
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused() {
    let server = server(&["x"]);
    let json = ("content-type", "application/json");
    for (headers, body, status) in [
        (vec![json], b"".to_vec(), 400),
        (vec![json], b"{".to_vec(), 400),
        (vec![json], b"[]".to_vec(), 400),
        (vec![json], b"{\"a\": NaN}".to_vec(), 400),
        (vec![json], b"{\"a\": 1e999}".to_vec(), 400),
        (vec![json], b"{\"a\": \"\\ud800\"}".to_vec(), 400),
        (vec![json], b"{\"a\": \"\xff\"}".to_vec(), 400),
        (vec![json], "[".repeat(100_000).into_bytes(), 400),
        (vec![json, ("content-encoding", "gzip")], vec![0x1f, 0x8b, 8, 0], 415),
        (vec![("content-type", "text/html")], b"{}".to_vec(), 415),
        (vec![("content-type", "multipart/form-data")], b"{}".to_vec(), 415),
    ] {
        let answer = post_raw(&server, &headers, body).await;
        assert_eq!(answer.status, status, "{headers:?}: {}", answer.text);
        assert!(answer.json()["error"]["message"].is_string());
    }
    // As curl sends it when it is told nothing else.
    let good = json!({ "messages": [{ "role": "user", "content": "x" }] }).to_string();
    for headers in [vec![], vec![("content-type", "application/x-www-form-urlencoded")]] {
        assert_eq!(post_raw(&server, &headers, good.clone()).await.status, 200, "{headers:?}");
    }
}

/// A body that never ends, or never comes.
struct Endless(bool);

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        match self.0 {
            true => {
                std::task::Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(&[b' '; 4096])))))
            }
            false => std::task::Poll::Pending,
        }
    }
}

#[tokio::test]
async fn bodies_are_bounded_in_size_and_time() {
    let server = with_config(|config| {
        config.max_body = 10_000;
        config.body_time = Duration::from_millis(20);
    });
    assert_eq!(post_raw(&server, &[], Body::new(Endless(true))).await.status, 413);
    assert_eq!(post_raw(&server, &[("content-length", "1000000000000")], Body::empty()).await.status, 413);
    let slow = post_raw(&server, &[], Body::new(Endless(false))).await;
    assert_eq!((slow.status.as_u16(), &slow.json()["error"]["type"]), (408, &json!("timeout_error")));
}

/// A body that begins, says when more of it is asked for, and then waits for ever.
struct Begun(usize, Option<tokio::sync::oneshot::Sender<()>>);

impl http_body::Body for Begun {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        match std::mem::take(&mut self.0) {
            0 => {
                self.1.take().map(|begun| begun.send(()));
                std::task::Poll::Pending
            }
            bytes => std::task::Poll::Ready(Some(Ok(http_body::Frame::data(vec![b' '; bytes].into())))),
        }
    }
}

#[tokio::test]
async fn large_bodies_share_the_room_for_them() {
    const MOST: usize = 1 << 20;
    let server = with_config(|config| config.max_body = MOST);
    let large = json!({ "prompt": "Hi", "user": "x".repeat(MOST / 2) }).to_string();
    let status = async || server.post_text("/v1/completions", large.clone()).await.status;
    // What was answered takes no room any more.
    for _ in 0..40 {
        assert_eq!(status().await, 200);
    }
    let mut begun = Vec::new();
    loop {
        let (taken, is_taken) = tokio::sync::oneshot::channel();
        let body = Body::new(Begun(MOST, Some(taken)));
        let request = Request::post("/v1/completions").body(body).unwrap();
        let answer = tokio::spawn(tower::ServiceExt::oneshot(server.routes.clone(), request));
        // A body that is refused is dropped, and nothing is said.
        if is_taken.await.is_err() {
            assert_eq!(answer.await.unwrap().unwrap().status(), 429);
            break;
        }
        begun.push(answer);
        assert!(begun.len() < 100, "there is no end of the room");
    }
    assert_eq!(status().await, 429);
    // Small ones need none of it.
    assert_eq!(server.post("/v1/completions", &json!({ "prompt": "Hi" })).await.status, 200);
    for answer in begun {
        answer.abort();
        assert!(answer.await.unwrap_err().is_cancelled());
    }
    assert_eq!(status().await, 200);
}

#[tokio::test]
async fn more_requests_than_there_are_places_for_are_refused() {
    let mut config = Config::default();
    config.max_requests = 1;
    let server = server_with(TEMPLATE, Script::Hang(vec![]), config);
    let body = json!({ "stream": true, "messages": [{ "role": "user", "content": "x" }] });
    let request = || Request::post("/v1/chat/completions").body(Body::from(body.to_string())).unwrap();
    let first = tower::ServiceExt::oneshot(server.routes.clone(), request()).await.unwrap();
    assert_eq!(first.status(), 200);
    let second = server.send(request()).await;
    assert_eq!((second.status.as_u16(), second.headers.contains_key("retry-after")), (429, true));
    assert_eq!(second.json()["error"]["code"], "queue_full");
    // What needs no model is answered all the same.
    assert_eq!(server.get("/health").await.status, 200);
    drop(first);
    crate::chat::until(|| server.app.busy() == 0).await;
}

#[tokio::test]
async fn a_page_is_served_that_asks_nobody_else() {
    let server = server(&[]);
    for path in ["/", "/docs"] {
        let page = server.get(path).await;
        assert!(page.headers["content-type"].to_str().unwrap().starts_with("text/html"));
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("connect-src 'self'"));
        for outside in ["src=\"http", "href=\"http", "url(http", "@import", "//cdn"] {
            assert!(!page.text.contains(outside), "{path} {outside}");
        }
    }
    let without = with_config(|config| config.page = false);
    assert_eq!(without.get("/").await.status, 404);
    assert_eq!(without.get("/").await.json()["error"]["code"], Value::Null);
}
