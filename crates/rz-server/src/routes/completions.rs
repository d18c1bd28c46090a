//! OpenAI's older `/v1/completions`: text in, its continuation out.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use rz_tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

use super::wire::{self, Streaming};
use crate::answer::{Answer, End, Piece, Plan, start};
use crate::backend::TokenScore;
use crate::body::JsonBody;
use crate::error::Shape;
use crate::fields::{Fields, whole, wrong};
use crate::prompt::Prompt;
use crate::stream::{Feed, Framing, Gone, respond};
use crate::{ApiError, App, ids};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/v1/completions", post(complete))
}

async fn complete(State(app): State<Arc<App>>, JsonBody(mut fields): JsonBody) -> Result<Response, ApiError> {
    let model = fields.string("model")?;
    let (plan, shape, streaming) = plan(&app, fields)?;
    let logprobs = plan.sampling.logprobs.is_some();
    let choices = plan.choices;
    let admission = app.admit(model.as_deref()).await?;
    let (answer, prompts) = start(&app, admission, plan).await?;
    let writer = Writer {
        id: ids::name("cmpl-"),
        created: ids::now(),
        model: answer.model().to_owned(),
        choices,
        logprobs,
        echo: shape.echo,
        empty: shape.empty,
    };
    if streaming.on {
        return Ok(respond(&app, Framing::Events, |feed| stream(feed, answer, prompts, writer, streaming)));
    }
    let backend = answer.backend().clone();
    let tokenizer = backend.tokenizer();
    let mut wholes = answer.collect().await?;
    // The scores of a prompt come with its first answer, and stand before all of them.
    let first_answers = wholes.iter_mut().step_by(choices);
    let prompt_scores: Vec<_> = first_answers.map(|whole| std::mem::take(&mut whole.prompt)).collect();
    let mut given = Vec::new();
    for (index, whole) in wholes.iter_mut().enumerate() {
        let prompt = &prompts[index / choices];
        let mut scores = Vec::new();
        let mut text = String::new();
        if shape.echo {
            text = tokenizer.decode(prompt);
            scores.clone_from(&prompt_scores[index / choices]);
        }
        if !shape.empty {
            text += &whole.text;
            scores.append(&mut whole.tokens);
        }
        let reason = if shape.empty { "length" } else { wire::finish_reason(&whole.end) };
        let mut logprobs = Value::Null;
        if writer.logprobs {
            logprobs = completion_logprobs(tokenizer, &scores, &mut 0);
        }
        given.push(json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": reason }));
        if shape.empty {
            whole.end.usage.completion_tokens = 0;
        }
    }
    let usage = wire::usage(wholes.iter().map(|whole| &whole.end), choices);
    let mut body = writer.chunk(json!(given));
    body["usage"] = usage;
    Ok(Json(body).into_response())
}

/// What of the answer is shown.
struct Shown {
    /// The prompt stands before it.
    echo: bool,
    /// Nothing was to be generated.
    empty: bool,
}

fn plan(app: &App, mut fields: Fields) -> Result<(Plan, Shown, Streaming), ApiError> {
    let prompts = take_prompts(&mut fields, "prompt")?;
    let streaming = wire::take_streaming(&mut fields)?;
    let echo = fields.bool("echo")?.unwrap_or(false);
    let mut sampling = wire::take_sampling(app, &mut fields)?;
    // 16 is OpenAI's number for requests that name none.
    let named = sampling.take_max_tokens(&mut fields, "max_tokens", i64::from(!echo))?;
    if !named {
        sampling.max_tokens = Some(sampling.max_tokens.map_or(16, |most| most.min(16)));
    }
    let empty = sampling.max_tokens == Some(0);
    if empty {
        // The prompt is computed with one token, which is not shown.
        sampling.max_tokens = Some(1);
    }
    sampling.take_response_format(&mut fields)?;
    sampling.take_extensions(&mut fields)?;
    sampling.logprobs = fields.integer("logprobs", 0, 5)?.map(|count| count as usize);
    sampling.prompt_logprobs = sampling.logprobs.filter(|_| echo);
    let choices = wire::take_n(app, &mut fields)?;
    fields.only("best_of", &[choices.into()])?;
    if fields.string("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::unsupported(
            "suffix",
            "'suffix' is not supported: this server does not fill in the middle",
        ));
    }
    fields.without_effect(wire::WITHOUT_EFFECT);
    fields.finish()?;
    Ok((Plan { prompts, choices, sampling }, Shown { echo, empty }, streaming))
}

/// One prompt or several: a text, tokens, an array of texts, or an array of arrays of tokens.
pub(super) fn take_prompts(fields: &mut Fields, name: &str) -> Result<Vec<Prompt>, ApiError> {
    let path = fields.path(name);
    let value = fields.value(name).ok_or_else(|| fields.missing(name))?;
    let expected = "a text, tokens, or an array of texts or of tokens";
    match value {
        Value::String(text) => Ok(vec![Prompt::Text(text)]),
        Value::Array(items) if items.is_empty() => {
            Err(ApiError::invalid(&path, format!("'{path}' is empty: give {expected}")))
        }
        Value::Array(items) if items.iter().all(Value::is_number) => {
            tokens(items, &path).map(|tokens| vec![Prompt::Tokens(tokens)])
        }
        Value::Array(items) => items
            .into_iter()
            .enumerate()
            .map(|(index, item)| match item {
                Value::String(text) => Ok(Prompt::Text(text)),
                Value::Array(items) => tokens(items, &format!("{path}[{index}]")).map(Prompt::Tokens),
                other => Err(wrong(&format!("{path}[{index}]"), &other, "a text or tokens")),
            })
            .collect(),
        other => Err(wrong(&path, &other, expected)),
    }
}

/// Ids of tokens.
pub(super) fn tokens(items: Vec<Value>, path: &str) -> Result<Vec<u32>, ApiError> {
    items
        .iter()
        .map(|item| {
            let id = whole(item).and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| wrong(path, item, "token ids: whole numbers from 0 up"))
        })
        .collect()
}

/// Tokens with their probabilities, as this route has them: in columns.
fn completion_logprobs(tokenizer: &Tokenizer, scores: &[TokenScore], offset: &mut usize) -> Value {
    let (mut tokens, mut logprobs, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
    for score in scores {
        let (text, _) = wire::token(tokenizer, score.id);
        offsets.push(*offset);
        *offset += text.chars().count();
        tokens.push(text);
        logprobs.push(score.logprob.map_or(Value::Null, wire::number));
        let mut top = Map::new();
        for (id, logprob) in &score.top {
            top.insert(wire::token(tokenizer, *id).0, wire::number(*logprob));
        }
        // The token itself is always among them; the first of a prompt has none.
        if let Some(logprob) = score.logprob
            && !score.top.is_empty()
        {
            top.entry(wire::token(tokenizer, score.id).0).or_insert(wire::number(logprob));
        }
        tops.push(if top.is_empty() { Value::Null } else { Value::Object(top) });
    }
    json!({ "tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets })
}

struct Writer {
    id: String,
    created: u64,
    model: String,
    choices: usize,
    logprobs: bool,
    echo: bool,
    empty: bool,
}

impl Writer {
    fn chunk(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }
}

async fn stream(
    feed: Feed,
    mut answer: Answer,
    prompts: Vec<Vec<u32>>,
    writer: Writer,
    streaming: Streaming,
) -> Result<(), Gone> {
    let backend = answer.backend().clone();
    let tokenizer = backend.tokenizer();
    let count = prompts.len() * writer.choices;
    let mut offsets = vec![0; count];
    let mut ends: Vec<Option<End>> = vec![None; count];
    let send = async |index: usize, text: &str, logprobs: Value, finish: Value| {
        let choice = json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": finish });
        let mut chunk = writer.chunk(json!([choice]));
        if streaming.usage {
            chunk["usage"] = Value::Null;
        }
        feed.send(&chunk).await
    };
    if writer.echo && !writer.logprobs {
        for index in 0..count {
            let text = tokenizer.decode(&prompts[index / writer.choices]);
            send(index, &text, Value::Null, Value::Null).await?;
        }
    }
    loop {
        let (index, piece) = match feed.wait(answer.next()).await? {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(error) => {
                feed.send(&error.body(Shape::OpenAi, None)).await?;
                return feed.done().await;
            }
        };
        match piece {
            Piece::Prompt(scores) => {
                // One prompt, and its scores, for all of its answers.
                for index in index..(index + writer.choices).min(count) {
                    let text = tokenizer.decode(&prompts[index / writer.choices]);
                    let logprobs = completion_logprobs(tokenizer, &scores, &mut offsets[index]);
                    send(index, &text, logprobs, Value::Null).await?;
                }
            }
            Piece::Text(text, scores) if !writer.empty => {
                let logprobs = match writer.logprobs {
                    true => completion_logprobs(tokenizer, &scores, &mut offsets[index]),
                    false => Value::Null,
                };
                send(index, &text, logprobs, Value::Null).await?;
            }
            Piece::End(mut end) => {
                let reason = if writer.empty { "length" } else { wire::finish_reason(&end) };
                send(index, "", Value::Null, reason.into()).await?;
                if writer.empty {
                    end.usage.completion_tokens = 0;
                }
                ends[index] = Some(end);
            }
            _ => {}
        }
    }
    if streaming.usage {
        let mut chunk = writer.chunk(json!([]));
        chunk["usage"] = wire::usage(ends.iter().flatten(), writer.choices);
        feed.send(&chunk).await?;
    }
    feed.done().await
}
