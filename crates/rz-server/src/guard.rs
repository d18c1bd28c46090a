//! What every request passes: its id, who may come in, and the shape of errors.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use tracing::Instrument;

use crate::error::{Shape, shown};
use crate::line::Line;
use crate::{ApiError, App, ids};

const REQUEST_ID: &str = "x-request-id";

const METRICS: &str = "/metrics";

/// What is asked every few seconds, so that each answer is worth no line; what changes is logged where it does.
const PROBES: &[&str] = &["/health", "/ready", "/v1/health", METRICS];

/// Paths that need no key: they tell nothing but whether the server lives, or are the pages, which
/// ask for the key themselves.
const OPEN: &[&str] = &["/", "/docs", "/health", "/ready", "/v1/health", "/favicon.ico"];

/// The outermost layer.
pub(crate) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let shape = Shape::of_path(request.uri().path());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let id = request_id(request.headers());
    app.metrics.open.fetch_add(1, Ordering::Relaxed);
    let open = Open(&app);
    let response = match check(&app, &request) {
        // What is logged on its way names it.
        Ok(()) => {
            caught(next.run(request)).instrument(tracing::error_span!("request", id = id.to_str().ok())).await
        }
        Err(error) => error.response(shape, id.to_str().ok()),
    };
    drop(open);
    let mut response = in_shape(response, shape, &method, &id);
    let status = response.status().as_u16();
    response.headers_mut().insert(REQUEST_ID, id.clone());
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    app.metrics.answered(status);
    let is_probe = PROBES.contains(&path.as_str());
    Line { id, method, path, is_probe, started }.after(response)
}

/// Counts a request as open, also when its client goes away.
struct Open<'a>(&'a App);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.metrics.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The client's own id, if it can be a header; else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|value| {
        (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    given.cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&ids::name("req-")).unwrap_or(HeaderValue::from_static("req"))
    })
}

fn check(app: &App, request: &Request) -> Result<(), ApiError> {
    let headers = request.headers();
    if headers.get_all(header::HOST).iter().count() > 1 {
        return Err(ApiError::bad_request("the request has more than one Host header"));
    }
    let host = headers.get(header::HOST).map(|value| value.to_str().unwrap_or_default());
    let host = host.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    if let Some(host) = host
        && !app.config.hosts.is_empty()
        && !app.config.hosts.iter().any(|known| known.eq_ignore_ascii_case(without_port(host)))
    {
        return Err(ApiError::forbidden(format!(
            "this server does not answer to the name '{}': use one it listens on, or have it started with --allow-host",
            shown(host)
        )));
    }
    check_origin(app, headers, host)?;
    let path = request.uri().path();
    let open = OPEN.contains(&path) || (app.config.open_metrics && path == METRICS);
    if app.config.keys.is_empty() || open || request.method() == Method::OPTIONS {
        return Ok(());
    }
    match key(headers) {
        Some(key) if app.config.keys.accept(key) => Ok(()),
        Some(_) => Err(ApiError::unauthorized("the API key is wrong")),
        None => Err(ApiError::unauthorized(
            "an API key is needed: send 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'",
        )),
    }
}

/// A web page of another origin could use the server without its user knowing.
fn check_origin(app: &App, headers: &HeaderMap, host: Option<&str>) -> Result<(), ApiError> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let own = origin.split_once("://").is_some_and(|(_, authority)| Some(authority) == host);
    if own || app.config.origins.iter().any(|allowed| allowed == "*" || allowed == origin) {
        return Ok(());
    }
    Err(ApiError::forbidden(format!(
        "web pages of '{}' may not use this server: have it started with --cors-origin",
        shown(origin)
    )))
}

fn without_port(host: &str) -> &str {
    if host.starts_with('[') {
        return host.find(']').map_or(host, |end| &host[..=end]);
    }
    host.split(':').next().unwrap_or(host)
}

fn key(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|text| {
        let (scheme, key) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok()))
}

/// Gives errors the shape that the route's clients expect, and one to answers that have none.
fn in_shape(response: Response, shape: Shape, method: &Method, id: &HeaderValue) -> Response {
    let id = id.to_str().ok();
    if let Some(error) = response.extensions().get::<Arc<ApiError>>() {
        return if shape == Shape::OpenAi { response } else { error.response(shape, id) };
    }
    let status = response.status();
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if status.as_u16() < 400 || is_json {
        return response;
    }
    // The framework's own.
    let error = match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            let allow = response.headers().get(header::ALLOW).cloned();
            ApiError::method_not_allowed(method.as_str(), allow)
        }
        StatusCode::NOT_FOUND => ApiError::not_found("there is nothing at this path"),
        other => ApiError::of_status(other, "the request cannot be used"),
    };
    error.response(shape, id)
}

/// A panic of a handler is a bug, and no reason to leave the client without an answer.
async fn caught(handling: impl Future<Output = Response>) -> Response {
    let mut handling = std::pin::pin!(handling);
    let result: Result<Response, Box<dyn Any + Send>> =
        poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| handling.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(response)) => Poll::Ready(Ok(response)),
            Err(panic) => Poll::Ready(Err(panic)),
        })
        .await;
    result.unwrap_or_else(|_| {
        tracing::error!("a handler panicked");
        axum::response::IntoResponse::into_response(ApiError::internal("an internal error"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_taken_off_names() {
        for (host, name) in [
            ("a:80", "a"),
            ("a", "a"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("127.0.0.1:1", "127.0.0.1"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }
}
