//! A server under clients that misbehave: they leave in the middle, send nonsense, read and write slowly.
//!
//! It must answer every accepted request with a result or an error, answer probes within 100 ms, and give
//! back what it took: requests, blocks of the cache, memory, connections.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::clients::Server;

/// A probe that waits longer has failed.
const PROBE: Duration = Duration::from_millis(100);
/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// What may stay allocated after the first part of the run: caches and pools that fill once.
const GROWTH: u64 = 64 << 20;

/// What happened.
#[derive(Default)]
struct Counts {
    whole: AtomicU64,
    refused: AtomicU64,
    left: AtomicU64,
    slow: AtomicU64,
    nonsense: AtomicU64,
    probes: AtomicU64,
    slowest_probe: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// Runs for so long, with so many clients at a time.
pub(crate) fn run(seconds: u64, clients: u64, binary: Option<PathBuf>) -> Result<()> {
    let server = Server::start(binary)?;
    let counts = Counts::default();
    let over = AtomicBool::new(false);
    let started = Instant::now();
    let address = server.address().trim_start_matches("http://").to_owned();
    // The model is there once it has answered.
    ensure!(ask(&address, &chat(4, false, 1), None).is_ok(), "the server does not answer");
    let mut samples = Vec::new();
    thread::scope(|scope| {
        for client in 0..clients {
            let (address, counts, over) = (&address, &counts, &over);
            scope.spawn(move || misbehave(address, client, counts, over));
        }
        let (address, counts, over) = (&address, &counts, &over);
        scope.spawn(move || probe(address, counts, over));
        let third = Duration::from_secs(seconds) / 3;
        for part in 1..=3 {
            thread::sleep((third * part).saturating_sub(started.elapsed()));
            samples.push(server.memory());
        }
        over.store(true, Ordering::SeqCst);
    });
    settle(&address)?;
    report(&counts, &samples, started.elapsed());
    let failures = counts.failures.into_inner().unwrap_or_default();
    if let Some(first) = failures.first() {
        bail!("{} failures, the first: {first}", failures.len());
    }
    if let [Some(first), .., Some(last)] = samples[..] {
        ensure!(last <= first + GROWTH, "memory grew from {first} to {last} bytes");
    }
    server.end()
}

fn report(counts: &Counts, samples: &[Option<u64>], time: Duration) {
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    println!(
        "{:.0} s: {} whole answers, {} refused for now, {} left in the middle, {} read or written slowly, {} nonsense",
        time.as_secs_f64(),
        count(&counts.whole),
        count(&counts.refused),
        count(&counts.left),
        count(&counts.slow),
        count(&counts.nonsense)
    );
    let slowest = Duration::from_micros(count(&counts.slowest_probe));
    println!("{} probes, the slowest took {:.1} ms", count(&counts.probes), slowest.as_secs_f64() * 1e3);
    let samples: Vec<_> = samples.iter().flatten().map(|bytes| format!("{} MiB", bytes >> 20)).collect();
    println!("resident memory after each third: {}", samples.join(", "));
}

/// Asks until it is over, each time in another bad way.
fn misbehave(address: &str, client: u64, counts: &Counts, over: &AtomicBool) {
    let mut random = Random(client.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    while !over.load(Ordering::SeqCst) {
        let (kind, seed) = (random.below(10), random.below(1000));
        let tokens = 1 + random.below(48);
        let done = match kind {
            0..=2 => ask(address, &chat(tokens, kind == 0, seed), None).map(|status| match status {
                200 => &counts.whole,
                429 | 503 => &counts.refused,
                other => {
                    fail(counts, format!("an answer with status {other}"));
                    &counts.whole
                }
            }),
            3 | 4 => {
                leave(address, &chat(64, true, seed), random.below(2000) as usize).map(|()| &counts.left)
            }
            5 => {
                ask(address, &chat(tokens, true, seed), Some(Duration::from_millis(20))).map(|_| &counts.slow)
            }
            6 => write_slowly(address, &chat(2, false, seed)).map(|_| &counts.slow),
            _ => nonsense(address, kind, seed).and_then(|status| match status {
                400..=499 => Ok(&counts.nonsense),
                other => Err(format!("nonsense {kind} was answered with status {other}")),
            }),
        };
        match done {
            Ok(counter) => {
                counter.fetch_add(1, Ordering::Relaxed);
            }
            Err(problem) => fail(counts, problem),
        }
    }
}

fn fail(counts: &Counts, problem: String) {
    if let Ok(mut failures) = counts.failures.lock() {
        failures.push(problem);
    }
}

/// Asks for the health, several times a second.
fn probe(address: &str, counts: &Counts, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        let asked = Instant::now();
        let status =
            ask(address, "GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", None);
        let taken = asked.elapsed();
        counts.probes.fetch_add(1, Ordering::Relaxed);
        counts.slowest_probe.fetch_max(taken.as_micros() as u64, Ordering::Relaxed);
        if status != Ok(200) || taken > PROBE {
            fail(counts, format!("a probe gave {status:?} after {taken:?}"));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Waits until nothing is left of the requests.
fn settle(address: &str) -> Result<()> {
    let since = Instant::now();
    loop {
        let metrics = text(address, "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let metrics = metrics.map_err(anyhow::Error::msg)?;
        let value = |name: &str| {
            let line = metrics.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
            line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse::<f64>().ok())
        };
        let left = ["rz_requests_running", "rz_requests_waiting"].map(value);
        let blocks = value("rz_kv_cache_usage_ratio");
        if left == [Some(0.0), Some(0.0)] && blocks == Some(0.0) {
            return Ok(());
        }
        ensure!(since.elapsed() < PATIENCE, "left over: {left:?} requests, {blocks:?} of the cache");
        thread::sleep(Duration::from_millis(100));
    }
}

fn chat(tokens: u64, stream: bool, seed: u64) -> String {
    let content = format!("Tell me about the number {seed}. {}", "More words. ".repeat(seed as usize % 40));
    let body = format!(
        "{{\"stream\": {stream}, \"max_tokens\": {tokens}, \"seed\": {seed}, \
         \"messages\": [{{\"role\": \"user\", \"content\": \"{content}\"}}]}}"
    );
    post(&body)
}

fn post(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn connect(address: &str) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address).map_err(|error| format!("cannot connect: {error}"))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    Ok(stream)
}

fn text(address: &str, request: &str) -> Result<String, String> {
    let mut stream = connect(address)?;
    stream.write_all(request.as_bytes()).map_err(|error| format!("cannot send: {error}"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|error| format!("the answer broke off: {error}"))?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The status of a whole answer, read with a pause between its parts.
fn ask(address: &str, request: &str, pause: Option<Duration>) -> Result<u16, String> {
    let mut stream = connect(address)?;
    stream.write_all(request.as_bytes()).map_err(|error| format!("cannot send: {error}"))?;
    let mut answer = Vec::new();
    let mut part = [0; 256];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&part[..count]),
            Err(error) => return Err(format!("the answer broke off: {error}")),
        }
        if let Some(pause) = pause {
            thread::sleep(pause);
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let is_stream = answer.contains("text/event-stream");
    if is_stream && !answer.contains("[DONE]") {
        return Err("a stream has no end".to_owned());
    }
    status(&answer)
}

fn status(answer: &str) -> Result<u16, String> {
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| format!("no answer: {:?}", answer.chars().take(40).collect::<String>()))
}

/// Reads so many bytes of an answer and goes away.
fn leave(address: &str, request: &str, bytes: usize) -> Result<(), String> {
    let mut stream = connect(address)?;
    stream.write_all(request.as_bytes()).map_err(|error| format!("cannot send: {error}"))?;
    let mut answer = vec![0; bytes];
    // Whether it had so many does not matter.
    let _ = stream.read_exact(&mut answer);
    Ok(())
}

/// Sends a request in small parts.
fn write_slowly(address: &str, request: &str) -> Result<u16, String> {
    let mut stream = connect(address)?;
    for part in request.as_bytes().chunks(64) {
        stream.write_all(part).map_err(|error| format!("cannot send: {error}"))?;
        thread::sleep(Duration::from_millis(5));
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| format!("the answer broke off: {error}"))?;
    status(&answer)
}

fn nonsense(address: &str, kind: u64, seed: u64) -> Result<u16, String> {
    let request = match (kind, seed % 6) {
        (7, _) => {
            // More than the server reads; it may answer before all is sent, or close.
            let mut stream = connect(address)?;
            let head =
                "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
            let _ = stream.write_all(head.as_bytes());
            let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
            for _ in 0..16 {
                if stream.write_all(chunk.as_bytes()).is_err() {
                    break;
                }
            }
            let _ = stream.shutdown(Shutdown::Write);
            let mut answer = [0; 64];
            return match stream.read(&mut answer) {
                Ok(count) if count > 12 => status(&String::from_utf8_lossy(&answer[..count])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    Err("no answer to a large body".to_owned())
                }
                _ => Ok(413),
            };
        }
        (_, 0) => post("{\"messages\": ["),
        (_, 1) => post("{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"max_tokens\": -1}"),
        (_, 2) => post("{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"n\": 1000000}"),
        (_, 3) => post(&"[".repeat(100_000)),
        (_, 4) => post(
            "{\"model\": \"../../etc/passwd\", \"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}",
        ),
        _ => post("\u{0}\u{1}"),
    };
    ask(address, &request, None)
}

/// Numbers that are random enough.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Resident memory of a process, where the system tells.
pub(crate) fn resident(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}
