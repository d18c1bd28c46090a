//! Which models there are; loading and unloading them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rz_server::{App, Config, ModelState, Registry, Served, ServerError, router};
use serde_json::json;

use crate::fake::{Fake, FakeLoader, Script, Server, TEMPLATE, served, server};

fn ask(model: &str) -> serde_json::Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": "Hi" }] })
}

fn states(server: &Server) -> Vec<ModelState> {
    server.app.registry().models().map(|(_, state)| state).collect()
}

#[tokio::test]
async fn models_are_listed_and_found_by_name_and_alias() {
    let server = server(&["x"]);
    let list = server.get("/v1/models").await.json();
    let names: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
    assert_eq!(names, ["tiny", "org/other"]);
    assert_eq!(
        (&list["data"][0]["max_model_len"], &list["data"][0]["state"]),
        (&json!(null), &json!("unloaded"))
    );
    for (path, name) in
        [("/v1/models/tiny", "tiny"), ("/v1/models/gpt-4", "tiny"), ("/v1/models/org/other", "org/other")]
    {
        assert_eq!(server.get(path).await.json()["id"], name);
    }
    let lost = server.get("/v1/models/nobody").await;
    assert_eq!((lost.status.as_u16(), &lost.json()["error"]["code"]), (404, &json!("model_not_found")));
    // A name that climbs out of a folder is just a name that nobody has.
    assert_eq!(server.get("/v1/models/..%2f..%2fetc%2fpasswd").await.status, 404);
    for name in ["gpt-4", "tiny", "tiny:latest"] {
        assert_eq!(server.ask("/v1/chat/completions", ask(name)).await["model"], "tiny");
    }
    assert_eq!(server.get("/v1/models/tiny").await.json()["max_model_len"], 2048);
}

#[tokio::test]
async fn many_who_ask_at_once_load_a_model_once() {
    let server = server(&["x"]);
    let body = ask("tiny");
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let routes = server.routes.clone();
            let body = body.to_string();
            tokio::spawn(async move {
                let request = axum::http::Request::post("/v1/chat/completions")
                    .body(axum::body::Body::from(body))
                    .unwrap();
                tower::ServiceExt::oneshot(routes, request).await.unwrap().status()
            })
        })
        .collect();
    for asked in asking {
        assert_eq!(asked.await.unwrap(), 200);
    }
    assert_eq!(server.loader.loads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn idle_models_are_unloaded_and_loaded_again() {
    let mut config = Config::default();
    config.idle_time = Some(Duration::from_secs(60));
    let server = crate::fake::server_with(TEMPLATE, Script::Say(vec!["x"]), config);
    server.ask("/v1/chat/completions", ask("tiny")).await;
    let now = Instant::now();
    server.app.registry().unload_idle(now + Duration::from_secs(30));
    assert_eq!(states(&server)[0], ModelState::Ready);
    server.app.registry().unload_idle(now + Duration::from_secs(61));
    assert_eq!(states(&server)[0], ModelState::Unloaded);
    server.ask("/v1/chat/completions", ask("tiny")).await;
    assert_eq!(server.loader.loads.load(Ordering::SeqCst), 2);
    // A client of Ollama may want to keep it longer, or not at all.
    server.ask("/api/generate", json!({ "model": "tiny", "keep_alive": -1 })).await;
    server.app.registry().unload_idle(now + Duration::from_secs(100_000));
    assert_eq!(states(&server)[0], ModelState::Ready);
    let body = server.ask("/api/generate", json!({ "model": "tiny", "keep_alive": 0 })).await;
    assert_eq!(body["done_reason"], "unload");
    server.app.registry().unload_idle(Instant::now());
    assert_eq!(states(&server)[0], ModelState::Unloaded);
}

#[tokio::test]
async fn models_make_room_for_each_other() {
    let mut config = Config::default();
    config.model_memory = Some(1500);
    let model = Arc::new(Fake::new(TEMPLATE, Script::Say(vec!["x"])));
    let loader =
        Arc::new(FakeLoader { model: Some(model.clone()), loads: AtomicUsize::new(0), bytes: Some(1000) });
    let registry = Registry::new(served(), loader.clone(), &config).unwrap();
    let app = Arc::new(App::new(config, registry));
    let server = Server { routes: router(app.clone()), app, model, loader };
    for (name, expected) in [
        ("tiny", [ModelState::Ready, ModelState::Unloaded]),
        ("org/other", [ModelState::Unloaded, ModelState::Ready]),
        ("tiny", [ModelState::Ready, ModelState::Unloaded]),
    ] {
        server.ask("/v1/chat/completions", ask(name)).await;
        assert_eq!(states(&server), expected);
    }
}

#[test]
fn names_are_told_apart() {
    let new = |models: Vec<Served>| {
        let loader = Arc::new(FakeLoader { model: None, loads: AtomicUsize::new(0), bytes: None });
        Registry::new(models, loader, &Config::default()).err()
    };
    let named = |name: &str, alias: &str| Served {
        name: name.into(),
        aliases: vec![alias.into()],
        ..Served::default()
    };
    assert!(new(vec![named("a", "b"), named("c", "d")]).is_none());
    assert!(matches!(new(vec![named("a", "b"), named("b", "c")]), Some(ServerError::SameName { .. })));
    assert!(matches!(new(vec![named("a", "")]), Some(ServerError::ModelName { .. })));
    assert!(matches!(new(vec![named("a\nb", "c")]), Some(ServerError::ModelName { .. })));
}
