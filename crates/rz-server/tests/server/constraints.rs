//! Answers that must be something, by all routes, of a real engine over a tiny model whose taste is no help.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use rz_engine::serve::{Engine, EngineOptions, EngineThread};
use rz_formats::{Gguf, StringArray};
use rz_kernels::Runtime;
use rz_model::{CpuModel, KvRoom, LoadOptions};
use rz_server::{App, Backend, Config, EngineBackend, Loader, ModelInfo, Registry, Served, router};
use rz_testkit::gguf::{TinyLlama, spm_tokenizer};
use rz_tokenizer::{ChatTemplate, Tokenizer};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::fake::TEMPLATE;

/// A template that begins the model's thoughts.
const THOUGHTFUL: &str =
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]<think>\n";

/// The token that ends thoughts.
const CLOSE: u32 = 599;

/// A tokenizer with a token that ends thoughts, as those of thinking models have it.
fn tokenizer() -> Tokenizer {
    let mut meta = spm_tokenizer(600);
    let tokens = meta.require_strings("tokenizer.ggml.tokens").unwrap();
    let mut tokens: Vec<String> = (0..tokens.len()).map(|at| tokens.get(at).unwrap().to_owned()).collect();
    let mut types = meta.require_i32s("tokenizer.ggml.token_type").unwrap().to_vec();
    // A control token.
    (tokens[CLOSE as usize], types[CLOSE as usize]) = ("</think>".to_owned(), 3);
    meta.insert("tokenizer.ggml.tokens", tokens.iter().collect::<StringArray>());
    meta.insert("tokenizer.ggml.token_type", types);
    Tokenizer::from_gguf(&meta).unwrap()
}

struct TinyLoader(&'static str);

impl Loader for TinyLoader {
    fn load(&self, _model: &Served) -> Result<Arc<dyn Backend>, String> {
        let folder = tempfile::tempdir().unwrap();
        let tiny = TinyLlama { vocab: 640, context: 2048, ..TinyLlama::default() };
        let gguf = Gguf::open(tiny.write(folder.path())).unwrap();
        let options = LoadOptions { context: 2048, max_batch: 64, ..LoadOptions::default() };
        let options = LoadOptions { kv_room: KvRoom::Sequences(4), ..options };
        let runtime = Runtime::new(Some(1)).unwrap();
        let model = CpuModel::load(&gguf, &runtime, options, &mut |_, _| {}).unwrap();
        let tokenizer = Arc::new(tokenizer());
        let thread = EngineThread::spawn(Engine::new(model, tokenizer.clone(), EngineOptions::default()));
        let template = ChatTemplate::new("test", self.0, Some("<s>"), Some("</s>")).unwrap();
        let info = ModelInfo { context: 2048, vocabulary: 640, ..ModelInfo::default() };
        Ok(Arc::new(EngineBackend::new(thread.unwrap(), info, tokenizer, Some(template))))
    }

    fn memory(&self, _model: &Served) -> Option<u64> {
        None
    }
}

fn routes(template: &'static str) -> Router {
    let served = Served { name: "tiny".into(), aliases: vec![], reference: "tiny.gguf".into() };
    let config = Config::default();
    let registry = Registry::new(vec![served], Arc::new(TinyLoader(template)), &config).unwrap();
    router(Arc::new(App::new(config, registry)))
}

async fn post(routes: &Router, path: &str, body: &Value) -> (StatusCode, String) {
    let request =
        Request::builder().method(Method::POST).uri(path).header("content-type", "application/json");
    let response = routes.clone().oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let bytes = to_bytes(body, 64 << 20).await.unwrap();
    (head.status, String::from_utf8(bytes.to_vec()).unwrap())
}

async fn ask(routes: &Router, path: &str, body: Value) -> Value {
    let (status, text) = post(routes, path, &body).await;
    assert_eq!(status, 200, "{path} {body}: {text}");
    serde_json::from_str(&text).unwrap()
}

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "type": "object",
        "properties": { "city": { "type": "string", "maxLength": 6 }, "size": { "$ref": "#/$defs/size" } },
        "required": ["city", "size"],
        "additionalProperties": false,
        "$defs": { "size": { "enum": ["small", "large"] } },
    })
});

/// Whether a value is what the schema describes.
fn is_city(value: &Value) -> bool {
    let fields = value.as_object().unwrap();
    fields.len() == 2
        && value["city"].as_str().is_some_and(|city| city.chars().count() <= 6)
        && (value["size"] == "small" || value["size"] == "large")
}

fn is_city_text(text: &Value) -> bool {
    let text = text.as_str().unwrap();
    is_city(&serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}")))
}

fn hello() -> Value {
    json!([{ "role": "user", "content": "Hi" }])
}

#[tokio::test]
async fn every_family_of_routes_gives_what_the_schema_describes() {
    let routes = routes(TEMPLATE);
    for seed in 0..3 {
        let named = json!({ "name": "city", "schema": *SCHEMA, "strict": seed == 0 });
        let format = json!({ "type": "json_schema", "json_schema": named });
        let chat = json!({ "messages": hello(), "seed": seed, "n": 2, "temperature": 1.5, "response_format": format });
        let answer = ask(&routes, "/v1/chat/completions", chat).await;
        for choice in answer["choices"].as_array().unwrap() {
            assert!(is_city_text(&choice["message"]["content"]));
            assert_eq!(choice["finish_reason"], "stop");
        }
        let text = json!({ "prompt": "Hi", "seed": seed, "max_tokens": 200, "guided_json": *SCHEMA });
        assert!(is_city_text(&ask(&routes, "/v1/completions", text).await["choices"][0]["text"]));
        let mut format = named.clone();
        format["type"] = "json_schema".into();
        let response = json!({ "input": "Hi", "text": { "format": format } });
        let response = ask(&routes, "/v1/responses", response).await;
        assert!(is_city_text(&response["output"][0]["content"][0]["text"]), "{response}");
        let format = json!({ "format": { "type": "json_schema", "schema": *SCHEMA } });
        let message =
            json!({ "model": "tiny", "max_tokens": 300, "messages": hello(), "output_config": format });
        assert!(is_city_text(&ask(&routes, "/v1/messages", message).await["content"][0]["text"]));
        let options = json!({ "seed": seed, "num_predict": 300 });
        let chat = json!({ "model": "tiny", "messages": hello(), "stream": false, "format": *SCHEMA, "options": options });
        assert!(is_city_text(&ask(&routes, "/api/chat", chat).await["message"]["content"]));
        let completion = json!({ "prompt": "Hi", "seed": seed, "n_predict": 300, "json_schema": *SCHEMA });
        assert!(is_city_text(&ask(&routes, "/completion", completion).await["content"]));
    }
}

#[tokio::test]
async fn objects_expressions_choices_and_grammars_hold_too() {
    let routes = routes(TEMPLATE);
    let text = |body: Value| {
        let routes = routes.clone();
        async move {
            let mut all = json!({ "prompt": "Hi", "seed": 4, "max_tokens": 60 });
            all.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
            ask(&routes, "/v1/completions", all).await["choices"][0].clone()
        }
    };
    let digits = text(json!({ "guided_regex": "[0-9]{3}" })).await;
    assert!(digits["text"].as_str().unwrap().parse::<u16>().is_ok() && digits["finish_reason"] == "stop");
    for body in [
        json!({ "guided_choice": ["yes", "no"] }),
        json!({ "structured_outputs": { "choice": ["yes", "no"] } }),
        json!({ "guided_grammar": "start: \"yes\" | \"no\"" }),
        json!({ "structured_outputs": { "grammar": "root ::= \"yes\" | \"no\"" } }),
    ] {
        let word = text(body).await["text"].clone();
        assert!(word == "yes" || word == "no", "{word}");
    }
    let completion =
        json!({ "prompt": "Hi", "n_predict": 60, "grammar": "root ::= [ab]{3} (\"c\" | root)?" });
    let said = ask(&routes, "/completion", completion).await["content"].clone();
    assert!(said.as_str().unwrap().starts_with(['a', 'b']), "{said}");

    // Any object: cut, it is the beginning of one, and the reason says that it was.
    let generate = json!({ "model": "tiny", "prompt": "Hi", "stream": false, "format": "json", "options": { "num_predict": 1 } });
    let cut = ask(&routes, "/api/generate", generate).await;
    assert!(cut["response"].as_str().unwrap().starts_with('{') && cut["done_reason"] == "length", "{cut}");
    let format = json!({ "type": "json_object" });
    let chat = json!({ "messages": hello(), "max_tokens": 1, "response_format": format });
    let cut = ask(&routes, "/v1/chat/completions", chat).await;
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    assert!(cut["choices"][0]["message"]["content"].as_str().unwrap().starts_with('{'));
}

#[tokio::test]
async fn calls_that_must_be_have_arguments_of_the_schema() {
    let routes = routes(TEMPLATE);
    let tool = |name: &str, schema: &Value| json!({ "type": "function", "function": { "name": name, "parameters": schema } });
    let other = json!({ "type": "object", "properties": { "n": { "type": "integer", "maximum": 9, "minimum": 0 } },
        "required": ["n"], "additionalProperties": false });
    let tools = json!([tool("city", &SCHEMA), tool("count", &other)]);
    for seed in 0..6 {
        let named = json!({ "type": "function", "function": { "name": "city" } });
        for choice in [json!("required"), named] {
            let chat = json!({ "messages": hello(), "tools": tools, "seed": seed, "temperature": 1.5,
                "tool_choice": choice, "max_tokens": 400 });
            let answer = ask(&routes, "/v1/chat/completions", chat).await;
            assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls", "{answer}");
            let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
            let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
            match call["name"].as_str().unwrap() {
                "city" => assert!(is_city(&arguments)),
                name => {
                    assert!(name == "count" && choice == "required", "{name}");
                    assert!((0..=9).contains(&arguments["n"].as_i64().unwrap()));
                }
            }
        }
    }
    let tools = json!([{ "name": "city", "input_schema": *SCHEMA }]);
    for choice in [json!({ "type": "any" }), json!({ "type": "tool", "name": "city" })] {
        let message = json!({ "model": "tiny", "max_tokens": 400, "messages": hello(), "tools": tools, "tool_choice": choice });
        let answer = ask(&routes, "/v1/messages", message).await;
        let call = answer["content"].as_array().unwrap().last().unwrap();
        assert!(call["type"] == "tool_use" && is_city(&call["input"]), "{answer}");
        assert_eq!(answer["stop_reason"], "tool_use");
    }
}

/// With a preference for one character, the tiny model never ends its thoughts: they are free, and nothing else is said.
#[tokio::test]
async fn constraints_begin_behind_the_thoughts() {
    let routes = routes(THOUGHTFUL);
    let bias = json!({ (3 + u32::from(b'>')).to_string(): 100 });
    let chat = json!({ "messages": hello(), "max_tokens": 40, "logit_bias": bias, "seed": 1,
        "response_format": { "type": "json_schema", "json_schema": { "name": "city", "schema": *SCHEMA } } });
    let answer = ask(&routes, "/v1/chat/completions", chat).await;
    let message = &answer["choices"][0]["message"];
    assert!(message["reasoning_content"].as_str().unwrap().starts_with('>'), "{answer}");
    assert!(message["content"].as_str().is_none_or(str::is_empty), "{answer}");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    // Calls that must be begin without thoughts.
    let tools = json!([{ "type": "function", "function": { "name": "city", "parameters": *SCHEMA } }]);
    let chat = json!({ "messages": hello(), "tools": tools, "tool_choice": "required", "max_tokens": 400 });
    let answer = ask(&routes, "/v1/chat/completions", chat).await;
    let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
    assert!(is_city(&serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap()), "{answer}");
}

/// What comes before the end of the thoughts is anything, and what comes behind it is what the schema describes, by
/// every family of routes, as a whole and as a stream.
#[tokio::test]
async fn behind_the_thoughts_comes_what_the_schema_describes() {
    let routes = routes(THOUGHTFUL);
    let mut thoughts = Vec::new();
    for seed in 0..4 {
        // Likely enough to come after a while.
        let bias = json!({ CLOSE.to_string(): 4.0 });
        let named = json!({ "name": "city", "schema": *SCHEMA });
        let mut chat = json!({ "messages": hello(), "max_tokens": 1500, "seed": seed, "temperature": 1.2, "logit_bias": bias,
            "response_format": { "type": "json_schema", "json_schema": named } });
        let answer = ask(&routes, "/v1/chat/completions", chat.clone()).await;
        let message = &answer["choices"][0]["message"];
        assert!(is_city_text(&message["content"]), "{answer}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        let thought = message["reasoning_content"].as_str().unwrap_or_default().to_owned();
        let counted = answer["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
        assert!(counted > 0 && !thought.contains("think>"), "{answer}");

        chat["stream"] = true.into();
        let (status, text) = post(&routes, "/v1/chat/completions", &chat).await;
        assert_eq!(status, 200, "{text}");
        let (mut reasoning, mut content) = (String::new(), String::new());
        for line in text.lines().filter_map(|line| line.strip_prefix("data: {")) {
            let chunk: Value = serde_json::from_str(&format!("{{{line}")).unwrap();
            let delta = &chunk["choices"][0]["delta"];
            let said = delta["content"].as_str().unwrap_or_default();
            reasoning += delta["reasoning_content"].as_str().unwrap_or_default();
            assert!(
                content.is_empty() || delta["reasoning_content"].is_null(),
                "thoughts come first: {chunk}"
            );
            content += said;
        }
        assert_eq!((&reasoning, &json!(content)), (&thought, &message["content"]));
        thoughts.push(thought);

        let completion = json!({ "n_predict": 1500, "seed": seed, "temperature": 1.2, "logit_bias": [[CLOSE, 4.0]],
            "json_schema": *SCHEMA, "prompt": "Hi" });
        assert!(
            is_city_text(&ask(&routes, "/completion", completion).await["content"]),
            "no thoughts, no wait"
        );
    }
    // The thoughts are the model's own: they are there, they differ, and none of them is what the schema describes.
    assert!(thoughts.iter().filter(|thought| thought.chars().count() > 3).count() >= 2, "{thoughts:?}");
    let is_json =
        |thought: &String| serde_json::from_str::<Value>(thought).is_ok_and(|value| value.is_object());
    assert!(!thoughts.iter().any(is_json) && thoughts[0] != thoughts[1], "{thoughts:?}");

    // The other families have no bias to help the model along: it may be cut while it thinks, and says so.
    let format = json!({ "format": { "type": "json_schema", "schema": *SCHEMA } });
    let message =
        json!({ "model": "tiny", "max_tokens": 30, "messages": hello(), "seed": 1, "output_config": format });
    let answer = ask(&routes, "/v1/messages", message).await;
    assert_eq!(
        (&answer["content"][0]["type"], &answer["stop_reason"]),
        (&json!("thinking"), &json!("max_tokens"))
    );
    let options = json!({ "num_predict": 30, "seed": 1 });
    let chat = json!({ "model": "tiny", "messages": hello(), "stream": false, "format": *SCHEMA, "options": options });
    let answer = ask(&routes, "/api/chat", chat).await;
    assert!(!answer["message"]["thinking"].as_str().unwrap().is_empty(), "{answer}");
    assert_eq!((&answer["message"]["content"], &answer["done_reason"]), (&json!(""), &json!("length")));
}

/// Each is refused with a message of one line, before anything is generated.
#[tokio::test]
async fn hostile_descriptions_are_refused() {
    let routes = routes(TEMPLATE);
    let choices: Vec<Value> =
        (0..40).map(|n| json!({ "properties": { format!("p{n}"): { "const": n } } })).collect();
    let product: Vec<Value> = (0..20).map(|_| json!({ "anyOf": choices })).collect();
    let deep = (0..70).fold(json!({}), |inner, _| json!({ "items": inner }));
    let format =
        |schema: Value| json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
    for (name, value) in [
        ("response_format", format(json!({ "type": "string", "pattern": "(" }))),
        ("response_format", format(json!({ "type": "object", "if": {} }))),
        ("response_format", format(json!({ "$ref": "#/nowhere" }))),
        ("response_format", format(json!({ "$ref": "#" }))),
        ("response_format", format(json!({ "allOf": product }))),
        ("response_format", format(deep)),
        ("response_format", format(json!({ "minimum": "é".repeat(100), "type": "number" }))),
        ("guided_regex", json!("(a")),
        ("guided_regex", json!("(?=a)b")),
        ("guided_regex", json!("(".repeat(20_000))),
        ("guided_grammar", json!("start: missing")),
        ("guided_grammar", json!("root ::= missing")),
        ("guided_grammar", json!("(".repeat(20_000))),
        ("guided_choice", json!(["x".repeat(300_000)])),
    ] {
        let mut body = json!({ "messages": hello(), "max_tokens": 5 });
        body[name] = value;
        let (status, text) = post(&routes, "/v1/chat/completions", &body).await;
        let error: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status, 400, "{name}: {text}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(!message.contains('\n') && message.len() < 400, "{message}");
    }
    // And it goes on serving.
    let digits = json!({ "prompt": "Hi", "guided_regex": "[0-9]{2}" });
    assert_eq!(
        ask(&routes, "/v1/completions", digits).await["choices"][0]["text"].as_str().unwrap().len(),
        2
    );
}
