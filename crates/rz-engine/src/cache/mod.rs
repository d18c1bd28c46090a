//! Blocks of keys and values that sequences share: tables, prefixes that are found again, copies on writing.

mod pool;
mod prefix;

use rz_model::{KV_BLOCK, KvGroup, NO_BLOCK};

pub(crate) use pool::BlockPool;
use prefix::{PrefixTree, ROOT, Tokens};

/// Nodes of the tree for each block there is: those without blocks, behind windows, come on top.
const NODES_PER_BLOCK: usize = 4;

/// The blocks of every group, and the prefixes that they hold.
///
/// A full block is named by its tokens and all before them, and never written again: a sequence that begins with
/// the same tokens uses it too. When nobody does, it is kept until room is needed.
pub(crate) struct KvCache {
    groups: Vec<KvGroup>,
    pools: Vec<BlockPool>,
    tree: PrefixTree,
    evictions: u64,
}

/// The blocks of one sequence.
#[derive(Debug)]
pub(crate) struct Table {
    /// For each group, the block of every 32 positions.
    blocks: Vec<Vec<u32>>,
    /// For each group, how many blocks fell out of the window.
    unseen: Vec<usize>,
    /// Positions whose keys and values are stored.
    len: usize,
    /// The last block that is named, and how many are.
    tip: u32,
    named: usize,
    /// Whether further blocks are to be named.
    names: bool,
}

/// A block to be copied before either sequence goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) group: usize,
    pub(crate) from: u32,
    pub(crate) to: u32,
}

impl KvCache {
    /// A cache over all blocks of the groups.
    pub(crate) fn new(groups: &[KvGroup]) -> KvCache {
        let blocks: usize = groups.iter().map(|group| group.blocks).sum();
        KvCache {
            groups: groups.to_vec(),
            pools: groups.iter().map(|group| BlockPool::new(group.blocks)).collect(),
            tree: PrefixTree::new(groups.len(), blocks.saturating_mul(NODES_PER_BLOCK)),
            evictions: 0,
        }
    }

    /// The groups.
    pub(crate) fn groups(&self) -> &[KvGroup] {
        &self.groups
    }

    /// The blocks of a group.
    pub(crate) fn pool(&self, group: usize) -> &BlockPool {
        &self.pools[group]
    }

    /// Blocks that were kept and had to make room.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// An empty table, whose blocks will not be found by others.
    pub(crate) fn table(&mut self) -> Table {
        self.tree.hold(ROOT);
        let groups = self.groups.len();
        Table {
            blocks: vec![Vec::new(); groups],
            unseen: vec![0; groups],
            len: 0,
            tip: ROOT,
            named: 0,
            names: false,
        }
    }

    /// A table that begins with as many of the first `most` tokens as are held: whole blocks of them, and only as
    /// far as every group has what a continuation there sees. What will be added to it can be found again.
    pub(crate) fn attach(&mut self, token: impl Fn(usize) -> u32, most: usize) -> Table {
        let path = self.path(&token, most);
        let mut table = self.table();
        table.names = true;
        let Some(&tip) = path.last() else { return table };
        table.len = path.len() * KV_BLOCK;
        for (group, pool) in self.pools.iter_mut().enumerate() {
            let first = self.groups[group].first_needed(table.len).min(path.len());
            table.unseen[group] = first;
            table.blocks[group].resize(first, NO_BLOCK);
            for node in &path[first..] {
                let block = self.tree.block(*node, group);
                pool.share(block);
                table.blocks[group].push(block);
            }
        }
        self.tree.hold(tip);
        self.tree.let_go(ROOT);
        (table.tip, table.named) = (tip, path.len());
        table
    }

    /// Lets a table of [`attach`](Self::attach) go on, as far as below `most`, with the tokens that it has in common
    /// with a block that is held: those are in a block of its own after the copies, which are to be made at once.
    #[must_use]
    pub(crate) fn attach_part(
        &mut self,
        table: &mut Table,
        token: impl Fn(usize) -> u32,
        most: usize,
    ) -> Vec<Copy> {
        let groups = 0..self.groups.len();
        let rest: Vec<u32> = (table.len..most.min(table.len + KV_BLOCK)).map(token).collect();
        let held = |node| groups.clone().all(|group| self.tree.block(node, group) != NO_BLOCK);
        let Some((node, common)) = self.tree.nearest(table.tip, &rest, held) else { return Vec::new() };
        // Used until all blocks are taken, lest it is what makes room for them.
        let from: Vec<u32> = groups.map(|group| self.tree.block(node, group)).collect();
        self.pools.iter_mut().zip(&from).for_each(|(pool, block)| pool.share(*block));
        let mut copies = Vec::new();
        if self.pools.iter().all(|pool| pool.available() > 0) {
            for (group, &from) in from.iter().enumerate() {
                let to = self.take(group);
                table.blocks[group].push(to);
                copies.push(Copy { group, from, to });
            }
            table.len += common;
        }
        self.pools.iter_mut().zip(&from).for_each(|(pool, block)| pool.release(*block));
        copies
    }

    /// A table whose `len` positions, whole blocks, are about to be written: blocks for what a continuation sees.
    /// `None` when they are not available.
    pub(crate) fn reserve(&mut self, len: usize) -> Option<Table> {
        let count = len / KV_BLOCK;
        let first = |group: &KvGroup| group.first_needed(len).min(count);
        let lacks = |(group, pool): (&KvGroup, &BlockPool)| count - first(group) > pool.available();
        if self.groups.iter().zip(&self.pools).any(lacks) {
            return None;
        }
        let mut table = self.table();
        table.len = len;
        for group in 0..self.groups.len() {
            table.unseen[group] = first(&self.groups[group]);
            table.blocks[group].resize(table.unseen[group], NO_BLOCK);
            while table.blocks[group].len() < count {
                let block = self.take(group);
                table.blocks[group].push(block);
            }
        }
        Some(table)
    }

    /// Names all full blocks of a table whose blocks have no names.
    pub(crate) fn name_all(&mut self, table: &mut Table, token: impl Fn(usize) -> u32) {
        table.names = true;
        self.advance(table, token, table.len);
    }

    /// Nodes of the longest prefix that can be continued.
    fn path(&self, token: &impl Fn(usize) -> u32, most: usize) -> Vec<u32> {
        let mut path = Vec::new();
        // For each group, how many blocks in a row are held up to here; those that serve.
        let mut held = vec![0; self.groups.len()];
        let mut serves = 0;
        let mut node = ROOT;
        while (path.len() + 1) * KV_BLOCK <= most {
            let Some(next) = self.tree.child(node, &tokens(token, path.len())) else { break };
            node = next;
            path.push(node);
            let mut whole = true;
            for (group, held) in held.iter_mut().enumerate() {
                let missing = self.tree.block(node, group) == NO_BLOCK;
                *held = if missing { 0 } else { *held + 1 };
                let first = self.groups[group].first_needed(path.len() * KV_BLOCK).min(path.len());
                whole &= path.len() - first <= *held;
            }
            if whole {
                serves = path.len();
            }
        }
        path.truncate(serves);
        path
    }

    /// Whether a sequence can reach `end` positions while others reach theirs and take a block more each.
    pub(crate) fn has_room<'a>(
        &self,
        table: &Table,
        end: usize,
        others: impl Iterator<Item = (&'a Table, usize)> + Clone,
    ) -> bool {
        (0..self.groups.len()).all(|group| {
            let promised = others.clone().map(|(table, end)| self.lacks(group, table, end) + 1);
            self.lacks(group, table, end) + promised.sum::<usize>() <= self.pools[group].available()
        })
    }

    /// The blocks of a group that a sequence has to take at most, at a time, to reach `end` positions.
    fn lacks(&self, group: usize, table: &Table, end: usize) -> usize {
        // Of those of a window, what falls out of it is given back.
        let window = self.groups[group].window;
        let most = window.map_or(usize::MAX, |window| (window + KV_BLOCK - 2) / KV_BLOCK + 1);
        end.div_ceil(KV_BLOCK).saturating_sub(table.blocks[group].len()).min(most)
    }

    /// How many positions the sequence can reach with the blocks that are available.
    pub(crate) fn room(&self, table: &Table) -> usize {
        let reach = |(pool, blocks): (&BlockPool, &Vec<u32>)| {
            blocks.len().saturating_add(pool.available()).saturating_mul(KV_BLOCK)
        };
        self.pools.iter().zip(&table.blocks).map(reach).min().unwrap_or(usize::MAX)
    }

    /// Takes the blocks for positions below `end`, or none where they are not available.
    pub(crate) fn grow(&mut self, table: &mut Table, end: usize) -> bool {
        if self.room(table) < end {
            return false;
        }
        for group in 0..self.pools.len() {
            while table.blocks[group].len() < end.div_ceil(KV_BLOCK) {
                let block = self.take(group);
                table.blocks[group].push(block);
            }
        }
        true
    }

    /// A block of a group that has one available.
    fn take(&mut self, group: usize) -> u32 {
        if let Some(block) = self.pools[group].take() {
            return block;
        }
        self.evict(group);
        self.pools[group].take().expect("a block that was available")
    }

    /// Forgets the kept block that was let go first.
    fn evict(&mut self, group: usize) {
        let Some((block, node)) = self.pools[group].oldest() else { return };
        self.forget(group, block, node);
        if self.groups[group].window.is_none() {
            // Without this one nothing can be continued here or behind, whatever windows still hold.
            for other in (0..self.groups.len()).filter(|other| *other != group) {
                let block = self.tree.block(node, other);
                if block != NO_BLOCK && self.pools[other].is_kept(block) {
                    self.forget(other, block, node);
                }
            }
        }
        self.tree.prune(node);
    }

    fn forget(&mut self, group: usize, block: u32, node: u32) {
        self.pools[group].forget(block);
        self.tree.set_block(node, group, NO_BLOCK);
        self.evictions += 1;
    }

    /// Keys and values of positions below `len` are stored now. Names the blocks that are full, and lets go what
    /// fell out of windows.
    pub(crate) fn advance(&mut self, table: &mut Table, token: impl Fn(usize) -> u32, len: usize) {
        debug_assert!(len >= table.len);
        table.len = len;
        while table.names && (table.named + 1) * KV_BLOCK <= len {
            self.name(table, &tokens(&token, table.named));
        }
        for (group, pool) in self.pools.iter_mut().enumerate() {
            let first = self.groups[group].first_needed(len).min(table.blocks[group].len());
            for block in &mut table.blocks[group][table.unseen[group].min(first)..first] {
                pool.release(std::mem::replace(block, NO_BLOCK));
            }
            table.unseen[group] = table.unseen[group].max(first);
        }
    }

    /// Names the sequence's next block. Where another sequence stored the same, both use one.
    fn name(&mut self, table: &mut Table, tokens: &Tokens) {
        let at = table.named;
        let found = self.tree.child(table.tip, tokens);
        let Some(node) = found.or_else(|| self.tree.insert(table.tip, tokens)) else {
            table.names = false;
            return;
        };
        for (group, pool) in self.pools.iter_mut().enumerate() {
            let own = table.blocks[group][at];
            let held = self.tree.block(node, group);
            if own == NO_BLOCK || own == held {
                continue;
            }
            if held == NO_BLOCK {
                pool.set_name(own, node);
                self.tree.set_block(node, group, own);
            } else {
                pool.share(held);
                pool.release(own);
                table.blocks[group][at] = held;
            }
        }
        self.tree.hold(node);
        self.tree.let_go(table.tip);
        (table.tip, table.named) = (node, at + 1);
    }

    /// A second sequence that begins as the first one is now, and the copies that takes: full blocks are shared,
    /// one that is still written to is not. `None` when there is no room.
    pub(crate) fn fork(&mut self, table: &Table, copies: &mut Vec<Copy>) -> Option<Table> {
        let partial = !table.len.is_multiple_of(KV_BLOCK);
        let full = table.len / KV_BLOCK;
        if partial && self.pools.iter().any(|pool| pool.available() == 0) {
            return None;
        }
        let mut fork = self.table();
        fork.unseen.clone_from(&table.unseen);
        for group in 0..self.pools.len() {
            for &block in &table.blocks[group][..full] {
                if block != NO_BLOCK {
                    self.pools[group].share(block);
                }
                fork.blocks[group].push(block);
            }
            if partial {
                let (from, to) = (table.blocks[group][full], self.take(group));
                fork.blocks[group].push(to);
                copies.push(Copy { group, from, to });
            }
        }
        self.tree.hold(table.tip);
        self.tree.let_go(ROOT);
        (fork.len, fork.tip, fork.named, fork.names) = (table.len, table.tip, table.named, table.names);
        Some(fork)
    }

    /// Gives up a sequence. Its last blocks are let go first: what comes before them serves more others.
    pub(crate) fn release(&mut self, table: Table) {
        for (pool, blocks) in self.pools.iter_mut().zip(&table.blocks) {
            blocks.iter().rev().filter(|block| **block != NO_BLOCK).for_each(|block| pool.release(*block));
        }
        self.tree.let_go(table.tip);
    }
}

impl Table {
    /// Positions whose keys and values are stored.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The tables of all groups, as a batch names them.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &[u32]> {
        self.blocks.iter().map(Vec::as_slice)
    }
}

/// The tokens of a sequence's block.
fn tokens(token: &impl Fn(usize) -> u32, block: usize) -> Tokens {
    std::array::from_fn(|i| token(block * KV_BLOCK + i))
}

#[cfg(test)]
mod tests;
