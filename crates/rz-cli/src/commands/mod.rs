//! One file for each command: what it takes, and what it does.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod doctor;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod logits;
pub(crate) mod manual;
pub(crate) mod pack;
pub(crate) mod perplexity;
pub(crate) mod pull;
pub(crate) mod rm;
pub(crate) mod run;
#[cfg(feature = "serve")]
pub(crate) mod serve;
pub(crate) mod tokenize;

use std::time::Instant;

use clap::CommandFactory;

use crate::args::{Cli, Command};
use crate::failure::Failure;
use crate::interrupt;
use crate::terminal::Out;

/// Does what the command line says.
pub(crate) fn execute(cli: Cli, started: Instant) -> Result<(), Failure> {
    let common = &cli.common;
    let out = &Out::new();
    // The line editor of a conversation takes the signals first.
    if !matches!(cli.command, Some(Command::Chat(_))) {
        interrupt::install()?;
    }
    match &cli.command {
        None => out.text(&Cli::command().render_help().to_string()),
        Some(Command::Run(args)) => run::run(args, common, out, started),
        Some(Command::Chat(args)) => chat::chat(args, common, out),
        #[cfg(feature = "serve")]
        Some(Command::Serve(args)) => serve::serve(args, common, out),
        Some(Command::Inspect(args)) => inspect::inspect(args, common, out),
        Some(Command::Tokenize(args)) => tokenize::tokenize(args, common, out),
        Some(Command::Pull(args)) => pull::pull(args, common, out),
        Some(Command::Pack(args)) => pack::pack(args, common, out),
        Some(Command::List(args)) => list::list(args, common, out),
        Some(Command::Rm(args)) => rm::rm(args, common, out),
        Some(Command::Perplexity(args)) => perplexity::perplexity(args, common, out),
        Some(Command::Logits(args)) => logits::logits(args, common, out),
        Some(Command::Bench(args)) => bench::bench(args, common, out),
        Some(Command::Doctor(args)) => doctor::doctor(args, common, out),
        Some(Command::Completions(args)) => manual::completions(args, out),
        Some(Command::Manual(args)) => manual::manual(args, out),
    }
}
