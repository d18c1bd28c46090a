//! Bodies of answers that come piece by piece.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use http_body::{Frame, SizeHint};
use serde_json::Value;
use tokio::sync::mpsc;
use tracing::Instrument;

use crate::App;

/// How pieces are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Server-sent events.
    Events,
    /// One JSON value a line.
    Lines,
}

/// The writing end of a streamed answer.
pub(crate) struct Feed {
    sender: mpsc::Sender<Bytes>,
    framing: Framing,
    write_time: Duration,
    keep_alive: Duration,
}

/// The client went away, or takes nothing any more.
#[derive(Debug)]
pub(crate) struct Gone;

/// An answer whose pieces `write` sends. When the client goes away, `write` is dropped where it waits.
pub(crate) fn respond<F>(app: &Arc<App>, framing: Framing, write: impl FnOnce(Feed) -> F) -> Response
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    // A few pieces may wait for a slow reader; then the writer waits, and in the end gives up.
    let (sender, receiver) = mpsc::channel(32);
    let feed = Feed {
        sender: sender.clone(),
        framing,
        write_time: app.config.write_time,
        keep_alive: app.config.keep_alive,
    };
    let writing = write(feed);
    let whole = Arc::new(AtomicBool::new(false));
    let pieces = Pieces { receiver, whole: whole.clone() };
    let writing = async move {
        tokio::select! {
            written = writing => whole.store(written.is_ok(), Ordering::Release),
            () = sender.closed() => {}
        }
    };
    tokio::spawn(writing.in_current_span());
    let mut response = Response::new(Body::new(pieces));
    let kind = match framing {
        Framing::Events => "text/event-stream",
        Framing::Lines => "application/x-ndjson",
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies shall not collect what is meant to flow.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl Feed {
    /// Sends a value.
    pub(crate) async fn send(&self, value: &Value) -> Result<(), Gone> {
        match self.framing {
            Framing::Events => self.write(format!("data: {value}\n\n")).await,
            Framing::Lines => self.write(format!("{value}\n")).await,
        }
    }

    /// Sends a server-sent event with a name.
    pub(crate) async fn event(&self, name: &str, value: &Value) -> Result<(), Gone> {
        self.write(format!("event: {name}\ndata: {value}\n\n")).await
    }

    /// Sends the end of OpenAI's streams.
    pub(crate) async fn done(&self) -> Result<(), Gone> {
        self.write("data: [DONE]\n\n".to_owned()).await
    }

    /// Waits for something, and keeps the connection alive meanwhile.
    pub(crate) async fn wait<T>(&self, something: impl Future<Output = T>) -> Result<T, Gone> {
        let mut something = std::pin::pin!(something);
        loop {
            match tokio::time::timeout(self.keep_alive, &mut something).await {
                Ok(value) => return Ok(value),
                Err(_) if self.framing == Framing::Events => {
                    self.write(": still here\n\n".to_owned()).await?
                }
                Err(_) => {}
            }
        }
    }

    async fn write(&self, text: String) -> Result<(), Gone> {
        match tokio::time::timeout(self.write_time, self.sender.send(text.into())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }
}

/// The reading end, as the body of a response.
struct Pieces {
    receiver: mpsc::Receiver<Bytes>,
    /// Whether it was written to its end.
    whole: Arc<AtomicBool>,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.receiver.poll_recv(context).map(|piece| match piece {
            Some(bytes) => Some(Ok(Frame::data(bytes))),
            None if self.whole.load(Ordering::Acquire) => None,
            // What was given up shall not look as if that were all.
            None => Some(Err(io::ErrorKind::TimedOut.into())),
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
