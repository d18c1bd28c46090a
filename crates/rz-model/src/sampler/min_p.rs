//! Min-p: only candidates at least p times as likely as the best one.

use super::weight::lowest_difference;
use super::{Candidates, Kind, LogitsStep, Param, Sampler, StepContext, candidates::difference};

pub(super) const SAMPLER: Sampler = Sampler {
    name: "min_p",
    doc: "keep the tokens that are at least p times as likely as the most likely one",
    params: &[MIN_P],
    build: |settings| {
        let p = settings.float(&MIN_P);
        (p > 0.0).then(|| Box::new(MinP { lowest: lowest_difference(p) }) as _)
    },
};

const MIN_P: Param = Param {
    name: "min_p",
    flags: &["min-p"],
    kind: Kind::Float { default: 0.05, min: 0.0, max: 1.0 },
    doc: "drop tokens less likely than this share of the most likely one; 0: drop none",
};

struct MinP {
    /// Of the score to the best one.
    lowest: f64,
}

impl LogitsStep for MinP {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut StepContext<'_>) {
        let Some(best) = candidates.best() else { return };
        candidates.retain(|c| difference(c, best) >= self.lowest);
    }
}
