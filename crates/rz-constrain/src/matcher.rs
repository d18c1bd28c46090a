//! Where a text is in what it must be.

use llguidance::Matcher;
use llguidance::api::StopReason;
use rz_engine::{Constraint, TokenMask};

use crate::compiler::one_line;

/// A text that is held to a grammar.
pub(crate) struct Held(pub(crate) Matcher);

impl Constraint for Held {
    fn allow(&mut self, mask: &mut TokenMask) -> Result<(), String> {
        let allowed = self.0.compute_mask_or_eos().map_err(|error| self.shown(&error))?;
        mask.words_mut().iter_mut().zip(allowed.as_slice()).for_each(|(word, allowed)| *word |= allowed);
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        self.0.consume_token(token).map_err(|error| self.shown(&error))
    }

    fn is_complete(&self) -> bool {
        self.0.is_stopped() && self.0.stop_reason().is_ok()
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(Held(self.0.clone()))
    }
}

impl Held {
    fn shown(&self, error: &impl std::fmt::Display) -> String {
        match self.0.stop_reason() {
            StopReason::LexerTooComplex | StopReason::ParserTooComplex => {
                "what the answer must be is too complex to be followed: make it simpler".to_owned()
            }
            _ => format!("the answer cannot go on as it must: {}", one_line(&error.to_string())),
        }
    }
}
