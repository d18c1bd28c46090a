//! Which tokens may come next: the door for grammars and schemas.

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
