//! Streams the continuation of a prompt: `generate FILE.gguf "Once upon a time"`.

use std::error::Error;
use std::io::Write;

use rz_engine::{Event, Request, Session};
use rz_formats::Gguf;
use rz_kernels::Runtime;
use rz_model::sampler::{Chain, Settings};
use rz_model::{CpuModel, LoadOptions};
use rz_tokenizer::{EncodeOptions, Tokenizer};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(file), Some(prompt)) = (arguments.next(), arguments.next()) else {
        return Err("usage: generate FILE.gguf PROMPT".into());
    };
    let gguf = Gguf::open(file)?;
    let tokenizer = Tokenizer::from_gguf(gguf.metadata())?;
    let model = CpuModel::load(&gguf, &Runtime::new(None)?, LoadOptions::default(), &mut |_, _| {})?;

    let prompt = tokenizer.encode(&prompt, EncodeOptions { add_special: true, parse_special: true });
    let mut request = Request::new(&prompt, Chain::new(&Settings::new())?);
    request.max_tokens = Some(100);

    let mut session = Session::new(model);
    for event in session.generate(&tokenizer, request)? {
        match event? {
            Event::Token { text, .. } | Event::Text(text) => print!("{text}"),
            Event::Finished { reason, stats } => eprintln!(
                "\n[{reason:?}: {} tokens of prompt at {:.0}/s, {} generated at {:.0}/s, the first after {:.2?}]",
                stats.prompt_tokens,
                stats.prefill_rate(),
                stats.generated_tokens,
                stats.decode_rate(),
                stats.first_token,
            ),
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}
