//! The `rz` command: people, flags, terminals and progress. Everything else is a library's.

mod answer;
mod args;
mod commands;
mod constrain;
mod environment;
mod failure;
mod help;
mod interrupt;
mod machine;
mod model;
mod progress;
mod prompt;
mod sampling;
mod spec;
mod table;
mod terminal;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

fn main() -> ExitCode {
    let started = Instant::now();
    let cli = args::Cli::parse();
    match commands::execute(cli, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// A variable of the environment, where it has one that is text.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Ends the process without looking back.
fn end_at_once(code: u8) -> ! {
    terminal::end_editing();
    std::process::exit(code.into())
}
