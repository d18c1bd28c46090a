//! Measures serving: `cargo run --release --example serve_speed -- MODEL.gguf [PART...]`.
//!
//! The parts, all of them unless some are named:
//!
//! - `streams`: 1, 2, 4 ... 32 streams at a time, and one sequence without an engine;
//! - `prefix`: the second of two prompts that begin alike beside the first;
//! - `beside`: short prompts while a long one is computed, beside short prompts alone, and what that costs the long one;
//!   with numbers, prompts of so many tokens (16 and 32).

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rz_engine::serve::{Engine, EngineHandle, EngineOptions, EngineThread, EventKind, Request};
use rz_engine::{Session, median};
use rz_formats::Gguf;
use rz_kernels::Runtime;
use rz_model::{CpuModel, KvRoom, LoadOptions};
use rz_tokenizer::Tokenizer;

/// Tokens that each stream generates.
const TOKENS: usize = 48;

const ROUNDS: u32 = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: serve_speed MODEL.gguf [streams|prefix|beside|TOKENS]...")?;
    let parts: Vec<String> = arguments.collect();
    let runs = |part: &str| parts.is_empty() || parts.iter().any(|other| other == part);
    let gguf = Gguf::open(path)?;
    let tokenizer = Arc::new(Tokenizer::from_gguf(gguf.metadata())?);
    let options = LoadOptions { context: 4608, kv_room: KvRoom::Sequences(2), ..LoadOptions::default() };
    let mut model = CpuModel::load(&gguf, &Runtime::new(None)?, options, &mut |_, _| ())?;
    let mut alone = Vec::new();
    if runs("streams") {
        for _ in 0..ROUNDS {
            let mut session = Session::new(model);
            alone.push(without_engine(&mut session)?);
            model = session.into_forward();
        }
    }
    let thread = EngineThread::spawn(Engine::new(model, tokenizer, EngineOptions::default()))?;
    let handle = thread.handle();
    if runs("streams") {
        streams(&handle, median(&alone))?;
    }
    if runs("prefix") {
        prefix(&handle)?;
    }
    if runs("beside") {
        let asked: Vec<usize> = parts.iter().filter_map(|part| part.parse().ok()).collect();
        let lengths = if asked.is_empty() { vec![16, 32] } else { asked };
        for tokens in lengths {
            beside(&handle, tokens)?;
        }
    }
    thread.shutdown();
    Ok(())
}

/// Tokens per second of one sequence whose tokens are chosen here, the likeliest each time.
fn without_engine(session: &mut Session<CpuModel>) -> Result<f64, Box<dyn Error>> {
    let mut token = likeliest(session.feed(&prompt(16, 7))?);
    let start = Instant::now();
    for _ in 1..TOKENS {
        token = likeliest(session.feed(&[token])?);
    }
    Ok((TOKENS - 1) as f64 / start.elapsed().as_secs_f64())
}

fn likeliest(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0) as u32
}

/// Counts in turns, because the machine's speed drifts.
fn streams(handle: &EngineHandle, alone: f64) -> Result<(), Box<dyn Error>> {
    const STREAMS: [usize; 6] = [1, 2, 4, 8, 16, 32];
    let mut rates = [const { Vec::new() }; STREAMS.len()];
    for round in 0..ROUNDS {
        for (streams, rates) in STREAMS.iter().zip(&mut rates) {
            rates.push(generate(handle, *streams, round)?);
        }
    }
    println!("no engine   {alone:8.1} tokens/s");
    let one = median(&rates[0]);
    for (streams, rates) in STREAMS.iter().zip(&rates) {
        let rate = median(rates);
        println!("{streams:2} streams  {rate:8.1} tokens/s, {:.2} times as many as one", rate / one);
    }
    Ok(())
}

fn prefix(handle: &EngineHandle) -> Result<(), Box<dyn Error>> {
    let mut shared = prompt(1008, 0);
    let first = first_token(handle, shared.clone())?;
    *shared.last_mut().ok_or("a prompt")? += 1;
    let second = first_token(handle, shared)?;
    let ratio = second.as_secs_f64() / first.as_secs_f64();
    println!("first token after {first:.1?}, with a shared prefix after {second:.1?}: {ratio:.3}");
    Ok(())
}

/// A long prompt alone, short ones alone, and both together, in turns.
fn beside(handle: &EngineHandle, tokens: usize) -> Result<(), Box<dyn Error>> {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let (mut long_alone, mut long_beside) = (Vec::new(), Vec::new());
    let mut salt = 1000 * tokens as u32;
    let mut short = |all: &mut Vec<f64>| -> Result<(), Box<dyn Error>> {
        salt += 1;
        // Not in step with the engine's.
        std::thread::sleep(Duration::from_millis(u64::from(salt * 37 % 90)));
        all.push(first_token(handle, prompt(tokens, salt))?.as_secs_f64());
        Ok(())
    };
    for round in 0..ROUNDS {
        for _ in 0..40 {
            short(&mut alone)?;
        }
        let long = |which| prompt(4000, 1_000_000 + 100 * tokens as u32 + 2 * round + which);
        long_alone.push(first_token(handle, long(0))?.as_secs_f64());
        let long = handle.submit(request(long(1), 1))?;
        let start = Instant::now();
        let long = std::thread::spawn(move || {
            long.for_each(drop);
            start.elapsed()
        });
        while !long.is_finished() {
            short(&mut beside)?;
        }
        // It may have run alone.
        beside.pop();
        long_beside.push(long.join().map_err(|_| "the long prompt")?.as_secs_f64());
    }
    let idle = median(&alone);
    for (what, times) in [("alone", &mut alone), ("beside a long prompt", &mut beside)] {
        times.sort_by(f64::total_cmp);
        let part =
            |part: f64| times.get((times.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN) / idle;
        println!(
            "{tokens} tokens {what}: first token after {:.2} times {:.1} ms in the median, {:.2} for 90%, {:.2} for 99%, {:.2} at worst ({} prompts)",
            part(0.5),
            1e3 * idle,
            part(0.9),
            part(0.99),
            part(1.0 - f64::EPSILON),
            times.len(),
        );
    }
    println!(
        "4000 tokens: first token after {:.2} s alone, {:.2} s beside short ones",
        median(&long_alone),
        median(&long_beside),
    );
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

/// Tokens per second of so many streams, from when all have their first token until one has its last.
fn generate(handle: &EngineHandle, streams: usize, round: u32) -> Result<f64, Box<dyn Error>> {
    let salt = |stream: usize| 100_000 + 100 * round + stream as u32;
    let all = (0..streams).map(|stream| handle.submit(request(prompt(16, salt(stream)), TOKENS + 16)));
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
