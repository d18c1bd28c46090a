//! What comes back.

use std::time::Duration;

/// Names a request for as long as the engine lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Something happened to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Which request.
    pub request: RequestId,
    /// Which of its answers, from 0.
    pub choice: usize,
    /// What.
    pub kind: EventKind,
}

/// What happens to an answer. The texts of all its events together are the answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum EventKind {
    /// Work on it begins.
    Started {
        /// How long it waited.
        queued: Duration,
        /// Tokens of the prompt that need not be computed.
        cached_tokens: usize,
    },
    /// The prompt's tokens with their log-probabilities, where those were asked for: of the first answer, before
    /// its first token.
    Prompt(Vec<Scored>),
    /// A token was generated.
    Token {
        /// Its id.
        id: u32,
        /// The text that became certain with it, often but not always its own: characters come whole, and text
        /// that may turn out to be a stop string waits.
        text: String,
        /// Its log-probability, where that was asked for.
        score: Option<TokenScore>,
    },
    /// Text that waited and belongs to the answer, at its end.
    Text(String),
    /// The vector that was asked for.
    Embedding(Vec<f32>),
    /// The end. Nothing comes after it.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Tokens.
        usage: Usage,
        /// Times.
        timings: Timings,
    },
}

/// A token of a prompt, with how likely the model took it to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Its id.
    pub id: u32,
    /// `None` for the first token, which nothing predicts.
    pub score: Option<TokenScore>,
}

/// How likely a token was: the model's own view, before anything changed the scores.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScore {
    /// The logarithm of its probability.
    pub logprob: f32,
    /// The most likely tokens and the logarithms of their probabilities, the likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// Something stopped it.
    Stop(StopCause),
    /// As many tokens as were asked for, or as fit.
    Length {
        /// Whether the context was full, rather than `max_tokens` reached.
        context_full: bool,
    },
    /// It was cancelled.
    Cancelled,
    /// Its deadline passed.
    Deadline,
    /// Nothing can follow under its constraint.
    ConstraintEnd,
    /// Its constraint cannot go on, and says why.
    ConstraintFailed(String),
    /// What was asked for is no text, and complete.
    Complete,
    /// It failed; the others go on.
    Error(String),
}

/// What stopped an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// This token, with which the model ends.
    EndOfGeneration(u32),
    /// This one of the stop tokens.
    Token(u32),
    /// The stop string of this index.
    String(usize),
}

/// Tokens that an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that did not have to be computed.
    pub cached_tokens: usize,
    /// Tokens generated, without one that ended the answer.
    pub completion_tokens: usize,
}

/// Times that an answer took, by the clock that steps were called with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Before work on it began.
    pub queued: Duration,
    /// From then until its prompt was computed.
    pub prefill: Duration,
    /// From then to the end.
    pub decode: Duration,
    /// From its arrival to the first token; zero without one.
    pub first_token: Duration,
}
