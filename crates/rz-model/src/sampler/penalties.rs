//! Penalties on tokens that have occurred lately.

use super::{Candidates, Kind, LogitsStep, Param, Sampler, StepContext};

pub(super) const SAMPLER: Sampler = Sampler {
    name: "penalties",
    doc: "make tokens that occurred lately less likely",
    params: &[REPEAT_PENALTY, REPEAT_LAST_N],
    build: |settings| {
        let penalty = settings.float(&REPEAT_PENALTY);
        let last = usize::try_from(settings.int(&REPEAT_LAST_N)).unwrap_or(usize::MAX);
        (penalty != 1.0 && last > 0).then(|| Box::new(Penalties { penalty, last, ids: Vec::new() }) as _)
    },
};

const REPEAT_PENALTY: Param = Param {
    name: "repeat_penalty",
    flags: &["repeat-penalty"],
    kind: Kind::Float { default: 1.0, min: 0.01, max: 100.0 },
    doc: "divide positive and multiply negative scores of tokens that occurred lately by this; 1: off",
};

const REPEAT_LAST_N: Param = Param {
    name: "repeat_last_n",
    flags: &["repeat-last-n"],
    kind: Kind::Int { default: 64, min: -1, max: i64::MAX },
    doc: "how many of the latest tokens, the prompt's included, are penalised; 0: none, -1: all",
};

struct Penalties {
    penalty: f64,
    last: usize,
    /// The ids in the window, sorted, each once.
    ids: Vec<u32>,
}

impl LogitsStep for Penalties {
    fn apply(&mut self, candidates: &mut Candidates, context: &mut StepContext<'_>) {
        let window = context.history.len().saturating_sub(self.last);
        self.ids.clear();
        self.ids.extend_from_slice(&context.history[window..]);
        self.ids.sort_unstable();
        self.ids.dedup();
        candidates.map_ids(&self.ids, |c| {
            let logit = f64::from(c.logit);
            (if logit > 0.0 { logit / self.penalty } else { logit * self.penalty }) as f32
        });
    }
}
