//! Samplers applied one after the other, and the final draw.

use super::{Candidates, LogitsStep, Settings, StepContext};
use crate::ModelError;

/// The samplers of one sequence.
pub struct Chain {
    steps: Vec<Box<dyn LogitsStep>>,
}

impl Chain {
    /// The chain that the settings ask for.
    ///
    /// # Errors
    /// When a setting belongs to a sampler that the order leaves out.
    pub fn new(settings: &Settings) -> Result<Self, ModelError> {
        Ok(Self { steps: settings.samplers()?.iter().filter_map(|s| (s.build)(settings)).collect() })
    }

    /// The chain that always takes the best candidate.
    pub fn greedy() -> Self {
        Self { steps: vec![Box::new(super::greedy::Greedy)] }
    }

    /// Puts a step before all others.
    pub fn push_front(&mut self, step: Box<dyn LogitsStep>) {
        self.steps.insert(0, step);
    }

    /// Applies the steps in order and draws one of the candidates they leave.
    ///
    /// The draw takes the first 64 random bits of the context, whatever the steps take.
    ///
    /// # Errors
    /// [`ModelError::NoCandidates`] when none is left.
    pub fn choose(
        &mut self,
        candidates: &mut Candidates,
        context: &mut StepContext<'_>,
    ) -> Result<u32, ModelError> {
        let random = context.rng.next_u64();
        for step in &mut self.steps {
            step.apply(candidates, context);
        }
        candidates.choose(random).ok_or(ModelError::NoCandidates)
    }
}
