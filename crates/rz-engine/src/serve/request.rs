//! What a client asks for.

use std::time::Instant;

use rz_model::sampler::Settings;
use rz_tokenizer::DecodeOptions;

use super::Constraint;

/// What to compute, and when to end.
pub struct Request {
    /// The tokens to continue.
    pub prompt: Vec<u32>,
    /// Answers to give, each with a seed of its own: that of the request plus the answer's index. The prompt is
    /// computed once.
    pub n: usize,
    /// How tokens are chosen.
    pub sampling: Settings,
    /// The same seed and prompt give the same tokens.
    pub seed: u64,
    /// What is added to the scores of tokens before they are sampled; `-inf` excludes one.
    pub logit_bias: Vec<(u32, f32)>,
    /// The most tokens to generate; without it, until the model ends or the context is full.
    pub max_tokens: Option<usize>,
    /// Before so many tokens nothing stops: tokens that would are not chosen, stop strings are not looked for.
    pub min_tokens: usize,
    /// Texts that end the answer, and are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end the answer, and are not part of it, besides those of the model.
    pub stop_tokens: Vec<u32>,
    /// Goes on after tokens with which the model ends.
    pub ignore_eos: bool,
    /// Gives the log-probability of each token, and those of so many of the most likely ones.
    pub logprobs: Option<usize>,
    /// The same for the prompt's tokens.
    pub prompt_logprobs: Option<usize>,
    /// What is computed.
    pub want: Want,
    /// Requests with a higher priority come first, and take the room of those with a lower one; for each step of
    /// priority, before those of up to 1024 requests that came earlier.
    pub priority: i32,
    /// When to give up, finished or not.
    pub deadline: Option<Instant>,
    /// When the client asked; when the engine first saw it, if it is not said.
    pub arrived: Option<Instant>,
    /// Which tokens may come.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Uses what is kept of the prompt's beginning, and keeps this sequence for others.
    pub cache_prompt: bool,
    /// When the context is full, forgets a part of it and goes on.
    pub context_shift: Option<ContextShift>,
    /// How tokens become text. Continuing ones, without special tokens, unless told otherwise.
    pub decode: DecodeOptions,
}

impl Request {
    /// Continues the prompt once, with the default sampling, until the model ends or the context is full.
    pub fn new(prompt: Vec<u32>) -> Request {
        Request {
            prompt,
            n: 1,
            sampling: Settings::new(),
            seed: 0,
            logit_bias: Vec::new(),
            max_tokens: None,
            min_tokens: 0,
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            ignore_eos: false,
            logprobs: None,
            prompt_logprobs: None,
            want: Want::Generate,
            priority: 0,
            deadline: None,
            arrived: None,
            constraint: None,
            cache_prompt: true,
            context_shift: None,
            decode: DecodeOptions { continues: true, ..DecodeOptions::default() },
        }
    }
}

/// What is computed for a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Want {
    /// Its continuation.
    #[default]
    Generate,
    /// A vector that stands for it.
    Embed(Pooling),
}

/// Which of the prompt's hidden states make its vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pooling {
    /// The last token's.
    Last,
    /// The first token's.
    First,
    /// The mean of all.
    Mean,
}

/// How to go on when the context is full: the first `keep` tokens and the newer half of the others stay, and what
/// follows is computed anew from those, as if the text had been they.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContextShift {
    /// Tokens from the start that are never forgotten.
    pub keep: usize,
}
