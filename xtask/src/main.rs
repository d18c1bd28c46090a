//! Chores of the workspace: `cargo xtask --help` lists them.

mod bench;
mod cargo;
mod clients;
mod cross;
mod fixtures;
mod fuzz;
mod models;
mod soak;
mod tidy;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// Chores of the workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Fetch the large test files into fixtures/cache, once
    Fixtures {
        /// Also fetch further models for extra checks (3 GB); those that cannot be had are skipped
        #[arg(long)]
        all: bool,
    },
    /// Fetch the fixtures, then run every test of the workspace
    Test {
        /// Also fetch further models (3 GB) and check them against recorded references
        #[arg(long)]
        models: bool,
        /// Let real clients, a browser, a router and Schemathesis ask the server instead (needs Python 3.11 with pip, and
        /// Node 20, which fetch them, and Chromium, which root on Debian gets installed)
        #[arg(long, conflicts_with_all = ["models", "arguments"])]
        clients: bool,
        /// Only the clients and a little of Schemathesis, and without Node where it is not installed
        #[arg(long, requires = "clients")]
        short: bool,
        /// Arguments for `cargo test`, such as `-p rz-store` or `-- --nocapture`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Check the rules that a script can check
    Tidy,
    /// Do what continuous integration does: .ci/run
    Ci,
    /// Measure how fast models run, beside what the machine allows, other builds and other programs
    Bench(bench::BenchArgs),
    /// Write models of the usual shapes with made-up weights, for measuring: once, 0.6 to 6 GB each
    Models {
        /// Where to; fixtures/cache/models when left out
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Such as tinyllama-1.1b-Q4_K_M or phi-2-Q4_0; those of TinyLlama's shape when left out
        names: Vec<String>,
    },
    /// Run a fuzz target, or all of them one after the other
    Fuzz {
        /// Name of the target; all when left out
        target: Option<String>,
        /// How long to run each target
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Compile for ARM and WebAssembly, and run the tests of the instruction sets there (needs
    /// their targets by rustup, qemu-aarch64 and node)
    Cross,
    /// Let clients that misbehave ask the server, and see that it gives back what it took
    Soak {
        /// How long
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// How many clients at a time
        #[arg(long, default_value_t = 16)]
        clients: u64,
        /// The `rz` to run [default: built for it]
        #[arg(long)]
        binary: Option<PathBuf>,
    },
    /// Try every order of events of the worker pool's protocol (a minute, most of it compiling)
    Loom,
    /// Measure which lines the tests run
    Coverage {
        /// Arguments for `cargo llvm-cov`, such as `--html` or `-p rz-store`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().chore {
        Chore::Fixtures { all } => fixtures::run(all),
        Chore::Test { clients: true, short, .. } => clients::test(short),
        Chore::Test { models, arguments, .. } => cargo::test(models, &arguments),
        Chore::Tidy => tidy::run(),
        Chore::Ci => cargo::ci(),
        Chore::Bench(args) => bench::run(&args),
        Chore::Models { dir, names } => models::run(dir, &names),
        Chore::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        Chore::Cross => cross::run_tests(),
        Chore::Soak { seconds, clients, binary } => soak::run(seconds, clients, binary),
        Chore::Loom => cargo::loom(),
        Chore::Coverage { arguments } => cargo::coverage(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the workspace.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}
