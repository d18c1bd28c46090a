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

#[tokio::test]
async fn a_model_that_is_in_use_makes_no_room() {
    let mut config = Config::default();
    config.model_memory = Some(1500);
    let model = Arc::new(Fake::new(TEMPLATE, Script::Hang(vec!["x"])));
    let loader =
        Arc::new(FakeLoader { model: Some(model.clone()), loads: AtomicUsize::new(0), bytes: Some(1000) });
    let registry = Registry::new(served(), loader.clone(), &config).unwrap();
    let app = Arc::new(App::new(config, registry));
    let server = Server { routes: router(app.clone()), app, model, loader };
    let mut stream = ask("tiny");
    stream["stream"] = json!(true);
    let first = server.stream("/v1/chat/completions", &stream).await;
    let refused = server.post("/v1/chat/completions", &ask("org/other")).await;
    assert_eq!((refused.status.as_u16(), refused.headers["retry-after"].to_str().unwrap()), (503, "1"));
    assert!(refused.text.contains("in use"), "{}", refused.text);
    assert_eq!(states(&server)[0], ModelState::Ready);
    // It is no failure of the server's, and passes with its cause.
    assert_eq!(server.get("/health").await.status, 200);
    drop(first);
    crate::chat::until(|| server.app.busy() == 0).await;
    let second =
        async || server.stream("/v1/chat/completions", &with_stream(ask("org/other"))).await.status();
    while second().await != 200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(states(&server), [ModelState::Unloaded, ModelState::Ready]);
}

fn with_stream(mut body: serde_json::Value) -> serde_json::Value {
    body["stream"] = json!(true);
    body
}

#[tokio::test]
async fn clients_of_ollama_say_how_long_a_model_stays() {
    let server = server(&["x"]);
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let hello = json!([{ "role": "user", "content": "Hi" }]);
    for (keep, stays, goes) in [
        (json!("5m"), Some(minutes(4)), Some(minutes(6))),
        (json!("1h30m"), Some(minutes(89)), Some(minutes(91))),
        (json!(90), Some(minutes(1)), Some(minutes(2))),
        (json!(0), None, Some(Duration::ZERO)),
        (json!("0s"), None, Some(Duration::ZERO)),
        (json!(-1), Some(minutes(10_000_000)), None),
        (json!("-1m"), Some(minutes(10_000_000)), None),
    ] {
        let body = json!({ "model": "tiny", "messages": hello, "stream": false, "keep_alive": keep });
        server.ask("/api/chat", body).await;
        let now = Instant::now();
        if let Some(stays) = stays {
            server.app.registry().unload_idle(now + stays);
            assert_eq!(states(&server)[0], ModelState::Ready, "{keep}");
        }
        if let Some(goes) = goes {
            server.app.registry().unload_idle(now + goes);
            assert_eq!(states(&server)[0], ModelState::Unloaded, "{keep}");
        }
    }
    // Who asks for nothing keeps what was asked for; a model that is loaded again is as the server has it.
    server.ask("/v1/chat/completions", ask("tiny")).await;
    server.app.registry().unload_idle(Instant::now() + minutes(10_000_000));
    assert_eq!(states(&server)[0], ModelState::Ready);
}

/// A model that takes its time to go.
struct Slow {
    model: Arc<Fake>,
    going: std::sync::mpsc::Sender<()>,
    /// As long as there is something at the other end, it is not gone.
    held: Arc<std::sync::Mutex<std::sync::mpsc::Receiver<()>>>,
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.going.send(()).ok();
        self.held.lock().unwrap().recv().ok();
    }
}

impl rz_server::Backend for Slow {
    fn info(&self) -> &rz_server::ModelInfo {
        self.model.info()
    }

    fn tokenizer(&self) -> &rz_tokenizer::Tokenizer {
        self.model.tokenizer()
    }

    fn template(&self) -> Option<&rz_tokenizer::ChatTemplate> {
        self.model.template()
    }

    fn submit(&self, job: rz_server::Job) -> Result<rz_server::Events, rz_server::Refusal> {
        self.model.submit(job)
    }

    fn stats(&self) -> rz_server::Stats {
        self.model.stats()
    }
}

struct SlowLoader {
    model: Arc<Fake>,
    going: std::sync::Mutex<std::sync::mpsc::Sender<()>>,
    held: Arc<std::sync::Mutex<std::sync::mpsc::Receiver<()>>>,
    loads: AtomicUsize,
}

impl rz_server::Loader for SlowLoader {
    fn load(&self, _: &Served) -> Result<Arc<dyn rz_server::Backend>, String> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        let going = self.going.lock().unwrap().clone();
        Ok(Arc::new(Slow { model: self.model.clone(), going, held: self.held.clone() }))
    }
}

#[tokio::test]
async fn a_request_that_comes_while_its_model_goes_is_answered() {
    let plain = server(&["x"]);
    let (going, gone) = std::sync::mpsc::channel();
    let (let_go, held) = std::sync::mpsc::channel();
    let loader = Arc::new(SlowLoader {
        model: plain.model.clone(),
        going: going.into(),
        held: Arc::new(held.into()),
        loads: AtomicUsize::new(0),
    });
    let config = Config::default();
    let registry = Registry::new(served(), loader.clone(), &config).unwrap();
    let app = Arc::new(App::new(config, registry));
    let server = Server { routes: router(app.clone()), app, ..plain };
    server.ask("/api/generate", json!({ "model": "tiny", "keep_alive": 0 })).await;
    let app = server.app.clone();
    let unloading = std::thread::spawn(move || app.registry().unload_idle(Instant::now()));
    gone.recv().unwrap();
    assert_eq!(server.ask("/v1/chat/completions", ask("tiny")).await["model"], "tiny");
    assert_eq!(loader.loads.load(Ordering::SeqCst), 2);
    assert!(!unloading.is_finished());
    drop(let_go);
    unloading.join().unwrap();
    assert_eq!(states(&server)[0], ModelState::Ready);
}

#[tokio::test]
async fn a_start_succeeds_with_one_model_and_fails_with_none() {
    /// Loads what has this name.
    struct Only(&'static str, Arc<Fake>);

    impl rz_server::Loader for Only {
        fn load(&self, model: &Served) -> Result<Arc<dyn rz_server::Backend>, String> {
            let good = model.name == self.0;
            if good { Ok(self.1.clone()) } else { Err(format!("{} is damaged", model.reference)) }
        }
    }

    let names = ["tiny", "org/other"].map(str::to_owned);
    for (good, expected) in [
        ("tiny", Ok(())),
        ("org/other", Ok(())),
        ("nobody", Err("the model 'tiny' cannot be loaded: hf:org/tiny/file.gguf is damaged".to_owned())),
    ] {
        let loader = Arc::new(Only(good, server(&[]).model));
        let registry = Arc::new(Registry::new(served(), loader, &Config::default()).unwrap());
        names.iter().for_each(|name| registry.preload(name));
        assert_eq!(registry.loaded_one(&names).await, expected);
        assert_eq!(registry.loaded_one(&[]).await, Ok(()));
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
