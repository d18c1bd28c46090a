//! Penalties on tokens of the answer, by whether and how often they occurred in it.
//!
//! `score - presence - frequency * count`, over all tokens generated so far; the prompt's do not count.

use super::{Candidates, Kind, LogitsStep, Param, Sampler, StepContext};

pub(super) const SAMPLER: Sampler = Sampler {
    name: "frequency",
    doc: "make tokens less likely the more often the answer has them",
    params: &[FREQUENCY_PENALTY, PRESENCE_PENALTY],
    build: |settings| {
        let (frequency, presence) = (settings.float(&FREQUENCY_PENALTY), settings.float(&PRESENCE_PENALTY));
        (frequency != 0.0 || presence != 0.0).then(|| {
            Box::new(Frequency { frequency, presence, counted: 0, ids: Vec::new(), counts: Vec::new() }) as _
        })
    },
};

const FREQUENCY_PENALTY: Param = Param {
    name: "frequency_penalty",
    flags: &["frequency-penalty"],
    kind: Kind::Float { default: 0.0, min: -100.0, max: 100.0 },
    doc: "subtract this from a token's score for each time that the answer has it; 0: off",
};

const PRESENCE_PENALTY: Param = Param {
    name: "presence_penalty",
    flags: &["presence-penalty"],
    kind: Kind::Float { default: 0.0, min: -100.0, max: 100.0 },
    doc: "subtract this from the scores of tokens that the answer has; 0: off",
};

struct Frequency {
    frequency: f64,
    presence: f64,
    /// How many tokens of the answer were counted.
    counted: usize,
    /// The ids of the answer, sorted, each once.
    ids: Vec<u32>,
    /// How often the answer has each of them.
    counts: Vec<u32>,
}

impl LogitsStep for Frequency {
    fn apply(&mut self, candidates: &mut Candidates, context: &mut StepContext<'_>) {
        let answer = context.history.get(context.prompt_len..).unwrap_or_default();
        if answer.len() < self.counted {
            // The sequence lost a part: what is left is counted anew.
            (self.counted, self.ids, self.counts) = (0, Vec::new(), Vec::new());
        }
        for id in &answer[self.counted..] {
            match self.ids.binary_search(id) {
                Ok(at) => self.counts[at] += 1,
                Err(at) => {
                    self.ids.insert(at, *id);
                    self.counts.insert(at, 1);
                }
            }
        }
        self.counted = answer.len();
        candidates.map_ids(&self.ids, |c| {
            let count = self.ids.binary_search(&c.id).map_or(0, |at| self.counts[at]);
            (f64::from(c.logit) - self.presence - self.frequency * f64::from(count)) as f32
        });
    }
}
