//! OpenAI's `/v1/chat/completions`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Map, Value, json};

use super::wire::{self, Streaming};
use crate::answer::{Answer, End, Piece, Plan, Whole, start};
use crate::body::JsonBody;
use crate::chat::Chat;
use crate::error::Shape;
use crate::fields::Fields;
use crate::prompt::Prompt;
use crate::sampling::MOST_LOGPROBS;
use crate::stream::{Feed, Framing, Gone, respond};
use crate::{ApiError, App, ids};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/v1/chat/completions", post(complete)).route("/chat/completions", post(complete))
}

async fn complete(State(app): State<Arc<App>>, JsonBody(mut fields): JsonBody) -> Result<Response, ApiError> {
    let model = fields.string("model")?;
    let (plan, streaming) = plan(&app, fields)?;
    let writer = Writer::new(plan.choices, plan.sampling.logprobs.is_some());
    let admission = app.admit(model.as_deref()).await?;
    let (answer, _) = start(&app, admission, plan).await?;
    if streaming.on {
        return Ok(respond(&app, Framing::Events, |feed| stream(feed, answer, writer, streaming)));
    }
    let (backend, name) = (answer.backend().clone(), answer.model().to_owned());
    let wholes = answer.collect().await?;
    let choices = wholes.iter().enumerate().map(|(index, whole)| {
        json!({
            "index": index,
            "message": message(whole),
            "logprobs": if writer.logprobs {
                wire::chat_logprobs(backend.tokenizer(), &whole.tokens)
            } else {
                Value::Null
            },
            "finish_reason": wire::finish_reason(&whole.end),
        })
    });
    let choices: Vec<_> = choices.collect();
    let usage = wire::usage(wholes.iter().map(|whole| &whole.end), writer.choices);
    Ok(Json(json!({
        "id": writer.id,
        "object": "chat.completion",
        "created": writer.created,
        "model": name,
        "choices": choices,
        "usage": usage,
        "system_fingerprint": FINGERPRINT,
    }))
    .into_response())
}

const FINGERPRINT: &str = concat!("rz-", env!("CARGO_PKG_VERSION"));

/// What a request asks for.
fn plan(app: &App, mut fields: Fields) -> Result<(Plan, Streaming), ApiError> {
    let mut chat = Chat::default();
    chat.take_messages(&mut fields)?;
    chat.take_tools(&mut fields)?;
    chat.one_call = !fields.bool("parallel_tool_calls")?.unwrap_or(true);
    chat.take_template_arguments(&mut fields)?;
    take_effort(&mut chat, fields.string("reasoning_effort")?, "reasoning_effort")?;
    let streaming = wire::take_streaming(&mut fields)?;
    let mut sampling = wire::take_sampling(app, &mut fields)?;
    sampling.take_max_tokens(&mut fields, "max_completion_tokens", 1)?;
    sampling.take_max_tokens(&mut fields, "max_tokens", 1)?;
    sampling.take_response_format(&mut fields)?;
    sampling.take_extensions(&mut fields)?;
    let top = fields.integer("top_logprobs", 0, MOST_LOGPROBS)?;
    if fields.bool("logprobs")?.unwrap_or(false) {
        sampling.logprobs = Some(top.unwrap_or(0) as usize);
    } else if top.is_some_and(|top| top > 0) {
        let message = "'top_logprobs' needs 'logprobs' to be true";
        return Err(ApiError::invalid("top_logprobs", message));
    }
    let choices = wire::take_n(app, &mut fields)?;
    fields.without_effect(wire::WITHOUT_EFFECT);
    fields.only("service_tier", &["auto".into(), "default".into()])?;
    fields.only("store", &[false.into()])?;
    fields.only("modalities", &[json!(["text"])])?;
    fields.only("verbosity", &["medium".into()])?;
    fields.finish()?;
    Ok((Plan { prompts: vec![Prompt::Chat(Box::new(chat))], choices, sampling }, streaming))
}

/// How much the model shall think.
pub(super) fn take_effort(chat: &mut Chat, effort: Option<String>, path: &str) -> Result<(), ApiError> {
    match effort.as_deref() {
        None => {}
        Some("none" | "minimal") => chat.thinking = Some(false),
        Some("low" | "medium" | "high" | "xhigh") => chat.effort = effort,
        Some(other) => {
            let other = crate::error::shown(other);
            let message = format!("'{path}' is \"{other}\": give none, minimal, low, medium, high or xhigh");
            return Err(ApiError::invalid(path, message));
        }
    }
    Ok(())
}

/// The assistant's message.
fn message(whole: &Whole) -> Value {
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    // With nothing but calls there is no content.
    let silent = whole.text.is_empty() && !whole.calls.is_empty();
    message.insert("content".into(), if silent { Value::Null } else { whole.text.as_str().into() });
    message.insert("refusal".into(), Value::Null);
    if !whole.reasoning.is_empty() {
        message.insert("reasoning_content".into(), whole.reasoning.as_str().into());
    }
    if !whole.calls.is_empty() {
        message.insert("tool_calls".into(), whole.calls.iter().map(wire::call).collect());
    }
    Value::Object(message)
}

/// What all chunks of a stream have in common.
struct Writer {
    id: String,
    created: u64,
    choices: usize,
    logprobs: bool,
}

impl Writer {
    fn new(choices: usize, logprobs: bool) -> Self {
        Self { id: ids::name("chatcmpl-"), created: ids::now(), choices, logprobs }
    }

    fn chunk(&self, model: &str, choices: Value, usage: Option<Value>, with_usage: bool) -> Value {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        });
        // Where usage is asked for, every chunk has the field.
        if with_usage {
            chunk["usage"] = usage.unwrap_or(Value::Null);
        }
        chunk
    }
}

async fn stream(feed: Feed, mut answer: Answer, writer: Writer, streaming: Streaming) -> Result<(), Gone> {
    let model = answer.model().to_owned();
    let backend = answer.backend().clone();
    let send = async |index: usize, delta: Value, logprobs: Value, finish: Value| {
        let choice = json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish });
        feed.send(&writer.chunk(&model, json!([choice]), None, streaming.usage)).await
    };
    for index in 0..writer.choices {
        let delta = json!({ "role": "assistant", "content": "", "refusal": null });
        send(index, delta, Value::Null, Value::Null).await?;
    }
    let mut ends: Vec<Option<End>> = vec![None; writer.choices];
    loop {
        let piece = match feed.wait(answer.next()).await? {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(error) => {
                feed.send(&error.body(Shape::OpenAi, None)).await?;
                return feed.done().await;
            }
        };
        match piece {
            (_, Piece::Prompt(_)) => {}
            (index, Piece::Text(text, tokens)) => {
                let logprobs = if writer.logprobs {
                    wire::chat_logprobs(backend.tokenizer(), &tokens)
                } else {
                    Value::Null
                };
                send(index, json!({ "content": text }), logprobs, Value::Null).await?;
            }
            (index, Piece::Reasoning(text)) => {
                send(index, json!({ "reasoning_content": text }), Value::Null, Value::Null).await?;
            }
            (index, Piece::CallStart { index: call, id, name }) => {
                let function = json!({ "name": name, "arguments": "" });
                let call = json!({ "index": call, "id": id, "type": "function", "function": function });
                send(index, json!({ "tool_calls": [call] }), Value::Null, Value::Null).await?;
            }
            (index, Piece::CallArguments { index: call, text }) => {
                let call = json!({ "index": call, "function": { "arguments": text } });
                send(index, json!({ "tool_calls": [call] }), Value::Null, Value::Null).await?;
            }
            (index, Piece::End(end)) => {
                send(index, json!({}), Value::Null, wire::finish_reason(&end).into()).await?;
                ends[index] = Some(end);
            }
        }
    }
    if streaming.usage {
        let usage = wire::usage(ends.iter().flatten(), writer.choices);
        feed.send(&writer.chunk(&model, json!([]), Some(usage), true)).await?;
    }
    feed.done().await
}
