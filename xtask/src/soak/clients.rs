//! The clients: each asks until it is over, every time in another way, most of them bad.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http::{Answer, ask, connect, post, read, send};
use super::{Counts, KNOWN};

/// A way to ask.
pub(super) struct Kind {
    pub(super) what: &'static str,
    /// How often, beside the others.
    weight: u64,
    run: fn(&mut Client) -> Result<Outcome, String>,
}

enum Outcome {
    Done,
    /// There was no room, and the server said so.
    Refused,
}

const fn kind(what: &'static str, weight: u64, run: fn(&mut Client) -> Result<Outcome, String>) -> Kind {
    Kind { what, weight, run }
}

pub(super) const KINDS: [Kind; 14] = [
    kind("answers", 60, |client| client.whole(false)),
    kind("streams", 60, |client| client.whole(true)),
    kind("answers to a question that is always answered alike", 20, known),
    kind("vectors, and streams of other routes", 30, others),
    kind("left before there was an answer", 60, |client| client.leave(0)),
    kind("left in the middle of a stream", 60, |client| {
        let bytes = client.random.below(4000) as usize;
        client.leave(bytes)
    }),
    kind("streams read slowly", 30, |client| {
        let request = client.chat(32, true);
        client.finish(&request, Some(Duration::from_millis(30)))
    }),
    kind("streams left unread for a while", 20, unread),
    kind("bodies written slowly", 30, write_slowly),
    kind("bodies that never ended", 1, half_a_body),
    kind("heads that never ended", 1, half_a_head),
    kind("bodies that make no sense", 60, nonsense),
    kind("bodies said to be too large", 20, said_to_be_large),
    kind("bodies found to be too large", 10, found_to_be_large),
];

/// Asks until it is over.
pub(super) fn misbehave(address: &str, known: &str, number: u64, counts: &Counts, over: &AtomicBool) {
    let random = Random(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut client = Client { address, known, random };
    let all = KINDS.iter().map(|kind| kind.weight).sum();
    while !over.load(Ordering::SeqCst) {
        let mut place = client.random.below(all);
        let chosen = KINDS.iter().position(|kind| {
            let here = place < kind.weight;
            place = place.saturating_sub(kind.weight);
            here
        });
        let chosen = chosen.unwrap_or(0);
        match (KINDS[chosen].run)(&mut client) {
            Ok(outcome) => {
                counts.kinds[chosen].fetch_add(1, Ordering::Relaxed);
                if let Outcome::Refused = outcome {
                    counts.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(problem) => counts.fail(format!("{}: {problem}", KINDS[chosen].what)),
        }
    }
}

struct Client<'a> {
    address: &'a str,
    known: &'a str,
    random: Random,
}

impl Client<'_> {
    /// A request for a chat of up to so many tokens.
    fn chat(&mut self, most: u64, stream: bool) -> String {
        let (seed, tokens) = (self.random.below(1000), 1 + self.random.below(most));
        let words = "More words. ".repeat(self.random.below(60) as usize);
        let content = format!("Tell me about the number {seed}. {words}");
        let body = json!({
            "stream": stream, "max_tokens": tokens, "seed": seed,
            "messages": [{ "role": "user", "content": content }],
        });
        post(&body.to_string())
    }

    fn whole(&mut self, stream: bool) -> Result<Outcome, String> {
        let request = self.chat(48, stream);
        self.finish(&request, None)
    }

    /// Asks, and wants a whole answer.
    fn finish(&self, request: &str, pause: Option<Duration>) -> Result<Outcome, String> {
        checked(&ask(self.address, request, pause)?)
    }

    /// Goes away after so many bytes of an answer.
    fn leave(&mut self, bytes: usize) -> Result<Outcome, String> {
        let request = self.chat(200, true);
        let mut stream = connect(self.address)?;
        send(&mut stream, request.as_bytes())?;
        if bytes == 0 {
            thread::sleep(Duration::from_millis(self.random.below(300)));
        }
        let mut answer = vec![0; bytes];
        // Whether it had so many does not matter.
        stream.read_exact(&mut answer).ok();
        Ok(Outcome::Done)
    }
}

/// An answer that is whole, or says why there is none.
fn checked(answer: &Answer) -> Result<Outcome, String> {
    match answer.status {
        200 if answer.text.contains("text/event-stream") => {
            let ends = answer.text.contains("\"finish_reason\":\"") && answer.text.contains("data: [DONE]");
            if ends { Ok(Outcome::Done) } else { Err(format!("a stream has no end: {}", tail(&answer.text))) }
        }
        200 => content(answer).map(|_| Outcome::Done),
        429 | 503 if answer.text.to_ascii_lowercase().contains("\r\nretry-after: ") => Ok(Outcome::Refused),
        other => Err(format!("status {other}: {}", tail(&answer.text))),
    }
}

/// The text of an answer that is no stream.
pub(super) fn content(answer: &Answer) -> Result<String, String> {
    let value = body(answer)?;
    let choice = &value["choices"][0];
    match (choice["message"]["content"].as_str(), choice["finish_reason"].as_str()) {
        (Some(text), Some(_)) => Ok(text.to_owned()),
        _ => Err(format!("this is no answer: {}", tail(&answer.text))),
    }
}

fn body(answer: &Answer) -> Result<Value, String> {
    let body = answer.text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).map_err(|error| format!("an answer is not JSON: {error}: {}", tail(body)))
}

fn tail(text: &str) -> String {
    let skipped = text.chars().count().saturating_sub(200);
    text.chars().skip(skipped).collect()
}

fn known(client: &mut Client) -> Result<Outcome, String> {
    let answer = ask(client.address, &post(KNOWN), None)?;
    let outcome = checked(&answer)?;
    if answer.status == 200 && content(&answer)? != client.known {
        return Err(format!("{:?} instead of {:?}", content(&answer)?, client.known));
    }
    Ok(outcome)
}

fn others(client: &mut Client) -> Result<Outcome, String> {
    let text =
        format!("The number {}. ", client.random.below(1000)).repeat(1 + client.random.below(9) as usize);
    let (path, body, end) = match client.random.below(4) {
        0 => ("/v1/embeddings", json!({ "input": [text, "one"] }), "\"embedding\":["),
        1 => (
            "/api/generate",
            json!({ "model": "tested", "prompt": text, "options": { "num_predict": 9 } }),
            "\"done\":true",
        ),
        2 => (
            "/v1/messages",
            json!({
                "model": "tested", "max_tokens": 9, "stream": true,
                "messages": [{ "role": "user", "content": text }],
            }),
            "message_stop",
        ),
        _ => ("/v1/completions", json!({ "prompt": text, "max_tokens": 9, "n": 3 }), "\"finish_reason\":\""),
    };
    let request = post(&body.to_string()).replacen("/v1/chat/completions", path, 1);
    let answer = ask(client.address, &request, None)?;
    match answer.status {
        200 if answer.text.contains(end) => Ok(Outcome::Done),
        429 | 503 => Ok(Outcome::Refused),
        other => Err(format!("{path}: status {other}: {}", tail(&answer.text))),
    }
}

/// Does not read for a time, and then all at once.
fn unread(client: &mut Client) -> Result<Outcome, String> {
    let request = client.chat(200, true);
    let mut stream = connect(client.address)?;
    send(&mut stream, request.as_bytes())?;
    thread::sleep(Duration::from_millis(500 + client.random.below(2500)));
    checked(&read(&mut stream, None)?)
}

fn write_slowly(client: &mut Client) -> Result<Outcome, String> {
    let request = client.chat(4, false);
    let mut stream = connect(client.address)?;
    for part in request.as_bytes().chunks(32) {
        send(&mut stream, part)?;
        thread::sleep(Duration::from_millis(5));
    }
    checked(&read(&mut stream, None)?)
}

/// The server does not wait for ever.
fn half_a_body(client: &mut Client) -> Result<Outcome, String> {
    let request = client.chat(4, false);
    let mut stream = connect(client.address)?;
    send(&mut stream, &request.as_bytes()[..request.len() - 9])?;
    expect(&read(&mut stream, None)?, 408)
}

fn half_a_head(client: &mut Client) -> Result<Outcome, String> {
    let mut stream = connect(client.address)?;
    send(&mut stream, b"POST /v1/chat/completions HTTP/1.1\r\nhost: loc")?;
    let since = Instant::now();
    // The end, with or without a word.
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => Ok(Outcome::Done),
        Err(error) => Err(format!("still open after {:?}: {error}", since.elapsed())),
    }
}

fn nonsense(client: &mut Client) -> Result<Outcome, String> {
    let with = |name: &str, value: Value| {
        let mut body = json!({ "messages": [{ "role": "user", "content": "x" }] });
        body[name] = value;
        body.to_string()
    };
    let body = match client.random.below(10) {
        0 => "{\"messages\": [".to_owned(),
        1 => with("max_tokens", json!(-1)),
        2 => with("n", json!(1_000_000)),
        3 => "[".repeat(100_000),
        4 => with("model", json!("../../etc/passwd")),
        5 => "\u{0}\u{1}".to_owned(),
        6 => with("temperature", json!("hot")),
        7 => with("messages", json!([])),
        8 => with("unknown", json!(1)),
        _ => "{\"messages\": [{\"role\": \"user\", \"content\": \"\\ud800\"}]}".to_owned(),
    };
    let answer = ask(client.address, &post(&body), None)?;
    match answer.status {
        400 | 404 if !self::body(&answer)?["error"]["message"].is_null() => Ok(Outcome::Done),
        other => Err(format!("status {other} for {}: {}", &body[..body.len().min(60)], tail(&answer.text))),
    }
}

/// A gigabyte, of which a part is sent.
fn said_to_be_large(client: &mut Client) -> Result<Outcome, String> {
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1073741824\r\n\r\n";
    let mut stream = connect(client.address)?;
    send(&mut stream, head.as_bytes())?;
    // The server may close while this is sent.
    send(&mut stream, &vec![b' '; 1 << 20]).ok();
    expect(&read(&mut stream, None)?, 413)
}

/// More than the server reads, without saying how much it will be.
fn found_to_be_large(client: &mut Client) -> Result<Outcome, String> {
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut stream = connect(client.address)?;
    send(&mut stream, head.as_bytes())?;
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    for _ in 0..12 {
        if send(&mut stream, chunk.as_bytes()).is_err() {
            break;
        }
    }
    expect(&read(&mut stream, None)?, 413)
}

fn expect(answer: &Answer, status: u16) -> Result<Outcome, String> {
    if answer.status == status {
        return Ok(Outcome::Done);
    }
    Err(format!("status {} instead of {status}: {}", answer.status, tail(&answer.text)))
}

/// Numbers that are random enough.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}
