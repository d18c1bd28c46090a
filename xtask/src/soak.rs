//! A server under clients that misbehave: they leave in the middle, send nonsense, read and write slowly or not at all.
//!
//! It must answer every accepted request with a result or an error, the same as before, answer probes within 100 ms, and
//! give back what it took: sequences, blocks of the cache, memory, tasks, threads, sockets.

mod clients;
mod http;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::clients::{KINDS, misbehave};
use crate::clients::{Held, Server};

/// Less than the clients want: a cache that is soon full, and fewer places than there are clients.
const FLAGS: [&str; 4] = ["--kv-memory", "256M", "--max-requests", "14"];
/// The memory of the cache, which is taken as far as it is used.
const CACHE: u64 = 256 << 20;
/// A probe that waits longer has failed.
const PROBE: Duration = Duration::from_millis(100);
/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// What may stay allocated besides.
const GROWTH: u64 = 32 << 20;
/// Always answered in the same way.
const KNOWN: &str = "{\"temperature\": 0, \"max_tokens\": 24, \"messages\": [{\"role\": \"user\", \"content\": \"What is the sea?\"}]}";

/// What happened.
#[derive(Default)]
struct Counts {
    /// One for each kind of client.
    kinds: [AtomicU64; KINDS.len()],
    /// Requests that the server had no room for, which it said.
    refused: AtomicU64,
    /// Latencies of probes in microseconds.
    probes: Mutex<Vec<u64>>,
    failures: Mutex<Vec<String>>,
}

impl Counts {
    fn fail(&self, problem: String) {
        eprintln!("soak: {problem}");
        if let Ok(mut failures) = self.failures.lock() {
            failures.push(problem);
        }
    }
}

/// Runs for so long, with so many clients at a time.
pub(crate) fn run(seconds: u64, clients: u64, binary: Option<PathBuf>) -> Result<()> {
    crate::fixtures::run(false)?;
    let server = Server::start(binary, &FLAGS)?;
    let counts = Counts::default();
    let over = AtomicBool::new(false);
    let started = Instant::now();
    let address = server.address().trim_start_matches("http://").to_owned();
    // The model is there once it has answered.
    let known = known(&address)?;
    let before = settled(&address, &server, None)?;
    before.print("at the start");
    let mut memory = Vec::new();
    thread::scope(|scope| {
        for client in 0..clients {
            let (address, known, counts, over) = (&address, &known, &counts, &over);
            scope.spawn(move || misbehave(address, known, client, counts, over));
        }
        let (address, counts, over) = (&address, &counts, &over);
        scope.spawn(move || probe(address, counts, over));
        let part = Duration::from_secs(seconds) / PARTS;
        for number in 1..=PARTS {
            thread::sleep((part * number).saturating_sub(started.elapsed()));
            memory.extend(server.held().map(|held| held.memory));
        }
        over.store(true, Ordering::SeqCst);
    });
    let time = started.elapsed();
    let after = settled(&address, &server, Some(&before));
    report(&counts, &memory, time);
    let after = after?;
    after.print("at the end");
    ensure!(
        self::known(&address)? == known,
        "the answer to the same question is another one than at the start"
    );
    let failures = counts.failures.into_inner().unwrap_or_default();
    if let Some(first) = failures.first() {
        bail!("{} failures, the first: {first}", failures.len());
    }
    if let (Some(held), Some(last)) = (before.held, memory.last()) {
        let most = held.memory + CACHE + GROWTH;
        ensure!(*last <= most, "memory grew from {} to {last} bytes, more than to {most}", held.memory);
    }
    server.end()
}

/// How often memory is looked at.
const PARTS: u32 = 12;

fn report(counts: &Counts, memory: &[u64], time: Duration) {
    println!(
        "{:.0} s of clients that misbehave, one after the other in each of the threads:",
        time.as_secs_f64()
    );
    for (kind, count) in KINDS.iter().zip(&counts.kinds) {
        println!("{:>7} {}", count.load(Ordering::Relaxed), kind.what);
    }
    println!("{:>7} of them refused for now, with 429 or 503", counts.refused.load(Ordering::Relaxed));
    let mut probes = counts.probes.lock().map(|probes| probes.clone()).unwrap_or_default();
    probes.sort_unstable();
    let at = |share: f64| probes.get((probes.len() as f64 * share) as usize).or(probes.last());
    let milliseconds = |share| at(share).map_or(0.0, |micros| *micros as f64 / 1e3);
    println!(
        "{} probes of /health: half within {:.1} ms, 99 of 100 within {:.1} ms, all within {:.1} ms",
        probes.len(),
        milliseconds(0.5),
        milliseconds(0.99),
        milliseconds(1.0)
    );
    let memory: Vec<_> = memory.iter().map(|bytes| (bytes >> 20).to_string()).collect();
    println!("resident memory in MiB over time: {}", memory.join(", "));
}

/// Asks for the health, several times a second.
fn probe(address: &str, counts: &Counts, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        let asked = Instant::now();
        let status = http::ask(address, &http::get("/health"), None).map(|answer| answer.status);
        let taken = asked.elapsed();
        if let Ok(mut probes) = counts.probes.lock() {
            probes.push(taken.as_micros() as u64);
        }
        if status != Ok(200) || taken > PROBE {
            counts.fail(format!("a probe gave {status:?} after {taken:?}"));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// The answer that is always the same.
fn known(address: &str) -> Result<String> {
    let answer = http::ask(address, &http::post(KNOWN), None).map_err(anyhow::Error::msg)?;
    clients::content(&answer).map_err(anyhow::Error::msg)
}

/// What a server holds when it has nothing to do.
struct Rest {
    /// Sequences, running and waiting, and blocks of the cache that they use.
    work: [f64; 3],
    /// Requests that are open, and tasks of the server's runtime.
    tasks: [f64; 2],
    held: Option<Held>,
}

impl Rest {
    fn print(&self, when: &str) {
        let ([running, waiting, cache], [open, tasks]) = (self.work, self.tasks);
        print!(
            "{when}: {running} sequences running, {waiting} waiting, {cache} of the cache in use, {open} requests open, {tasks} tasks"
        );
        if let Some(held) = self.held {
            print!(", {} threads, {} files, {} MiB", held.threads, held.files, held.memory >> 20);
        }
        println!();
    }
}

/// Waits until nothing is left of the requests, and no more tasks and sockets are there than before.
fn settled(address: &str, server: &Server, before: Option<&Rest>) -> Result<Rest> {
    let since = Instant::now();
    loop {
        let metrics = http::ask(address, &http::get("/metrics"), None).map_err(anyhow::Error::msg)?;
        let value = |name: &str| {
            let mut lines = metrics.text.lines();
            let line =
                lines.find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
            let value =
                line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse::<f64>().ok());
            value.with_context(|| format!("the metrics do not tell {name}"))
        };
        let rest = Rest {
            work: [
                value("rz_requests_running")?,
                value("rz_requests_waiting")?,
                value("rz_kv_cache_usage_ratio")?,
            ],
            tasks: [value("rz_http_requests_open")?, value("rz_tasks")?],
            held: server.held(),
        };
        let quiet = rest.work == [0.0; 3];
        let less = before.is_none_or(|before| {
            let files = |rest: &Rest| rest.held.map(|held| held.files);
            let tasks = rest.tasks.iter().zip(&before.tasks).all(|(now, then)| now <= then);
            tasks && files(&rest) <= files(before)
        });
        if quiet && less {
            return Ok(rest);
        }
        if since.elapsed() > PATIENCE {
            rest.print("left over");
            bail!("the server did not give back all that it took");
        }
        thread::sleep(Duration::from_millis(100));
    }
}
