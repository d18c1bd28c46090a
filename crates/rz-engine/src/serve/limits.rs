//! Which requests are taken, decided before anything is queued.

use std::sync::Arc;
use std::time::Duration;

use rz_model::ModelError;
use rz_model::sampler::Chain;
use rz_tokenizer::Tokenizer;

use super::{Request, Want};

/// What an engine takes, as its options and its model have it. The same for as long as it lives, and cheap to clone.
#[derive(Clone)]
pub struct Limits {
    /// Tokens that a sequence can have.
    pub context: usize,
    /// Requests that may wait.
    pub max_queue: usize,
    /// Answers to one request.
    pub max_choices: usize,
    /// Likeliest tokens of which log-probabilities are given.
    pub max_logprobs: usize,
    /// Tokens that the tokenizer and the model both have.
    pub vocabulary: usize,
    pub(super) tokenizer: Arc<Tokenizer>,
}

/// Why a request is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Too many requests wait.
    #[error("{waiting} requests are waiting and no more are taken: try again later")]
    QueueFull {
        /// How many wait.
        waiting: usize,
    },
    /// There is nothing to continue.
    #[error("the prompt has no tokens: give at least one")]
    EmptyPrompt,
    /// The prompt does not fit into the context.
    #[error("the prompt has {tokens} tokens and the context holds {context}: shorten the prompt")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that fit.
        context: usize,
    },
    /// A token that the model does not have.
    #[error("{place} names token {token}, and the model has {vocabulary}")]
    Token {
        /// Which parameter.
        place: &'static str,
        /// The token.
        token: u32,
        /// Tokens of the model.
        vocabulary: usize,
    },
    /// A parameter whose value is not taken.
    #[error("{name} is {found}, expected {expected}")]
    Parameter {
        /// Its name.
        name: &'static str,
        /// Its value.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// Sampler settings that make no chain.
    #[error(transparent)]
    Sampling(#[from] ModelError),
    /// No requests are taken any more; those there are get their answers.
    #[error("no requests are taken any more: the engine is about to stop")]
    Draining,
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
}

impl Limits {
    /// Checks a request that may have come from anywhere.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn check(&self, request: &Request) -> Result<(), Refusal> {
        let range = |name, value: usize, most: usize| match value {
            _ if value > most => {
                let expected = format!("at most {most}");
                Err(Refusal::Parameter { name, found: value.to_string(), expected })
            }
            _ => Ok(()),
        };
        if request.prompt.is_empty() {
            return Err(Refusal::EmptyPrompt);
        }
        if request.prompt.len() > self.context {
            return Err(Refusal::PromptTooLong { tokens: request.prompt.len(), context: self.context });
        }
        self.check_tokens("the prompt", request.prompt.iter().copied())?;
        self.check_tokens("logit_bias", request.logit_bias.iter().map(|(token, _)| *token))?;
        self.check_tokens("stop_tokens", request.stop_tokens.iter().copied())?;
        if request.n == 0 {
            return Err(parameter("n", "0", "at least 1"));
        }
        range("n", request.n, self.max_choices)?;
        range("logprobs", request.logprobs.unwrap_or(0), self.max_logprobs)?;
        range("prompt_logprobs", request.prompt_logprobs.unwrap_or(0), self.max_logprobs)?;
        if let Some((_, bias)) = request.logit_bias.iter().find(|(_, b)| b.is_nan() || *b == f32::INFINITY) {
            return Err(parameter("logit_bias", &bias.to_string(), "a number or -inf"));
        }
        if request.stop.iter().any(String::is_empty) {
            return Err(parameter("stop", "an empty text", "texts of at least one character"));
        }
        if let Some(most) = request.max_tokens.filter(|most| *most < request.min_tokens) {
            let expected = format!("at most max_tokens, {most}");
            return Err(parameter("min_tokens", &request.min_tokens.to_string(), &expected));
        }
        if let Some(shift) = request.context_shift
            && shift.keep.saturating_add(2) > self.context
        {
            return Err(parameter("keep", &shift.keep.to_string(), "less than the context holds"));
        }
        if let Want::Embed(_) = request.want
            && request.n > 1
        {
            return Err(parameter("n", &request.n.to_string(), "1 for an embedding"));
        }
        Chain::new(&request.sampling)?;
        Ok(())
    }

    fn check_tokens(
        &self,
        place: &'static str,
        mut tokens: impl Iterator<Item = u32>,
    ) -> Result<(), Refusal> {
        let vocabulary = self.vocabulary;
        match tokens.find(|token| *token as usize >= vocabulary) {
            Some(token) => Err(Refusal::Token { place, token, vocabulary }),
            None => Ok(()),
        }
    }
}

fn parameter(name: &'static str, found: &str, expected: &str) -> Refusal {
    Refusal::Parameter { name, found: found.into(), expected: expected.into() }
}

/// How an engine schedules.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Answers that are worked on at a time.
    pub max_running: usize,
    /// Requests that may wait.
    pub max_queue: usize,
    /// Answers to one request.
    pub max_choices: usize,
    /// Likeliest tokens of which log-probabilities are given.
    pub max_logprobs: usize,
    /// Tokens that a sequence can have; without it, what the storage of keys and values holds.
    pub context: Option<usize>,
    /// How long a step may compute prompts: they are cut into chunks so that those who read along, and those who
    /// come, wait no longer. As long as a short prompt takes it may in any case, and for twice as long where one
    /// request has been alone for a while.
    pub target_step: Duration,
    /// The shortest chunk that prompts are cut into to keep the target.
    pub min_chunk: usize,
    /// The longest chunk; without it, the model's longest batch.
    pub max_chunk: Option<usize>,
    /// Names the model and everything that its keys and values depend on, such as their type: what was saved under
    /// one name is not restored under another.
    pub identity: String,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            max_running: 32,
            max_queue: 256,
            max_choices: 128,
            max_logprobs: 20,
            context: None,
            target_step: Duration::from_millis(10),
            min_chunk: 8,
            max_chunk: None,
            identity: String::new(),
        }
    }
}
