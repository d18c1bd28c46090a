//! Single operators, which need no model: the benchmark `operators` of `benches/` measures them.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{stats::Samples, subject};
use crate::cargo;

/// An operator at one size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) tokens: usize,
    /// Where its data came from: memory or cache.
    pub(super) place: String,
    /// Of each run.
    pub(super) seconds: Samples,
    /// Bytes that a run reads; 0 where that is not what counts.
    pub(super) bytes: f64,
    /// Multiplications and additions of a run; 0 where that is not what counts.
    pub(super) macs: f64,
    /// What the machine did beside, on the same threads.
    pub(super) read_gb_s: f64,
    pub(super) dot_gmac_s: f64,
}

/// Measures every operator.
pub(super) fn measure(quick: bool) -> Result<Vec<Row>> {
    eprintln!("bench: operators");
    let mut command = command(quick);
    let output = subject::run(command.arg("--json"))?;
    serde_json::from_slice(&output.stdout).context("the benchmark of operators wrote no JSON")
}

/// Fails when another instruction set would be faster for some kernel.
pub(super) fn check_dispatch(quick: bool) -> Result<()> {
    cargo::run(command(quick).arg("--dispatch"))
}

fn command(quick: bool) -> std::process::Command {
    let mut command = cargo::cargo();
    command.current_dir(crate::workspace());
    command.args(["bench", "--quiet", "--package", "benches", "--bench", "operators", "--"]);
    command.args(quick.then_some("--quick"));
    command
}
