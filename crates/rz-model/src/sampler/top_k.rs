//! Top-k: only the k best candidates.

use super::{Candidates, Kind, LogitsStep, Param, Sampler, StepContext};

pub(super) const SAMPLER: Sampler = Sampler {
    name: "top_k",
    doc: "keep the k most likely tokens",
    params: &[TOP_K],
    build: |settings| match settings.int(&TOP_K) {
        ..=0 => None,
        k => Some(Box::new(TopK(usize::try_from(k).unwrap_or(usize::MAX)))),
    },
};

const TOP_K: Param = Param {
    name: "top_k",
    flags: &["top-k"],
    kind: Kind::Int { default: 40, min: -1, max: i64::MAX },
    doc: "choose among this many most likely tokens; 0 or -1: among all",
};

struct TopK(usize);

impl LogitsStep for TopK {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut StepContext<'_>) {
        candidates.keep_best(self.0);
    }
}
