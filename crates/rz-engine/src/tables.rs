//! The block tables of one sequence that has a KV storage to itself.

use rz_model::{KV_BLOCK, KvGroup, NO_BLOCK};

use crate::cache::BlockPool;

/// A table for each group of layers, and who owns the group's blocks.
pub(crate) struct Tables {
    groups: Vec<KvGroup>,
    pools: Vec<BlockPool>,
    tables: Vec<Vec<u32>>,
}

impl Tables {
    /// Empty tables over all blocks of the groups.
    pub(crate) fn new(groups: &[KvGroup]) -> Tables {
        Tables {
            groups: groups.to_vec(),
            pools: groups.iter().map(|group| BlockPool::new(group.blocks)).collect(),
            tables: vec![Vec::new(); groups.len()],
        }
    }

    /// The tables as a batch names them.
    pub(crate) fn of_the_sequence(&self) -> Vec<&[u32]> {
        self.tables.iter().map(Vec::as_slice).collect()
    }

    /// Makes room for positions below `end`, of which those from `start` on are yet to be
    /// computed. Blocks that they do not see are given back when others are wanted, the oldest
    /// first, so that as much as possible can be gone back to. Fails with the positions that
    /// there is room for.
    pub(crate) fn extend(&mut self, start: usize, end: usize) -> Result<(), usize> {
        for ((group, pool), table) in self.groups.iter().zip(&mut self.pools).zip(&mut self.tables) {
            while table.len() < end.div_ceil(KV_BLOCK) {
                let unseen = group.first_needed(start).min(table.len());
                let taken = pool.take().or_else(|| {
                    let oldest = table[..unseen].iter_mut().find(|block| **block != NO_BLOCK)?;
                    Some(std::mem::replace(oldest, NO_BLOCK))
                });
                table.push(taken.ok_or(table.len() * KV_BLOCK)?);
            }
        }
        Ok(())
    }

    /// Whether the sequence can be continued at `position`.
    pub(crate) fn hold(&self, position: usize) -> bool {
        self.groups.iter().zip(&self.tables).all(|(group, table)| group.holds(table, position))
    }

    /// Gives back what holds none of the first `len` positions.
    pub(crate) fn truncate(&mut self, len: usize) {
        for (table, pool) in self.tables.iter_mut().zip(&mut self.pools) {
            let rest = len.div_ceil(KV_BLOCK).min(table.len());
            for block in table.drain(rest..).filter(|&block| block != NO_BLOCK) {
                pool.release(block);
            }
        }
    }
}
