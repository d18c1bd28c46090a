//! HTTP as clients that misbehave speak it: over a bare socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use super::PATIENCE;

/// All of an answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) text: String,
}

pub(super) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
}

/// A request for a chat.
pub(super) fn post(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

pub(super) fn connect(address: &str) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address).map_err(|error| format!("cannot connect: {error}"))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    Ok(stream)
}

pub(super) fn send(stream: &mut TcpStream, request: &[u8]) -> Result<(), String> {
    stream.write_all(request).map_err(|error| format!("cannot send: {error}"))
}

/// Asks, and reads all of the answer, with a pause between its parts.
pub(super) fn ask(address: &str, request: &str, pause: Option<Duration>) -> Result<Answer, String> {
    let mut stream = connect(address)?;
    send(&mut stream, request.as_bytes())?;
    read(&mut stream, pause)
}

/// The rest of what the server sends, which must be a whole answer.
pub(super) fn read(stream: &mut TcpStream, pause: Option<Duration>) -> Result<Answer, String> {
    let mut bytes = Vec::new();
    let mut part = [0; 512];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&part[..count]),
            Err(error) => return Err(format!("an answer broke off after {} bytes: {error}", bytes.len())),
        }
        if let Some(pause) = pause {
            thread::sleep(pause);
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status =
        status.ok_or_else(|| format!("no answer: {:?}", text.chars().take(60).collect::<String>()))?;
    Ok(Answer { status, text })
}
