//! Greedy choice: the best candidate, no draw.

use super::{Candidates, Kind, LogitsStep, Param, Sampler, StepContext};

pub(super) const SAMPLER: Sampler = Sampler {
    name: "greedy",
    doc: "keep only the most likely token; of equally likely ones, that of the lowest id",
    params: &[GREEDY],
    build: |settings| settings.bool(&GREEDY).then(|| Box::new(Greedy) as _),
};

const GREEDY: Param = Param {
    name: "greedy",
    flags: &["greedy"],
    kind: Kind::Bool { default: false },
    doc: "always take the most likely token (the same as temperature 0)",
};

pub(super) struct Greedy;

impl LogitsStep for Greedy {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut StepContext<'_>) {
        candidates.keep_best(1);
    }
}
