//! OpenAI's `/v1/embeddings`.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::completions::take_prompts;
use super::wire;
use crate::body::JsonBody;
use crate::embed::embed;
use crate::{ApiError, App};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/v1/embeddings", post(embeddings))
}

async fn embeddings(
    State(app): State<Arc<App>>,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let model = fields.string("model")?;
    let prompts = take_prompts(&mut fields, "input")?;
    check_count(&app, prompts.len(), "input")?;
    let base64 = fields.word("encoding_format", &[("float", false), ("base64", true)])?.unwrap_or(false);
    let dimensions = fields.integer("dimensions", 1, 1 << 20)?;
    fields.without_effect(wire::WITHOUT_EFFECT);
    fields.finish()?;
    let admission = app.admit(model.as_deref()).await?;
    let width = admission.lease.backend().info().embedding;
    if let Some(dimensions) = dimensions.filter(|dimensions| *dimensions as usize != width) {
        let message =
            format!("the model's vectors have {width} numbers, not {dimensions}: leave 'dimensions' out");
        return Err(ApiError::unsupported("dimensions", message));
    }
    let name = admission.lease.name().to_owned();
    let (vectors, tokens) = embed(&app, admission, prompts).await?;
    let data: Vec<_> = vectors
        .iter()
        .enumerate()
        .map(|(index, vector)| {
            let embedding = if base64 { encode(vector).into() } else { json!(vector) };
            json!({ "object": "embedding", "index": index, "embedding": embedding })
        })
        .collect();
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    Ok(Json(json!({ "object": "list", "data": data, "model": name, "usage": usage })))
}

/// Refuses more texts than are embedded at a time.
pub(super) fn check_count(app: &App, count: usize, param: &str) -> Result<(), ApiError> {
    let most = app.config.max_texts();
    if count > most {
        let message = format!("'{param}' has {count} texts: give at most {most} at a time");
        return Err(ApiError::invalid(param, message));
    }
    Ok(())
}

/// The numbers as little-endian 32-bit floats in base 64.
fn encode(vector: &[f32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at)) as usize % 64];
            text.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_64_is_that_of_the_standard() {
        assert_eq!(encode(&[]), "");
        assert_eq!(encode(&[1.0]), "AACAPw==");
        assert_eq!(encode(&[1.0, -2.5]), "AACAPwAAIMA=");
        assert_eq!(encode(&[1.0, -2.5, 0.0]), "AACAPwAAIMAAAAAA");
    }
}
