//! Block tables of several sequences.

use std::ops::Range;

use rz_model::{KV_BLOCK, KvGroup, NO_BLOCK};
use rz_testkit::gguf::Random;

/// Tables in blocks that are taken anywhere, and given back as soon as nothing reads them.
pub(crate) struct Tables {
    groups: Vec<KvGroup>,
    free: Vec<Vec<u32>>,
    /// Of each sequence and group.
    pub(crate) tables: Vec<Vec<u32>>,
    random: Random,
}

impl Tables {
    pub(crate) fn new(groups: &[KvGroup], sequences: usize, seed: u64) -> Tables {
        Tables {
            groups: groups.to_vec(),
            free: groups.iter().map(|group| (0..group.blocks as u32).collect()).collect(),
            tables: vec![Vec::new(); sequences * groups.len()],
            random: Random::new(seed),
        }
    }

    /// Prepares a sequence for a batch with its tokens at these positions: they follow those of
    /// the batches before. There must be blocks enough.
    pub(crate) fn make_room(&mut self, sequence: usize, positions: Range<usize>) {
        let tables = &mut self.tables[sequence * self.groups.len()..];
        for ((group, free), table) in self.groups.iter().zip(&mut self.free).zip(tables) {
            let behind = group.first_needed(positions.start).min(table.len());
            for block in &mut table[..behind] {
                if *block != NO_BLOCK {
                    free.push(std::mem::replace(block, NO_BLOCK));
                }
            }
            while table.len() < positions.end.div_ceil(KV_BLOCK) {
                assert!(!free.is_empty(), "{group:?} has too few blocks");
                table.push(free.swap_remove(self.random.below(free.len() as u64) as usize));
            }
        }
    }

    /// As a batch names them.
    pub(crate) fn named(&self) -> Vec<&[u32]> {
        self.tables.iter().map(Vec::as_slice).collect()
    }
}
