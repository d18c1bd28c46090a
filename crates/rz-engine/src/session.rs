//! One sequence over a back end: its KV blocks and what is in them.

use rz_model::sampler::Candidates;
use rz_model::{Batch, Forward, Output, Want};

use crate::EngineError;
use crate::tables::Tables;

/// Logits that one pass may compute, in bytes: when those of many tokens are wanted, chunks get shorter.
const MAX_LOGITS: usize = 64 << 20;

/// One sequence of tokens over a back end, with its keys and values in the back end's KV storage.
///
/// What has been fed stays until it is truncated, and a prompt that begins with the same tokens pays only
/// for the rest: a chat keeps its past from turn to turn.
///
/// After an error the session holds the tokens of the chunks that succeeded, and can be used on.
pub struct Session<F> {
    forward: F,
    tables: Tables,
    /// The tokens whose keys and values are stored.
    tokens: Vec<u32>,
    context: usize,
    chunk: usize,
    output: Output,
    positions: Vec<u32>,
    sequences: Vec<u32>,
    wants: Vec<Want>,
    candidates: Candidates,
}

impl<F: Forward> Session<F> {
    /// An empty session that may use the whole KV storage, in chunks as long as the back end takes.
    pub fn new(forward: F) -> Self {
        let max_batch = forward.max_batch().max(1);
        let longest = forward.kv_groups().iter().map(|group| group.longest_sequence(max_batch)).min();
        Self {
            tables: Tables::new(forward.kv_groups()),
            context: longest.unwrap_or(0).min(u32::MAX as usize),
            chunk: max_batch,
            forward,
            tokens: Vec::new(),
            output: Output::default(),
            positions: Vec::new(),
            sequences: Vec::new(),
            wants: Vec::new(),
            candidates: Candidates::new(),
        }
    }

    /// Limits the context to this many tokens. It cannot exceed what the KV storage holds.
    #[must_use]
    pub fn with_context(mut self, tokens: usize) -> Self {
        self.context = self.context.min(tokens);
        self
    }

    /// Feeds prompts in chunks of at most this many tokens. Results do not depend on it.
    #[must_use]
    pub fn with_chunk(mut self, tokens: usize) -> Self {
        self.chunk = tokens.clamp(1, self.forward.max_batch().max(1));
        self
    }

    /// How many tokens the sequence can hold.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The longest chunk in which a prompt is fed.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// The tokens whose keys and values are stored.
    pub fn cached(&self) -> &[u32] {
        &self.tokens
    }

    /// The back end.
    pub fn forward(&self) -> &F {
        &self.forward
    }

    /// Ends the session.
    pub fn into_forward(self) -> F {
        self.forward
    }

    /// Forgets all tokens but the first `len`; all of them where a layer with a window no longer has what
    /// continuing from `len` would need.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.tokens.len() {
            return;
        }
        self.tokens.truncate(if self.tables.hold(len) { len } else { 0 });
        self.tables.truncate(self.tokens.len());
    }

    /// Forgets what differs from the prompt, and at least the prompt's last token, whose logits have to be
    /// computed anew. Returns how many of the prompt's tokens are left to be used again.
    pub fn reuse(&mut self, prompt: &[u32]) -> usize {
        let common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        self.truncate(common.min(prompt.len().saturating_sub(1)));
        self.tokens.len()
    }

    /// Appends tokens, in chunks, and returns the logits of the last one.
    ///
    /// # Errors
    /// When there are no tokens, when they do not fit into the context (nothing is fed then), or when the
    /// back end fails.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], EngineError> {
        let last = tokens.len().checked_sub(1).ok_or(EngineError::EmptyPrompt)?;
        self.feed_each(tokens, last, |_, _| {})?;
        Ok(&self.output.logits[self.last_row()..])
    }

    /// Appends tokens, in chunks, and calls `each` with the index in `tokens` and the logits of every one
    /// from index `from` on.
    ///
    /// # Errors
    /// As for [`feed`](Self::feed), except that no tokens are no error.
    pub fn feed_each(
        &mut self,
        tokens: &[u32],
        from: usize,
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<(), EngineError> {
        self.check_fit(tokens.len())?;
        let vocabulary = self.forward.vocabulary();
        let rows = (MAX_LOGITS / size_of::<f32>() / vocabulary.max(1)).max(1);
        let mut start = 0;
        while start < tokens.len() {
            let end = tokens.len().min(start + self.chunk).min(start.max(from).saturating_add(rows));
            self.pass(&tokens[start..end], from.saturating_sub(start))?;
            for (index, row) in (start.max(from)..end).zip(self.output.logits.chunks_exact(vocabulary.max(1)))
            {
                each(index, row);
            }
            start = end;
        }
        Ok(())
    }

    /// What may follow the token fed last, of the ids below `vocabulary`.
    pub(crate) fn candidates(&mut self, vocabulary: usize) -> Result<&mut Candidates, EngineError> {
        let logits = &self.output.logits[self.last_row()..];
        self.candidates.load(&logits[..vocabulary.min(logits.len())])?;
        Ok(&mut self.candidates)
    }

    /// Where the logits of the token fed last begin.
    fn last_row(&self) -> usize {
        self.output.logits.len().saturating_sub(self.forward.vocabulary())
    }

    fn check_fit(&self, more: usize) -> Result<(), EngineError> {
        let tokens = self.tokens.len().saturating_add(more);
        if tokens > self.context {
            return Err(EngineError::ContextFull { tokens, context: self.context });
        }
        Ok(())
    }

    /// One pass over at most a chunk of tokens, with logits from index `from` on.
    pub(crate) fn pass(&mut self, tokens: &[u32], from: usize) -> Result<(), EngineError> {
        let start = self.tokens.len();
        self.check_fit(tokens.len())?;
        // The context is at most what all blocks hold, and this sequence is the only one.
        let end = start + tokens.len();
        let room = self.tables.extend(start, end);
        room.map_err(|context| EngineError::ContextFull { tokens: end, context })?;
        self.positions.clear();
        self.positions.extend((start as u32..).take(tokens.len()));
        self.sequences.clear();
        self.sequences.resize(tokens.len(), 0);
        self.wants.clear();
        self.wants.resize(from.min(tokens.len()), Want::Nothing);
        self.wants.resize(tokens.len(), Want::Logits);
        let batch = Batch {
            tokens,
            positions: &self.positions,
            sequences: &self.sequences,
            tables: &self.tables.of_the_sequence(),
            outputs: &self.wants,
        };
        let layers = 0..self.forward.layers();
        if let Err(error) = self.forward.forward(&batch, layers, &mut self.output) {
            // Nothing was computed: only the blocks go back.
            self.tables.truncate(start);
            return Err(error.into());
        }
        let rows = tokens.len() - from.min(tokens.len());
        assert_eq!(self.output.logits.len(), rows * self.forward.vocabulary(), "the back end's logits");
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }
}
