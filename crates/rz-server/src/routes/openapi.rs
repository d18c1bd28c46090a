//! The description of all routes, for programs.

mod schemas;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Map, Value, json};

use crate::{App, Config};

pub(super) fn routes() -> Router<Arc<App>> {
    // Made when somebody asks for it, and once.
    let text = Arc::new(OnceLock::<Bytes>::new());
    let document = async move |State(app): State<Arc<App>>| -> Response {
        let text = text.get_or_init(|| describe(&app.config).to_string().into()).clone();
        ([(header::CONTENT_TYPE, "application/json")], text).into_response()
    };
    Router::new().route("/openapi.json", get(document))
}

/// One operation as data.
struct Operation {
    path: &'static str,
    method: &'static str,
    summary: &'static str,
    /// Name of the schema of the body, if it takes one.
    body: &'static str,
    gives: Gives,
}

/// What an operation answers with.
#[derive(Clone, Copy, PartialEq)]
enum Gives {
    Json,
    /// Or server-sent events, when `stream` says so.
    JsonOrEvents,
    /// Or a JSON value a line.
    JsonOrLines,
    Text,
    Page,
    Icon,
}

const fn operation(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    body: &'static str,
    gives: Gives,
) -> Operation {
    Operation { path, method, summary, body, gives }
}

/// What only answers that it is not there is left out.
const OPERATIONS: &[Operation] = {
    use Gives::{Icon, Json, JsonOrEvents, JsonOrLines, Page, Text};
    &[
        operation("post", "/v1/chat/completions", "Answer a conversation", "Chat", JsonOrEvents),
        operation("post", "/chat/completions", "The same", "Chat", JsonOrEvents),
        operation("post", "/v1/completions", "Continue a text", "Completion", JsonOrEvents),
        operation("post", "/v1/embeddings", "Turn texts into vectors", "Embeddings", Json),
        operation("get", "/v1/models", "The models", "", Json),
        operation("get", "/models", "The same", "", Json),
        operation("get", "/v1/models/{name}", "One model", "", Json),
        operation("post", "/v1/responses", "Answer, and keep the answer", "Response", JsonOrEvents),
        operation("get", "/v1/responses/{id}", "An answer that was kept", "", Json),
        operation("delete", "/v1/responses/{id}", "Forget an answer", "", Json),
        operation("post", "/v1/responses/{id}/cancel", "End an answer early", "", Json),
        operation(
            "post",
            "/v1/messages",
            "Answer a conversation, in Anthropic's way",
            "Messages",
            JsonOrEvents,
        ),
        operation(
            "post",
            "/v1/messages/count_tokens",
            "Count the tokens of a conversation",
            "CountTokens",
            Json,
        ),
        operation("post", "/api/chat", "Answer a conversation, in Ollama's way", "OllamaChat", JsonOrLines),
        operation("post", "/api/generate", "Answer a prompt, in Ollama's way", "OllamaGenerate", JsonOrLines),
        operation("post", "/api/embed", "Turn texts into vectors, in Ollama's way", "OllamaEmbed", Json),
        operation(
            "post",
            "/api/embeddings",
            "Turn a text into a vector, in Ollama's older way",
            "OllamaEmbedding",
            Json,
        ),
        operation("get", "/api/tags", "The models, in Ollama's way", "", Json),
        operation("get", "/api/ps", "The models in memory", "", Json),
        operation("get", "/api/version", "The version", "", Json),
        operation("post", "/api/show", "What a model is", "OllamaModel", Json),
        operation("post", "/api/pull", "Fetch a model, where that is allowed", "OllamaPull", JsonOrLines),
        operation("delete", "/api/delete", "Delete a model, where that is allowed", "OllamaName", Json),
        operation(
            "post",
            "/completion",
            "Continue a text, in llama.cpp's way",
            "LlamaCompletion",
            JsonOrEvents,
        ),
        operation("post", "/completions", "The same", "LlamaCompletion", JsonOrEvents),
        operation("post", "/tokenize", "Turn a text into tokens", "Tokenize", Json),
        operation("post", "/detokenize", "Turn tokens into a text", "Detokenize", Json),
        operation(
            "post",
            "/apply-template",
            "Write a conversation as the model reads it",
            "ApplyTemplate",
            Json,
        ),
        operation(
            "post",
            "/embedding",
            "Turn texts into vectors, in llama.cpp's way",
            "LlamaEmbedding",
            Json,
        ),
        operation("post", "/embeddings", "The same", "LlamaEmbedding", Json),
        operation("get", "/props", "Settings of the server", "", Json),
        operation("get", "/slots", "The places that requests have", "", Json),
        operation(
            "post",
            "/slots/{id}",
            "Save, restore or erase one, where that is allowed",
            "LlamaSlot",
            Json,
        ),
        operation("get", "/health", "Whether the server can answer", "", Json),
        operation("get", "/v1/health", "The same", "", Json),
        operation("get", "/ready", "The same", "", Json),
        operation("get", "/metrics", "Counters for Prometheus", "", Text),
        operation("get", "/version", "The version", "", Json),
        operation("get", "/server_info", "What the server is", "", Json),
        operation("get", "/model_info", "What the first model is", "", Json),
        operation("get", "/v1/loads", "How much there is to do", "", Json),
        operation("get", "/openapi.json", "This document", "", Json),
        operation("get", "/", "A page to chat on", "", Page),
        operation("get", "/docs", "A page that shows this document", "", Page),
        operation("get", "/favicon.ico", "The page's picture", "", Icon),
    ]
};

/// The document of a server with these limits.
fn describe(config: &Config) -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = operation.describe();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "rz",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Runs language models. The routes are those that clients of OpenAI, Anthropic, Ollama and \
                            llama.cpp know; what is not supported is refused by name.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas::all(config),
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "key": { "type": "apiKey", "in": "header", "name": "X-Api-Key" },
            },
        },
        "security": [{}, { "bearer": [] }, { "key": [] }],
    })
}

impl Operation {
    fn describe(&self) -> Value {
        let content = |kinds: &[&str]| -> Value {
            let of = |kind: &&str| {
                // Events and lines are many values, each of any kind.
                let is_text = kind.starts_with("text/") && *kind != "text/event-stream";
                let schema = if is_text { json!({ "type": "string" }) } else { json!({}) };
                ((*kind).to_owned(), json!({ "schema": schema }))
            };
            Value::Object(kinds.iter().map(of).collect())
        };
        let kinds: &[&str] = match self.gives {
            Gives::Json => &["application/json"],
            Gives::JsonOrEvents => &["application/json", "text/event-stream"],
            Gives::JsonOrLines => &["application/json", "application/x-ndjson"],
            Gives::Text => &["text/plain; version=0.0.4; charset=utf-8"],
            Gives::Page => &["text/html; charset=utf-8"],
            Gives::Icon => &["image/svg+xml"],
        };
        let mut responses = Map::new();
        responses.insert("200".into(), json!({ "description": "Done", "content": content(kinds) }));
        let error = match self.path {
            path if path.starts_with("/api/") => "OllamaError",
            path if path.starts_with("/v1/messages") => "AnthropicError",
            "/health" | "/v1/health" | "/ready" => "Health",
            _ => "Error",
        };
        let error = json!({ "$ref": format!("#/components/schemas/{error}") });
        responses.insert(
            "default".into(),
            json!({ "description": "What is wrong", "content": { "application/json": { "schema": error } } }),
        );
        let mut operation =
            json!({ "summary": self.summary, "operationId": self.id(), "responses": responses });
        if !self.body.is_empty() {
            let schema = json!({ "$ref": format!("#/components/schemas/{}", self.body) });
            operation["requestBody"] =
                json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        }
        let parameters: Vec<_> = ["name", "id"]
            .into_iter()
            .filter(|name| self.path.contains(&format!("{{{name}}}")))
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        let query = |name, required, schema: Value| json!({ "name": name, "in": "query", "required": required, "schema": schema });
        let of_model = query("model", false, json!({ "type": "string" }));
        if matches!(self.path, "/props" | "/slots") {
            operation["parameters"] = json!([of_model]);
        }
        if self.path == "/slots/{id}" {
            let action = query("action", true, json!({ "enum": ["save", "restore", "erase"] }));
            let id = json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "integer", "minimum": 0 } });
            operation["parameters"] = json!([id, action, of_model]);
        }
        operation
    }

    /// A name of the operation: its method and the words of its path.
    fn id(&self) -> String {
        let words = self.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.fold(self.method.to_owned(), |id, word| format!("{id}_{word}"))
    }
}
