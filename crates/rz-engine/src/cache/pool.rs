//! The blocks of one group of layers: who uses them, and which unused ones are worth keeping.

/// No block, no node.
pub(super) const NONE: u32 = u32::MAX;

/// Blocks with reference counts.
///
/// A block that nobody uses is free, or kept because it holds a prefix that has a name. Kept blocks stand in the
/// order in which they were let go: the first is the first to be forgotten.
#[derive(Clone, Debug)]
pub(crate) struct BlockPool {
    total: u32,
    /// Blocks that were handed out at least once are those below the length.
    blocks: Vec<Block>,
    free: Vec<u32>,
    /// The ends of the list of kept blocks, and its length.
    oldest: u32,
    newest: u32,
    kept: usize,
}

#[derive(Clone, Debug)]
struct Block {
    refs: u32,
    /// What the block holds, where that has a name.
    name: u32,
    /// Neighbours in the list of kept blocks.
    older: u32,
    newer: u32,
}

impl BlockPool {
    /// A pool of the blocks `0..total`, all free.
    pub(crate) fn new(total: usize) -> BlockPool {
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        BlockPool { total, blocks: Vec::new(), free: Vec::new(), oldest: NONE, newest: NONE, kept: 0 }
    }

    /// A free block, used once from now on; `None` when there is none but kept ones.
    pub(crate) fn take(&mut self) -> Option<u32> {
        if let Some(block) = self.free.pop() {
            self.blocks[block as usize].refs = 1;
            return Some(block);
        }
        let block = self.blocks.len() as u32;
        (block < self.total).then(|| {
            self.blocks.push(Block { refs: 1, name: NONE, older: NONE, newer: NONE });
            block
        })
    }

    /// Uses a block that is used or kept once more.
    pub(crate) fn share(&mut self, block: u32) {
        if self.is_kept(block) {
            self.unlink(block);
        }
        let block = &mut self.blocks[block as usize];
        assert!(block.refs > 0 || block.name != NONE, "a free block cannot be shared");
        block.refs += 1;
    }

    /// Uses a block once less. Nobody using it any more, it is kept if it has a name, and free otherwise.
    pub(crate) fn release(&mut self, block: u32) {
        let state = &mut self.blocks[block as usize];
        assert!(state.refs > 0, "block {block} is released once too often");
        state.refs -= 1;
        if state.refs > 0 {
            return;
        }
        if state.name == NONE {
            self.free.push(block);
        } else {
            self.link(block);
        }
    }

    /// Names what a used block holds.
    pub(super) fn set_name(&mut self, block: u32, name: u32) {
        debug_assert!(self.blocks[block as usize].refs > 0);
        self.blocks[block as usize].name = name;
    }

    /// The kept block that was let go first, and its name.
    pub(super) fn oldest(&self) -> Option<(u32, u32)> {
        (self.oldest != NONE).then(|| (self.oldest, self.blocks[self.oldest as usize].name))
    }

    /// Makes a kept block free.
    pub(super) fn forget(&mut self, block: u32) {
        assert!(self.is_kept(block), "block {block} is not kept");
        self.unlink(block);
        self.blocks[block as usize].name = NONE;
        self.free.push(block);
    }

    /// Whether nobody uses the block, and it has a name.
    pub(super) fn is_kept(&self, block: u32) -> bool {
        let block = &self.blocks[block as usize];
        block.refs == 0 && block.name != NONE
    }

    /// Blocks that can be had: free or kept.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + (self.total as usize - self.blocks.len()) + self.kept
    }

    /// Blocks that are kept.
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    /// All blocks.
    pub(crate) fn total(&self) -> usize {
        self.total as usize
    }

    fn link(&mut self, block: u32) {
        let older = std::mem::replace(&mut self.newest, block);
        let state = &mut self.blocks[block as usize];
        (state.older, state.newer) = (older, NONE);
        match older {
            NONE => self.oldest = block,
            older => self.blocks[older as usize].newer = block,
        }
        self.kept += 1;
    }

    fn unlink(&mut self, block: u32) {
        let Block { older, newer, .. } = self.blocks[block as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.blocks[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.blocks[newer as usize].older = older,
        }
        self.kept -= 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same by definition: counts, names, and the order in which blocks were let go.
    #[derive(Default)]
    struct Model {
        refs: Vec<u32>,
        names: Vec<u32>,
        kept: Vec<u32>,
    }

    proptest! {
        #[test]
        fn no_block_is_lost_or_given_twice(
            total in 0usize..12,
            steps in prop::collection::vec((0u8..5, any::<u16>()), 0..300),
        ) {
            let mut pool = BlockPool::new(total);
            let mut model = Model { refs: vec![0; total], names: vec![NONE; total], kept: vec![] };
            for (step, which) in steps {
                let pick = |of: Vec<u32>| (!of.is_empty()).then(|| of[usize::from(which) % of.len()]);
                let used = (0..total as u32).filter(|b| model.refs[*b as usize] > 0).collect::<Vec<_>>();
                match step {
                    0 => match pool.take() {
                        Some(block) => {
                            prop_assert_eq!((model.refs[block as usize], model.names[block as usize]), (0, NONE));
                            model.refs[block as usize] = 1;
                        }
                        None => prop_assert_eq!(used.len() + model.kept.len(), total),
                    },
                    1 => if let Some(block) = pick([used, model.kept.clone()].concat()) {
                        pool.share(block);
                        model.kept.retain(|b| *b != block);
                        model.refs[block as usize] += 1;
                    },
                    2 => if let Some(block) = pick(used) {
                        pool.release(block);
                        model.refs[block as usize] -= 1;
                        if model.refs[block as usize] == 0 && model.names[block as usize] != NONE {
                            model.kept.push(block);
                        }
                    },
                    3 => if let Some(block) = pick(used) {
                        pool.set_name(block, which.into());
                        model.names[block as usize] = which.into();
                    },
                    _ => {
                        let first = model.kept.first().map(|b| (*b, model.names[*b as usize]));
                        prop_assert_eq!(pool.oldest(), first);
                        if let Some((block, _)) = first {
                            pool.forget(block);
                            model.kept.remove(0);
                            model.names[block as usize] = NONE;
                        }
                    }
                }
                prop_assert_eq!(pool.kept(), model.kept.len());
                prop_assert_eq!(pool.available(), model.refs.iter().filter(|r| **r == 0).count());
            }
        }
    }

    #[test]
    #[should_panic(expected = "once too often")]
    fn a_block_cannot_be_released_twice() {
        let mut pool = BlockPool::new(1);
        let block = pool.take().unwrap();
        pool.release(block);
        pool.release(block);
    }
}
