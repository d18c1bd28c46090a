//! What goes into a forward pass and what comes out.

use std::ops::Range;

/// Positions that one KV block holds.
pub const KV_BLOCK: usize = 32;

/// What the caller wants of a token after the pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Only its keys and values.
    Nothing,
    /// The scores of every vocabulary entry as its successor.
    Logits,
    /// The normalised hidden state after the last layer.
    Hidden,
}

/// Tokens of any number of sequences, to be computed in one pass.
///
/// Tokens of one sequence come in order of position, and each token attends to
/// every earlier position of its own sequence, those in this batch included.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Token ids.
    pub tokens: &'a [u32],
    /// Position of each token in its sequence, from 0.
    pub positions: &'a [u32],
    /// The sequence of each token: an index into `tables`.
    pub sequences: &'a [u32],
    /// Block table of each sequence: entry `i` names the KV block that holds
    /// positions `i * KV_BLOCK..(i + 1) * KV_BLOCK`.
    pub tables: &'a [&'a [u32]],
    /// What is wanted of each token.
    pub outputs: &'a [Want],
}

/// Results of a pass; reused from pass to pass so that nothing is allocated.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Rows of the vocabulary's size, one for each [`Want::Logits`] in batch order.
    pub logits: Vec<f32>,
    /// Rows of the model's width, one for each [`Want::Hidden`] in batch order.
    pub hidden: Vec<f32>,
    /// The residual stream, tokens x width: written when a pass ends before the
    /// last layer, read when one starts after the first.
    pub residual: Vec<f32>,
}

/// A back end that can run the model. It owns the KV storage; the caller owns the block tables.
pub trait Forward {
    /// Entries of the vocabulary: the length of a row of logits.
    fn vocabulary(&self) -> usize;

    /// Layers of the model.
    fn layers(&self) -> usize;

    /// KV blocks that the storage holds; tables name blocks below this number.
    fn kv_blocks(&self) -> usize;

    /// Longest batch that one call takes.
    fn max_batch(&self) -> usize;

    /// Runs `layers` over the batch. The whole model is `0..self.layers()`.
    ///
    /// # Errors
    /// When the batch is inconsistent, longer than [`max_batch`](Self::max_batch), or names a
    /// token or block that does not exist. Nothing is computed then.
    fn forward(
        &mut self,
        batch: &Batch<'_>,
        layers: Range<usize>,
        out: &mut Output,
    ) -> Result<(), ModelError>;
}

impl<F: Forward + ?Sized> Forward for &mut F {
    fn vocabulary(&self) -> usize {
        (**self).vocabulary()
    }

    fn layers(&self) -> usize {
        (**self).layers()
    }

    fn kv_blocks(&self) -> usize {
        (**self).kv_blocks()
    }

    fn max_batch(&self) -> usize {
        (**self).max_batch()
    }

    fn forward(
        &mut self,
        batch: &Batch<'_>,
        layers: Range<usize>,
        out: &mut Output,
    ) -> Result<(), ModelError> {
        (**self).forward(batch, layers, out)
    }
}

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The batch breaks the contract of [`Forward::forward`].
    #[error("invalid batch: {0}")]
    Batch(String),
    /// The container is broken or lacks a key.
    #[error(transparent)]
    Format(#[from] rz_formats::FormatError),
    /// A sampler or one of its settings is not known by this name.
    #[error("no {what} is called `{name}`; there are: {known}")]
    UnknownSampler {
        /// "sampler" or "sampler setting".
        what: &'static str,
        /// The name that was given.
        name: String,
        /// The names that exist, separated by commas.
        known: String,
    },
    /// A sampler setting has a value that it does not take.
    #[error("sampler setting {name} cannot be {value}: it takes {expected}")]
    SamplerSetting {
        /// Name of the setting.
        name: String,
        /// The value that was given.
        value: String,
        /// The kind and range of values that it takes.
        expected: String,
    },
    /// The model computed a score that is not a number or is infinite.
    #[error(
        "the score of token {token} is {value}, not a finite number: the model's weights or arithmetic are broken"
    )]
    Score {
        /// The token.
        token: u32,
        /// Its score.
        value: f32,
    },
    /// Every token is excluded, so there is none to choose.
    #[error("no token is left to choose from: every score is -inf or every token was excluded")]
    NoCandidates,
}
