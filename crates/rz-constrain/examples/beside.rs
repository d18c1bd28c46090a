//! How an answer fares while constraints are compiled: `cargo run --release -p rz-constrain --example beside -- model.gguf`
//!
//! Prints the times between tokens of one answer: alone, and while another thread asks for one new schema after the other.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rz_constrain::{Compiler, ConstraintSpec};
use rz_engine::serve::{Engine, EngineOptions, EngineThread, EventKind, Request};
use rz_formats::Gguf;
use rz_kernels::Runtime;
use rz_model::{CpuModel, LoadOptions};
use rz_tokenizer::{EncodeOptions, Tokenizer};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("expected the path of a GGUF file")?;
    let gguf = Gguf::open(path)?;
    let tokenizer = Arc::new(Tokenizer::from_gguf(gguf.metadata())?);
    let options = LoadOptions { context: 1024, max_batch: 128, ..LoadOptions::default() };
    let model = CpuModel::load(&gguf, &Runtime::new(None)?, options, &mut |_, _| {})?;
    let thread = EngineThread::spawn(Engine::new(model, tokenizer.clone(), EngineOptions::default()))?;
    let prompt =
        tokenizer.encode("Once upon a time", EncodeOptions { add_special: true, parse_special: true });
    let compiler = Compiler::new(tokenizer);

    for (name, properties) in [("alone", None), ("small schemas", Some(5)), ("large schemas", Some(500))] {
        let (over, compiled) = (AtomicBool::new(false), AtomicUsize::new(0));
        let mut times = std::thread::scope(|scope| -> Result<Vec<Duration>, Box<dyn Error>> {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let Some(properties) = properties else { break };
                    let number = compiled.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) =
                        compiler.compile(&ConstraintSpec::JsonSchema(schema(number, properties)))
                    {
                        eprintln!("{error}");
                        break;
                    }
                }
            });
            let mut request = Request::new(prompt.clone());
            (request.max_tokens, request.ignore_eos) = (Some(400), true);
            let mut times = Vec::new();
            let mut last = Instant::now();
            for event in thread.handle().submit(request)? {
                if let EventKind::Token { .. } = event.kind {
                    times.push(last.elapsed());
                    last = Instant::now();
                }
            }
            over.store(true, Ordering::Relaxed);
            Ok(times)
        })?;
        times.remove(0);
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "{name:<14} {:>4} compiled; between tokens: median {:?}, 99% {:?}, most {:?}",
            compiled.load(Ordering::Relaxed),
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
    Ok(())
}

/// A schema that was never seen before.
fn schema(number: usize, properties: usize) -> Value {
    let properties: serde_json::Map<_, _> =
        (0..properties).map(|at| (format!("p{number}_{at}"), json!({ "type": "string" }))).collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}
