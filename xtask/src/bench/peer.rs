//! Other programs: `llama-bench` of llama.cpp and of its forks, and `llama-batched-bench` beside it.
//!
//! They have settings that suit one type of weights and hurt another. In the first round each setting runs, in
//! the rounds after it the best for prefill and the best for decoding: what counts is their best.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    case::Case,
    stats::Samples,
    subject::{Computing, run},
};

/// A program to compare with.
pub(super) struct Peer {
    label: String,
    path: PathBuf,
    /// `llama-batched-bench`, where there is one.
    batched: Option<PathBuf>,
    settings: Vec<Vec<&'static str>>,
}

/// What it reached with the settings that suited it best.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Reached {
    pub(super) label: String,
    pub(super) prefill: Best,
    pub(super) decode: Best,
}

/// The best setting, and what it gave.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Best {
    pub(super) settings: String,
    /// Tokens a second.
    pub(super) samples: Samples,
}

/// The settings that are tried: a flag by which a program's help is known to have it, and its values.
const FLAGS: &[(&str, &[&str])] = &[("-fa", &["0", "1"]), ("--repack", &["1", "0"]), ("-rtr", &["0", "1"])];

impl Peer {
    /// The program at `path`.
    pub(super) fn new(given: &Path) -> Result<Peer> {
        let path = given.canonicalize().with_context(|| format!("there is no {}", given.display()))?;
        let help = Command::new(&path)
            .arg("--help")
            .output()
            .with_context(|| format!("cannot run {}", path.display()))?;
        let help = String::from_utf8_lossy(&[help.stdout, help.stderr].concat()).into_owned();
        ensure!(help.contains("--n-prompt"), "{} is no llama-bench", path.display());
        let batched = Some(path.with_file_name("llama-batched-bench")).filter(|path| path.exists());
        Ok(Peer { label: label(given), batched, settings: settings(&help), path })
    }

    /// Takes part in the rounds of one case.
    pub(super) fn race<'a>(&'a self, computing: &Computing) -> Race<'a> {
        let threads =
            computing.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from));
        Race { peer: self, threads: threads.unwrap_or(1), figures: BTreeMap::new() }
    }
}

/// The runs of one case.
pub(super) struct Race<'a> {
    peer: &'a Peer,
    threads: usize,
    /// Prefill and decode, by settings.
    figures: BTreeMap<usize, [Samples; 2]>,
}

impl Race<'_> {
    /// Runs the settings that are still in the race.
    pub(super) fn run(&mut self, file: &Path, case: Case) -> Result<()> {
        if case.process {
            return Ok(());
        }
        let runners: Vec<usize> = match self.figures.is_empty() {
            true => (0..self.peer.settings.len()).collect(),
            false => {
                let mut best: Vec<usize> =
                    [0, 1].into_iter().filter_map(|which| self.leader(which)).collect();
                best.dedup();
                best
            }
        };
        for index in runners {
            let settings = &self.peer.settings[index];
            let made = match case.sequences {
                1 => self.bench(file, case, settings)?,
                _ => self.batched_bench(file, case, settings)?,
            };
            let figures = self.figures.entry(index).or_default();
            figures.iter_mut().zip(made).for_each(|(all, made)| all.0.extend(made.0));
        }
        Ok(())
    }

    /// The setting of the highest median.
    fn leader(&self, which: usize) -> Option<usize> {
        let medians = self.figures.iter().map(|(&index, figures)| (index, figures[which].median()));
        medians
            .filter(|(_, median)| !median.is_nan())
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(index, _)| index)
    }

    /// What the best settings gave.
    pub(super) fn best(self) -> Reached {
        let best = |which: usize| match self.leader(which) {
            None => Best::default(),
            Some(index) => Best {
                settings: self.peer.settings[index].join(" "),
                samples: self.figures[&index][which].clone(),
            },
        };
        Reached { label: self.peer.label.clone(), prefill: best(0), decode: best(1) }
    }

    fn bench(&self, file: &Path, case: Case, settings: &[&str]) -> Result<[Samples; 2]> {
        let mut command = Command::new(&self.peer.path);
        command.arg("-m").arg(file).args(settings).args(["-o", "json", "-r", "1"]);
        command.args(["-t", &self.threads.to_string()]);
        command.args(["-p", &case.prompt.to_string(), "-n", &case.generate.to_string()]);
        if case.depth > 0 {
            command.args(["-d", &case.depth.to_string()]);
        }
        results_of_bench(&run(&mut command)?.stdout)
    }

    fn batched_bench(&self, file: &Path, case: Case, settings: &[&str]) -> Result<[Samples; 2]> {
        let Some(path) = &self.peer.batched else { return Ok(Default::default()) };
        let mut command = Command::new(path);
        // It has no switch for repacking of its own name: those settings are left out.
        let flash = settings.iter().skip_while(|flag| **flag != "-fa").nth(1).unwrap_or(&"0");
        let context = case.sequences * (case.positions() + 32);
        command.arg("-m").arg(file).args(["-fa", if *flash == "1" { "on" } else { "off" }]);
        command.args(["-t", &self.threads.to_string(), "-c", &context.to_string()]);
        command.args(["-npp", &case.depth.to_string(), "-ntg", &case.generate.to_string()]);
        command.args(["-npl", &case.sequences.to_string(), "--output-format", "jsonl"]);
        results_of_batched_bench(&run(&mut command)?.stdout)
    }
}

/// Every combination of the settings that the program has.
fn settings(help: &str) -> Vec<Vec<&'static str>> {
    let has = |flag: &str| help.split(|c: char| c.is_whitespace() || c == ',').any(|word| word == flag);
    let mut all = vec![Vec::new()];
    for (flag, values) in FLAGS.iter().filter(|(flag, _)| has(flag)) {
        all = all
            .iter()
            .flat_map(|settings: &Vec<_>| {
                values.iter().map(move |value| [&settings[..], &[*flag, *value]].concat())
            })
            .collect();
    }
    all
}

/// What the program is called in tables: the folder that it was built in.
fn label(path: &Path) -> String {
    let above =
        path.parent().filter(|folder| !folder.ends_with("bin")).or(path.parent().and_then(Path::parent));
    let name = above.and_then(Path::file_name).unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

fn results_of_bench(text: &[u8]) -> Result<[Samples; 2]> {
    let results: Vec<Value> = serde_json::from_slice(text).context("llama-bench wrote no JSON")?;
    let mut figures = [Samples::default(), Samples::default()];
    for result in &results {
        let samples: Samples =
            result["samples_ts"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        ensure!(!samples.is_empty(), "llama-bench gave no samples_ts");
        let which = usize::from(result["n_gen"].as_u64().unwrap_or(0) > 0);
        figures[which].0.extend(samples.0);
    }
    Ok(figures)
}

fn results_of_batched_bench(text: &[u8]) -> Result<[Samples; 2]> {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().find(|line| line.trim_start().starts_with('{'));
    let result: Value = serde_json::from_str(line.context("llama-batched-bench gave no result")?)?;
    let speed = |name: &str| -> Samples { result[name].as_f64().into_iter().collect() };
    Ok([Samples::default(), speed("speed_tg")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_those_that_the_help_lists() {
        let help = "  -fa, --flash-attn <on|off>\n --repack <0|1>  (default: 1)";
        assert_eq!(
            settings(help),
            [
                ["-fa", "0", "--repack", "1"],
                ["-fa", "0", "--repack", "0"],
                ["-fa", "1", "--repack", "1"],
                ["-fa", "1", "--repack", "0"],
            ]
        );
        assert_eq!(settings("--n-prompt"), [[""; 0]]);
    }

    #[test]
    fn results_are_told_apart() {
        let text = br#"[{"n_prompt":512,"n_gen":0,"samples_ts":[100.5,101.0]},{"n_prompt":0,"n_gen":64,"samples_ts":[30.0]}]"#;
        let [prefill, decode] = results_of_bench(text).unwrap();
        assert_eq!((prefill.0, decode.0), (vec![100.5, 101.0], vec![30.0]));
        assert!(results_of_bench(b"[{\"n_gen\":1}]").is_err());

        let text = b"\n{\"n_kv_max\": 5120, \"pl\": 16, \"speed_pp\": 80.1, \"speed_tg\": 61.5}\n";
        let [prefill, decode] = results_of_batched_bench(text).unwrap();
        assert_eq!((prefill.0, decode.0), (vec![], vec![61.5]));
    }

    #[test]
    fn a_peer_is_named_after_its_folder() {
        assert_eq!(label(Path::new("/peers/llama.cpp/bin/llama-bench")), "llama.cpp");
        assert_eq!(label(Path::new("/peers/ik/llama-bench")), "ik");
    }
}
