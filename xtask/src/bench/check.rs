//! Comparing two builds: what they reach in turns within one run, and how much two runs of the same build differ.

use std::path::Path;

use anyhow::{Result, bail};

use super::{
    ModelFile,
    case::Case,
    stats::Samples,
    subject::{Computing, Figures, Subject},
};

/// A loss up to this is let pass.
const ALLOWED: f64 = 0.05;

/// How often a case that seems slower is measured before that is believed.
const ATTEMPTS: usize = 3;

/// Fails when `new` is slower than `base` in any case by more than 5% and the noise.
pub(super) fn run(
    new: &Path,
    base: &Path,
    computing: &Computing,
    files: &[ModelFile],
    cases: &[Case],
    rounds: usize,
) -> Result<()> {
    // The base takes part twice: what its two halves differ by is noise.
    let subjects = [("base", base), ("new", new), ("base", base)]
        .map(|(label, path)| Subject::rz(label, path, computing));
    let mut slower = 0;
    for file in files {
        for case in cases {
            let mut race = Race::default();
            for attempt in 1..=ATTEMPTS {
                for round in 0..rounds {
                    race.round(&subjects, file, *case, round)?;
                }
                if race.verdicts().iter().all(Verdict::passes) || attempt == ATTEMPTS {
                    break;
                }
                eprintln!("bench: {} {case} seems slower: once more", file.name);
            }
            for verdict in race.verdicts() {
                println!("{} {case}: {}", file.name, verdict.line());
                slower += usize::from(!verdict.passes());
            }
        }
    }
    if slower > 0 {
        bail!("{slower} figures are more than {:.0}% below the base's, noise apart", 100.0 * ALLOWED);
    }
    Ok(())
}

#[derive(Default)]
struct Race {
    /// What each subject gave.
    figures: [Figures; 3],
}

impl Race {
    fn round(&mut self, subjects: &[Subject; 3], file: &ModelFile, case: Case, round: usize) -> Result<()> {
        for i in 0..subjects.len() {
            // Nobody always runs first.
            let which = (i + round) % subjects.len();
            eprintln!("bench: {} {case}: {}", file.name, subjects[which].label);
            self.figures[which].join(subjects[which].run(&file.path, case)?);
        }
        Ok(())
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let [base, new, again] = self.figures.each_ref().map(rates);
        let all = base.iter().zip(&new).zip(&again);
        all.filter(|((_, (_, new)), _)| !new.is_empty())
            .map(|(((what, base), (_, new)), (_, again))| Verdict::of(what, base, new, again))
            .collect()
    }
}

/// What is compared: more is better everywhere, so seconds are turned into how often a second.
fn rates(figures: &Figures) -> [(&'static str, Samples); 3] {
    let process = figures.process.0.iter().map(|seconds| 1.0 / seconds).collect();
    [("prefill", figures.prefill.clone()), ("decode", figures.decode.clone()), ("process", process)]
}

struct Verdict {
    what: &'static str,
    base: f64,
    new: f64,
    /// Half of what the base's own figures are apart, as a share.
    noise: f64,
}

impl Verdict {
    fn of(what: &'static str, base: &Samples, new: &Samples, again: &Samples) -> Verdict {
        let both: Samples = base.0.iter().chain(&again.0).copied().collect();
        let apart = (base.median() / again.median()).ln().abs();
        Verdict { what, base: both.median(), new: new.median(), noise: apart.max(both.spread()) }
    }

    fn passes(&self) -> bool {
        self.new / self.base >= 1.0 - ALLOWED - self.noise
    }

    fn line(&self) -> String {
        format!(
            "{} {:.2} to {:.2} a second, ratio {:.3}, noise {:.3}: {}",
            self.what,
            self.base,
            self.new,
            self.new / self.base,
            self.noise,
            if self.passes() { "passes" } else { "SLOWER" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(base: &[f64], new: &[f64], again: &[f64]) -> Verdict {
        let samples = |figures: &[f64]| Samples(figures.to_vec());
        Verdict::of("decode", &samples(base), &samples(new), &samples(again))
    }

    #[test]
    fn a_loss_beyond_five_per_cent_and_noise_fails() {
        assert!(verdict(&[100.0, 100.0], &[96.0, 96.0], &[100.0, 100.0]).passes());
        assert!(!verdict(&[100.0, 100.0], &[94.0, 94.0], &[100.0, 100.0]).passes());
        assert!(verdict(&[100.0, 110.0], &[94.0, 94.0], &[90.0, 100.0]).passes(), "lost in the noise");
        assert!(verdict(&[100.0], &[150.0], &[100.0]).passes());
    }

    #[test]
    fn every_metric_that_was_measured_is_judged() {
        let figures = |decode: f64| Figures { decode: Samples(vec![decode]), ..Figures::default() };
        let race = Race { figures: [figures(10.0), figures(5.0), figures(10.0)] };
        let verdicts = race.verdicts();
        assert_eq!(verdicts.len(), 1);
        assert!(verdicts[0].line().contains("SLOWER"));

        let process = |seconds: f64| Figures { process: Samples(vec![seconds]), ..Figures::default() };
        let race = Race { figures: [process(1.0), process(0.5), process(1.0)] };
        assert!(race.verdicts()[0].passes() && race.verdicts()[0].new == 2.0);
    }
}
