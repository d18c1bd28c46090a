//! Measures serving: `cargo run --release --example serve_speed -- MODEL.gguf [STREAMS] [THREADS]`.
//!
//! Many streams beside one; the second of two prompts that begin alike beside the first; short prompts while a
//! long one is computed beside short prompts alone.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rz_engine::serve::{Engine, EngineHandle, EngineOptions, EngineThread, EventKind, Request};
use rz_formats::Gguf;
use rz_kernels::Runtime;
use rz_model::{CpuModel, KvRoom, LoadOptions};
use rz_tokenizer::Tokenizer;

const TOKENS: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: serve_speed MODEL.gguf [STREAMS] [THREADS]")?;
    let streams: usize = arguments.next().map_or(Ok(32), |streams| streams.parse())?;
    let threads = arguments.next().map(|threads| threads.parse()).transpose()?;
    let gguf = Gguf::open(path)?;
    let tokenizer = Arc::new(Tokenizer::from_gguf(gguf.metadata())?);
    let options = LoadOptions { context: 4608, kv_room: KvRoom::Sequences(2), ..LoadOptions::default() };
    let model = CpuModel::load(&gguf, &Runtime::new(threads)?, options, &mut |_, _| ())?;
    let thread = EngineThread::spawn(Engine::new(model, tokenizer, EngineOptions::default()))?;
    let handle = thread.handle();

    let one = generate(&handle, 1)?;
    let many = generate(&handle, streams)?;
    println!("1 stream    {one:8.1} tokens/s");
    println!("{streams} streams  {many:8.1} tokens/s, {:.2} times as many", many / one);

    let mut shared = prompt(1008, 0);
    let first = first_token(&handle, shared.clone())?;
    *shared.last_mut().ok_or("a prompt")? += 1;
    let second = first_token(&handle, shared)?;
    println!(
        "first token after {first:.1?}, with a shared prefix after {second:.1?}: {:.3}",
        ratio(second, first)
    );

    let mut alone: Vec<Duration> =
        (0..9).map(|salt| first_token(&handle, prompt(32, salt + 1))).collect::<Result<_, _>>()?;
    let long = handle.submit(request(prompt(4000, 99), 1))?;
    let mut beside = Vec::new();
    let before = handle.stats().finished;
    while handle.stats().finished == before + beside.len() as u64 {
        beside.push(first_token(&handle, prompt(32, 100 + beside.len() as u32))?);
    }
    drop(long);
    // The last may have run alone.
    beside.pop();
    alone.sort();
    beside.sort();
    let (median, worst) = (alone[alone.len() / 2], beside.last().copied().unwrap_or_default());
    println!(
        "short prompts: first token after {median:.1?} alone, at worst {worst:.1?} ({} times) beside a long one: {:.2}",
        beside.len(),
        ratio(worst, median)
    );
    println!("chunk at the end: {} tokens", handle.stats().chunk);
    thread.shutdown();
    Ok(())
}

/// Made-up tokens.
fn prompt(len: usize, salt: u32) -> Vec<u32> {
    (0..len as u32).map(|at| 300 + (at * 7919 + salt * 104_729) % 10_000).collect()
}

fn request(prompt: Vec<u32>, max_tokens: usize) -> Request {
    let mut request = Request::new(prompt);
    (request.max_tokens, request.ignore_eos) = (Some(max_tokens), true);
    request
}

/// Tokens per second of so many streams, from when all have their first token.
fn generate(handle: &EngineHandle, streams: usize) -> Result<f64, Box<dyn Error>> {
    let all = (0..streams).map(|salt| handle.submit(request(prompt(16, 1000 + salt as u32), 2 * TOKENS)));
    let all: Vec<_> = all.collect::<Result<_, _>>()?;
    let times = all.into_iter().map(|stream| {
        std::thread::spawn(move || {
            let tokens = stream.filter(|event| matches!(event.kind, EventKind::Token { .. }));
            tokens.map(|_| Instant::now()).collect::<Vec<_>>()
        })
    });
    let times: Vec<_> =
        times.collect::<Vec<_>>().into_iter().filter_map(|thread| thread.join().ok()).collect();
    let start = times.iter().filter_map(|times| times.first()).max().ok_or("no tokens")?;
    let end = times.iter().filter_map(|times| times.last()).min().ok_or("no tokens")?;
    let count = times.iter().flatten().filter(|time| *time > start && *time <= end).count();
    Ok(count as f64 / (*end - *start).as_secs_f64())
}

/// How long a prompt's first token takes.
fn first_token(handle: &EngineHandle, prompt: Vec<u32>) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    let mut stream = handle.submit(request(prompt, 1))?;
    stream.find(|event| matches!(event.kind, EventKind::Token { .. })).ok_or("no token")?;
    let taken = start.elapsed();
    // Its end.
    stream.for_each(drop);
    Ok(taken)
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}
