//! The line that is logged of each request, when its answer is over.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Method};
use axum::response::Response;
use http_body::{Body as _, Frame, SizeHint};

use crate::error::shown;

/// What is known of a request.
pub(crate) struct Line {
    pub(crate) id: HeaderValue,
    pub(crate) method: Method,
    pub(crate) path: String,
    /// One of those that are asked every few seconds, so that each answer is worth no line.
    pub(crate) is_probe: bool,
    pub(crate) started: Instant,
}

impl Line {
    /// Logs the request now, as complete, if its answer has a known length, and else when all of that is sent or given up.
    pub(crate) fn after(self, response: Response) -> Response {
        let status = response.status().as_u16();
        if response.body().size_hint().exact().is_some() {
            self.log(status, true);
            return response;
        }
        response.map(|body| Body::new(Watched { body, line: self, status, complete: false }))
    }

    fn log(&self, status: u16, complete: bool) {
        let Line { id, method, path, is_probe, started } = self;
        let (id, path) = (id.to_str().unwrap_or_default(), shown(path));
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        // What is not there is the client's affair.
        if status >= 500 && status != 501 && !is_probe {
            tracing::warn!(id, %method, path, status, milliseconds, complete, "request");
        } else if method == Method::GET || *is_probe {
            tracing::debug!(id, %method, path, status, milliseconds, complete, "request");
        } else {
            tracing::info!(id, %method, path, status, milliseconds, complete, "request");
        }
    }
}

/// An answer that comes piece by piece.
struct Watched {
    body: Body,
    line: Line,
    status: u16,
    complete: bool,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.complete |= matches!(frame, Poll::Ready(None));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.line.log(self.status, self.complete);
    }
}
