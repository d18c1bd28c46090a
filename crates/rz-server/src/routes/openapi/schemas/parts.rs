//! The schemas of what requests are made of. They say exactly what is taken, as far as a schema can say it.

use serde_json::{Map, Value, json};

use super::Schemas;
use crate::chat::{MESSAGES, TOOLS};
use crate::routes::ollama::{LONGEST_TIME, TIME};
use crate::sampling::STOPS;

pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// An object that takes these fields and no others; without a value, others are as good as not there.
pub(super) fn object(required: &[&str], fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let properties: Map<String, Value> =
        fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": { "type": "null" } })
}

pub(super) fn one_of(schemas: impl IntoIterator<Item = Value>) -> Value {
    json!({ "oneOf": schemas.into_iter().collect::<Vec<_>>() })
}

/// This, or nothing.
pub(super) fn nullable(schema: Value) -> Value {
    one_of([schema, json!({ "type": "null" })])
}

/// An object in which the field is as the schema says unless the condition holds.
pub(super) fn unless(condition: Value, field: &'static str, schema: Value, object: Value) -> Value {
    let mut object = object;
    let rule = json!({ "anyOf": [{ "properties": { field: schema } }, condition] });
    match object["allOf"].as_array_mut() {
        Some(rules) => rules.push(rule),
        None => object["allOf"] = json!([rule]),
    }
    object
}

/// That a flag is set.
pub(super) fn set(flag: &'static str) -> Value {
    json!({ "properties": { flag: { "const": true } }, "required": [flag] })
}

pub(super) fn text() -> Value {
    json!({ "type": ["string", "null"] })
}

pub(super) fn flag() -> Value {
    json!({ "type": ["boolean", "null"] })
}

pub(super) fn whole(least: i64, most: i64) -> Value {
    json!({ "type": ["integer", "null"], "minimum": least, "maximum": most })
}

pub(super) fn anything() -> Value {
    json!({})
}

/// Texts that end an answer.
pub(super) fn texts() -> Value {
    let (most, longest) = STOPS;
    let text = json!({ "type": "string", "minLength": 1, "maxLength": longest });
    nullable(one_of([text.clone(), json!({ "type": "array", "items": text, "maxItems": most })]))
}

/// Texts of which an answer is one.
pub(super) fn choices() -> Value {
    nullable(one_of([some_text(), json!({ "type": "array", "items": some_text(), "minItems": 1 })]))
}

/// A JSON schema.
pub(super) fn schema() -> Value {
    json!({ "type": ["object", "boolean"] })
}

/// How much a model is to think.
pub(super) fn effort() -> Value {
    json!({ "enum": ["none", "minimal", "low", "medium", "high", "xhigh", null] })
}

pub(super) fn messages(item: &str) -> Value {
    json!({ "type": "array", "minItems": 1, "maxItems": MESSAGES, "items": reference(item) })
}

pub(super) fn tools(item: &str) -> Value {
    json!({ "type": ["array", "null"], "items": reference(item), "maxItems": TOOLS })
}

/// A time as Ollama's clients give it.
pub(super) fn keep_alive() -> Value {
    one_of([
        json!({ "type": "number", "minimum": -LONGEST_TIME, "maximum": LONGEST_TIME }),
        json!({ "type": "string", "pattern": TIME }),
        json!({ "type": "null" }),
    ])
}

/// The name of a model.
pub(super) fn name() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[!-~]+$" })
}

/// Tokens, as 32-bit numbers.
pub(super) fn tokens() -> Value {
    json!({ "type": "array", "items": { "type": "integer", "minimum": 0, "maximum": u32::MAX } })
}

/// A text that is more than nothing.
pub(super) fn some_text() -> Value {
    json!({ "type": "string", "minLength": 1 })
}

/// Prompts: texts or tokens, one or at most so many.
pub(super) fn prompts(most: usize) -> Value {
    let mut tokens = tokens();
    tokens["minItems"] = 1.into();
    let one = one_of([some_text(), tokens.clone()]);
    one_of([some_text(), tokens, json!({ "type": "array", "minItems": 1, "maxItems": most, "items": one })])
}

/// Messages and tools, by name.
pub(super) fn parts() -> Schemas {
    vec![
        ("Message", message(&[])),
        ("InputItem", input_item()),
        ("TextPart", text_part(&["text", "input_text", "output_text"])),
        (
            "Call",
            object(
                &["function"],
                [
                    ("id", text()),
                    ("type", json!({ "enum": ["function", null] })),
                    ("index", anything()),
                    (
                        "function",
                        object(
                            &["name"],
                            [
                                ("name", json!({ "type": "string" })),
                                ("index", anything()),
                                ("arguments", one_of([arguments(), json!({ "type": ["object", "null"] })])),
                            ],
                        ),
                    ),
                ],
            ),
        ),
        (
            "Tool",
            object(
                &["function"],
                [
                    ("type", json!({ "enum": ["function", null] })),
                    ("function", object(&["name"], function())),
                ],
            ),
        ),
        ("ToolChoice", tool_choice()),
        ("ResponseTool", {
            let mut fields = function();
            fields.push(("type", json!({ "const": "function" })));
            object(&["type", "name"], fields)
        }),
        ("ResponseFormat", response_format()),
        ("AnthropicMessage", anthropic_message()),
        ("AnthropicText", text_part(&["text"])),
        (
            "AnthropicTool",
            object(
                &["name", "input_schema"],
                [
                    ("type", json!({ "enum": ["custom", null] })),
                    ("name", function_name()),
                    ("description", text()),
                    ("input_schema", json!({ "type": "object" })),
                    ("cache_control", anything()),
                ],
            ),
        ),
        ("AnthropicToolChoice", anthropic_tool_choice()),
    ]
}

fn function_name() -> Value {
    json!({ "type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,128}$" })
}

/// A function that a model may call.
fn function() -> Schemas {
    vec![
        ("name", function_name()),
        ("description", text()),
        ("strict", flag()),
        ("parameters", json!({ "type": ["object", "null"] })),
    ]
}

/// A part of a message, of one of these types.
fn text_part(types: &[&str]) -> Value {
    object(
        &["type", "text"],
        [
            ("type", json!({ "enum": types })),
            ("text", json!({ "type": "string" })),
            ("annotations", anything()),
            ("logprobs", anything()),
            ("cache_control", anything()),
            ("citations", anything()),
        ],
    )
}

fn content(part: &str) -> Value {
    one_of([json!({ "type": "string" }), json!({ "type": "array", "items": reference(part) })])
}

/// Arguments of a call: a JSON object in a string, or nothing.
fn arguments() -> Value {
    json!({ "type": "string", "contentMediaType": "application/json" })
}

/// A message by its role, with these fields besides its own.
fn message(more: &[(&'static str, Value)]) -> Value {
    let of = |required: &[&str], roles: &[&str], fields: Schemas| {
        let role = ("role", json!({ "enum": roles }));
        object(required, fields.into_iter().chain([role, ("name", text())]).chain(more.iter().cloned()))
    };
    let content = || content("TextPart");
    let calls = |least: u64| json!({ "type": "array", "minItems": least, "items": reference("Call") });
    let answer = |required: &[&str], content: Value, calls: Value| {
        let thoughts = ["reasoning_content", "reasoning", "thinking"].map(|name| (name, text()));
        let mut fields = vec![("content", content), ("tool_calls", calls)];
        fields.extend(thoughts);
        of(required, &["assistant"], fields)
    };
    one_of([
        of(&["role", "content"], &["system", "developer", "user"], vec![("content", content())]),
        of(
            &["role", "content"],
            &["tool"],
            vec![("content", content()), ("tool_call_id", text()), ("tool_name", text())],
        ),
        answer(&["role", "content"], content(), nullable(calls(0))),
        answer(&["role", "tool_calls"], json!({ "type": "null" }), calls(1)),
    ])
}

/// What `/v1/responses` takes beside a text.
fn input_item() -> Value {
    let kind = |name: &str| ("type", json!({ "const": name }));
    let ids = || [("id", anything()), ("status", anything()), ("call_id", text())];
    let call =
        [kind("function_call"), ("name", json!({ "type": "string" })), ("arguments", nullable(arguments()))];
    let result = [kind("function_call_output"), ("output", content("TextPart"))];
    one_of([
        message(&[kind("message"), ("id", anything()), ("status", anything()), ("phase", anything())]),
        object(&["type", "name"], call.into_iter().chain(ids())),
        object(&["type", "output"], result.into_iter().chain(ids())),
        json!({ "type": "object", "required": ["type"], "properties": { "type": { "const": "reasoning" } } }),
    ])
}

fn tool_choice() -> Value {
    let named = || object(&["name"], [("name", json!({ "type": "string" }))]);
    let kind = || ("type", json!({ "const": "function" }));
    let mut outside = named();
    outside["properties"]["type"] = kind().1;
    outside["required"] = json!(["type", "name"]);
    one_of([
        json!({ "enum": ["auto", "none", "required", null] }),
        object(&["type", "function"], [kind(), ("function", named())]),
        outside,
    ])
}

fn response_format() -> Value {
    let kind = |name: &str| ("type", json!({ "const": name }));
    let named = object(
        &["schema"],
        [("name", text()), ("description", text()), ("strict", flag()), ("schema", schema())],
    );
    one_of([
        json!({ "type": "null" }),
        object(&["type"], [kind("text")]),
        object(&["type"], [kind("json_object"), ("schema", nullable(schema()))]),
        object(&["type", "json_schema"], [kind("json_schema"), ("json_schema", named)]),
    ])
}

fn anthropic_message() -> Value {
    let kind = |name: &str| ("type", json!({ "const": name }));
    let result = object(
        &["type", "tool_use_id"],
        [
            kind("tool_result"),
            ("tool_use_id", json!({ "type": "string" })),
            ("content", nullable(content("AnthropicText"))),
            ("is_error", flag()),
            ("cache_control", anything()),
        ],
    );
    let call = object(
        &["type", "name"],
        [
            kind("tool_use"),
            ("id", text()),
            ("name", json!({ "type": "string" })),
            ("input", json!({ "type": ["object", "null"] })),
            ("cache_control", anything()),
        ],
    );
    let thoughts = object(
        &["type", "thinking"],
        [kind("thinking"), ("thinking", json!({ "type": "string" })), ("signature", anything())],
    );
    let by = |role: &str, blocks: Vec<Value>| {
        let blocks = one_of(blocks.into_iter().chain([reference("AnthropicText")]));
        let content = one_of([json!({ "type": "string" }), json!({ "type": "array", "items": blocks })]);
        object(&["role", "content"], [("role", json!({ "const": role })), ("content", content)])
    };
    one_of([by("user", vec![result]), by("assistant", vec![call, thoughts])])
}

fn anthropic_tool_choice() -> Value {
    let single = || ("disable_parallel_tool_use", flag());
    one_of([
        object(&["type"], [("type", json!({ "enum": ["auto", "any", "none"] })), single()]),
        object(
            &["type", "name"],
            [("type", json!({ "const": "tool" })), ("name", json!({ "type": "string" })), single()],
        ),
    ])
}
