//! Running the fuzz targets of `fuzz/`.

use std::fs;

use anyhow::{Context, Result, bail, ensure};

use crate::{cargo, workspace};

/// Runs one target, or all of them, for so many seconds each.
pub(crate) fn run(target: Option<&str>, seconds: u64) -> Result<()> {
    let targets = targets()?;
    let chosen = match target {
        None => targets,
        Some(name) if targets.iter().any(|target| target == name) => vec![name.to_owned()],
        Some(name) => bail!("there is no fuzz target '{name}'; there are: {}", targets.join(", ")),
    };
    if !cargo::has_subcommand("fuzz") {
        bail!("cargo-fuzz is not installed: run `cargo install cargo-fuzz`");
    }
    for target in chosen {
        eprintln!("fuzz: {target} for {seconds} s");
        let corpus = workspace().join("fuzz/corpus").join(&target);
        fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
        let seeds = workspace().join("fixtures").join(&target);
        let mut command = cargo::cargo();
        // The stable compiler has the instrumentation, and lets this through to it.
        command.env("RUSTC_BOOTSTRAP", "1").args(["fuzz", "run", &target]).arg(corpus);
        command.args(seeds.is_dir().then_some(seeds));
        cargo::run(command.arg("--").arg(format!("-max_total_time={seconds}")))?;
    }
    Ok(())
}

/// The names of the files in `fuzz/fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let folder = workspace().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if let Some(name) = path.file_stem().filter(|_| path.extension().is_some_and(|e| e == "rs")) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    ensure!(!names.is_empty(), "{} holds no target", folder.display());
    names.sort();
    Ok(names)
}
