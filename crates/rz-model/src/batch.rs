//! What goes into a forward pass and what comes out.

use std::ops::Range;

pub use rz_kernels::KV_BLOCK;

use crate::{KvGroup, ModelError, NO_BLOCK};

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
    /// Block tables, those of a sequence one after the other: with `n` groups of layers, that
    /// of sequence `s` and group `g` is `tables[s * n + g]`. Entry `i` names the block of the
    /// group that holds positions `i * KV_BLOCK..(i + 1) * KV_BLOCK`; what lies behind the
    /// group's window may be [`NO_BLOCK`](crate::NO_BLOCK).
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

    /// The groups of layers whose keys and values lie in the same blocks, and how many blocks
    /// each has: tables of a group name blocks below that number. It never changes.
    fn kv_groups(&self) -> &[KvGroup];

    /// Longest batch that one call takes.
    fn max_batch(&self) -> usize;

    /// Copies a block of a group, so that a sequence can go on writing where another still reads.
    ///
    /// # Panics
    /// When there is no such group or block.
    fn copy_block(&mut self, group: usize, from: u32, to: u32);

    /// Appends what a block of a group holds, [`KvGroup::block_bytes`] bytes whose meaning is the
    /// back end's own: [`write_block`](Self::write_block) takes them back, in this build on this
    /// machine and with the same type of keys and values. Nothing in them detects damage.
    ///
    /// # Panics
    /// When there is no such group or block.
    fn read_block(&self, group: usize, block: u32, bytes: &mut Vec<u8>);

    /// Fills a block with what [`read_block`](Self::read_block) gave.
    ///
    /// # Errors
    /// When there are more or fewer bytes than a block has. Nothing is written then.
    ///
    /// # Panics
    /// When there is no such group or block.
    fn write_block(&mut self, group: usize, block: u32, bytes: &[u8]) -> Result<(), ModelError>;

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

    fn kv_groups(&self) -> &[KvGroup] {
        (**self).kv_groups()
    }

    fn max_batch(&self) -> usize {
        (**self).max_batch()
    }

    fn copy_block(&mut self, group: usize, from: u32, to: u32) {
        (**self).copy_block(group, from, to);
    }

    fn read_block(&self, group: usize, block: u32, bytes: &mut Vec<u8>) {
        (**self).read_block(group, block, bytes);
    }

    fn write_block(&mut self, group: usize, block: u32, bytes: &[u8]) -> Result<(), ModelError> {
        (**self).write_block(group, block, bytes)
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
    /// When the parts differ in length, the batch is empty or longer than `max_batch`, it
    /// names a token, sequence, position or block that does not exist, or a block that a token
    /// reads or writes is missing.
    pub fn check(&self, vocabulary: usize, groups: &[KvGroup], max_batch: usize) -> Result<(), ModelError> {
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
        let count = groups.len().max(1);
        if !self.tables.len().is_multiple_of(count) {
            let tables = self.tables.len();
            return invalid(format!("{tables} block tables, expected {count} for each sequence"));
        }
        for (tables, group) in self.tables.iter().zip(groups.iter().cycle()) {
            let exists = |&&block: &&u32| block == NO_BLOCK || (block as usize) < group.blocks;
            if let Some(block) = tables.iter().find(|block| !exists(block)) {
                return invalid(format!("KV block {block}, but there are {}", group.blocks));
            }
        }
        let mut start = 0;
        for run in self.sequences.chunk_by(|a, b| a == b) {
            self.check_run(run[0] as usize, &self.positions[start..start + run.len()], groups)?;
            start += run.len();
        }
        Ok(())
    }

    // Whether the tables of a sequence have every block that tokens at these positions need.
    fn check_run(&self, sequence: usize, positions: &[u32], groups: &[KvGroup]) -> Result<(), ModelError> {
        let invalid = |why: String| Err(ModelError::Batch(why));
        let start = sequence.saturating_mul(groups.len());
        let Some(tables) = self.tables.get(start..start.saturating_add(groups.len())) else {
            let sequences = self.tables.len() / groups.len().max(1);
            return invalid(format!("sequence {sequence}, but there are {sequences}"));
        };
        let (Some(&first), Some(&last)) = (positions.iter().min(), positions.iter().max()) else {
            return Ok(());
        };
        for (table, group) in tables.iter().zip(groups) {
            let needed = group.first_needed(first as usize)..last as usize / KV_BLOCK + 1;
            let Some(entries) = table.get(needed.clone()) else {
                return invalid(format!("position {last}, but its table has {} blocks", table.len()));
            };
            if let Some(missing) = needed.zip(entries).find(|(_, block)| **block == NO_BLOCK) {
                let place = missing.0;
                return invalid(format!(
                    "position {first} needs entry {place} of its table, which is no block"
                ));
            }
        }
        Ok(())
    }
}
