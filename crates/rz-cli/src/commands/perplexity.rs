//! `rz perplexity`: how well a model predicts a text.

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use rz_engine::{PerplexityOptions, Session};
use rz_tokenizer::EncodeOptions;
use serde_json::json;

use crate::args::{Common, Compute};
use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::progress::Counting;
use crate::terminal::Out;
use crate::{model, prompt};

/// What `rz perplexity` takes.
#[derive(Debug, Args)]
pub(crate) struct PerplexityArgs {
    /// The text
    file: PathBuf,
    /// Start windows N tokens apart, make them N / 2 longer, and score the last N tokens of each
    /// [default: windows follow each other, the second half of each is scored]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: Compute,
}

/// The window that figures are usually given for.
const WINDOW: usize = 512;

/// Measures the perplexity of a text.
pub(crate) fn perplexity(args: &PerplexityArgs, common: &Common, out: &Out) -> Result<(), Failure> {
    let text = prompt::read_file(&args.file)?;
    let file = model::open(common)?;
    let spec = model::describe(&file)?;
    let tokenizer = model::tokenizer(&file, &spec)?;
    let context = if common.ctx.is_none() { WINDOW } else { model::context(common, &spec)? };
    let ids = tokenizer.encode(&text, EncodeOptions { add_special: true, parse_special: false });

    let mut options = PerplexityOptions::new(context);
    options.stride = args.stride;
    options.begin = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let window = options.check(ids.len())?;
    let runtime = common.runtime()?;
    let (forward, _) =
        model::load(&file, &spec, &runtime, args.compute.load_options(window), args.compute.placement())?;
    let mut session = Session::new(forward);

    let listening = Listening::start();
    let mut counting = Counting::start();
    let result = rz_engine::perplexity(&mut session, &ids, &options, |so_far| {
        counting.show(so_far.windows, so_far.total_windows, &format!("perplexity {:.4}", so_far.value));
        if listening.interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    counting.finish();
    let result = result?;
    if args.json {
        out.json(&json!({
            "perplexity": result.value,
            "error": result.error,
            "scored_tokens": result.scored,
            "windows": result.windows,
            "tokens": ids.len(),
            "ctx": context,
            "stride": args.stride,
            "complete": result.windows == result.total_windows,
        }))?;
    } else {
        out.line(&format!(
            "perplexity {:.4} ± {:.4} ({} tokens scored in {} of {} windows of {window})",
            result.value, result.error, result.scored, result.windows, result.total_windows
        ))?;
    }
    if result.windows < result.total_windows { Err(Failure::interrupted()) } else { Ok(()) }
}
