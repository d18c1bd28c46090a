//! Which tokens may come next: the door for grammars and schemas.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rz_model::sampler::Candidates;

/// Restricts an answer, token by token.
///
/// For each token, [`allow`](Self::allow) is asked first, one of the tokens it allows is chosen, and
/// [`accept`](Self::accept) is told which. Where the text may end, `allow` allows the tokens that end it; they
/// are not accepted, but end the answer.
pub trait Constraint: Send {
    /// Allows tokens in `mask`, which comes with none allowed.
    ///
    /// # Errors
    /// Says why the answer cannot go on. It ends with that.
    fn allow(&mut self, mask: &mut TokenMask) -> Result<(), String>;

    /// Takes note of the token that was chosen.
    ///
    /// # Errors
    /// Says why the answer cannot go on. It ends with that.
    fn accept(&mut self, token: u32) -> Result<(), String>;

    /// Whether the text is complete and nothing can follow.
    fn is_complete(&self) -> bool;

    /// The same constraint in the same state, for another answer.
    fn fork(&self) -> Box<dyn Constraint>;
}

/// A set of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u32>,
    len: usize,
}

impl TokenMask {
    /// No token of a vocabulary of `len`.
    pub fn new(len: usize) -> TokenMask {
        TokenMask { words: vec![0; len.div_ceil(32)], len }
    }

    /// Size of the vocabulary.
    #[allow(clippy::len_without_is_empty)] // says nothing about which tokens are in the set
    pub fn len(&self) -> usize {
        self.len
    }

    /// Allows a token. Ids beyond the vocabulary are passed over.
    pub fn allow(&mut self, token: u32) {
        if (token as usize) < self.len {
            self.words[token as usize / 32] |= 1 << (token % 32);
        }
    }

    /// Allows a token no longer.
    pub fn forbid(&mut self, token: u32) {
        if let Some(word) = self.words.get_mut(token as usize / 32) {
            *word &= !(1 << (token % 32));
        }
    }

    /// Whether a token is allowed.
    pub fn is_allowed(&self, token: u32) -> bool {
        self.words.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
    }

    /// Allows no token.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// The set as bits: token `i` is bit `i % 32` of word `i / 32`. Bits beyond the vocabulary mean nothing.
    pub fn words_mut(&mut self) -> &mut [u32] {
        &mut self.words
    }
}

/// Why a constraint cannot go on.
pub(crate) enum Broken {
    /// What it says.
    Said(String),
    /// It panicked, which ends one answer and not all.
    Bug,
}

/// Leaves those candidates that a constraint allows. False: nothing can follow.
pub(crate) fn narrow(
    constraint: &mut dyn Constraint,
    mask: &mut TokenMask,
    candidates: &mut Candidates,
) -> Result<bool, Broken> {
    mask.clear();
    let complete =
        guarded(|| if constraint.is_complete() { Ok(true) } else { constraint.allow(mask).map(|()| false) })?;
    narrow_to(mask, candidates);
    Ok(!complete)
}

/// Leaves those candidates that are in the set.
pub(crate) fn narrow_to(mask: &TokenMask, candidates: &mut Candidates) {
    let allowed: u32 = mask.words.iter().map(|word| word.count_ones()).sum();
    // A few are quicker to handle as a list.
    if (allowed as usize) < mask.len / 4 {
        candidates.retain(|c| mask.is_allowed(c.id));
    } else {
        candidates.map(|c| if mask.is_allowed(c.id) { c.logit } else { f32::NEG_INFINITY });
    }
}

/// Tells a constraint which token was chosen. True: nothing can follow.
pub(crate) fn accept(constraint: &mut dyn Constraint, token: u32) -> Result<bool, Broken> {
    guarded(|| constraint.accept(token).map(|()| constraint.is_complete()))
}

fn guarded<T>(ask: impl FnOnce() -> Result<T, String>) -> Result<T, Broken> {
    match catch_unwind(AssertUnwindSafe(ask)) {
        Ok(answer) => answer.map_err(Broken::Said),
        Err(_) => Err(Broken::Bug),
    }
}

impl Broken {
    /// A line for people.
    pub(crate) fn message(self) -> String {
        match self {
            Broken::Said(message) => message,
            Broken::Bug => "the constraint failed: this is a bug".into(),
        }
    }
}
