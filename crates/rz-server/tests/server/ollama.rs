//! Ollama's routes.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{Method, Request};
use rz_server::{App, Config, ConstraintSpec, FetchProgress, Kept, Library, LibraryError, Registry, router};
use serde_json::{Value, json};

use crate::fake::{Script, Server, TEMPLATE, THINKING, server, server_with};

fn hello() -> Value {
    json!({ "model": "tiny", "messages": [{ "role": "user", "content": "Hi" }] })
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

#[tokio::test]
async fn a_chat_streams_lines_unless_told_otherwise() {
    let server = server(&["Hello", " there"]);
    let answer = server.post("/api/chat", &hello()).await;
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    let lines = answer.values();
    let text: String = lines.iter().map(|line| line["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(text, "Hello there");
    let (last, rest) = lines.split_last().unwrap();
    assert!(rest.iter().all(|line| line["done"] == false));
    assert_eq!(
        (&last["done"], &last["done_reason"], &last["eval_count"]),
        (&json!(true), &json!("stop"), &json!(2))
    );
    assert!(last["total_duration"].is_u64() && last["prompt_eval_count"].as_u64().unwrap() > 0);

    let whole = server.ask("/api/chat", with(hello(), "stream", json!(false))).await;
    assert_eq!((&whole["message"]["content"], &whole["done"]), (&json!("Hello there"), &json!(true)));
    assert_eq!(whole["message"]["role"], "assistant");
}

#[tokio::test]
async fn a_prompt_is_answered_by_the_template_or_raw() {
    let server = server(&["ok"]);
    let body = json!({ "model": "tiny", "prompt": "Hi", "system": "Be brief.", "stream": false });
    assert_eq!(server.ask("/api/generate", body.clone()).await["response"], "ok");
    assert_eq!(server.model.prompt(0), "[system]Be brief.\n[user]Hi\n[assistant]");
    server
        .ask("/api/generate", json!({ "model": "tiny", "prompt": "Hi", "raw": true, "stream": false }))
        .await;
    assert_eq!(server.model.prompt(1), "Hi");
    assert_eq!(server.post("/api/generate", &with(body, "raw", json!(true))).await.status, 400);
    let load = server.ask("/api/generate", json!({ "model": "tiny" })).await;
    assert_eq!((&load["done_reason"], &load["response"]), (&json!("load"), &json!("")));
    let load = server.ask("/api/chat", json!({ "model": "tiny", "messages": [] })).await;
    assert_eq!((&load["done_reason"], &load["message"]["content"]), (&json!("load"), &json!("")));
}

#[tokio::test]
async fn options_reach_the_model() {
    let server = server(&["a", "b", "c"]);
    let options = json!({ "num_predict": 2, "temperature": 0.5, "seed": 7, "stop": ["x"], "num_ctx": 1024, "repeat_penalty": 1.1 });
    let body = with(with(hello(), "options", options), "format", json!({ "type": "object" }));
    let body = server.ask("/api/chat", with(body, "stream", json!(false))).await;
    assert_eq!((&body["message"]["content"], &body["done_reason"]), (&json!("ab"), &json!("length")));
    let generate = server.model.generate(0);
    assert_eq!((generate.seed, generate.max_tokens, generate.stop), (7, Some(2), vec!["x".to_owned()]));
    assert_eq!(generate.constraint, Some(ConstraintSpec::JsonSchema(json!({ "type": "object" }))));
    for (name, value) in [
        ("options", json!({ "num_ctx": 100_000 })),
        ("options", json!({ "num_gpu": 3 })),
        ("options", json!({ "num_predict": 0 })),
        ("options", json!({ "num_predict": -3 })),
        ("options", json!([])),
        ("format", json!("xml")),
        ("keep_alive", json!("soon")),
        ("think", json!("hard")),
        ("logprobs", json!(true)),
        ("template", json!("x")),
        ("model", Value::Null),
    ] {
        let answer = server.post("/api/chat", &with(hello(), name, value.clone())).await;
        assert_eq!(answer.status, 400, "{name} {value}: {}", answer.text);
        assert!(answer.json()["error"].as_str().unwrap().contains(name), "{}", answer.text);
    }
    assert_eq!(server.post("/api/chat", &with(hello(), "model", json!("nobody"))).await.status, 404);
}

#[tokio::test]
async fn calls_have_arguments_that_are_objects() {
    let server = server(&["<tool_call>{\"name\": \"f\", ", "\"arguments\": {\"a\": 1}}</tool_call>"]);
    let tools =
        json!([{ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } }]);
    let body = with(hello(), "tools", tools);
    let expected = json!([{ "function": { "name": "f", "arguments": { "a": 1 } } }]);
    let whole = server.ask("/api/chat", with(body.clone(), "stream", json!(false))).await;
    assert_eq!(whole["message"]["tool_calls"], expected);
    let lines = server.post("/api/chat", &body).await.values();
    assert_eq!(lines.iter().filter(|line| line["message"]["tool_calls"] == expected).count(), 1);
    // What was called comes back with the results.
    let messages = json!([
        { "role": "user", "content": "Go" },
        { "role": "assistant", "content": "", "tool_calls": expected },
        { "role": "tool", "content": "3", "tool_name": "f" },
    ]);
    server.ask("/api/chat", with(with(body, "messages", messages), "stream", json!(false))).await;
    let prompt = server.model.prompt(2);
    assert!(
        prompt.contains("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>\n[tool]3"),
        "{prompt}"
    );
}

#[tokio::test]
async fn thoughts_stand_apart() {
    let server = server_with(THINKING, Script::Say(vec!["<think>hm</think>", "Yes"]), Config::default());
    let body = server.ask("/api/chat", with(hello(), "stream", json!(false))).await;
    assert_eq!(body["message"], json!({ "role": "assistant", "content": "Yes", "thinking": "hm" }));
    server.ask("/api/chat", with(with(hello(), "stream", json!(false)), "think", json!(false))).await;
    assert!(server.model.prompt(1).ends_with("<think></think>"));
}

#[tokio::test]
async fn models_are_listed_and_shown() {
    let server = server(&["x"]);
    let tags = server.get("/api/tags").await.json();
    assert_eq!(
        (&tags["models"][0]["name"], &tags["models"][1]["model"]),
        (&json!("tiny"), &json!("org/other"))
    );
    assert_eq!(server.get("/api/ps").await.json()["models"], json!([]));
    let shown = server.ask("/api/show", json!({ "model": "tiny" })).await;
    assert_eq!(shown["capabilities"], json!(["completion", "tools"]));
    assert_eq!(shown["model_info"]["llama.context_length"], 4096);
    assert_eq!(shown["details"]["parameter_size"], "135.0M");
    let running = server.get("/api/ps").await.json();
    assert_eq!(
        (&running["models"][0]["name"], &running["models"][0]["context_length"]),
        (&json!("tiny"), &json!(2048))
    );
    assert!(server.get("/api/version").await.json()["version"].is_string());
    for path in ["/api/create", "/api/copy", "/api/push"] {
        assert_eq!(server.post(path, &json!({})).await.status, 501);
    }
}

/// Models on a machine that is not there.
#[derive(Default)]
struct Shelf(Mutex<Vec<String>>);

impl Library for Shelf {
    fn list(&self) -> Result<Vec<Kept>, LibraryError> {
        Ok(self.0.lock().unwrap().iter().map(|name| Kept { name: name.clone(), bytes: 7 }).collect())
    }

    fn fetch(
        &self,
        name: &str,
        progress: &mut dyn FnMut(FetchProgress) -> ControlFlow<()>,
    ) -> Result<String, LibraryError> {
        if name == "broken" {
            return Err(LibraryError::Failed("the network is down".into()));
        }
        for bytes in [0, 5, 5, 10] {
            let now = FetchProgress { stage: "downloading", bytes, total: Some(10), file: "f".into() };
            if progress(now).is_break() {
                return Err(LibraryError::Failed("cancelled".into()));
            }
        }
        self.0.lock().unwrap().push(name.into());
        Ok(name.into())
    }

    fn remove(&self, name: &str) -> Result<(), LibraryError> {
        let mut names = self.0.lock().unwrap();
        let at = names
            .iter()
            .position(|known| known == name)
            .ok_or(LibraryError::Unknown("there is no such model".into()))?;
        names.remove(at);
        Ok(())
    }
}

fn with_shelf(manage: bool) -> Server {
    let mut config = Config::default();
    config.manage_models = manage;
    let plain = server_with(TEMPLATE, Script::Say(vec![]), Config::default());
    let registry = Registry::new(crate::fake::served(), plain.loader.clone(), &config).unwrap();
    let app = Arc::new(App::new(config, registry).with_library(Arc::new(Shelf::default())));
    Server { routes: router(app.clone()), app, ..plain }
}

async fn delete(server: &Server, name: &str) -> u16 {
    let request = Request::builder().method(Method::DELETE).uri("/api/delete");
    let body = Body::from(json!({ "model": name }).to_string());
    server.send(request.body(body).unwrap()).await.status.as_u16()
}

#[tokio::test]
async fn models_are_fetched_and_deleted_where_that_is_allowed() {
    let server = with_shelf(true);
    let lines = server.post("/api/pull", &json!({ "model": "new" })).await.values();
    let completed: Vec<_> = lines.iter().filter_map(|line| line["completed"].as_u64()).collect();
    assert_eq!(completed, [0, 5, 10]);
    assert_eq!(
        (&lines[0]["status"], &lines.last().unwrap()["status"]),
        (&json!("pulling manifest"), &json!("success"))
    );
    assert_eq!(
        server.ask("/api/pull", json!({ "model": "other", "stream": false })).await["status"],
        "success"
    );
    let tags = server.get("/api/tags").await.json();
    let names: Vec<_> =
        tags["models"].as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["tiny", "org/other", "new", "other"]);
    let broken = server.post("/api/pull", &json!({ "model": "broken" })).await.values();
    assert_eq!(broken.last().unwrap()["error"], "the network is down");
    assert_eq!(server.post("/api/pull", &json!({ "model": "broken", "stream": false })).await.status, 500);
    // What was fetched is served from now on, by whatever API.
    let models = async || {
        let list = server.get("/v1/models").await.json()["data"].clone();
        let names = list.as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(models().await, ["tiny", "org/other", "new", "other"]);
    let chat = with(with(hello(), "model", json!("new")), "stream", json!(false));
    assert_eq!(server.post("/api/chat", &chat).await.status, 200);
    assert_eq!(server.post("/v1/chat/completions", &chat).await.status, 200);
    let mut streams = chat.clone();
    streams["stream"] = json!(true);
    let in_use = server.stream("/api/chat", &streams).await;
    for (name, status) in [("new", 200), ("new", 404), ("tiny", 400)] {
        assert_eq!(delete(&server, name).await, status, "{name}");
    }
    assert_eq!(models().await, ["tiny", "org/other", "other"]);
    assert_eq!(server.post("/api/chat", &chat).await.status, 404);
    let rest = axum::body::to_bytes(in_use.into_body(), 1 << 20).await.unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("\"done\":true"), "{rest:?}");
    // After a restart, what is there is served as well.
    let again = Registry::new(crate::fake::served(), server.loader.clone(), &Config::default()).unwrap();
    let shelf = Shelf(Mutex::new(vec!["other".into(), "tiny".into()]));
    let again = App::new(Config::default(), again).with_library(Arc::new(shelf));
    again.serve_kept().unwrap();
    let names: Vec<_> = again.registry().models().map(|(served, _)| served.name).collect();
    assert_eq!(names, ["tiny", "org/other", "other"]);

    let closed = with_shelf(false);
    assert_eq!(closed.post("/api/pull", &json!({ "model": "new" })).await.status, 403);
    assert_eq!(delete(&closed, "new").await, 403);
}
