//! `cargo xtask bench`: how fast models run, beside what the machine could do in the same minutes, beside other
//! builds and beside other programs.
//!
//! What is measured runs in processes of their own, in turns: `rz bench --json` (which reads memory and multiplies
//! registers between its own runs, so that every figure has its roof), another build of it, other programs'
//! `llama-bench`. Medians and quartiles come out.

mod build;
mod case;
mod check;
mod operators;
mod peer;
mod record;
mod roofline;
mod stats;
mod subject;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{models, workspace};
use case::Case;
use peer::Peer;
use record::{Entry, Record};
use subject::{Figures, Subject};

/// What `cargo xtask bench` takes.
#[derive(clap::Args)]
pub(crate) struct BenchArgs {
    /// Cases to measure: short, standard, long, deep, batch, start, operators [default: all]
    #[arg(long, value_delimiter = ',', value_name = "CASE")]
    only: Vec<String>,
    /// Models to measure, as names that `cargo xtask models` knows or paths of files [default: TinyLlama's shape as
    /// Q4_0, Q8_0, Q4_K_M, Q5_K_M, Q6_K and F16, phi-2's as Q4_K_M, SmolLM2]
    #[arg(long, value_delimiter = ',', value_name = "MODEL")]
    models: Vec<String>,
    /// One round on two models: a look, not a measurement
    #[arg(long)]
    quick: bool,
    /// How often everything is run [default: 5, with --quick 1]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Threads to compute with [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Instruction set to compute with [default: the best]
    #[arg(long, value_name = "SET")]
    isa: Option<String>,
    /// A llama-bench to run beside, with its best settings; may be given several times
    #[arg(long, value_name = "PATH")]
    peer: Vec<PathBuf>,
    /// Compare with another build, given as a revision or as a path of an rz, and fail when this one is slower by more
    /// than 5% and the noise [default: HEAD]
    #[arg(long, value_name = "REV|PATH", num_args = 0..=1, default_missing_value = "HEAD", conflicts_with = "peer")]
    check: Option<String>,
    /// Check, for every kernel, that the instruction set that is chosen is the fastest here within 5%
    #[arg(long, conflicts_with_all = ["check", "peer", "record"])]
    dispatch: bool,
    /// Measure this rz instead of building one
    #[arg(long, value_name = "PATH")]
    rz: Option<PathBuf>,
    /// Keep the result: benches/record/ and the table in docs/performance.md
    #[arg(long)]
    record: bool,
    /// Folder of the models with made-up weights [default: fixtures/cache/models]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Measures.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    if args.dispatch {
        return operators::check_dispatch(args.quick);
    }
    let wanted = case::named(&args.only, args.quick)?;
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 5 }).max(1);
    let rz = match &args.rz {
        Some(path) => path.canonicalize().with_context(|| format!("there is no {}", path.display()))?,
        None => build::release()?,
    };
    let computing = subject::Computing { threads: args.threads, isa: args.isa.clone() };
    let files = files(args)?;
    if let Some(base) = &args.check {
        let base = build::other(base)?;
        return check::run(&rz, &base, &computing, &files, &wanted.cases, rounds);
    }
    let peers = args.peer.iter().map(|path| Peer::new(path)).collect::<Result<Vec<_>>>()?;
    let own = Subject::rz("rz", &rz, &computing);
    let mut record = Record::of_this_machine()?;
    for file in &files {
        for case in &wanted.cases {
            let entry = measure(file, *case, &own, &peers, &computing, rounds)?;
            print!("{}", table::lines(&entry));
            record.entries.push(entry);
        }
    }
    if wanted.operators {
        record.operators = operators::measure(args.quick)?;
    }
    ensure!(!record.entries.is_empty() || !record.operators.is_empty(), "nothing was measured");
    record.write(args.record)
}

/// Runs one case on one file: everybody in turn, `rounds` times.
fn measure(
    file: &ModelFile,
    case: Case,
    own: &Subject,
    peers: &[Peer],
    computing: &subject::Computing,
    rounds: usize,
) -> Result<Entry> {
    let mut figures = Figures::default();
    let mut races: Vec<_> = peers.iter().map(|peer| peer.race(computing)).collect();
    for round in 0..rounds {
        eprintln!("bench: {} {case}, round {} of {rounds}", file.name, round + 1);
        figures.join(own.run(&file.path, case)?);
        for race in &mut races {
            race.run(&file.path, case)?;
        }
    }
    let peers = races.into_iter().map(|race| race.best()).collect();
    Ok(Entry { model: file.name.clone(), case, figures, peers })
}

/// A model's file and what it is called in tables.
struct ModelFile {
    name: String,
    path: PathBuf,
}

/// The real model that everybody can fetch.
const REAL: &str = "SmolLM2-135M-Instruct.Q4_1";

fn files(args: &BenchArgs) -> Result<Vec<ModelFile>> {
    const USUAL: [&str; 8] = [
        REAL,
        "tinyllama-1.1b-Q4_0",
        "tinyllama-1.1b-Q4_K_M",
        "tinyllama-1.1b-Q5_K_M",
        "tinyllama-1.1b-Q6_K",
        "tinyllama-1.1b-Q8_0",
        "tinyllama-1.1b-F16",
        "phi-2-Q4_K_M",
    ];
    let folder = args.dir.clone().unwrap_or_else(models::folder_of_models);
    let names: Vec<&str> = match (&args.models[..], args.quick) {
        ([], true) => USUAL[..2].to_vec(),
        ([], false) => USUAL.to_vec(),
        (names, _) => names.iter().map(String::as_str).collect(),
    };
    names.iter().map(|name| model_file(name, &folder)).collect()
}

fn model_file(name: &str, folder: &Path) -> Result<ModelFile> {
    let path = Path::new(name);
    if path.exists() {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        return Ok(ModelFile { name: stem, path: path.canonicalize()? });
    }
    if name.eq_ignore_ascii_case(REAL) {
        let path = workspace().join(format!("fixtures/cache/{REAL}.gguf"));
        if !path.exists() {
            bail!("{} is not there: run `cargo xtask fixtures`", path.display());
        }
        return Ok(ModelFile { name: REAL.to_owned(), path });
    }
    let model = models::Model::find(name)?;
    Ok(ModelFile { name: model.name(), path: model.ensure(folder)? })
}

/// The folder for what measuring leaves behind.
fn target() -> Result<PathBuf> {
    let folder = workspace().join("target/bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}
