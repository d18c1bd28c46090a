//! Top-p (nucleus sampling): the fewest best candidates that together have probability p.

use super::weight::weight;
use super::{Candidates, Kind, LogitsStep, Param, Sampler, StepContext, candidates::difference};

pub(super) const SAMPLER: Sampler = Sampler {
    name: "top_p",
    doc: "keep the fewest most likely tokens whose probabilities add up to p",
    params: &[TOP_P],
    build: |settings| {
        let p = settings.float(&TOP_P);
        (p < 1.0).then(|| Box::new(TopP(p)) as _)
    },
};

const TOP_P: Param = Param {
    name: "top_p",
    flags: &["top-p"],
    kind: Kind::Float { default: 0.95, min: 0.0, max: 1.0 },
    doc: "choose among the most likely tokens that together have this probability; 1: among all",
};

struct TopP(f64);

impl LogitsStep for TopP {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut StepContext<'_>) {
        let Some(best) = candidates.best() else { return };
        let needed = (self.0 * candidates.total_weight() as f64).ceil() as u128;
        let mut sum = 0;
        candidates.keep_until(|c| {
            sum += u128::from(weight(difference(c, best)));
            sum >= needed
        });
    }
}
