//! Who owns which block of the KV storage.

/// Hands out the ids of KV blocks below a fixed number, each to one owner at a time.
#[derive(Clone, Debug)]
pub struct BlockPool {
    /// Blocks that were given back, to be handed out before fresh ones.
    free: Vec<u32>,
    /// Blocks from here on were never handed out.
    fresh: u32,
    total: u32,
}

impl BlockPool {
    /// A pool of the blocks `0..total`, all free.
    pub fn new(total: usize) -> Self {
        Self { free: Vec::new(), fresh: 0, total: u32::try_from(total).unwrap_or(u32::MAX) }
    }

    /// A free block, or `None` when all are taken.
    pub fn take(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            let block = self.fresh;
            (block < self.total).then(|| {
                self.fresh += 1;
                block
            })
        })
    }

    /// Gives a block back.
    ///
    /// # Panics
    /// When the block was not handed out; in debug builds also when it is already free.
    pub fn give_back(&mut self, block: u32) {
        assert!(block < self.fresh, "block {block} was never handed out");
        debug_assert!(!self.free.contains(&block), "block {block} is already free");
        self.free.push(block);
    }

    /// How many blocks can be taken.
    pub fn available(&self) -> usize {
        self.free.len() + (self.total - self.fresh) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_block_is_lost_or_given_twice(total in 0usize..20, steps in prop::collection::vec(any::<Option<u8>>(), 0..200)) {
            let mut pool = BlockPool::new(total);
            let mut taken: Vec<u32> = Vec::new();
            for step in steps {
                match step {
                    None => match pool.take() {
                        Some(block) => {
                            prop_assert!((block as usize) < total && !taken.contains(&block));
                            taken.push(block);
                        }
                        None => prop_assert_eq!(taken.len(), total),
                    },
                    Some(which) if !taken.is_empty() => {
                        pool.give_back(taken.swap_remove(usize::from(which) % taken.len()));
                    }
                    Some(_) => {}
                }
                prop_assert_eq!(pool.available() + taken.len(), total);
            }
        }
    }
}
