//! `rz run`: one prompt, one answer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use rz_engine::{Finish, ModelFile, Request, Session};
use rz_tokenizer::{Message, Tokenizer};
use serde_json::json;

use crate::answer::{self, Circumstances};
use crate::args::{Common, Compute, Generate};
use crate::constrain::{self, Constrain};
use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::terminal::{self, Out};
use crate::{model, prompt};

/// What `rz run` takes.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The prompt. What comes in by a pipe is put below it
    prompt: Option<String>,
    /// Take the prompt from a file; below PROMPT, when there is one
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Continue the prompt as it is, without the model's chat template
    #[arg(long, conflicts_with = "system")]
    no_template: bool,
    /// Print one JSON object at the end instead of the text: model, text, tokens, finish, stats, …
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    generate: Generate,
    #[command(flatten)]
    constrain: Constrain,
    #[command(flatten)]
    compute: Compute,
}

/// Answers a prompt.
pub(crate) fn run(args: &RunArgs, common: &Common, out: &Out, started: Instant) -> Result<(), Failure> {
    let text = prompt_text(args)?;
    let chain = args.generate.sampling.chain()?;
    let constraint = args.constrain.spec()?;
    let runtime = common.runtime()?;
    let file = model::open(common)?;
    let spec = model::describe(&file)?;
    let context = model::context(common, &spec)?;
    let options = args.compute.load_options(context);
    let (forward, loading) = model::start(&file, &spec, &runtime, options, args.compute.placement())?;
    let tokenizer = Arc::new(model::tokenizer(&file, &spec)?);
    let text = if args.no_template { text } else { in_template(&file, &tokenizer, text, args)? };
    let ids = prompt::encode(&tokenizer, &text);
    check_length(&ids, context)?;
    let constraint = constraint.map(|spec| constrain::compile(&spec, &tokenizer, &text)).transpose()?;
    let constrained = constraint.is_some();
    let loaded = loading.settle();
    let mut session = Session::new(forward).with_context(context);
    let seed = args.generate.seed.unwrap_or_else(prompt::random_seed);
    let listening = Listening::start();
    let mut request = Request::new(&ids, chain);
    request.seed = seed;
    request.max_tokens = args.generate.max_tokens;
    request.stop = &args.generate.stop;
    request.ignore_eos = args.generate.ignore_eos;
    request.constraint = constraint;
    request.decode.special = args.generate.special;
    request.cancel = Some(listening.flag());
    let answer = answer::generate(session.generate(&tokenizer, request)?, (!args.json).then_some(out))?;

    let run = Circumstances {
        started: Some(started),
        loaded: Some(loaded),
        by: model::computed_by(&runtime),
        seed,
    };
    if args.json {
        out.json(&json!({
            "model": model::reference(common, None),
            "text": answer.text,
            "tokens": answer.ids,
            "prompt_tokens": ids,
            "finish": answer.finish_name(),
            "seed": seed,
            "stats": answer.stats_json(&run),
        }))?;
    }
    answer.note_end();
    if constrained && matches!(answer.finish, Finish::MaxTokens | Finish::ContextFull) {
        terminal::note(
            "the answer is not complete: what is there is the beginning of one that is as asked for",
        );
    }
    if args.generate.stats {
        answer.say_stats(&run);
    }
    if answer.finish == Finish::Cancelled { Err(Failure::interrupted()) } else { Ok(()) }
}

fn prompt_text(args: &RunArgs) -> Result<String, Failure> {
    let file = args.prompt_file.as_deref().map(prompt::read_file).transpose()?.unwrap_or_default();
    let piped = if prompt::is_piped() { prompt::read_stdin()? } else { String::new() };
    let given = args.prompt.as_deref().unwrap_or_default();
    let text = prompt::join([given, prompt::without_line_end(&file), prompt::without_line_end(&piped)]);
    if text.is_empty() {
        return Err(Failure::input(
            "there is no prompt: give one, such as rz run \"Why is the sky blue?\", or use rz chat",
        ));
    }
    Ok(text)
}

/// The prompt as the model's chat template writes it; as it is, where there is none.
fn in_template(
    file: &ModelFile,
    tokenizer: &Tokenizer,
    text: String,
    args: &RunArgs,
) -> Result<String, Failure> {
    let system = args.generate.system.as_deref();
    match file.chat_template(tokenizer)? {
        Some(template) => {
            let system = system.map(|system| Message::new("system", system));
            let messages: Vec<_> = system.into_iter().chain([Message::new("user", text)]).collect();
            Ok(template.render(&messages, true)?)
        }
        None if system.is_some() => Err(Failure::input(
            "the model has no chat template, so --system cannot be told to it: leave it out",
        )),
        None => {
            terminal::note("the model has no chat template: it continues the prompt as it is");
            Ok(text)
        }
    }
}

/// Refuses a prompt that leaves no room for an answer.
fn check_length(ids: &[u32], context: usize) -> Result<(), Failure> {
    if ids.is_empty() {
        return Err(Failure::input("the prompt has no tokens: give a prompt that is more than nothing"));
    }
    if ids.len() > context {
        return Err(Failure::input(format!(
            "the prompt has {} tokens and the context holds {context}: shorten it, or give --ctx {} or more",
            ids.len(),
            ids.len() + 1
        )));
    }
    Ok(())
}
