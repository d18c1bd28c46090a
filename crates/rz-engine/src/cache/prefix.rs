//! Which tokens the blocks hold: a tree of whole blocks of tokens, found by their hashes.

use std::collections::HashMap;

use rz_model::{KV_BLOCK, NO_BLOCK};

use super::pool::NONE;

/// The tokens of one block.
pub(super) type Tokens = [u32; KV_BLOCK];

/// The beginning of every sequence: no tokens.
pub(super) const ROOT: u32 = 0;

/// Prefixes that are whole blocks long. A node is a block of tokens after those of its parent, and stays as long
/// as a block of some group holds it, a sequence ends in it, or another node comes after it.
///
/// A node is found by a hash over its tokens and its parent's hash. Of what is found, tokens and parent are
/// compared, so equal hashes of different prefixes cost a miss and nothing else.
#[derive(Clone, Debug)]
pub(super) struct PrefixTree {
    groups: usize,
    nodes: Vec<Node>,
    /// The block of each node and group.
    blocks: Vec<u32>,
    free: Vec<u32>,
    index: HashMap<u64, u32>,
    most: usize,
    hash: fn(u64, &Tokens) -> u64,
}

#[derive(Clone, Debug)]
struct Node {
    parent: u32,
    hash: u64,
    /// Nodes that come after it, and sequences that end in it.
    users: u32,
    tokens: Tokens,
    /// The newest of the nodes that come after it, and its own neighbours among those of its parent.
    newest: u32,
    newer: u32,
    older: u32,
}

impl PrefixTree {
    /// A tree of at most `most` nodes.
    pub(super) fn new(groups: usize, most: usize) -> PrefixTree {
        let root = Node::new(NONE, 0x9e37_79b9_7f4a_7c15, &[0; KV_BLOCK]);
        PrefixTree {
            groups,
            nodes: vec![root],
            blocks: vec![NO_BLOCK; groups],
            free: Vec::new(),
            index: HashMap::new(),
            most: most.min(NONE as usize),
            hash: chain,
        }
    }

    /// The node of these tokens after those of `parent`.
    pub(super) fn child(&self, parent: u32, tokens: &Tokens) -> Option<u32> {
        let hash = (self.hash)(self.nodes[parent as usize].hash, tokens);
        let node = *self.index.get(&hash)?;
        let Node { parent: found, tokens: held, .. } = &self.nodes[node as usize];
        (*found == parent && held == tokens).then_some(node)
    }

    /// Makes the node that [`child`](Self::child) did not find; `None` when its place is taken by another with the
    /// same hash, or the tree is full.
    pub(super) fn insert(&mut self, parent: u32, tokens: &Tokens) -> Option<u32> {
        let hash = (self.hash)(self.nodes[parent as usize].hash, tokens);
        if self.index.contains_key(&hash) || self.index.len() >= self.most {
            return None;
        }
        let older = self.nodes[parent as usize].newest;
        let new = Node { older, ..Node::new(parent, hash, tokens) };
        let node = match self.free.pop() {
            Some(node) => {
                self.nodes[node as usize] = new;
                node
            }
            None => {
                self.nodes.push(new);
                self.blocks.resize(self.nodes.len() * self.groups, NO_BLOCK);
                self.nodes.len() as u32 - 1
            }
        };
        if older != NONE {
            self.nodes[older as usize].newer = node;
        }
        self.nodes[parent as usize].newest = node;
        self.nodes[parent as usize].users += 1;
        self.index.insert(hash, node);
        Some(node)
    }

    /// Of the nodes after `parent` that `serves` is true of, one that begins with most of the given tokens, and with
    /// how many. Only the newest are looked at.
    pub(super) fn nearest(
        &self,
        parent: u32,
        tokens: &[u32],
        serves: impl Fn(u32) -> bool,
    ) -> Option<(u32, usize)> {
        const LOOKED_AT: usize = 64;
        let next = |node: u32| (node != NONE).then_some(node);
        let first = next(self.nodes[parent as usize].newest);
        let children = std::iter::successors(first, |node| next(self.nodes[*node as usize].older));
        let common = |node: u32| {
            let held = &self.nodes[node as usize].tokens;
            (node, held.iter().zip(tokens).take_while(|(a, b)| a == b).count())
        };
        let begin_alike = children.take(LOOKED_AT).filter(|node| serves(*node)).map(common);
        begin_alike.filter(|(_, common)| *common > 0).max_by_key(|(_, common)| *common)
    }

    /// A sequence ends here.
    pub(super) fn hold(&mut self, node: u32) {
        self.nodes[node as usize].users += 1;
    }

    /// A sequence ends here no more.
    pub(super) fn let_go(&mut self, node: u32) {
        self.nodes[node as usize].users -= 1;
        self.prune(node);
    }

    /// The block of a group that holds the node.
    pub(super) fn block(&self, node: u32, group: usize) -> u32 {
        self.blocks[node as usize * self.groups + group]
    }

    pub(super) fn set_block(&mut self, node: u32, group: usize, block: u32) {
        self.blocks[node as usize * self.groups + group] = block;
    }

    /// Removes the node if nothing needs it, and those before it likewise.
    pub(super) fn prune(&mut self, mut node: u32) {
        while node != ROOT {
            let Node { parent, hash, users, newer, older, .. } = self.nodes[node as usize];
            let blocks = &self.blocks[node as usize * self.groups..][..self.groups];
            if users > 0 || blocks.iter().any(|block| *block != NO_BLOCK) {
                return;
            }
            self.index.remove(&hash);
            self.free.push(node);
            if older != NONE {
                self.nodes[older as usize].newer = newer;
            }
            match newer {
                NONE => self.nodes[parent as usize].newest = older,
                newer => self.nodes[newer as usize].older = older,
            }
            self.nodes[parent as usize].users -= 1;
            node = parent;
        }
    }

    /// Nodes but the root.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Replaces the hash by a worse one.
    #[cfg(test)]
    pub(super) fn set_hash(&mut self, hash: fn(u64, &Tokens) -> u64) {
        self.hash = hash;
    }
}

impl Node {
    fn new(parent: u32, hash: u64, tokens: &Tokens) -> Node {
        Node { parent, hash, users: 0, tokens: *tokens, newest: NONE, newer: NONE, older: NONE }
    }
}

/// A hash of the tokens and of what came before them.
fn chain(before: u64, tokens: &Tokens) -> u64 {
    tokens.iter().fold(before, |hash, token| {
        let mixed = (hash ^ u64::from(*token)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        (mixed ^ (mixed >> 32)).wrapping_mul(0xc4ce_b9fe_1a85_ec53).rotate_left(29)
    })
}
