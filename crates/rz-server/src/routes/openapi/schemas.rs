//! The schemas of requests and of errors.

mod parts;

use rz_model::sampler::{Kind, SAMPLERS};
use serde_json::{Map, Value, json};

use self::parts::{
    anything, choices, effort, flag, keep_alive, messages, name, nullable, object, one_of, parts, prompts,
    reference, schema, set, some_text, text, texts, tokens, tools, unless, whole,
};
use crate::Config;
use crate::chat::{RESERVED, VARIABLES};
use crate::routes::wire::WITHOUT_EFFECT;
use crate::sampling::{BIASES, MOST_LOGPROBS, MOST_SLOT, MOST_TOKENS, PRIORITIES, SEEDS};

/// All schemas by name, with the limits of this server.
pub(super) fn all(config: &Config) -> Value {
    let mut schemas = Map::new();
    for (name, schema) in errors().into_iter().chain(parts()).chain(openai(config)).chain(others(config)) {
        schemas.insert(name.to_owned(), schema);
    }
    Value::Object(schemas)
}

type Schemas = Vec<(&'static str, Value)>;

/// The settings of the samplers, from their own rows.
fn sampling() -> Schemas {
    let params = SAMPLERS.iter().flat_map(|sampler| sampler.params).map(|param| {
        let mut schema = match param.kind {
            Kind::Float { min, max, .. } => {
                json!({ "type": ["number", "null"], "minimum": min, "maximum": max })
            }
            Kind::Int { min, max, .. } => whole(min, max),
            Kind::Bool { .. } => flag(),
        };
        schema["description"] = param.doc.into();
        (param.name, schema)
    });
    params.chain([("seed", whole(SEEDS.0, SEEDS.1))]).collect()
}

/// The number of answers.
fn answers(config: &Config) -> Value {
    whole(1, config.max_choices as i64)
}

/// What is added to the scores of tokens, by their ids.
fn logit_bias() -> Value {
    let (most, digits) = BIASES;
    json!({
        "type": ["object", "null"],
        "propertyNames": { "pattern": format!("^[0-9]{{1,{digits}}}$") },
        "maxProperties": most,
        "additionalProperties": { "type": "number", "minimum": -100, "maximum": 100 },
    })
}

/// What routes for texts take beside what their own API has.
fn extensions() -> Schemas {
    let (lowest, highest) = PRIORITIES;
    vec![
        ("min_tokens", whole(0, MOST_TOKENS)),
        ("ignore_eos", flag()),
        ("cache_prompt", flag()),
        ("id_slot", whole(-1, MOST_SLOT)),
        ("priority", whole(lowest, highest)),
        ("guided_json", nullable(schema())),
        ("guided_regex", text()),
        ("guided_grammar", text()),
        ("guided_choice", choices()),
        ("structured_outputs", structured_outputs()),
    ]
}

/// What OpenAI's routes have in common.
fn common(config: &Config) -> Schemas {
    let mut fields = with(sampling(), extensions());
    fields.extend([
        ("model", text()),
        ("stream", flag()),
        ("stream_options", stream_options()),
        ("stop", texts()),
        ("n", answers(config)),
        ("logit_bias", logit_bias()),
        ("max_tokens", whole(0, MOST_TOKENS)),
        ("response_format", reference("ResponseFormat")),
    ]);
    with(fields, without_effect())
}

/// What changes nothing.
fn without_effect() -> impl Iterator<Item = (&'static str, Value)> {
    WITHOUT_EFFECT.iter().map(|name| (*name, anything()))
}

fn with(mut fields: Schemas, more: impl IntoIterator<Item = (&'static str, Value)>) -> Schemas {
    fields.extend(more);
    fields
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

fn openai(config: &Config) -> Schemas {
    let chat = with(
        common(config),
        [
            ("messages", messages("Message")),
            ("tools", tools("Tool")),
            ("tool_choice", reference("ToolChoice")),
            ("parallel_tool_calls", flag()),
            ("chat_template_kwargs", variables()),
            ("reasoning_effort", effort()),
            ("max_completion_tokens", whole(1, MOST_TOKENS)),
            ("max_tokens", whole(1, MOST_TOKENS)),
            ("logprobs", flag()),
            ("top_logprobs", whole(0, MOST_LOGPROBS)),
            ("service_tier", json!({ "enum": ["auto", "default", null] })),
            ("store", json!({ "enum": [false, null] })),
            ("modalities", json!({ "enum": [["text"], null] })),
            ("verbosity", json!({ "enum": ["medium", null] })),
        ],
    );
    let completion = with(
        common(config),
        [
            ("prompt", prompts(config.max_choices)),
            ("echo", flag()),
            ("logprobs", whole(0, 5)),
            ("best_of", answers(config)),
            ("suffix", json!({ "enum": ["", null] })),
        ],
    );
    let response = with(
        with(sampling(), without_effect()),
        [
            ("model", text()),
            ("input", one_of([some_text(), messages("InputItem")])),
            ("instructions", text()),
            ("previous_response_id", text()),
            ("max_output_tokens", whole(1, MOST_TOKENS)),
            ("tools", tools("ResponseTool")),
            ("tool_choice", reference("ToolChoice")),
            ("parallel_tool_calls", flag()),
            ("chat_template_kwargs", variables()),
            ("reasoning", reasoning()),
            ("text", response_text()),
            ("store", flag()),
            ("stream", flag()),
            ("stream_options", stream_options()),
            ("metadata", json!({ "type": ["object", "null"] })),
        ],
    );
    vec![
        ("Chat", {
            let none_chosen = json!({ "enum": [0, null] });
            unless(set("logprobs"), "top_logprobs", none_chosen, streamed(object(&["messages"], chat)))
        }),
        ("Completion", {
            // Nothing at all is only asked for to see the prompt.
            let some = whole(1, MOST_TOKENS);
            unless(set("echo"), "max_tokens", some, streamed(object(&["prompt"], completion)))
        }),
        (
            "Embeddings",
            object(
                &["input"],
                without_effect().chain([
                    ("model", text()),
                    ("input", prompts(config.max_texts())),
                    ("encoding_format", json!({ "enum": ["float", "base64", null] })),
                    ("dimensions", whole(1, 1 << 20)),
                ]),
            ),
        ),
        ("Response", streamed(object(&["input"], response))),
    ]
}

/// What an answer must be, in one of these ways.
fn structured_outputs() -> Value {
    nullable(object(
        &[],
        [
            ("json", nullable(schema())),
            ("json_object", flag()),
            ("regex", text()),
            ("choice", choices()),
            ("grammar", text()),
        ],
    ))
}

fn stream_options() -> Value {
    let none = json!({ "enum": [false, null] });
    nullable(object(&[], [("include_usage", flag()), ("include_obfuscation", none)]))
}

/// What has options for streams takes them only with streams.
fn streamed(object: Value) -> Value {
    unless(set("stream"), "stream_options", json!({ "type": "null" }), object)
}

/// Variables of the template, but for those that it gets from the server.
fn variables() -> Value {
    json!({
        "type": ["object", "null"],
        "propertyNames": { "pattern": "^[A-Za-z0-9][A-Za-z0-9_]{0,63}$", "not": { "enum": RESERVED } },
        "maxProperties": VARIABLES,
    })
}

fn reasoning() -> Value {
    let summary = || json!({ "enum": ["auto", null] });
    nullable(object(&[], [("effort", effort()), ("summary", summary()), ("generate_summary", summary())]))
}

/// What a response is to be.
fn response_text() -> Value {
    let kind = |name: &str| ("type", json!({ "const": name }));
    let named = [
        kind("json_schema"),
        ("name", text()),
        ("description", text()),
        ("strict", flag()),
        ("schema", schema()),
    ];
    let format = one_of([
        json!({ "type": "null" }),
        object(&["type"], [kind("text")]),
        object(&["type"], [kind("json_object")]),
        object(&["type", "schema"], named),
    ]);
    nullable(object(&[], [("format", format), ("verbosity", json!({ "enum": ["medium", null] }))]))
}

/// Tokens to generate, as llama.cpp and Ollama count them: below zero, as many as the model likes.
fn most_tokens() -> Value {
    one_of([
        json!({ "enum": [-2, -1, null] }),
        json!({ "type": "integer", "minimum": 1, "maximum": MOST_TOKENS }),
    ])
}

fn others(config: &Config) -> Schemas {
    let anthropic = [
        ("model", json!({ "type": "string" })),
        ("messages", messages("AnthropicMessage")),
        ("system", one_of([text(), json!({ "type": "array", "items": reference("AnthropicText") })])),
        ("tools", tools("AnthropicTool")),
        ("tool_choice", nullable(reference("AnthropicToolChoice"))),
        (
            "thinking",
            nullable(object(
                &["type"],
                [
                    ("type", json!({ "enum": ["enabled", "adaptive", "disabled"] })),
                    ("budget_tokens", whole(0, i64::MAX)),
                ],
            )),
        ),
    ];
    let output_format = nullable(object(
        &["type", "schema"],
        [("type", json!({ "const": "json_schema" })), ("schema", schema())],
    ));
    let message = with(
        sampling(),
        anthropic.clone().into_iter().chain([
            ("max_tokens", json!({ "type": "integer", "minimum": 1, "maximum": MOST_TOKENS })),
            ("stop_sequences", texts()),
            ("output_config", nullable(object(&[], [("effort", effort()), ("format", output_format)]))),
            ("stream", flag()),
            ("metadata", anything()),
        ]),
    );
    let model = || ("model", name());
    let ollama = || {
        vec![
            model(),
            ("options", nullable(reference("OllamaOptions"))),
            ("format", one_of([json!({ "enum": ["", "json", null] }), json!({ "type": "object" })])),
            ("think", one_of([json!({ "type": "boolean" }), effort()])),
            ("keep_alive", keep_alive()),
            ("stream", flag()),
        ]
    };
    let several_texts = json!({ "type": "array", "items": some_text(), "maxItems": config.max_texts() });
    let ollama_embed =
        [model(), ("options", nullable(reference("OllamaOptions"))), ("keep_alive", keep_alive())];
    let pairs = json!({
        "type": "array",
        "maxItems": BIASES.0,
        "description": "Pairs of a token and a number from -100 to 100, or false for never",
    });
    let llama = with(
        with(sampling(), extensions()),
        [
            ("model", text()),
            ("prompt", prompts(config.max_choices)),
            ("n", answers(config)),
            ("n_predict", most_tokens()),
            ("max_tokens", most_tokens()),
            ("logit_bias", one_of([logit_bias(), pairs])),
            ("stop", texts()),
            ("stream", flag()),
            ("n_probs", whole(0, MOST_LOGPROBS)),
            ("grammar", text()),
            ("return_tokens", flag()),
            ("json_schema", nullable(schema())),
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
        ("OllamaGenerate", {
            let fields = with(ollama(), [("prompt", text()), ("system", text()), ("raw", flag())]);
            // What is raw has no place for a system message.
            let cooked = json!({ "properties": { "raw": { "enum": [false, null] } } });
            unless(cooked, "system", json!({ "enum": ["", null] }), object(&["model"], fields))
        }),
        (
            "OllamaEmbed",
            object(
                &["model", "input"],
                with(
                    ollama_embed.to_vec(),
                    [
                        ("input", one_of([some_text(), several_texts])),
                        ("truncate", flag()),
                        ("dimensions", whole(1, 1 << 20)),
                    ],
                ),
            ),
        ),
        (
            "OllamaEmbedding",
            object(&["model", "prompt"], with(ollama_embed.to_vec(), [("prompt", some_text())])),
        ),
        (
            "OllamaOptions",
            object(
                &[],
                with(
                    sampling(),
                    [
                        ("num_predict", most_tokens()),
                        ("stop", texts()),
                        ("num_ctx", whole(1, i64::from(u32::MAX))),
                    ],
                ),
            ),
        ),
        ("OllamaModel", object(&["model"], [model(), ("verbose", flag()), ("name", anything())])),
        ("OllamaName", object(&["model"], [model(), ("name", anything())])),
        (
            "OllamaPull",
            object(&["model"], [model(), ("stream", flag()), ("insecure", json!({ "enum": [false, null] }))]),
        ),
        ("LlamaCompletion", object(&["prompt"], llama)),
        ("LlamaSlot", object(&[], [("filename", text()), ("model", text())])),
        (
            "LlamaEmbedding",
            object(&["content"], [("model", text()), ("content", prompts(config.max_texts()))]),
        ),
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
                    ("messages", messages("Message")),
                    ("tools", tools("Tool")),
                    ("tool_choice", reference("ToolChoice")),
                    ("chat_template_kwargs", variables()),
                ],
            ),
        ),
    ]
}
