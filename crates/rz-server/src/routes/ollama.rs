//! Ollama's `/api/chat`, `/api/generate` and `/api/embed`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Map, Value, json};

use super::chat_completions::take_effort;
use super::embeddings::check_count;
use crate::answer::{Answer, Call, End, Piece, Plan, Whole, start};
use crate::app::Admission;
use crate::backend::{ConstraintSpec, Finish};
use crate::body::JsonBody;
use crate::chat::Chat;
use crate::embed::embed;
use crate::error::{Shape, shown};
use crate::fields::{Fields, wrong};
use crate::prompt::Prompt;
use crate::sampling::Sampling;
use crate::stream::{Feed, Framing, Gone, respond};
use crate::{ApiError, App, ids};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/api/chat", post(chat))
        .route("/api/generate", post(generate))
        .route("/api/embed", post(embeddings))
        .route("/api/embeddings", post(embedding))
}

/// Whether an answer is a message of a chat or the continuation of a text.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Chat,
    Generate,
}

/// How long a model stays in memory after a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Keep {
    AsConfigured,
    For(Option<Duration>),
}

async fn chat(State(app): State<Arc<App>>, JsonBody(mut fields): JsonBody) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let model = fields.required_string("model")?;
    let keep = take_keep_alive(&mut fields)?;
    let mut chat = Chat::default();
    let empty = fields.array("messages")?.unwrap_or_default();
    let is_empty = empty.is_empty();
    for (index, message) in empty.into_iter().enumerate() {
        chat.push_message(message, &format!("messages[{index}]"))?;
    }
    chat.take_tools(&mut fields)?;
    take_think(&mut chat, &mut fields)?;
    let (sampling, window) = take_sampling(&app, &mut fields)?;
    let streams = fields.bool("stream")?.unwrap_or(true);
    fields.finish()?;
    let admission = admit(&app, &model, keep, window).await?;
    if is_empty {
        return Ok(loaded(&model, keep, Kind::Chat));
    }
    let plan = Plan { prompts: vec![Prompt::Chat(Box::new(chat))], choices: 1, sampling };
    respond_with(&app, admission, plan, Writer::new(model, Kind::Chat, arrived), streams).await
}

async fn generate(State(app): State<Arc<App>>, JsonBody(mut fields): JsonBody) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let model = fields.required_string("model")?;
    let keep = take_keep_alive(&mut fields)?;
    let text = fields.string("prompt")?.unwrap_or_default();
    let system = fields.string("system")?;
    let raw = fields.bool("raw")?.unwrap_or(false);
    let mut chat = Chat::default();
    take_think(&mut chat, &mut fields)?;
    let (sampling, window) = take_sampling(&app, &mut fields)?;
    let streams = fields.bool("stream")?.unwrap_or(true);
    // What is empty asks for nothing.
    for name in ["suffix", "template"] {
        fields.only(name, &["".into()])?;
    }
    for name in ["images", "context"] {
        fields.only(name, &[json!([])])?;
    }
    fields.finish()?;
    let admission = admit(&app, &model, keep, window).await?;
    if text.is_empty() {
        return Ok(loaded(&model, keep, Kind::Generate));
    }
    // Models without a template continue the text, as `raw` asks for.
    let prompt = if raw || admission.lease.backend().template().is_none() {
        if system.is_some_and(|system| !system.is_empty()) {
            let message = "'system' needs the model's chat template: leave it out, or 'raw'";
            return Err(ApiError::invalid("system", message));
        }
        Prompt::Text(text)
    } else {
        if let Some(system) = system.filter(|system| !system.is_empty()) {
            chat.push(json!({ "role": "system", "content": system }))?;
        }
        chat.push(json!({ "role": "user", "content": text }))?;
        Prompt::Chat(Box::new(chat))
    };
    let plan = Plan { prompts: vec![prompt], choices: 1, sampling };
    respond_with(&app, admission, plan, Writer::new(model, Kind::Generate, arrived), streams).await
}

async fn embeddings(
    State(app): State<Arc<App>>,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let arrived = Instant::now();
    let model = fields.required_string("model")?;
    let keep = take_keep_alive(&mut fields)?;
    let texts = fields.strings("input")?.ok_or_else(|| fields.missing("input"))?;
    check_count(&app, texts.len(), "input")?;
    let truncate = fields.bool("truncate")?.unwrap_or(true);
    let window = take_options(&app, &mut fields)?.1;
    let dimensions = fields.integer("dimensions", 1, 1 << 20)?;
    fields.finish()?;
    let admission = admit(&app, &model, keep, window).await?;
    if let Some(dimensions) = dimensions
        && dimensions as usize != admission.lease.backend().info().embedding
    {
        return Err(ApiError::unsupported(
            "dimensions",
            "'dimensions' is not that of the model: leave it out",
        ));
    }
    let load = arrived.elapsed();
    let prompts = texts.into_iter().map(|text| if truncate { Prompt::Cut(text) } else { Prompt::Text(text) });
    let (vectors, tokens) = embed(&app, admission, prompts.collect()).await?;
    Ok(Json(json!({
        "model": model,
        "embeddings": vectors,
        "total_duration": nanoseconds(arrived.elapsed()),
        "load_duration": nanoseconds(load),
        "prompt_eval_count": tokens,
    })))
}

/// The older form of the same.
async fn embedding(
    State(app): State<Arc<App>>,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let model = fields.required_string("model")?;
    let keep = take_keep_alive(&mut fields)?;
    let text = fields.required_string("prompt")?;
    let window = take_options(&app, &mut fields)?.1;
    fields.finish()?;
    let admission = admit(&app, &model, keep, window).await?;
    let (vectors, _) = embed(&app, admission, vec![Prompt::Cut(text)]).await?;
    Ok(Json(json!({ "embedding": vectors.into_iter().next().unwrap_or_default() })))
}

/// The model, loaded; and what the request says about its context and how long it stays.
async fn admit(
    app: &Arc<App>,
    model: &str,
    keep: Keep,
    window: Option<usize>,
) -> Result<Admission, ApiError> {
    let admission = app.admit(Some(model)).await?;
    let context = admission.lease.backend().info().context;
    if let Some(window) = window.filter(|window| *window > context) {
        let message = format!(
            "'options.num_ctx' is {window}, and this server holds {context} tokens: give at most that, \
             or have the server started with a larger context"
        );
        return Err(ApiError::unsupported("options.num_ctx", message));
    }
    if let Keep::For(time) = keep {
        admission.lease.keep(time);
    }
    Ok(admission)
}

/// The answer to a request without a prompt, which only loads or unloads the model.
fn loaded(model: &str, keep: Keep, kind: Kind) -> Response {
    let reason = if keep == Keep::For(Some(Duration::ZERO)) { "unload" } else { "load" };
    let mut body = json!({ "model": model, "created_at": ids::timestamp(ids::now()) });
    match kind {
        Kind::Chat => body["message"] = json!({ "role": "assistant", "content": "" }),
        Kind::Generate => body["response"] = "".into(),
    }
    (body["done"], body["done_reason"]) = (true.into(), reason.into());
    Json(body).into_response()
}

/// The longest time that can be asked for, in seconds; who wants more wants for ever.
pub(super) const LONGEST_TIME: f64 = 1e9;
/// Times in words, as [`duration`] reads them.
pub(super) const TIME: &str =
    "^-?([0-9]{1,9}([.][0-9]{1,9})?|([0-9]{1,9}([.][0-9]{1,9})?(ms|us|ns|s|m|h)){1,8})$";

/// Seconds as a number, or a text such as `5m`; less than nothing: for ever.
fn take_keep_alive(fields: &mut Fields) -> Result<Keep, ApiError> {
    let Some(value) = fields.value("keep_alive") else { return Ok(Keep::AsConfigured) };
    let seconds = match &value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => duration(text),
        _ => None,
    };
    match seconds.filter(|seconds| seconds.abs() <= LONGEST_TIME) {
        Some(seconds) if seconds < 0.0 => Ok(Keep::For(None)),
        Some(seconds) => Ok(Keep::For(Some(Duration::from_secs_f64(seconds)))),
        None => Err(wrong("keep_alive", &value, "at most 1000000000 seconds, or a time such as \"5m\"")),
    }
}

/// Seconds of a time such as `1h30m`, `300ms` or `-1`; at most the longest.
fn duration(text: &str) -> Option<f64> {
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    let (mut count, mut rest) = number(rest)?;
    if rest.is_empty() {
        return Some(sign * count);
    }
    let mut seconds = 0.0;
    for _ in 0..8 {
        let units = [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let (unit, length) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        seconds += count * length;
        rest = &rest[unit.len()..];
        if rest.is_empty() {
            return Some(sign * seconds.min(LONGEST_TIME));
        }
        (count, rest) = number(rest)?;
    }
    None
}

/// The number at the beginning of a text, and what comes after it.
fn number(text: &str) -> Option<(f64, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let good = |count: usize| (1..=9).contains(&count);
    let mut length = digits(text);
    let mut sound = good(length);
    if let Some(fraction) = text[length..].strip_prefix('.') {
        let more = digits(fraction);
        (length, sound) = (length + 1 + more, sound && good(more));
    }
    let number = text[..length].parse().ok().filter(|_| sound)?;
    Some((number, &text[length..]))
}

/// Whether the model shall think, or how much.
fn take_think(chat: &mut Chat, fields: &mut Fields) -> Result<(), ApiError> {
    match fields.value("think") {
        None => Ok(()),
        Some(Value::Bool(on)) => {
            chat.thinking = Some(on);
            Ok(())
        }
        Some(Value::String(effort)) => take_effort(chat, Some(effort), "think"),
        Some(other) => Err(wrong("think", &other, "true, false, \"low\", \"medium\" or \"high\"")),
    }
}

fn take_sampling(app: &App, fields: &mut Fields) -> Result<(Sampling, Option<usize>), ApiError> {
    let (mut sampling, window) = take_options(app, fields)?;
    match fields.value("format") {
        None => {}
        Some(Value::String(format)) if format.is_empty() => {}
        Some(Value::String(format)) if format == "json" => {
            sampling.constrain(ConstraintSpec::JsonObject, "format")?;
        }
        Some(schema @ Value::Object(_)) => {
            sampling.constrain(ConstraintSpec::JsonSchema(schema), "format")?
        }
        Some(other) => return Err(wrong("format", &other, "\"json\" or a JSON schema")),
    }
    if fields.bool("logprobs")?.unwrap_or(false) {
        return Err(ApiError::unsupported(
            "logprobs",
            "'logprobs' is not supported here: use /v1/chat/completions",
        ));
    }
    fields.only("top_logprobs", &[0.into()])?;
    Ok((sampling, window))
}

/// Ollama's options, and the context that they ask for.
fn take_options(app: &App, fields: &mut Fields) -> Result<(Sampling, Option<usize>), ApiError> {
    let mut sampling = Sampling::new(&app.config);
    let Some(mut options) = fields.object("options")? else { return Ok((sampling, None)) };
    sampling.take_most_tokens(&mut options, "num_predict")?;
    sampling.take_settings(&mut options)?;
    sampling.take_stop(&mut options, "stop")?;
    sampling.take_seed(&mut options, Some(-1))?;
    let window = options.integer("num_ctx", 1, i64::from(u32::MAX))?.map(|tokens| tokens as usize);
    options.finish()?;
    Ok((sampling, window))
}

/// What the lines of an answer have in common.
struct Writer {
    model: String,
    kind: Kind,
    arrived: Instant,
    load: Duration,
}

impl Writer {
    fn new(model: String, kind: Kind, arrived: Instant) -> Self {
        Self { model, kind, arrived, load: arrived.elapsed() }
    }

    /// A line with something of the answer.
    fn line(&self, text: &str, thinking: &str, calls: &[Call]) -> Value {
        let mut line = Map::new();
        line.insert("model".into(), self.model.as_str().into());
        line.insert("created_at".into(), ids::timestamp(ids::now()).into());
        match self.kind {
            Kind::Chat => {
                let mut message = Map::new();
                message.insert("role".into(), "assistant".into());
                message.insert("content".into(), text.into());
                if !thinking.is_empty() {
                    message.insert("thinking".into(), thinking.into());
                }
                if !calls.is_empty() {
                    let calls = calls.iter().map(|call| {
                        let arguments = serde_json::from_str::<Value>(&call.arguments).unwrap_or_default();
                        let arguments = if arguments.is_object() { arguments } else { json!({}) };
                        json!({ "function": { "name": call.name, "arguments": arguments } })
                    });
                    message.insert("tool_calls".into(), calls.collect());
                }
                line.insert("message".into(), Value::Object(message));
            }
            Kind::Generate => {
                line.insert("response".into(), text.into());
                if !thinking.is_empty() {
                    line.insert("thinking".into(), thinking.into());
                }
            }
        }
        line.insert("done".into(), false.into());
        Value::Object(line)
    }

    /// Adds to the last line what the answer took.
    fn end(&self, mut line: Value, end: &End) -> Value {
        let reason = match end.finish {
            Finish::Stop | Finish::StopString(_) => "stop",
            Finish::Length | Finish::TimeLimit | Finish::Cancelled => "length",
        };
        (line["done"], line["done_reason"]) = (true.into(), reason.into());
        line["total_duration"] = nanoseconds(self.arrived.elapsed());
        line["load_duration"] = nanoseconds(self.load);
        line["prompt_eval_count"] = end.usage.prompt_tokens.into();
        line["prompt_eval_duration"] = nanoseconds(end.usage.prefill);
        line["eval_count"] = end.usage.completion_tokens.into();
        line["eval_duration"] = nanoseconds(end.usage.decode);
        line
    }
}

async fn respond_with(
    app: &Arc<App>,
    admission: Admission,
    plan: Plan,
    mut writer: Writer,
    streams: bool,
) -> Result<Response, ApiError> {
    writer.load = writer.arrived.elapsed();
    let (answer, _) = start(app, admission, plan).await?;
    if streams {
        return Ok(respond(app, Framing::Lines, |feed| stream(feed, answer, writer)));
    }
    let Whole { text, reasoning, calls, end, .. } =
        answer.collect().await?.into_iter().next().unwrap_or_default();
    Ok(Json(writer.end(writer.line(&text, &reasoning, &calls), &end)).into_response())
}

async fn stream(feed: Feed, mut answer: Answer, writer: Writer) -> Result<(), Gone> {
    // Calls are given as a whole here.
    let mut calls: Vec<Call> = Vec::new();
    loop {
        match feed.wait(answer.next()).await? {
            Ok(None) => return Ok(()),
            Err(error) => return feed.send(&error.body(Shape::Ollama, None)).await,
            Ok(Some((_, piece))) => match piece {
                Piece::Prompt(_) => {}
                Piece::Text(text, _) => feed.send(&writer.line(&text, "", &[])).await?,
                Piece::Reasoning(text) => feed.send(&writer.line("", &text, &[])).await?,
                Piece::CallStart { id, name, .. } => {
                    calls.push(Call { id, name, arguments: String::new() });
                }
                Piece::CallArguments { text, .. } => {
                    if let Some(call) = calls.last_mut() {
                        call.arguments += &text;
                    }
                }
                Piece::End(end) => {
                    if !calls.is_empty() {
                        feed.send(&writer.line("", "", &calls)).await?;
                    }
                    feed.send(&writer.end(writer.line("", "", &[]), &end)).await?;
                }
            },
        }
    }
}

fn nanoseconds(time: Duration) -> Value {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).into()
}

/// Refuses what this server does not do, with the reason.
pub(super) fn not_here(what: &str) -> ApiError {
    ApiError::not_implemented(format!("{} is not implemented by this server", shown(what)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_ollama_writes_them() {
        for (text, seconds) in [
            ("5m", Some(300.0)),
            ("1h30m", Some(5400.0)),
            ("300ms", Some(0.3)),
            ("-1", Some(-1.0)),
            ("-1m", Some(-60.0)),
            ("0", Some(0.0)),
            ("", None),
            ("m", None),
            ("5x", None),
            ("1.5h", Some(5400.0)),
            ("1h30m1.5s2ms", Some(5401.502)),
            ("999999999h", Some(LONGEST_TIME)),
            ("1e5", None),
            ("+5", None),
            ("5.", None),
            (".5", None),
            ("0000000000", None),
            ("5m5", None),
            ("1s1s1s1s1s1s1s1s", Some(8.0)),
            ("1s1s1s1s1s1s1s1s1s", None),
            ("soon", None),
            ("NaN", None),
        ] {
            assert_eq!(duration(text), seconds, "{text}");
        }
    }
}
