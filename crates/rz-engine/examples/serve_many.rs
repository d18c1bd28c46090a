//! Answers many prompts at once over one model: `serve_many FILE.gguf "Once upon a time" "The sea is" ...`.

use std::error::Error;
use std::sync::Arc;

use rz_engine::serve::{Engine, EngineOptions, EngineThread, EventKind, Request};
use rz_formats::Gguf;
use rz_kernels::Runtime;
use rz_model::{CpuModel, KvRoom, LoadOptions};
use rz_tokenizer::{EncodeOptions, Tokenizer};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("usage: serve_many FILE.gguf PROMPT...")?;
    let prompts: Vec<String> = arguments.collect();

    let gguf = Gguf::open(file)?;
    let tokenizer = Arc::new(Tokenizer::from_gguf(gguf.metadata())?);
    let room = KvRoom::Sequences(prompts.len().clamp(1, 8));
    let options = LoadOptions { context: 2048, kv_room: room, ..LoadOptions::default() };
    let model = CpuModel::load(&gguf, &Runtime::new(None)?, options, &mut |_, _| {})?;

    let thread = EngineThread::spawn(Engine::new(model, tokenizer.clone(), EngineOptions::default()))?;
    let mut streams = Vec::new();
    for prompt in &prompts {
        let tokens = tokenizer.encode(prompt, EncodeOptions { add_special: true, parse_special: true });
        let mut request = Request::new(tokens);
        request.max_tokens = Some(64);
        streams.push(thread.handle().submit(request)?);
    }
    for (prompt, stream) in prompts.iter().zip(streams) {
        print!("{prompt}");
        for event in stream {
            match event.kind {
                EventKind::Token { text, .. } | EventKind::Text(text) => print!("{text}"),
                EventKind::Finished { reason, usage, timings } => println!(
                    "\n[{reason:?}: {} tokens after {:.2?}, the first after {:.2?}]\n",
                    usage.completion_tokens,
                    timings.queued + timings.prefill + timings.decode,
                    timings.first_token,
                ),
                _ => {}
            }
        }
    }
    let stats = thread.handle().stats();
    println!("{} steps for {} tokens", stats.steps, stats.prompt_tokens + stats.generated_tokens);
    thread.shutdown();
    Ok(())
}
