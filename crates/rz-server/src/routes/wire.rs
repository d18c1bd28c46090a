//! What the routes of OpenAI share: usage, log-probabilities, reasons.

use rz_tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

use crate::answer::{Call, End};
use crate::backend::{Finish, TokenScore};
use crate::fields::Fields;
use crate::sampling::Sampling;
use crate::{ApiError, App};

/// Who asks, what for, and where it is accounted: nothing of it changes the answer.
pub(super) const WITHOUT_EFFECT: &[&str] = &[
    "user",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
];

/// What `stream` and `stream_options` ask for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Streaming {
    pub(super) on: bool,
    /// Whether the stream ends with what it took.
    pub(super) usage: bool,
}

pub(super) fn take_streaming(fields: &mut Fields) -> Result<Streaming, ApiError> {
    let on = fields.bool("stream")?.unwrap_or(false);
    let Some(mut options) = fields.object("stream_options")? else {
        return Ok(Streaming { on, usage: false });
    };
    if !on {
        let message = "'stream_options' is only for streams: leave it out, or give 'stream' true";
        return Err(ApiError::invalid("stream_options", message));
    }
    let usage = options.bool("include_usage")?.unwrap_or(false);
    // Padding against those who watch the lengths of packets; there is none.
    options.only("include_obfuscation", &[Value::Bool(false)])?;
    options.finish()?;
    Ok(Streaming { on, usage })
}

/// How tokens are chosen, as all of OpenAI's routes have it.
pub(super) fn take_sampling(app: &App, fields: &mut Fields) -> Result<Sampling, ApiError> {
    let mut sampling = Sampling::new(&app.config);
    sampling.take_settings(fields)?;
    sampling.take_stop(fields, "stop")?;
    sampling.take_seed(fields, None)?;
    sampling.take_logit_bias(fields)?;
    Ok(sampling)
}

/// The number of answers.
pub(super) fn take_n(app: &App, fields: &mut Fields) -> Result<usize, ApiError> {
    Ok(fields.integer("n", 1, app.config.max_choices as i64)?.unwrap_or(1) as usize)
}

/// What several answers took together. The prompt counts once for each prompt.
pub(super) fn usage<'a>(ends: impl IntoIterator<Item = &'a End>, choices_per_prompt: usize) -> Value {
    let (mut prompt, mut cached, mut completion, mut reasoning) = (0, 0, 0, 0);
    for (index, end) in ends.into_iter().enumerate() {
        if index % choices_per_prompt.max(1) == 0 {
            prompt += end.usage.prompt_tokens;
            cached += end.usage.cached_tokens;
        }
        completion += end.usage.completion_tokens;
        reasoning += end.reasoning_tokens;
    }
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": { "cached_tokens": cached },
        "completion_tokens_details": { "reasoning_tokens": reasoning },
    })
}

/// Why an answer ended, in OpenAI's words.
pub(super) fn finish_reason(end: &End) -> &'static str {
    match end.finish {
        Finish::Length | Finish::TimeLimit | Finish::Cancelled => "length",
        Finish::Stop | Finish::StopString(_) if end.called => "tool_calls",
        Finish::Stop | Finish::StopString(_) => "stop",
    }
}

/// A call of a function as a part of a message.
pub(super) fn call(call: &Call) -> Value {
    json!({
        "id": call.id,
        "type": "function",
        "function": { "name": call.name, "arguments": call.arguments },
    })
}

/// Tokens with their probabilities, as chat has them.
pub(super) fn chat_logprobs(tokenizer: &Tokenizer, tokens: &[TokenScore]) -> Value {
    let entry = |id: u32, logprob: Option<f32>| {
        let (text, bytes) = token(tokenizer, id);
        let mut entry = Map::new();
        entry.insert("token".into(), text.into());
        entry.insert("logprob".into(), logprob.map_or(Value::Null, number));
        entry.insert("bytes".into(), bytes.into());
        entry
    };
    let content = tokens.iter().map(|token| {
        let mut scored = entry(token.id, token.logprob);
        let top = token.top.iter().map(|(id, logprob)| Value::Object(entry(*id, Some(*logprob))));
        scored.insert("top_logprobs".into(), top.collect());
        Value::Object(scored)
    });
    json!({ "content": content.collect::<Vec<_>>(), "refusal": null })
}

/// The text of one token alone, and its bytes, which may be a part of a character.
pub(super) fn token(tokenizer: &Tokenizer, id: u32) -> (String, Vec<u8>) {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    if bytes.is_empty()
        && let Some(text) = tokenizer.token(id)
    {
        return (text.to_owned(), text.as_bytes().to_vec());
    }
    (String::from_utf8_lossy(&bytes).into_owned(), bytes)
}

/// A logarithm of a probability; what is impossible gets a number that JSON can hold.
pub(super) fn number(logprob: f32) -> Value {
    const LEAST: f32 = -9999.0;
    json!(f64::from(logprob.max(LEAST)))
}
