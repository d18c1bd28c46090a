//! Anthropic's `/v1/messages`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Map, Value, json};

use super::chat_completions::take_effort;
use crate::answer::{Answer, End, Piece, Plan, Whole, start};
use crate::backend::{ConstraintSpec, Finish};
use crate::body::{JsonBody, off_thread};
use crate::chat::{Chat, Tool, ToolChoice, call_json, text_part};
use crate::error::Shape;
use crate::fields::{Fields, wrong};
use crate::prompt::{Prompt, prepare};
use crate::sampling::Sampling;
use crate::stream::{Feed, Framing, Gone, respond};
use crate::{ApiError, App, ids};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/v1/messages", post(messages)).route("/v1/messages/count_tokens", post(count_tokens))
}

async fn messages(State(app): State<Arc<App>>, JsonBody(mut fields): JsonBody) -> Result<Response, ApiError> {
    let model = fields.required_string("model")?;
    let mut chat = take_chat(&mut fields)?;
    let mut sampling = Sampling::new(&app.config);
    if !sampling.take_max_tokens(&mut fields, "max_tokens", 1)? {
        return Err(fields.missing("max_tokens"));
    }
    sampling.take_settings(&mut fields)?;
    take_output(&mut chat, &mut sampling, &mut fields)?;
    sampling.take_stop(&mut fields, "stop_sequences")?;
    // Not a parameter of Anthropic's, but of every other API.
    sampling.take_seed(&mut fields, None)?;
    let streams = fields.bool("stream")?.unwrap_or(false);
    fields.without_effect(&["metadata", "cache_control"]);
    fields.only("service_tier", &["auto".into(), "standard_only".into()])?;
    fields.finish()?;
    let plan = Plan { prompts: vec![Prompt::Chat(Box::new(chat))], choices: 1, sampling };
    let admission = app.admit(Some(&model)).await?;
    let (answer, prompts) = start(&app, admission, plan).await?;
    let id = ids::name("msg_");
    if streams {
        let tokens = prompts.iter().map(Vec::len).sum();
        return Ok(respond(&app, Framing::Events, |feed| stream(feed, answer, id, tokens)));
    }
    let name = answer.model().to_owned();
    let whole = answer.collect().await?.into_iter().next().unwrap_or_default();
    let mut body = message(&id, &name);
    body["content"] = content(&whole);
    let (reason, sequence) = stop_reason(&whole.end);
    (body["stop_reason"], body["stop_sequence"]) = (reason.into(), sequence);
    body["usage"] = usage(&whole.end);
    Ok(Json(body).into_response())
}

async fn count_tokens(
    State(app): State<Arc<App>>,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let model = fields.required_string("model")?;
    let chat = take_chat(&mut fields)?;
    fields.finish()?;
    let admission = app.admit(Some(&model)).await?;
    let backend = admission.lease.backend().clone();
    let prompt = Prompt::Chat(Box::new(chat));
    let tokens = off_thread(move || Ok(prepare(&*backend, &prompt, false)?.tokens.len())).await?;
    Ok(Json(json!({ "input_tokens": tokens })))
}

/// What the answer must be, and how much the model shall think.
fn take_output(chat: &mut Chat, sampling: &mut Sampling, fields: &mut Fields) -> Result<(), ApiError> {
    let Some(mut output) = fields.object("output_config")? else { return Ok(()) };
    take_effort(chat, output.string("effort")?, "output_config.effort")?;
    if let Some(mut format) = output.object("format")? {
        format.word("type", &[("json_schema", ())])?.ok_or_else(|| format.missing("type"))?;
        let schema = format.value("schema").ok_or_else(|| format.missing("schema"))?;
        sampling.constrain(ConstraintSpec::JsonSchema(schema), "output_config.format.schema")?;
        format.finish()?;
    }
    output.finish()
}

/// What a message and a count of its tokens have in common.
fn take_chat(fields: &mut Fields) -> Result<Chat, ApiError> {
    let mut chat = Chat::default();
    if let Some(text) = take_system(fields)? {
        chat.push(json!({ "role": "system", "content": text }))?;
    }
    let messages = fields.array("messages")?.ok_or_else(|| fields.missing("messages"))?;
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "'messages' is empty: give at least one message"));
    }
    for (index, message) in messages.into_iter().enumerate() {
        push_message(&mut chat, message, &format!("messages[{index}]"))?;
    }
    // A last message of the assistant is the beginning of the answer.
    let is_begun = chat
        .messages
        .last()
        .is_some_and(|last| last["role"] == "assistant" && last.get("tool_calls").is_none());
    if is_begun
        && chat.messages.len() > 1
        && let Some(last) = chat.messages.pop()
    {
        chat.prefill = last["content"].as_str().unwrap_or_default().trim_end().to_owned();
    }
    for (index, tool) in fields.array("tools")?.unwrap_or_default().into_iter().enumerate() {
        let at = format!("tools[{index}]");
        let mut tool = Fields::of(tool, &at)?;
        tool.only("type", &["custom".into()])?;
        let (name, description) = (tool.required_string("name")?, tool.string("description")?);
        let schema = tool.value("input_schema").ok_or_else(|| tool.missing("input_schema"))?;
        tool.without_effect(&["cache_control"]);
        tool.finish()?;
        chat.add_tool(Tool::new(name, description, Some(schema), &at)?)?;
    }
    if let Some(mut choice) = fields.object("tool_choice")? {
        let kinds = [("auto", 0), ("any", 1), ("tool", 2), ("none", 3)];
        chat.choice = match choice.word("type", &kinds)?.ok_or_else(|| choice.missing("type"))? {
            0 => ToolChoice::Auto,
            1 => ToolChoice::Required,
            2 => ToolChoice::Named(choice.required_string("name")?),
            _ => ToolChoice::None,
        };
        chat.one_call = choice.bool("disable_parallel_tool_use")?.unwrap_or(false);
        choice.finish()?;
    }
    chat.check_tools()?;
    if let Some(mut thinking) = fields.object("thinking")? {
        let on = thinking.word("type", &[("enabled", true), ("adaptive", true), ("disabled", false)])?;
        chat.thinking = Some(on.ok_or_else(|| thinking.missing("type"))?);
        // How long the model thinks is its own affair; the most tokens bound it.
        thinking.integer("budget_tokens", 0, i64::MAX)?;
        thinking.finish()?;
    }
    Ok(chat)
}

/// The system prompt: a text, or blocks of text.
fn take_system(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    match fields.value("system") {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Array(blocks)) => {
            let texts = blocks.into_iter().enumerate();
            let texts = texts.map(|(index, block)| text_part(block, &format!("system[{index}]"), &["text"]));
            Ok(Some(texts.collect::<Result<Vec<_>, _>>()?.join("\n")))
        }
        Some(other) => Err(wrong("system", &other, "a string or an array of blocks")),
    }
}

/// Adds a message. Results of tools become messages of their own, as templates have them.
fn push_message(chat: &mut Chat, message: Value, at: &str) -> Result<(), ApiError> {
    let mut message = Fields::of(message, at)?;
    let is_user = message.word("role", &[("user", true), ("assistant", false)])?;
    let is_user = is_user.ok_or_else(|| message.missing("role"))?;
    let role = if is_user { "user" } else { "assistant" };
    let content = message.value("content").ok_or_else(|| message.missing("content"))?;
    message.finish()?;
    let blocks = match content {
        Value::String(text) => return chat.push(json!({ "role": role, "content": text })),
        Value::Array(blocks) => blocks,
        other => return Err(wrong(&format!("{at}.content"), &other, "a string or an array of blocks")),
    };
    let (mut text, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
    let mut results = false;
    for (index, block) in blocks.into_iter().enumerate() {
        let at = format!("{at}.content[{index}]");
        match block["type"].as_str().unwrap_or_default() {
            "tool_result" if is_user => {
                chat.push(tool_result(block, &at)?)?;
                results = true;
            }
            "tool_use" if !is_user => calls.push(tool_use(block, &at)?),
            "thinking" if !is_user => {
                let mut block = Fields::of(block, at)?;
                block.without_effect(&["type", "signature"]);
                reasoning += &block.required_string("thinking")?;
                block.finish()?;
            }
            _ => text += &text_part(block, &at, &["text"])?,
        }
    }
    if results && text.is_empty() {
        return Ok(());
    }
    let mut message = Map::new();
    message.insert("role".into(), role.into());
    message.insert("content".into(), text.into());
    if !reasoning.is_empty() {
        message.insert("reasoning_content".into(), reasoning.into());
    }
    if !calls.is_empty() {
        message.insert("tool_calls".into(), calls.into());
    }
    chat.push(Value::Object(message))
}

fn tool_result(block: Value, at: &str) -> Result<Value, ApiError> {
    let mut block = Fields::of(block, at)?;
    block.without_effect(&["type", "cache_control"]);
    let id = block.required_string("tool_use_id")?;
    let failed = block.bool("is_error")?.unwrap_or(false);
    let text = match block.value("content") {
        None => String::new(),
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => {
            let parts = parts.into_iter().enumerate();
            let texts =
                parts.map(|(index, part)| text_part(part, &format!("{at}.content[{index}]"), &["text"]));
            texts.collect::<Result<Vec<_>, _>>()?.join("\n")
        }
        Some(other) => return Err(wrong(&format!("{at}.content"), &other, "a string or an array of blocks")),
    };
    block.finish()?;
    let text = if failed { format!("Error: {text}") } else { text };
    Ok(json!({ "role": "tool", "tool_call_id": id, "content": text }))
}

fn tool_use(block: Value, at: &str) -> Result<Value, ApiError> {
    let mut block = Fields::of(block, at)?;
    block.without_effect(&["type", "cache_control"]);
    let (id, name) = (block.string("id")?, block.required_string("name")?);
    let input = block.value("input").unwrap_or_else(|| json!({}));
    if !input.is_object() {
        return Err(wrong(&format!("{at}.input"), &input, "an object"));
    }
    block.finish()?;
    Ok(call_json(id, &name, input))
}

/// A message without content.
fn message(id: &str, model: &str) -> Value {
    json!({
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": null,
        "stop_sequence": null,
        "usage": { "input_tokens": 0, "output_tokens": 0 },
    })
}

fn content(whole: &Whole) -> Value {
    let mut blocks = Vec::new();
    if !whole.reasoning.is_empty() {
        blocks.push(json!({ "type": "thinking", "thinking": whole.reasoning, "signature": "" }));
    }
    if !whole.text.is_empty() {
        blocks.push(json!({ "type": "text", "text": whole.text }));
    }
    for call in &whole.calls {
        // A call that was cut off has no arguments that are JSON.
        let input: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
        let input = if input.is_object() { input } else { json!({}) };
        blocks.push(json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": input }));
    }
    blocks.into()
}

fn stop_reason(end: &End) -> (&'static str, Value) {
    match &end.finish {
        Finish::Length | Finish::TimeLimit | Finish::Cancelled => ("max_tokens", Value::Null),
        Finish::Stop | Finish::StopString(_) if end.called => ("tool_use", Value::Null),
        Finish::StopString(text) => ("stop_sequence", text.as_str().into()),
        Finish::Stop => ("end_turn", Value::Null),
    }
}

fn usage(end: &End) -> Value {
    json!({
        "input_tokens": end.usage.prompt_tokens - end.usage.cached_tokens.min(end.usage.prompt_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": end.usage.cached_tokens,
        "output_tokens": end.usage.completion_tokens,
    })
}

/// The block of a stream that is open.
#[derive(Clone, Copy, PartialEq)]
enum Open {
    Nothing,
    Text,
    Thinking,
    Call,
}

/// Writes blocks one after the other.
struct Blocks {
    feed: Feed,
    index: usize,
    open: Open,
}

impl Blocks {
    async fn event(&self, kind: &str, mut rest: Value) -> Result<(), Gone> {
        if let Some(map) = rest.as_object_mut() {
            map.shift_insert(0, "type".into(), kind.into());
        }
        self.feed.event(kind, &rest).await
    }

    /// Makes sure that a block of this kind is open. Each call has its own.
    async fn open(&mut self, kind: Open, block: Value) -> Result<(), Gone> {
        if self.open == kind && kind != Open::Call {
            return Ok(());
        }
        self.close().await?;
        self.open = kind;
        self.event("content_block_start", json!({ "index": self.index, "content_block": block })).await
    }

    async fn delta(&self, delta: Value) -> Result<(), Gone> {
        self.event("content_block_delta", json!({ "index": self.index, "delta": delta })).await
    }

    async fn close(&mut self) -> Result<(), Gone> {
        if self.open == Open::Nothing {
            return Ok(());
        }
        if self.open == Open::Thinking {
            self.delta(json!({ "type": "signature_delta", "signature": "" })).await?;
        }
        self.open = Open::Nothing;
        self.index += 1;
        self.event("content_block_stop", json!({ "index": self.index - 1 })).await
    }
}

async fn stream(feed: Feed, mut answer: Answer, id: String, prompt_tokens: usize) -> Result<(), Gone> {
    let mut blocks = Blocks { feed, index: 0, open: Open::Nothing };
    let mut begin = message(&id, answer.model());
    begin["usage"]["input_tokens"] = prompt_tokens.into();
    blocks.event("message_start", json!({ "message": begin })).await?;
    loop {
        match blocks.feed.wait(answer.next()).await? {
            Ok(None) => break,
            Err(error) => return blocks.feed.event("error", &error.body(Shape::Anthropic, None)).await,
            Ok(Some((_, piece))) => match piece {
                Piece::Prompt(_) => {}
                Piece::Text(text, _) => {
                    blocks.open(Open::Text, json!({ "type": "text", "text": "" })).await?;
                    blocks.delta(json!({ "type": "text_delta", "text": text })).await?;
                }
                Piece::Reasoning(text) => {
                    let block = json!({ "type": "thinking", "thinking": "", "signature": "" });
                    blocks.open(Open::Thinking, block).await?;
                    blocks.delta(json!({ "type": "thinking_delta", "thinking": text })).await?;
                }
                Piece::CallStart { id, name, .. } => {
                    let block = json!({ "type": "tool_use", "id": id, "name": name, "input": {} });
                    blocks.open(Open::Call, block).await?;
                }
                Piece::CallArguments { text, .. } => {
                    blocks.delta(json!({ "type": "input_json_delta", "partial_json": text })).await?;
                }
                Piece::End(end) => {
                    blocks.close().await?;
                    let (reason, sequence) = stop_reason(&end);
                    let delta = json!({ "stop_reason": reason, "stop_sequence": sequence });
                    blocks.event("message_delta", json!({ "delta": delta, "usage": usage(&end) })).await?;
                }
            },
        }
    }
    blocks.event("message_stop", json!({})).await
}
