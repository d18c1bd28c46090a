//! `rz manual` and `rz completions`: what is made from the command line's own description.

use std::path::PathBuf;

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::args::Cli;
use crate::failure::Failure;
use crate::terminal::Out;

/// What `rz completions` takes.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// What `rz manual` takes.
#[derive(Debug, Args)]
pub(crate) struct ManualArgs {
    /// The command whose page to print [default: the page of rz itself]
    command: Option<String>,
    /// Write the pages of all commands into a folder instead
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

/// Prints a completion script.
pub(crate) fn completions(args: &CompletionsArgs, out: &Out) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "rz", &mut script);
    out.bytes(&script)
}

/// Prints a man page, or writes all of them.
pub(crate) fn manual(args: &ManualArgs, out: &Out) -> Result<(), Failure> {
    let mut cli = Cli::command();
    // Gives subcommands their full names, and the options that all share.
    cli.build();
    if let Some(folder) = &args.dir {
        let written = clap_mangen::generate_to(cli, folder);
        return written.map_err(|error| Failure::file("write the pages to", folder, &error));
    }
    let page = match &args.command {
        None => render(cli),
        Some(name) => {
            let found = cli.get_subcommands().find(|command| command.get_name() == name);
            let known: Vec<_> = cli.get_subcommands().map(Command::get_name).collect();
            let unknown =
                || Failure::input(format!("rz has no command '{name}': there are {}", known.join(", ")));
            render(found.ok_or_else(unknown)?.clone())
        }
    };
    out.bytes(&page?)
}

fn render(command: Command) -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page).map_err(|error| Failure::other(error.to_string()))?;
    Ok(page)
}
