//! What goes wrong: for the program that starts a server, and for the clients of one.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Why a server cannot be started or stopped running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// An address or socket cannot be listened on.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// Where.
        address: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read the {what} '{}': {cause}", path.display())]
    File {
        /// What it holds.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A file of keys that holds no usable keys.
    #[error("'{}'{}: {problem}: give one key a line, 8 to 512 visible ASCII characters each", path.display(), line.map_or(String::new(), |line| format!(" line {line}")))]
    Keys {
        /// The file.
        path: PathBuf,
        /// The line, from 1; without one, the whole file.
        line: Option<usize>,
        /// What is wrong.
        problem: &'static str,
    },
    /// Two models, or a model and an alias, have the same name.
    #[error("two models are called '{name}': give one of them another name or alias")]
    SameName {
        /// The name.
        name: String,
    },
    /// A name that cannot stand in a request.
    #[error("'{name}' cannot be the name of a model: give 1 to 256 visible characters")]
    ModelName {
        /// The name.
        name: String,
    },
    /// The certificate or its key cannot be used.
    #[error("cannot use the certificate '{}': {problem}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// An answer that says what is wrong with a request, or with the server.
///
/// It is written as the clients of the route that was called expect it: as an error object of OpenAI,
/// of Anthropic, or of Ollama.
#[derive(Clone, Debug)]
pub struct ApiError(Box<Problem>);

/// What an [`ApiError`] says.
#[derive(Clone, Debug)]
struct Problem {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
    retry_after: Option<u64>,
    allow: Option<HeaderValue>,
}

/// Whose error objects a route answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    OpenAi,
    Anthropic,
    Ollama,
}

impl Shape {
    /// The shape that clients of a path expect.
    pub(crate) fn of_path(path: &str) -> Shape {
        if path.starts_with("/api/") {
            Shape::Ollama
        } else if path == "/v1/messages" || path.starts_with("/v1/messages/") {
            Shape::Anthropic
        } else {
            Shape::OpenAi
        }
    }
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl AsRef<str>) -> Self {
        let message = one_line(message.as_ref());
        Self(Box::new(Problem {
            status,
            kind,
            code: None,
            param: None,
            message,
            retry_after: None,
            allow: None,
        }))
    }

    /// The same with more said.
    fn with(mut self, say: impl FnOnce(&mut Problem)) -> Self {
        say(&mut self.0);
        self
    }

    /// The request as a whole cannot be used.
    pub fn bad_request(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// A parameter has a value that cannot be used.
    pub fn invalid(param: impl Into<String>, message: impl AsRef<str>) -> Self {
        Self::bad_request(message).with(|problem| problem.param = Some(param.into()))
    }

    /// A parameter, or this value of it, is not supported.
    pub fn unsupported(param: impl Into<String>, message: impl AsRef<str>) -> Self {
        Self::invalid(param, message).with(|problem| problem.code = Some("unsupported_parameter"))
    }

    /// The prompt does not fit into the context.
    pub fn context_length(tokens: usize, context: usize) -> Self {
        let message = format!(
            "the prompt has {tokens} tokens, and the context holds {context}: shorten the prompt, \
             or have the server started with a larger context"
        );
        Self::bad_request(message).with(|problem| problem.code = Some("context_length_exceeded"))
    }

    /// A key is missing or wrong.
    pub fn unauthorized(message: impl AsRef<str>) -> Self {
        let error = Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message);
        error.with(|problem| problem.code = Some("invalid_api_key"))
    }

    /// The request comes from where none may come from.
    pub fn forbidden(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    /// There is nothing at this path, or no such thing.
    pub fn not_found(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found_error", message)
    }

    /// No model has this name.
    pub fn no_such_model(name: &str) -> Self {
        let message = format!("there is no model '{}': /v1/models lists those there are", shown(name));
        Self::not_found(message).with(|problem| {
            (problem.code, problem.param) = (Some("model_not_found"), Some("model".to_owned()));
        })
    }

    /// The path does not take this method.
    pub fn method_not_allowed(method: &str, allow: Option<HeaderValue>) -> Self {
        let message = format!("this path does not take {}", shown(method));
        let error = Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message);
        error.with(|problem| problem.allow = allow)
    }

    /// The request is sound, but does not suit how things are now.
    pub fn conflict(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::CONFLICT, "invalid_request_error", message)
    }

    /// The body, the headers or something else is larger than allowed.
    pub fn too_large(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    /// The body is of a kind that is not read.
    pub fn media_type(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message)
    }

    /// The client took too long to send its request.
    pub fn slow_request(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout_error", message)
    }

    /// There are too many requests already.
    pub fn busy(message: impl AsRef<str>, retry_after: u64) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message);
        error.with(|problem| (problem.code, problem.retry_after) = (Some("queue_full"), Some(retry_after)))
    }

    /// The server or a model is not ready.
    pub fn unavailable(message: impl AsRef<str>, retry_after: u64) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable_error", message);
        error.with(|problem| problem.retry_after = Some(retry_after))
    }

    /// Something that exists elsewhere and not here.
    pub fn not_implemented(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "not_implemented_error", message)
    }

    /// A failure that is not the client's.
    pub fn internal(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// An error for a status that came without one.
    pub(crate) fn of_status(status: StatusCode, message: impl AsRef<str>) -> Self {
        let kind = if status.is_client_error() { "invalid_request_error" } else { "server_error" };
        Self::new(status, kind, message)
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The body that clients of this shape expect.
    pub(crate) fn body(&self, shape: Shape, request_id: Option<&str>) -> Value {
        match shape {
            Shape::OpenAi => json!({ "error": {
                "message": self.0.message,
                "type": self.0.kind,
                "param": self.0.param,
                "code": self.0.code,
            } }),
            Shape::Anthropic => json!({
                "type": "error",
                "error": { "type": self.anthropic_kind(), "message": self.with_param() },
                "request_id": request_id,
            }),
            Shape::Ollama => json!({ "error": self.with_param() }),
        }
    }

    /// The answer in the shape that clients expect.
    pub(crate) fn response(&self, shape: Shape, request_id: Option<&str>) -> Response {
        let mut response = (self.0.status, Json(self.body(shape, request_id))).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.0.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = &self.0.allow {
            headers.insert(header::ALLOW, allow.clone());
        }
        if self.0.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }

    /// The message of shapes that have no place for the parameter's name.
    fn with_param(&self) -> String {
        match &self.0.param {
            Some(param) if !self.0.message.contains(param.as_str()) => format!("{param}: {}", self.0.message),
            _ => self.0.message.clone(),
        }
    }

    fn anthropic_kind(&self) -> &'static str {
        match self.0.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 | 529 => "overloaded_error",
            status if status < 500 => "invalid_request_error",
            _ => "api_error",
        }
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.with_param())
    }
}

/// The shape of OpenAI; the outermost layer writes it anew for routes that have another.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.response(Shape::OpenAi, None);
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// Text of a client inside a message: short, without what would break the line.
pub(crate) fn shown(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut line: String = text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        line.push('…');
    }
    line
}

/// A message without what would break a line, cut when it is long.
fn one_line(message: &str) -> String {
    const SHOWN: usize = 600;
    let mut line: String =
        message.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if message.chars().nth(SHOWN).is_some() {
        line.push('…');
    }
    line
}
