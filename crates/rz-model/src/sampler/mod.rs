//! Choosing the next token from a model's scores.
//!
//! A [`Chain`] of [`LogitsStep`]s narrows and reshapes the [`Candidates`], then one of those left is
//! drawn. Every step is one file beside this one and one row in [`SAMPLERS`]; command-line arguments,
//! JSON schemas and documentation are made from the rows.
//!
//! ```
//! use rz_model::sampler::{Candidates, Chain, Settings, StepContext};
//!
//! let mut settings = Settings::new();
//! settings.set("temperature", 0.7)?;
//! settings.set("top_k", 2)?;
//! let mut chain = Chain::new(&settings)?;
//!
//! let mut candidates = Candidates::new(); // reused for every token: no allocation after the first
//! let mut history = vec![3, 1, 4]; // the prompt
//! for _ in 0..5 {
//!     let scores = [0.1, 2.0, -1.0, 1.5, f32::NEG_INFINITY]; // what the model gave
//!     candidates.load(&scores)?;
//!     let token = chain.choose(&mut candidates, &mut StepContext::new(42, &history, 3))?;
//!     assert!(token == 1 || token == 3);
//!     history.push(token);
//! }
//! # Ok::<(), rz_model::ModelError>(())
//! ```
//!
//! # What is fixed
//!
//! - Of equal scores, that of the lower token id counts as the better one.
//! - The token at index `n` of a sequence is drawn with the numbers that [`Rng`] gives for (seed, `n`),
//!   whatever else the process does and however the tokens before it came about.
//! - Probabilities are 40-bit integers computed with plain IEEE operations ([`Candidates::choose`]), so
//!   their sums do not depend on the order of the candidates, and the same scores and seed give the same
//!   token on every platform.
//! - Scores that are `-inf` are no candidates. A NaN or `+inf` among the scores is an error, and so is a
//!   row without any candidate.

mod candidates;
mod chain;
mod frequency;
mod greedy;
mod min_p;
mod penalties;
mod rng;
mod settings;
mod temperature;
mod top_k;
mod top_p;
mod weight;

pub use candidates::{Candidate, Candidates};
pub use chain::Chain;
pub use rng::{Rng, philox4x32_10};
pub use settings::{Kind, Param, Settings, Value};

/// Every sampler, in the order in which a chain applies them unless it is told another.
pub static SAMPLERS: &[Sampler] = &[
    penalties::SAMPLER,
    frequency::SAMPLER,
    greedy::SAMPLER,
    top_k::SAMPLER,
    top_p::SAMPLER,
    min_p::SAMPLER,
    temperature::SAMPLER,
];

/// A sampler as data: what it is called, what can be set, how it is made.
pub struct Sampler {
    /// Name in a chain's order.
    pub name: &'static str,
    /// What it does, in one line.
    pub doc: &'static str,
    /// Its settings.
    pub params: &'static [Param],
    /// Makes the step; `None` when the settings turn it off.
    pub build: fn(&Settings) -> Option<Box<dyn LogitsStep>>,
}

/// One step of a [`Chain`]: narrows or reshapes the candidates of one sequence.
///
/// A step may keep state from token to token, so each sequence has a chain of its own. It must not
/// panic on any finite scores, and should leave at least one candidate.
pub trait LogitsStep: Send {
    /// Applies the step to the candidates for the next token.
    fn apply(&mut self, candidates: &mut Candidates, context: &mut StepContext<'_>);
}

/// What a step may know of the sequence besides the scores.
#[derive(Clone, Debug)]
pub struct StepContext<'a> {
    /// Every token of the sequence so far, the prompt's first.
    pub history: &'a [u32],
    /// How many tokens of the history are the prompt.
    pub prompt_len: usize,
    /// The random numbers of the next token.
    pub rng: Rng,
}

impl<'a> StepContext<'a> {
    /// The context of the token that comes after `history`.
    pub fn new(seed: u64, history: &'a [u32], prompt_len: usize) -> Self {
        Self { history, prompt_len, rng: Rng::new(seed, history.len() as u64) }
    }
}
