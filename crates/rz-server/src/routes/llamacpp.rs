//! The routes that users of llama.cpp's server know, and those of vLLM that have the same paths.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use rz_model::sampler::{Kind, SAMPLERS};
use rz_tokenizer::{EncodeOptions, Tokenizer};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::completions::{take_prompts, tokens};
use super::ollama::not_here;
use super::wire;
use crate::answer::{Answer, End, Piece, Plan, start};
use crate::backend::{ConstraintSpec, Finish, TokenScore};
use crate::body::{JsonBody, off_thread};
use crate::chat::Chat;
use crate::embed::embed;
use crate::error::Shape;
use crate::fields::{Fields, whole, wrong};
use crate::prompt::{check_ids, render};
use crate::sampling::{BIASES, MOST_LOGPROBS, Sampling};
use crate::stream::{Feed, Framing, Gone, respond};
use crate::{ApiError, App};

pub(super) fn routes() -> Router<Arc<App>> {
    let mut router = Router::new()
        .route("/completion", post(completion))
        .route("/completions", post(completion))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/apply-template", post(apply_template))
        .route("/embedding", post(embedding))
        .route("/embeddings", post(embedding))
        .route("/props", get(props));
    for path in ["/infill", "/rerank", "/reranking", "/v1/rerank", "/v1/reranking"] {
        router = router.route(path, post(move || async move { not_here(path) }));
    }
    let adapters = || async { not_here("/lora-adapters") };
    router.route("/lora-adapters", get(adapters).post(adapters))
}

async fn completion(
    State(app): State<Arc<App>>,
    JsonBody(mut fields): JsonBody,
) -> Result<Response, ApiError> {
    let model = fields.string("model")?;
    let prompts = take_prompts(&mut fields, "prompt")?;
    let several = prompts.len() > 1;
    let streams = fields.bool("stream")?.unwrap_or(false);
    let (sampling, tokens) = take_sampling(&app, &mut fields)?;
    let n = wire::take_n(&app, &mut fields)?;
    fields.finish()?;
    if streams && several {
        return Err(ApiError::invalid("stream", "'stream' is for one prompt at a time"));
    }
    let probabilities = sampling.logprobs.filter(|count| *count > 0).is_some();
    let plan = Plan { prompts, choices: n, sampling };
    let admission = app.admit(model.as_deref()).await?;
    let (answer, prompts) = start(&app, admission, plan).await?;
    let writer = Writer { model: answer.model().to_owned(), tokens, probabilities };
    if streams {
        return Ok(respond(&app, Framing::Events, |feed| stream(feed, answer, prompts, writer)));
    }
    let backend = answer.backend().clone();
    let tokenizer = backend.tokenizer();
    let wholes = answer.collect().await?;
    let results = wholes.iter().enumerate().map(|(index, whole)| {
        let mut body = writer.piece(tokenizer, index, &whole.text, &whole.tokens, true);
        writer.end(&mut body, tokenizer, &prompts[index / n], &whole.end);
        body
    });
    let mut results: Vec<_> = results.collect();
    Ok(match (&mut results[..], several || n > 1) {
        ([one], false) => Json(one.take()).into_response(),
        _ => Json(results).into_response(),
    })
}

/// How tokens are chosen in the words of llama.cpp, and whether their ids are wanted.
fn take_sampling(app: &App, fields: &mut Fields) -> Result<(Sampling, bool), ApiError> {
    let mut sampling = Sampling::new(&app.config);
    sampling.take_settings(fields)?;
    sampling.take_stop(fields, "stop")?;
    sampling.take_seed(fields, Some(-1))?;
    for name in ["n_predict", "max_tokens"] {
        sampling.take_most_tokens(fields, name)?;
    }
    // Here biases are also pairs of an id and a number, or of an id and false.
    match fields.value("logit_bias") {
        None => {}
        Some(Value::Array(pairs)) if pairs.len() <= BIASES.0 => {
            for (index, pair) in pairs.iter().enumerate() {
                let bias = pair.as_array().filter(|pair| pair.len() == 2).and_then(|pair| {
                    let id = whole(&pair[0]).and_then(|id| u32::try_from(id).ok())?;
                    let bias = match &pair[1] {
                        Value::Bool(false) => f64::NEG_INFINITY,
                        bias => bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias))?,
                    };
                    Some((id, bias as f32))
                });
                let path = format!("logit_bias[{index}]");
                let expected = "a token id with a number from -100 to 100, or with false";
                sampling.logit_bias.push(bias.ok_or_else(|| wrong(&path, pair, expected))?);
            }
            sampling.logit_bias.sort_by_key(|(id, _)| *id);
        }
        Some(object) => {
            let mut inner = Fields::of(json!({ "logit_bias": object }), "")?;
            sampling.take_logit_bias(&mut inner)?;
        }
    }
    if let Some(grammar) = fields.string("grammar")?.filter(|grammar| !grammar.is_empty()) {
        sampling.constrain(ConstraintSpec::Gbnf(grammar), "grammar")?;
    }
    if let Some(schema) = fields.value("json_schema") {
        sampling.constrain(ConstraintSpec::JsonSchema(schema), "json_schema")?;
    }
    if let Some(probabilities) = fields.integer("n_probs", 0, MOST_LOGPROBS)?.filter(|count| *count > 0) {
        sampling.logprobs = Some(probabilities as usize);
    }
    let tokens = fields.bool("return_tokens")?.unwrap_or(false);
    if tokens {
        sampling.logprobs.get_or_insert(0);
    }
    sampling.take_extensions(fields)?;
    fields.only("n_keep", &[0.into()])?;
    fields.only("post_sampling_probs", &[false.into()])?;
    fields.only("t_max_predict_ms", &[0.into()])?;
    fields.only("n_indent", &[0.into()])?;
    Ok((sampling, tokens))
}

struct Writer {
    model: String,
    tokens: bool,
    probabilities: bool,
}

impl Writer {
    /// Something of the answer.
    fn piece(
        &self,
        tokenizer: &Tokenizer,
        index: usize,
        text: &str,
        scores: &[TokenScore],
        stop: bool,
    ) -> Value {
        let ids: Vec<u32> = scores.iter().filter(|_| self.tokens).map(|score| score.id).collect();
        let mut body = json!({ "index": index, "content": text, "tokens": ids, "stop": stop });
        if self.probabilities {
            let probability = |id: u32, logprob: Option<f32>| {
                let (text, bytes) = wire::token(tokenizer, id);
                let logprob = logprob.map_or(Value::Null, wire::number);
                json!({ "id": id, "token": text, "bytes": bytes, "logprob": logprob })
            };
            let entries = scores.iter().map(|score| {
                let mut entry = probability(score.id, score.logprob);
                let top = score.top.iter().map(|(id, logprob)| probability(*id, Some(*logprob)));
                entry["top_logprobs"] = top.collect();
                entry
            });
            body["completion_probabilities"] = entries.collect();
        }
        body
    }

    /// Adds to the last piece what the answer took.
    fn end(&self, body: &mut Value, tokenizer: &Tokenizer, prompt: &[u32], end: &End) {
        let (kind, word) = match &end.finish {
            Finish::Stop => ("eos", ""),
            Finish::StopString(word) => ("word", word.as_str()),
            Finish::Length | Finish::TimeLimit | Finish::Cancelled => ("limit", ""),
        };
        let usage = &end.usage;
        let computed = usage.prompt_tokens - usage.cached_tokens.min(usage.prompt_tokens);
        let rate = |count: usize, time: Duration| {
            let milliseconds = time.as_secs_f64() * 1e3;
            let per_second = if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() };
            (milliseconds, milliseconds / count.max(1) as f64, per_second)
        };
        let (prompt_ms, prompt_each, prompt_rate) = rate(computed, usage.prefill);
        let (decode_ms, decode_each, decode_rate) = rate(usage.completion_tokens, usage.decode);
        let Some(map) = body.as_object_mut() else { return };
        let rest: [(&str, Value); 11] = [
            ("model", self.model.as_str().into()),
            ("prompt", tokenizer.decode(prompt).into()),
            ("tokens_predicted", usage.completion_tokens.into()),
            ("tokens_evaluated", usage.prompt_tokens.into()),
            ("tokens_cached", usage.cached_tokens.into()),
            ("id_slot", end.slot.into()),
            ("truncated", false.into()),
            ("stop", true.into()),
            ("stop_type", kind.into()),
            ("stopping_word", word.into()),
            (
                "timings",
                json!({
                    "cache_n": usage.cached_tokens,
                    "prompt_n": computed,
                    "prompt_ms": prompt_ms,
                    "prompt_per_token_ms": prompt_each,
                    "prompt_per_second": prompt_rate,
                    "predicted_n": usage.completion_tokens,
                    "predicted_ms": decode_ms,
                    "predicted_per_token_ms": decode_each,
                    "predicted_per_second": decode_rate,
                }),
            ),
        ];
        map.extend(rest.into_iter().map(|(key, value)| (key.to_owned(), value)));
    }
}

async fn stream(feed: Feed, mut answer: Answer, prompts: Vec<Vec<u32>>, writer: Writer) -> Result<(), Gone> {
    let backend = answer.backend().clone();
    let tokenizer = backend.tokenizer();
    loop {
        match feed.wait(answer.next()).await? {
            Ok(None) => return Ok(()),
            Err(error) => return feed.send(&error.body(Shape::OpenAi, None)).await,
            Ok(Some((index, Piece::Text(text, scores)))) => {
                feed.send(&writer.piece(tokenizer, index, &text, &scores, false)).await?;
            }
            Ok(Some((index, Piece::End(end)))) => {
                let mut body = writer.piece(tokenizer, index, "", &[], true);
                writer.end(&mut body, tokenizer, &prompts[0], &end);
                feed.send(&body).await?;
            }
            Ok(Some(_)) => {}
        }
    }
}

async fn tokenize(
    State(app): State<Arc<App>>,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let model = fields.string("model")?;
    // vLLM's clients send a prompt or messages.
    let (text, own) = match fields.string("content")? {
        Some(text) => (Ok(text), true),
        None if fields.has("messages") => {
            let mut chat = Chat::default();
            chat.take_messages(&mut fields)?;
            chat.take_tools(&mut fields)?;
            fields.only("add_generation_prompt", &[true.into()])?;
            (Err(chat), false)
        }
        None => (Ok(fields.string("prompt")?.ok_or_else(|| fields.missing("content"))?), false),
    };
    let add_special = match own {
        true => fields.bool("add_special")?.unwrap_or(false),
        false => fields.bool("add_special_tokens")?.unwrap_or(true),
    };
    let parse_special = fields.bool("parse_special")?.unwrap_or(true);
    let pieces = fields.bool("with_pieces")?.unwrap_or(false);
    fields.finish()?;
    let admission = app.admit(model.as_deref()).await?;
    off_thread(move || {
        let backend = admission.lease.backend();
        let tokenizer = backend.tokenizer();
        let text = match text {
            Ok(text) => text,
            Err(chat) => render(&**backend, &chat, false)?.text,
        };
        let ids = tokenizer.encode(&text, EncodeOptions { add_special, parse_special });
        let tokens: Value =
            if pieces { ids.iter().map(|id| piece(tokenizer, *id)).collect() } else { json!(ids) };
        let mut body = json!({ "tokens": tokens });
        if !own {
            body["count"] = ids.len().into();
            body["max_model_len"] = backend.info().context.into();
        }
        Ok(Json(body))
    })
    .await
}

/// A token with its text, or its bytes when they are no text.
fn piece(tokenizer: &Tokenizer, id: u32) -> Value {
    let (text, bytes) = wire::token(tokenizer, id);
    let piece = if std::str::from_utf8(&bytes).is_ok() { json!(text) } else { json!(bytes) };
    json!({ "id": id, "piece": piece })
}

async fn detokenize(
    State(app): State<Arc<App>>,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let model = fields.string("model")?;
    let items = fields.array("tokens")?.ok_or_else(|| fields.missing("tokens"))?;
    let ids = tokens(items, "tokens")?;
    fields.finish()?;
    let admission = app.admit(model.as_deref()).await?;
    off_thread(move || {
        let tokenizer = admission.lease.backend().tokenizer();
        check_ids(&ids, tokenizer, "tokens")?;
        let text =
            tokenizer.decode_with(&ids, rz_tokenizer::DecodeOptions { special: true, continues: false });
        Ok(Json(json!({ "content": text, "prompt": text })))
    })
    .await
}

async fn apply_template(
    State(app): State<Arc<App>>,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let model = fields.string("model")?;
    let mut chat = Chat::default();
    chat.take_messages(&mut fields)?;
    chat.take_tools(&mut fields)?;
    chat.take_template_arguments(&mut fields)?;
    fields.only("add_generation_prompt", &[true.into()])?;
    fields.finish()?;
    let admission = app.admit(model.as_deref()).await?;
    let rendered = off_thread(move || render(&**admission.lease.backend(), &chat, false)).await?;
    Ok(Json(json!({ "prompt": rendered.text })))
}

async fn embedding(
    State(app): State<Arc<App>>,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let model = fields.string("model")?;
    let name = if fields.has("input") { "input" } else { "content" };
    let prompts = take_prompts(&mut fields, name)?;
    super::embeddings::check_count(&app, prompts.len(), name)?;
    fields.only("embd_normalize", &[2.into()])?;
    fields.finish()?;
    let admission = app.admit(model.as_deref()).await?;
    let (vectors, _) = embed(&app, admission, prompts).await?;
    let entries = vectors.iter().enumerate();
    Ok(Json(entries.map(|(index, vector)| json!({ "index": index, "embedding": [vector] })).collect()))
}

/// A model named in the query.
#[derive(Debug, Deserialize)]
pub(super) struct OfModel {
    pub(super) model: Option<String>,
}

async fn props(State(app): State<Arc<App>>, Query(of): Query<OfModel>) -> Result<Json<Value>, ApiError> {
    let lease = app.registry.acquire(&app.model_name(of.model.as_deref())?).await?;
    let (backend, tokenizer) = (lease.backend(), lease.backend().tokenizer());
    let info = backend.info();
    let token = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or_default();
    let mut params = Map::new();
    let sampling = Sampling::new(&app.config);
    for param in SAMPLERS.iter().flat_map(|sampler| sampler.params) {
        let value = sampling.settings.float(param);
        let value = match param.kind {
            Kind::Bool { .. } => json!(value != 0.0),
            Kind::Int { .. } => json!(value as i64),
            Kind::Float { .. } => json!(value),
        };
        params.insert(param.name.to_owned(), value);
    }
    Ok(Json(json!({
        "default_generation_settings": { "n_ctx": info.context, "params": params },
        "total_slots": info.parallel,
        "model_alias": lease.name(),
        "model_path": lease.name(),
        "modalities": { "vision": false, "audio": false },
        "chat_template": backend.template().map_or("", |template| template.source()),
        "bos_token": token(tokenizer.bos()),
        "eos_token": token(tokenizer.eos()),
        "build_info": concat!("rz-", env!("CARGO_PKG_VERSION")),
    })))
}
