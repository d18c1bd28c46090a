//! A back end whose scores are a function of the tokens it finds in its own storage.

#![allow(dead_code, unreachable_pub)] // each test binary uses its own part

use std::ops::Range;

use rz_model::{Batch, Forward, KV_BLOCK, KvGroup, ModelError, Output, Want};

type Scores = Box<dyn Fn(&[u32]) -> Vec<f32>>;

/// Stores each token with its position where the block table says, and computes scores from what the
/// table leads to: a wrong position, table or order shows in the scores.
pub struct Fake {
    pub vocabulary: usize,
    pub max_batch: usize,
    pub scores: Scores,
    /// Token and position of each slot.
    storage: Vec<Option<(u32, u32)>>,
    groups: [KvGroup; 1],
    /// Length of each batch, and how many of its tokens wanted logits.
    pub calls: Vec<(usize, usize)>,
    /// The call that fails, after it has overwritten its slots.
    pub fail_at: Option<usize>,
    /// Is called with the number of each call before it runs.
    pub on_call: Box<dyn Fn(usize)>,
}

pub const VOCABULARY: usize = 97;

/// Scores that depend on every token of the prefix and on its order.
pub fn toy(prefix: &[u32]) -> Vec<f32> {
    let hash = prefix.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, token| {
        (hash ^ u64::from(token + 1)).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
    });
    (0..VOCABULARY as u64)
        .map(|i| {
            let mixed = (hash ^ i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed >> 40) as f32 / (1 << 21) as f32 - 4.0
        })
        .collect()
}

/// The best token, of equal ones the first: the oracle of greedy choice.
pub fn best(scores: &[f32]) -> u32 {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter().position(|s| *s == top).unwrap() as u32
}

impl Fake {
    pub fn new(blocks: usize, max_batch: usize) -> Self {
        Self::scored(VOCABULARY, blocks, max_batch, toy)
    }

    pub fn scored(
        vocabulary: usize,
        blocks: usize,
        max_batch: usize,
        scores: impl Fn(&[u32]) -> Vec<f32> + 'static,
    ) -> Self {
        let storage = vec![None; blocks * KV_BLOCK];
        Self {
            vocabulary,
            max_batch,
            scores: Box::new(scores),
            storage,
            groups: [KvGroup { window: None, blocks, block_bytes: KV_BLOCK * 8 }],
            calls: vec![],
            fail_at: None,
            on_call: Box::new(|_| {}),
        }
    }
}

impl Forward for Fake {
    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn layers(&self) -> usize {
        3
    }

    fn kv_groups(&self) -> &[KvGroup] {
        &self.groups
    }

    fn copy_block(&mut self, _group: usize, from: u32, to: u32) {
        let from = from as usize * KV_BLOCK;
        self.storage.copy_within(from..from + KV_BLOCK, to as usize * KV_BLOCK);
    }

    fn read_block(&self, _group: usize, block: u32, bytes: &mut Vec<u8>) {
        for slot in &self.storage[block as usize * KV_BLOCK..][..KV_BLOCK] {
            let (token, position) = slot.unwrap_or((u32::MAX, u32::MAX));
            bytes.extend([token, position].into_iter().flat_map(u32::to_le_bytes));
        }
    }

    fn write_block(&mut self, _group: usize, block: u32, bytes: &[u8]) -> Result<(), ModelError> {
        let (slots, rest) = bytes.as_chunks::<8>();
        if slots.len() != KV_BLOCK || !rest.is_empty() {
            return Err(ModelError::KvBlock { found: bytes.len(), expected: KV_BLOCK * 8 });
        }
        for (slot, bytes) in self.storage[block as usize * KV_BLOCK..].iter_mut().zip(slots) {
            let [token, position] = [0, 4].map(|at| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i])));
            *slot = (token != u32::MAX).then_some((token, position));
        }
        Ok(())
    }

    fn max_batch(&self) -> usize {
        self.max_batch
    }

    fn forward(
        &mut self,
        batch: &Batch<'_>,
        layers: Range<usize>,
        out: &mut Output,
    ) -> Result<(), ModelError> {
        let len = batch.tokens.len();
        assert_eq!(layers, 0..3);
        assert!(len > 0 && len <= self.max_batch, "a batch of {len}");
        assert_eq!([batch.positions.len(), batch.sequences.len(), batch.outputs.len()], [len; 3]);
        assert_eq!(batch.tables.len(), 1);
        if let Some(token) = batch.tokens.iter().find(|t| **t as usize >= self.vocabulary) {
            return Err(ModelError::Batch(format!("token {token}")));
        }
        (self.on_call)(self.calls.len());
        self.calls.push((len, batch.outputs.iter().filter(|w| **w == Want::Logits).count()));
        out.logits.clear();
        for i in 0..len {
            let table = batch.tables[batch.sequences[i] as usize];
            let slot = |at: usize| table[at / KV_BLOCK] as usize * KV_BLOCK + at % KV_BLOCK;
            let position = batch.positions[i] as usize;
            self.storage[slot(position)] = Some((batch.tokens[i], position as u32));
            if batch.outputs[i] == Want::Logits {
                let prefix: Vec<u32> = (0..=position)
                    .map(|at| {
                        let (token, stored) = self.storage[slot(at)].expect("a slot that was written");
                        assert_eq!(stored as usize, at, "the position of what is stored");
                        token
                    })
                    .collect();
                out.logits.extend((self.scores)(&prefix));
            }
        }
        if self.fail_at == Some(self.calls.len() - 1) {
            for i in 0..len {
                let at = batch.positions[i] as usize;
                self.storage[batch.tables[0][at / KV_BLOCK] as usize * KV_BLOCK + at % KV_BLOCK] = None;
            }
            out.logits.clear();
            return Err(ModelError::Batch("broken on purpose".into()));
        }
        Ok(())
    }
}
