//! Which layers share blocks of keys and values, and how many blocks there are.

use crate::{KV_BLOCK, KvType, ModelError, ModelSpec};

/// The entry of a block table where there is no block: behind the window of the group.
pub const NO_BLOCK: u32 = u32::MAX;

/// Layers that see equally far back: their keys and values of the same positions lie in the
/// same blocks, which are taken and given back together. Ids of blocks are each group's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvGroup {
    /// A position sees itself and the `window - 1` before it; all where there is none.
    pub window: Option<usize>,
    /// Blocks of the group; their ids are `0..blocks`.
    pub blocks: usize,
    /// Bytes of a block, over all layers of the group.
    pub block_bytes: usize,
}

/// How much room there is for keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvRoom {
    /// What so many sequences take, each as long as
    /// [`LoadOptions::context`](crate::LoadOptions::context).
    Sequences(usize),
    /// So many bytes. Groups get of them what sequences as long as the context take of each.
    Bytes(usize),
}

impl KvGroup {
    /// Of a sequence's table, the first block that its tokens from `position` on read. Those
    /// before it can be given back once `position` is the next to be computed, and are
    /// [`NO_BLOCK`] from then on.
    pub fn first_needed(&self, position: usize) -> usize {
        self.window.map_or(0, |window| position.saturating_add(1).saturating_sub(window) / KV_BLOCK)
    }

    /// Whether a sequence with this table can be continued at `position`: none of the blocks
    /// that it reads is missing.
    pub fn holds(&self, table: &[u32], position: usize) -> bool {
        let needed = self.first_needed(position)..position.div_ceil(KV_BLOCK);
        // A window of one position reads nothing that was there before.
        let needed = needed.start.min(needed.end)..needed.end;
        table.get(needed).is_some_and(|blocks| !blocks.contains(&NO_BLOCK))
    }

    /// How long a sequence can become that has all blocks of the group to itself, is fed in
    /// batches of at most `max_batch`, and gives back what falls out of the window.
    pub fn longest_sequence(&self, max_batch: usize) -> usize {
        match self.window {
            Some(window) if self.blocks >= turns(window, max_batch) => usize::MAX,
            _ => self.blocks.saturating_mul(KV_BLOCK),
        }
    }

    /// The groups of a model, in the order in which its layers name them.
    pub(crate) fn of(
        spec: &ModelSpec,
        kv_type: KvType,
        context: usize,
        max_batch: usize,
        room: KvRoom,
    ) -> Result<Vec<KvGroup>, ModelError> {
        kv_type.check(spec)?;
        let mut groups: Vec<KvGroup> = Vec::new();
        let all = context.max(1).div_ceil(KV_BLOCK);
        for layer in &spec.layers {
            let attention = &layer.attention;
            let block_bytes = attention.kv_heads * kv_type.head_bytes(attention);
            match groups.iter_mut().find(|group| group.window == attention.window) {
                Some(group) => group.block_bytes += block_bytes,
                None => {
                    let window = attention.window;
                    let blocks = window.map_or(all, |window| all.min(turns(window, max_batch)));
                    groups.push(KvGroup { window, blocks, block_bytes });
                }
            }
        }
        // Up to here they hold one sequence.
        let needed = |group: &KvGroup| group.blocks.saturating_mul(group.block_bytes);
        let needed = groups.iter().map(needed).fold(0, usize::saturating_add);
        if let KvRoom::Bytes(bytes) = room
            && bytes < needed
        {
            return Err(ModelError::KvRoom { bytes, needed, context });
        }
        for group in &mut groups {
            let blocks = match room {
                KvRoom::Sequences(sequences) => group.blocks.saturating_mul(sequences.max(1)),
                KvRoom::Bytes(bytes) => {
                    let share = bytes as u128 * group.blocks as u128 / needed.max(1) as u128;
                    usize::try_from(share).unwrap_or(usize::MAX)
                }
            };
            group.blocks = blocks;
        }
        Ok(groups)
    }
}

// The blocks that a sequence takes turns with. The first token of a batch sees back to the
// window's start while the last is written: `window + max_batch - 1` positions, wherever the
// blocks begin.
fn turns(window: usize, max_batch: usize) -> usize {
    window.saturating_add(max_batch).saturating_sub(2) / KV_BLOCK + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(window: Option<usize>, blocks: usize) -> KvGroup {
        KvGroup { window, blocks, block_bytes: 1 }
    }

    #[test]
    fn blocks_are_needed_while_a_position_in_them_is_seen() {
        for window in [1, 2, 31, 32, 33, 70, 1000] {
            for position in 0..300 {
                let first = (0..=position).find(|seen| position - seen < window).unwrap();
                assert_eq!(group(Some(window), 4).first_needed(position), first / KV_BLOCK);
            }
        }
        assert_eq!(group(None, 4).first_needed(1000), 0);
    }

    #[test]
    fn a_table_holds_what_nothing_is_missing_of() {
        let windowed = group(Some(40), 9);
        let table = [NO_BLOCK, NO_BLOCK, 5, 0];
        // 104 sees 65..=104, 103 sees 64..=103, 102 sees 63.
        let held: Vec<usize> = (0..=140).filter(|&position| windowed.holds(&table, position)).collect();
        assert_eq!(held, [0].into_iter().chain(103..=128).collect::<Vec<_>>());
        assert!(!group(None, 9).holds(&table, 128));
        assert!(group(None, 9).holds(&table[2..], 64) && !group(None, 9).holds(&table[2..], 65));
        assert!(windowed.holds(&[], 0));
        let one = group(Some(1), 9);
        assert!(one.holds(&[NO_BLOCK; 2], 64) && !one.holds(&[NO_BLOCK; 3], 65));
    }

    /// The blocks of a windowed group are enough for any length, and one fewer is not.
    #[test]
    fn a_sequence_takes_turns_with_its_blocks() {
        for (window, batch) in [(1, 1), (1, 40), (32, 16), (33, 1), (40, 47), (4096, 512)] {
            let most = |start: usize| {
                let end = start + batch;
                end.div_ceil(KV_BLOCK) - group(Some(window), 0).first_needed(start)
            };
            let most = (0..10_000).map(most).max().unwrap();
            assert!(most <= turns(window, batch), "{most} blocks, {window} and {batch}");
            assert!(most + 1 >= turns(window, batch), "{most} blocks, {window} and {batch}");
            let [enough, fewer] = [0, 1].map(|less| group(Some(window), turns(window, batch) - less));
            assert_eq!(enough.longest_sequence(batch), usize::MAX);
            assert_eq!(fewer.longest_sequence(batch), fewer.blocks * KV_BLOCK);
        }
        assert_eq!(group(None, 7).longest_sequence(16), 7 * KV_BLOCK);
    }
}
