//! Connections whose last word is an error that clients understand, also where no request could be made of what came.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use hyper::body::Buf;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::error::Shape;
use crate::{ApiError, ids};

/// What a client still sends when it is refused is read, so that it gets to see why: so much, and for so long.
const LINGER: (usize, Duration) = (64 << 20, Duration::from_secs(2));

/// A stream of which the HTTP library refuses what it cannot read. It does so with a status alone, in place of which
/// an error object is sent.
pub(crate) struct Refusing<S> {
    stream: S,
    /// What is sent in place of an empty refusal, as far as it is not sent yet.
    instead: Bytes,
    refused: bool,
    lingering: Option<(usize, Pin<Box<Sleep>>)>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Refusing<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, instead: Bytes::new(), refused: false, lingering: None }
    }

    /// Sends what is sent in place of something else.
    fn poll_instead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.instead.has_remaining() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.instead))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.instead.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads and forgets, until the other side has ended or long enough.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (left, time) =
            self.lingering.get_or_insert_with(|| (LINGER.0, Box::pin(tokio::time::sleep(LINGER.1))));
        let mut scratch = [0; 16 << 10];
        while *left > 0 && time.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => *left = left.saturating_sub(buffer.filled().len()),
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

/// The answer in place of one that says nothing but its status.
fn in_place_of(answer: &[u8]) -> Option<Bytes> {
    if !answer.starts_with(b"HTTP/1.1 4") {
        return None;
    }
    let text = std::str::from_utf8(answer).ok()?;
    let status = text.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    text.contains("\r\ncontent-length: 0\r\n").then_some(())?;
    let status = StatusCode::from_bytes(status.as_bytes()).ok()?;
    let message = match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "the head of the request is too large: send less",
        _ => "this is no request of HTTP/1.1",
    };
    let body = ApiError::of_status(status, message).body(Shape::OpenAi, None).to_string();
    Some(Bytes::from(format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nx-request-id: {}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        ids::name("req-"),
        body.len()
    )))
}

impl<S: AsyncRead + Unpin> AsyncRead for Refusing<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Refusing<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(context))?;
        if let Some(instead) = in_place_of(bytes) {
            (self.instead, self.refused) = (instead, true);
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(self.poll_instead(context))?;
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        }
        if self.refused {
            ready!(self.poll_linger(context));
        }
        Poll::Ready(Ok(()))
    }
}
