//! The schemas of requests and of errors.

use rz_model::sampler::{Kind, SAMPLERS};
use serde_json::{Map, Value, json};

/// All schemas by name.
pub(super) fn all() -> Value {
    let mut schemas = Map::new();
    for (name, schema) in errors().into_iter().chain(parts()).chain(openai()).chain(others()) {
        schemas.insert(name.to_owned(), schema);
    }
    Value::Object(schemas)
}

type Schemas = Vec<(&'static str, Value)>;

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// An object that takes these fields and no others; without a value, others are as good as not there.
fn object(required: &[&str], fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let properties: Map<String, Value> =
        fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": { "type": "null" } })
}

fn text() -> Value {
    json!({ "type": ["string", "null"] })
}

fn flag() -> Value {
    json!({ "type": ["boolean", "null"] })
}

fn whole(least: i64, most: i64) -> Value {
    json!({ "type": ["integer", "null"], "minimum": least, "maximum": most })
}

fn anything() -> Value {
    json!({})
}

fn texts() -> Value {
    json!({ "oneOf": [
        { "type": "string", "minLength": 1 },
        { "type": "array", "items": { "type": "string", "minLength": 1 }, "maxItems": 64 },
        { "type": "null" },
    ] })
}

/// The settings of the samplers, from their own rows.
fn sampling() -> Schemas {
    let params = SAMPLERS.iter().flat_map(|sampler| sampler.params).map(|param| {
        let mut schema = match param.kind {
            Kind::Float { min, max, .. } => {
                json!({ "type": ["number", "null"], "minimum": min, "maximum": max })
            }
            Kind::Int { min, max: i64::MAX, .. } => json!({ "type": ["integer", "null"], "minimum": min }),
            Kind::Int { min, max, .. } => whole(min, max),
            Kind::Bool { .. } => flag(),
        };
        schema["description"] = param.doc.into();
        (param.name, schema)
    });
    params.chain([("seed", whole(i64::MIN, i64::MAX))]).collect()
}

const MOST_TOKENS: i64 = 100_000_000;

/// What OpenAI's routes have in common.
fn common() -> Schemas {
    let mut fields = sampling();
    fields.extend([
        ("model", text()),
        ("stream", flag()),
        ("stream_options", json!({ "type": ["object", "null"] })),
        ("stop", texts()),
        ("n", whole(1, 16)),
        (
            "logit_bias",
            json!({
                "type": ["object", "null"],
                "additionalProperties": { "type": "number", "minimum": -100, "maximum": 100 },
            }),
        ),
        ("max_tokens", whole(0, MOST_TOKENS)),
        ("min_tokens", whole(0, MOST_TOKENS)),
        ("ignore_eos", flag()),
        ("cache_prompt", flag()),
        ("priority", whole(-1000, 1000)),
        ("response_format", json!({ "type": ["object", "null"] })),
        ("guided_json", anything()),
        ("guided_regex", text()),
        ("guided_grammar", text()),
        ("guided_choice", texts()),
        ("user", anything()),
        ("metadata", anything()),
    ]);
    fields
}

fn with(mut fields: Schemas, more: impl IntoIterator<Item = (&'static str, Value)>) -> Schemas {
    fields.extend(more);
    fields
}

fn messages() -> Value {
    json!({ "type": "array", "minItems": 1, "items": reference("Message") })
}

fn tools(item: &str) -> Value {
    json!({ "type": ["array", "null"], "items": reference(item), "maxItems": 256 })
}

/// A time as Ollama's clients give it.
fn keep_alive() -> Value {
    json!({ "oneOf": [
        { "type": "number", "minimum": -1, "maximum": 1_000_000 },
        { "type": "string", "pattern": "^-?[0-9]{1,5}(ms|s|m|h)?$" },
        { "type": "null" },
    ] })
}

/// The name of a model.
fn name() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[!-~]+$" })
}

/// Tokens: at least one, as 32-bit numbers.
fn tokens() -> Value {
    json!({ "type": "array", "minItems": 1, "items": { "type": "integer", "minimum": 0, "maximum": u32::MAX } })
}

fn prompts() -> Value {
    json!({ "oneOf": [
        { "type": "string" },
        { "type": "array", "minItems": 1, "items": { "type": "string" } },
        tokens(),
        { "type": "array", "minItems": 1, "items": tokens() },
    ] })
}

fn errors() -> Schemas {
    let nullable = json!({ "type": ["string", "null"] });
    let error = json!({
        "type": "object",
        "required": ["message", "type", "param", "code"],
        "properties": { "message": { "type": "string" }, "type": { "type": "string" }, "param": nullable, "code": {} },
    });
    vec![
        ("Error", json!({ "type": "object", "required": ["error"], "properties": { "error": error } })),
        (
            "OllamaError",
            json!({ "type": "object", "required": ["error"], "properties": { "error": { "type": "string" } } }),
        ),
        (
            "AnthropicError",
            json!({
                "type": "object",
                "required": ["type", "error"],
                "properties": {
                    "type": { "const": "error" },
                    "error": {
                        "type": "object",
                        "required": ["type", "message"],
                        "properties": { "type": { "type": "string" }, "message": { "type": "string" } },
                    },
                },
            }),
        ),
        ("Health", json!({ "type": "object" })),
    ]
}

fn parts() -> Schemas {
    vec![
        (
            "Message",
            json!({
                "type": "object",
                "required": ["role", "content"],
                "properties": {
                    "role": { "enum": ["system", "developer", "user", "assistant", "tool"] },
                    "content": {
                        "oneOf": [{ "type": "string" }, { "type": "array", "items": reference("TextPart") }],
                    },
                },
            }),
        ),
        (
            "TextPart",
            object(
                &["type", "text"],
                [("type", json!({ "const": "text" })), ("text", json!({ "type": "string" }))],
            ),
        ),
        (
            "Tool",
            object(
                &["function"],
                [("type", json!({ "const": "function" })), ("function", reference("Function"))],
            ),
        ),
        ("Function", object(&["name"], function("parameters"))),
        ("ResponseTool", {
            let kind = ("type", json!({ "const": "function" }));
            object(&["type", "name"], with(function("parameters"), [kind]))
        }),
        ("AnthropicTool", object(&["name", "input_schema"], function("input_schema"))),
        (
            "AnthropicMessage",
            json!({
                "type": "object",
                "required": ["role", "content"],
                "properties": {
                    "role": { "enum": ["user", "assistant"] },
                    "content": {
                        "oneOf": [{ "type": "string" }, { "type": "array", "items": reference("TextPart") }],
                    },
                },
            }),
        ),
    ]
}

/// A function that a model may call, with its arguments under this name.
fn function(arguments: &'static str) -> Schemas {
    vec![
        ("name", json!({ "type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,128}$" })),
        ("description", text()),
        (arguments, json!({ "type": "object" })),
    ]
}

fn openai() -> Schemas {
    let chat = with(
        common(),
        [
            ("messages", messages()),
            ("tools", tools("Tool")),
            ("tool_choice", json!({ "type": ["string", "object", "null"] })),
            ("parallel_tool_calls", flag()),
            ("chat_template_kwargs", json!({ "type": ["object", "null"] })),
            (
                "reasoning_effort",
                json!({ "enum": ["none", "minimal", "low", "medium", "high", "xhigh", null] }),
            ),
            ("max_completion_tokens", whole(1, MOST_TOKENS)),
            ("logprobs", flag()),
            ("top_logprobs", whole(0, 20)),
            ("service_tier", json!({ "enum": ["auto", "default", null] })),
            ("store", json!({ "enum": [false, null] })),
        ],
    );
    let completion = with(
        common(),
        [
            ("prompt", prompts()),
            ("echo", flag()),
            ("logprobs", whole(0, 5)),
            ("best_of", whole(1, 16)),
            ("suffix", json!({ "enum": ["", null] })),
        ],
    );
    let response = with(
        sampling(),
        [
            ("model", text()),
            (
                "input",
                json!({ "oneOf": [{ "type": "string" }, { "type": "array", "minItems": 1, "items": reference("Message") }] }),
            ),
            ("instructions", text()),
            ("previous_response_id", text()),
            ("max_output_tokens", whole(1, MOST_TOKENS)),
            ("tools", tools("ResponseTool")),
            ("tool_choice", json!({ "type": ["string", "object", "null"] })),
            ("parallel_tool_calls", flag()),
            ("reasoning", json!({ "type": ["object", "null"] })),
            ("text", json!({ "type": ["object", "null"] })),
            ("store", flag()),
            ("stream", flag()),
            ("metadata", json!({ "type": ["object", "null"] })),
        ],
    );
    vec![
        ("Chat", object(&["messages"], chat)),
        ("Completion", object(&["prompt"], completion)),
        (
            "Embeddings",
            object(
                &["input"],
                [
                    ("model", text()),
                    ("input", prompts()),
                    ("encoding_format", json!({ "enum": ["float", "base64", null] })),
                    ("dimensions", whole(1, 1 << 20)),
                    ("user", anything()),
                ],
            ),
        ),
        ("Response", object(&["input"], response)),
    ]
}

fn others() -> Schemas {
    let anthropic = [
        ("model", json!({ "type": "string" })),
        ("messages", json!({ "type": "array", "minItems": 1, "items": reference("AnthropicMessage") })),
        ("system", json!({ "type": ["string", "array", "null"] })),
        ("tools", tools("AnthropicTool")),
        ("tool_choice", json!({ "type": ["object", "null"] })),
        (
            "thinking",
            json!({
                "type": ["object", "null"],
                "required": ["type"],
                "properties": { "type": { "enum": ["enabled", "adaptive", "disabled"] } },
            }),
        ),
    ];
    let message = with(
        sampling(),
        anthropic.clone().into_iter().chain([
            ("max_tokens", json!({ "type": "integer", "minimum": 1, "maximum": MOST_TOKENS })),
            ("stop_sequences", texts()),
            ("output_config", json!({ "type": ["object", "null"] })),
            ("stream", flag()),
            ("metadata", anything()),
        ]),
    );
    let model = || ("model", name());
    let ollama = || {
        vec![
            model(),
            ("options", json!({ "type": ["object", "null"] })),
            ("format", json!({ "type": ["string", "object", "null"] })),
            ("think", json!({ "type": ["boolean", "string", "null"] })),
            ("keep_alive", keep_alive()),
            ("stream", flag()),
        ]
    };
    let ollama_embed =
        [model(), ("options", json!({ "type": ["object", "null"] })), ("keep_alive", keep_alive())];
    let llama = with(
        sampling(),
        [
            ("model", text()),
            ("prompt", prompts()),
            (
                "n_predict",
                json!({ "oneOf": [
                { "enum": [-2, -1, null] },
                { "type": "integer", "minimum": 1, "maximum": MOST_TOKENS },
            ] }),
            ),
            ("stop", texts()),
            ("stream", flag()),
            ("cache_prompt", flag()),
            ("id_slot", whole(-1, 65_536)),
            ("n_probs", whole(0, 20)),
            ("return_tokens", flag()),
            ("json_schema", anything()),
        ],
    );
    vec![
        ("Messages", object(&["model", "messages", "max_tokens"], message)),
        ("CountTokens", object(&["model", "messages"], anthropic)),
        (
            "OllamaChat",
            object(
                &["model"],
                with(
                    ollama(),
                    [
                        ("messages", json!({ "type": ["array", "null"], "items": reference("Message") })),
                        ("tools", tools("Tool")),
                    ],
                ),
            ),
        ),
        (
            "OllamaGenerate",
            object(&["model"], with(ollama(), [("prompt", text()), ("system", text()), ("raw", flag())])),
        ),
        (
            "OllamaEmbed",
            object(
                &["model", "input"],
                with(
                    ollama_embed.to_vec(),
                    [
                        (
                            "input",
                            json!({ "oneOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] }),
                        ),
                        ("truncate", flag()),
                        ("dimensions", whole(1, 1 << 20)),
                    ],
                ),
            ),
        ),
        (
            "OllamaEmbedding",
            object(
                &["model", "prompt"],
                with(ollama_embed.to_vec(), [("prompt", json!({ "type": "string" }))]),
            ),
        ),
        ("OllamaModel", object(&["model"], [model(), ("verbose", flag()), ("name", text())])),
        ("OllamaName", object(&["model"], [model(), ("name", text())])),
        (
            "OllamaPull",
            object(&["model"], [model(), ("stream", flag()), ("insecure", json!({ "enum": [false, null] }))]),
        ),
        ("LlamaCompletion", object(&["prompt"], llama)),
        ("LlamaSlot", object(&[], [("filename", text()), ("model", text())])),
        ("LlamaEmbedding", object(&["content"], [("model", text()), ("content", prompts())])),
        (
            "Tokenize",
            object(
                &["content"],
                [
                    ("model", text()),
                    ("content", json!({ "type": "string" })),
                    ("add_special", flag()),
                    ("parse_special", flag()),
                    ("with_pieces", flag()),
                ],
            ),
        ),
        ("Detokenize", object(&["tokens"], [("model", text()), ("tokens", tokens())])),
        (
            "ApplyTemplate",
            object(
                &["messages"],
                [
                    ("model", text()),
                    ("messages", messages()),
                    ("tools", tools("Tool")),
                    ("chat_template_kwargs", json!({ "type": ["object", "null"] })),
                ],
            ),
        ),
    ]
}
