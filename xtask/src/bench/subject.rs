//! Running an `rz` and reading what it measured.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{case::Case, stats::Samples};

/// What everybody computes with.
#[derive(Clone)]
pub(super) struct Computing {
    pub(super) threads: Option<usize>,
    pub(super) isa: Option<String>,
}

/// An `rz`.
pub(super) struct Subject {
    pub(super) label: String,
    path: PathBuf,
    computing: Computing,
}

/// What came out of the runs of one case. What a case does not measure is empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Figures {
    /// Tokens of the prompt a second.
    pub(super) prefill: Samples,
    /// Generated tokens a second, of all sequences together.
    pub(super) decode: Samples,
    /// A plain read of memory, in GB/s.
    pub(super) read: Samples,
    /// Multiplications and additions of bytes in registers, in 10^9 a second.
    pub(super) dot: Samples,
    /// Seconds from the start of the process to its end.
    pub(super) process: Samples,
    /// Most memory that the process had at a time, in bytes, mapped files included.
    pub(super) peak_bytes: Samples,
    /// Bytes of weights that a pass reads.
    pub(super) weight_bytes: f64,
    /// Bytes of weights, keys and values that one pass of decoding reads, on average.
    pub(super) decode_bytes: f64,
    /// Multiplications and additions for one token of a prompt, and for one that is generated.
    pub(super) prefill_macs: f64,
    pub(super) decode_macs: f64,
    /// The instruction set.
    pub(super) isa: String,
    pub(super) threads: u64,
}

impl Subject {
    pub(super) fn rz(label: &str, path: &Path, computing: &Computing) -> Subject {
        Subject { label: label.to_owned(), path: path.to_owned(), computing: computing.clone() }
    }

    /// Runs one case.
    pub(super) fn run(&self, file: &Path, case: Case) -> Result<Figures> {
        if case.process {
            return self.start(file);
        }
        let mut command = self.command(file, "bench");
        command.args(["--json", "--repetitions", "2"]);
        let numbers = [("--prompt", case.prompt), ("--generate", case.generate), ("--depth", case.depth)];
        // Builds that know one sequence only are asked for no more.
        let sequences = (case.sequences > 1).then_some(("--sequences", case.sequences));
        for (name, number) in numbers.into_iter().chain(sequences) {
            command.arg(name).arg(number.to_string());
        }
        let output = run(&mut command)?;
        let value: Value = serde_json::from_slice(&output.stdout).context("rz bench --json wrote no JSON")?;
        Figures::read(&value)
    }

    /// The whole process, up to one token after a short prompt.
    fn start(&self, file: &Path) -> Result<Figures> {
        let mut command = self.command(file, "run");
        // Some sixteen tokens, whatever the vocabulary.
        command.args([
            "-n",
            "1",
            "--temp",
            "0",
            "--no-template",
            "--",
            "one two three four five six seven eight",
        ]);
        let start = Instant::now();
        run(&mut command)?;
        let process = Samples(vec![start.elapsed().as_secs_f64()]);
        Ok(Figures { process, ..Figures::default() })
    }

    fn command(&self, file: &Path, name: &str) -> Command {
        let mut command = Command::new(&self.path);
        command.arg(name).arg("--offline").arg("--model").arg(file);
        if let Some(threads) = self.computing.threads {
            command.arg("--threads").arg(threads.to_string());
        }
        if let Some(isa) = &self.computing.isa {
            command.args(["--isa", isa]);
        }
        command
    }
}

impl Figures {
    fn read(value: &Value) -> Result<Figures> {
        let runs = |name: &str| -> Samples {
            value["runs"][name].as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
        };
        let number = |name: &str| value[name].as_f64().unwrap_or(f64::NAN);
        let figures = Figures {
            prefill: runs("prefill_tok_s"),
            decode: runs("decode_tok_s"),
            read: runs("read_gb_s"),
            dot: runs("dot_gmac_s"),
            process: Samples::default(),
            peak_bytes: value["peak_bytes"].as_f64().into_iter().collect(),
            weight_bytes: number("weight_bytes"),
            decode_bytes: number("decode_bytes"),
            prefill_macs: number("prefill_macs"),
            decode_macs: number("decode_macs"),
            isa: value["isa"].as_str().unwrap_or_default().to_owned(),
            threads: value["threads"].as_u64().unwrap_or(0),
        };
        ensure!(!(figures.prefill.is_empty() && figures.decode.is_empty()), "rz bench measured nothing");
        Ok(figures)
    }

    /// Adds the runs of another round.
    pub(super) fn join(&mut self, other: Figures) {
        let own = [
            &mut self.prefill,
            &mut self.decode,
            &mut self.read,
            &mut self.dot,
            &mut self.process,
            &mut self.peak_bytes,
        ];
        let new = [other.prefill, other.decode, other.read, other.dot, other.process, other.peak_bytes];
        own.into_iter().zip(new).for_each(|(own, new)| own.0.extend(new.0));
        self.weight_bytes = other.weight_bytes;
        self.decode_bytes = other.decode_bytes;
        self.prefill_macs = other.prefill_macs;
        self.decode_macs = other.decode_macs;
        self.isa = other.isa;
        self.threads = other.threads;
    }
}

/// Runs the command and fails if it does, with what it said.
pub(super) fn run(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    ensure!(output.status.success(), "{program} ended with {}: {last}", output.status);
    Ok(output)
}
