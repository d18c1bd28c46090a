//! Bodies of requests: JSON within limits.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use http_body::Body as _;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use crate::fields::Fields;
use crate::{ApiError, App};

/// Larger bodies are parsed where waiting does not hold up others, and share the room that there is for them.
const LARGE: usize = 128 << 10;

/// The JSON object of a request.
pub(crate) struct JsonBody(pub(crate) Fields);

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        check_kind(request.headers())?;
        let (bytes, room) = read(request, app).await?;
        Fields::of_body(parse(bytes).await?, room).map(Self)
    }
}

/// The JSON object of a request that may have no body.
pub(crate) struct MaybeJsonBody(pub(crate) Fields);

impl FromRequest<Arc<App>> for MaybeJsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let kind = check_kind(request.headers());
        let (bytes, room) = read(request, app).await?;
        if bytes.is_empty() {
            return Fields::of_body(Value::Object(serde_json::Map::new()), room).map(Self);
        }
        kind?;
        Fields::of_body(parse(bytes).await?, room).map(Self)
    }
}

fn check_kind(headers: &HeaderMap) -> Result<(), ApiError> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && encoding.as_bytes() != b"identity"
    {
        return Err(ApiError::media_type(
            "compressed bodies are not read: send JSON without Content-Encoding",
        ));
    }
    // Without a header, or with the one that curl adds by itself, it is taken for JSON.
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    if kind == "application/json" || kind.ends_with("+json") || kind == "application/x-www-form-urlencoded" {
        return Ok(());
    }
    Err(ApiError::media_type(format!(
        "the Content-Type is '{}': send application/json",
        crate::error::shown(&kind)
    )))
}

/// A part of the room for large bodies. It is free again when this is dropped.
pub(crate) type Room = Option<OwnedSemaphorePermit>;

/// All of a body, if it comes in time and is not too large, with the room that it takes.
async fn read(request: Request, app: &App) -> Result<(Vec<u8>, Room), ApiError> {
    let most = app.config.max_body;
    let too_large = || ApiError::too_large(format!("the body has more than the {most} bytes that are read"));
    let said = request.headers().get(header::CONTENT_LENGTH);
    let said = said.and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u64>().ok());
    if said.is_some_and(|bytes| bytes > most as u64) {
        return Err(too_large());
    }
    let mut body: Body = request.into_body();
    let all = async {
        let (mut bytes, mut room) = (Vec::new(), None);
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let frame = frame.map_err(|_| ApiError::bad_request("the body ended before it was complete"))?;
            if let Ok(data) = frame.into_data() {
                if bytes.len() + data.len() > most {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&data);
                take_room(&mut room, bytes.len(), app)?;
            }
        }
        Ok((bytes, room))
    };
    let late = || {
        let seconds = app.config.body_time.as_secs();
        ApiError::slow_request(format!("the body did not arrive within {seconds} seconds"))
    };
    tokio::time::timeout(app.config.body_time, all).await.unwrap_or_else(|_| Err(late()))
}

/// Takes the room for a body of which there are so many bytes by now.
fn take_room(room: &mut Room, bytes: usize, app: &App) -> Result<(), ApiError> {
    if bytes <= LARGE {
        return Ok(());
    }
    let taken = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let more = u32::try_from(bytes.div_ceil(1 << 10).saturating_sub(taken)).unwrap_or(u32::MAX);
    let full = |_| ApiError::busy("many large requests are being read already", 1);
    let more = app.body_room.clone().try_acquire_many_owned(more).map_err(full)?;
    match room {
        Some(room) => room.merge(more),
        None => *room = Some(more),
    }
    Ok(())
}

async fn parse(bytes: Vec<u8>) -> Result<Value, ApiError> {
    let parse = |bytes: &[u8]| {
        if bytes.is_empty() {
            return Err(ApiError::bad_request("the body is empty: give a JSON object"));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            ApiError::bad_request(format!("the body is not UTF-8: byte {} is wrong", error.valid_up_to()))
        })?;
        serde_json::from_str(text)
            .map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")))
    };
    if bytes.len() <= LARGE {
        return parse(&bytes);
    }
    off_thread(move || parse(&bytes)).await
}

/// Runs work that takes its time where it does not hold up other requests.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    // A panic there is a bug of ours and no reason to end the server.
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(ApiError::internal("the request could not be worked on: an internal error")))
}
