//! What goes into a forward pass and what comes out.

use std::ops::Range;

pub use rz_kernels::KV_BLOCK;

use crate::ModelError;

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

    /// How much of a sequence can be continued after `computed` positions of it went through
    /// here: `wanted` positions from its start, or fewer when keys and values that they need
    /// are no longer kept.
    fn resumable(&self, computed: usize, wanted: usize) -> usize {
        wanted.min(computed)
    }

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

    fn resumable(&self, computed: usize, wanted: usize) -> usize {
        (**self).resumable(computed, wanted)
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

impl Batch<'_> {
    /// Checks the batch against the limits of a back end.
    ///
    /// # Errors
    /// When the parts differ in length, the batch is empty or longer than `max_batch`, or it
    /// names a token, sequence, position or block that does not exist.
    pub fn check(&self, vocabulary: usize, kv_blocks: usize, max_batch: usize) -> Result<(), ModelError> {
        let invalid = |why: String| Err(ModelError::Batch(why));
        let tokens = self.tokens.len();
        if tokens == 0 || tokens > max_batch {
            return invalid(format!("{tokens} tokens, expected 1 to {max_batch}"));
        }
        if [self.positions.len(), self.sequences.len(), self.outputs.len()] != [tokens; 3] {
            return invalid(format!(
                "{tokens} tokens with {} positions, {} sequences and {} outputs",
                self.positions.len(),
                self.sequences.len(),
                self.outputs.len()
            ));
        }
        if let Some(token) = self.tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return invalid(format!("token id {token}, but the model has {vocabulary} tokens"));
        }
        if let Some(block) = self.tables.iter().copied().flatten().find(|&&block| block as usize >= kv_blocks)
        {
            return invalid(format!("KV block {block}, but there are {kv_blocks}"));
        }
        for (&position, &sequence) in self.positions.iter().zip(self.sequences) {
            let Some(table) = self.tables.get(sequence as usize) else {
                return invalid(format!("sequence {sequence}, but there are {}", self.tables.len()));
            };
            if position as usize >= table.len() * KV_BLOCK {
                return invalid(format!("position {position}, but its table has {} blocks", table.len()));
            }
        }
        Ok(())
    }
}
