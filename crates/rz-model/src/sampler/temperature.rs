//! Temperature: scores are divided by it, so that low ones make likely tokens more likely.

use super::{Candidates, Kind, LogitsStep, Param, Sampler, StepContext};

pub(super) const SAMPLER: Sampler = Sampler {
    name: "temperature",
    doc: "divide the scores by the temperature: below 1 the likely tokens become likelier, above 1 less so",
    params: &[TEMPERATURE],
    build: |settings| {
        let temperature = settings.float(&TEMPERATURE);
        (temperature != 1.0).then(|| Box::new(Temperature(temperature)) as _)
    },
};

const TEMPERATURE: Param = Param {
    name: "temperature",
    flags: &["temp", "temperature"],
    kind: Kind::Float { default: 0.8, min: 0.0, max: 100.0 },
    doc: "randomness: 0 always takes the most likely token, 1 is the model's own distribution",
};

struct Temperature(f64);

impl LogitsStep for Temperature {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut StepContext<'_>) {
        // Scores too large to be divided lie so far apart that only the best has a chance.
        if self.0 == 0.0 || f64::from(candidates.magnitude()) / self.0 > f64::from(f32::MAX) {
            candidates.keep_best(1);
        } else {
            candidates.map(|c| (f64::from(c.logit) / self.0) as f32);
        }
    }
}
