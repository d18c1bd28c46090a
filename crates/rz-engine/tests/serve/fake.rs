//! A back end for many sequences, whose scores are a function of the tokens it finds in its own storage.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use rz_model::sampler::{Candidates, Chain, Settings, StepContext};
use rz_model::{Batch, Forward, KV_BLOCK, KvGroup, ModelError, NO_BLOCK, Output, Want};

/// More than the tokenizer has: what is beyond must never be chosen.
pub(crate) const VOCABULARY: usize = 270;

const TOKENS: usize = 266;

/// What a position holds: which it is, and a hash over all tokens up to it.
type Slot = Option<(usize, u64)>;

pub(crate) struct Fake {
    groups: Vec<KvGroup>,
    max_batch: usize,
    storage: Vec<Vec<Slot>>,
    pub(crate) log: Arc<Mutex<Log>>,
    /// Batches of which this is true fail, and nothing is computed.
    pub(crate) fails: Box<dyn FnMut(&Batch<'_>) -> bool + Send>,
}

/// What a fake was asked for.
#[derive(Default)]
pub(crate) struct Log {
    /// Tokens, sequences and rows of logits of each batch.
    pub(crate) batches: Vec<(usize, usize, usize)>,
    /// Positions before the tokens of all batches.
    pub(crate) positions: usize,
}

pub(crate) fn group(window: Option<usize>, blocks: usize) -> KvGroup {
    KvGroup { window, blocks, block_bytes: KV_BLOCK * 16 }
}

impl Fake {
    pub(crate) fn new(groups: &[KvGroup], max_batch: usize) -> Fake {
        let storage = groups.iter().map(|group| vec![None; group.blocks * KV_BLOCK]).collect();
        let log = Arc::new(Mutex::new(Log::default()));
        Fake { groups: groups.to_vec(), max_batch, storage, log, fails: Box::new(|_| false) }
    }
}

fn mix(hash: u64, token: u32) -> u64 {
    (hash ^ u64::from(token + 1)).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
}

/// A hash over a text.
pub(crate) fn hash(prefix: &[u32]) -> u64 {
    prefix.iter().fold(0xcbf2_9ce4_8422_2325, |hash, token| mix(hash, *token))
}

/// Scores that depend on every token of a text and on their order.
pub(crate) fn scores(hash: u64) -> Vec<f32> {
    let score = |i: u64| {
        let mixed = (hash ^ i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed >> 40) as f32 / (1 << 21) as f32 - 4.0 + if i >= TOKENS as u64 { 1e6 } else { 0.0 }
    };
    (0..VOCABULARY as u64).map(score).collect()
}

/// The hidden state of a text.
pub(crate) fn hidden(hash: u64) -> [f32; 3] {
    [0, 20, 40].map(|shift| (hash >> shift & 0xfffff) as f32 / 1e5)
}

/// By definition: the tokens that follow a prompt.
pub(crate) fn continuation(prompt: &[u32], settings: &Settings, seed: u64, tokens: usize) -> Vec<u32> {
    let (mut candidates, mut history) = (Candidates::new(), prompt.to_vec());
    let mut chain = Chain::new(settings).unwrap();
    for _ in 0..tokens {
        candidates.load(&scores(hash(&history))[..TOKENS]).unwrap();
        let mut context = StepContext::new(seed, &history, prompt.len());
        history.push(chain.choose(&mut candidates, &mut context).unwrap());
    }
    history.split_off(prompt.len())
}

impl Forward for Fake {
    fn vocabulary(&self) -> usize {
        VOCABULARY
    }

    fn layers(&self) -> usize {
        2
    }

    fn kv_groups(&self) -> &[KvGroup] {
        &self.groups
    }

    fn max_batch(&self) -> usize {
        self.max_batch
    }

    fn copy_block(&mut self, group: usize, from: u32, to: u32) {
        let from = from as usize * KV_BLOCK;
        self.storage[group].copy_within(from..from + KV_BLOCK, to as usize * KV_BLOCK);
    }

    fn read_block(&self, group: usize, block: u32, bytes: &mut Vec<u8>) {
        for slot in &self.storage[group][block as usize * KV_BLOCK..][..KV_BLOCK] {
            let (position, hash) = slot.map_or((u64::MAX, 0), |(position, hash)| (position as u64, hash));
            bytes.extend([position, hash].into_iter().flat_map(u64::to_le_bytes));
        }
    }

    fn write_block(&mut self, group: usize, block: u32, bytes: &[u8]) -> Result<(), ModelError> {
        let expected = KV_BLOCK * 16;
        if bytes.len() != expected {
            return Err(ModelError::KvBlock { found: bytes.len(), expected });
        }
        let slots = &mut self.storage[group][block as usize * KV_BLOCK..];
        for (slot, bytes) in slots.iter_mut().zip(bytes.chunks_exact(16)) {
            let [position, hash] = [0, 8].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()));
            *slot = (position != u64::MAX).then_some((position as usize, hash));
        }
        Ok(())
    }

    fn forward(
        &mut self,
        batch: &Batch<'_>,
        layers: Range<usize>,
        out: &mut Output,
    ) -> Result<(), ModelError> {
        assert_eq!(layers, 0..2);
        batch.check(VOCABULARY, &self.groups, self.max_batch)?;
        if (self.fails)(batch) {
            return Err(ModelError::Batch("broken on purpose".into()));
        }
        let rows = batch.outputs.iter().filter(|want| **want == Want::Logits).count();
        let sequences = batch.tables.len() / self.groups.len();
        let mut log = self.log.lock().unwrap();
        log.batches.push((batch.tokens.len(), sequences, rows));
        log.positions += batch.positions.iter().sum::<u32>() as usize;
        drop(log);
        out.logits.clear();
        out.hidden.clear();
        for (at, (&token, &position)) in batch.tokens.iter().zip(batch.positions).enumerate() {
            let position = position as usize;
            let mut hashes = Vec::new();
            for (index, group) in self.groups.iter().enumerate() {
                let table = batch.tables[batch.sequences[at] as usize * self.groups.len() + index];
                let slot = |at: usize| {
                    assert_ne!(table[at / KV_BLOCK], NO_BLOCK, "position {at} is gone");
                    table[at / KV_BLOCK] as usize * KV_BLOCK + at % KV_BLOCK
                };
                let storage = &mut self.storage[index];
                // All that the position sees is where it should be, and what it should be.
                let first = group.window.map_or(0, |window| (position + 1).saturating_sub(window));
                for seen in first..position {
                    assert_eq!(storage[slot(seen)].map(|(held, _)| held), Some(seen), "what is stored");
                }
                let before = match position {
                    0 => hash(&[]),
                    _ => storage[slot(position - 1)].expect("the position before").1,
                };
                storage[slot(position)] = Some((position, mix(before, token)));
                hashes.push(mix(before, token));
            }
            assert!(hashes.iter().all(|hash| *hash == hashes[0]), "groups that hold different texts");
            match batch.outputs[at] {
                Want::Nothing => {}
                Want::Logits => out.logits.extend(scores(hashes[0])),
                Want::Hidden => out.hidden.extend(hidden(hashes[0])),
            }
        }
        Ok(())
    }
}
