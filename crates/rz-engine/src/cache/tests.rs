//! Whatever sequences come, go, fork and share, each finds in its blocks what it stored, and no block is lost.

use proptest::prelude::*;

use super::*;

/// What a position would store: all tokens up to it.
fn content(tokens: &[u32], position: usize) -> u64 {
    tokens[..=position]
        .iter()
        .fold(7, |hash, token| (hash ^ u64::from(token + 1)).wrapping_mul(0x0100_0000_01b3).rotate_left(23))
}

struct World {
    cache: KvCache,
    /// For each group and block, what its slots hold.
    storage: Vec<Vec<[u64; KV_BLOCK]>>,
    live: Vec<(Vec<u32>, Table)>,
}

impl World {
    fn new(groups: &[KvGroup]) -> World {
        let storage = groups.iter().map(|group| vec![[0; KV_BLOCK]; group.blocks]).collect();
        World { cache: KvCache::new(groups), storage, live: Vec::new() }
    }

    fn begin(&mut self, tokens: &[u32], shares: bool) {
        let most = tokens.len().saturating_sub(1);
        let mut table = match shares {
            true => self.cache.attach(|at| tokens[at], most),
            false => self.cache.table(),
        };
        if shares {
            self.attach_part(&mut table, tokens, most);
        }
        assert!(table.len() < tokens.len().max(1));
        self.live.push((tokens[..table.len()].to_vec(), table));
        self.check();
        let rest = tokens[self.live[self.live.len() - 1].1.len()..].to_vec();
        self.extend(self.live.len() - 1, &rest);
    }

    fn attach_part(&mut self, table: &mut Table, tokens: &[u32], most: usize) {
        let before = table.len();
        let copies = self.cache.attach_part(table, |at| tokens[at], most);
        assert!(table.len() <= most.max(before) && table.len() < before + KV_BLOCK);
        assert_eq!(copies.len(), if table.len() > before { self.storage.len() } else { 0 });
        self.copy(copies);
    }

    fn copy(&mut self, copies: Vec<Copy>) {
        for Copy { group, from, to } in copies {
            self.storage[group][to as usize] = self.storage[group][from as usize];
        }
    }

    /// Computes more tokens of a sequence, as many as there is room for.
    fn extend(&mut self, at: usize, more: &[u32]) {
        let (tokens, table) = &mut self.live[at];
        let start = table.len();
        let end = (start + more.len()).min(self.cache.room(table));
        if !self.cache.grow(table, end.max(start)) {
            return;
        }
        tokens.extend_from_slice(&more[..end.max(start) - start]);
        let (tokens, table) = &self.live[at];
        for (group, storage) in self.storage.iter_mut().enumerate() {
            for position in start..tokens.len() {
                let block = table.blocks[group][position / KV_BLOCK];
                let users = self.live.iter().filter(|(_, table)| table.blocks[group].contains(&block));
                assert_eq!(users.count(), 1, "a block that others read is written");
                storage[block as usize][position % KV_BLOCK] = content(tokens, position);
            }
        }
        let (tokens, table) = &mut self.live[at];
        let len = tokens.len();
        self.cache.advance(table, |at| tokens[at], len);
    }

    fn fork(&mut self, at: usize) {
        let (tokens, table) = &self.live[at];
        let mut copies = Vec::new();
        let Some(table) = self.cache.fork(table, &mut copies) else {
            assert!(copies.is_empty());
            return;
        };
        let tokens = tokens.clone();
        self.copy(copies);
        self.live.push((tokens, table));
    }

    fn release(&mut self, at: usize) {
        let (_, table) = self.live.swap_remove(at);
        self.cache.release(table);
    }

    /// Every sequence can be continued, and what it would read is what it stored. No block is lost.
    fn check(&self) {
        for (group, storage) in self.storage.iter().enumerate() {
            let mut used: Vec<u32> = Vec::new();
            for (tokens, table) in &self.live {
                assert_eq!(tokens.len(), table.len());
                let kv_group = self.cache.groups[group];
                assert!(kv_group.holds(&table.blocks[group], table.len()));
                let first = kv_group.window.map_or(0, |window| (table.len() + 1).saturating_sub(window));
                for position in first..table.len() {
                    let block = table.blocks[group][position / KV_BLOCK];
                    let held = storage[block as usize][position % KV_BLOCK];
                    assert_eq!(held, content(tokens, position), "group {group}, position {position}");
                }
                used.extend(table.blocks[group].iter().filter(|block| **block != NO_BLOCK));
            }
            used.sort_unstable();
            used.dedup();
            let pool = self.cache.pool(group);
            assert_eq!(used.len() + pool.available(), pool.total(), "blocks of group {group}");
        }
    }

    /// Nothing is left when all sequences are gone and everything kept had to make room.
    fn end(mut self) {
        while !self.live.is_empty() {
            self.release(0);
        }
        self.check();
        for group in 0..self.storage.len() {
            for _ in 0..self.storage[group].len() {
                self.cache.take(group);
            }
            assert_eq!(self.cache.pool(group).available(), 0);
        }
        assert_eq!(self.cache.tree.len(), 0);
    }
}

fn group(window: Option<usize>, blocks: usize) -> KvGroup {
    KvGroup { window, blocks, block_bytes: 1 }
}

/// Texts that share their beginnings, of various lengths.
fn text(which: u16, len: usize) -> Vec<u32> {
    let branch = usize::from(which % 4) * 45;
    (0..len).map(|at| (at as u32 * 7 + if at >= branch { u32::from(which) } else { 0 }) % 50).collect()
}

fn groups() -> impl Strategy<Value = Vec<KvGroup>> {
    prop_oneof![
        (4usize..20).prop_map(|blocks| vec![group(None, blocks)]),
        (4usize..20, 4usize..12).prop_map(|(a, b)| vec![group(None, a), group(Some(40), b)]),
        (6usize..20, 4usize..20).prop_map(|(a, b)| vec![group(Some(33), a), group(None, b)]),
        (6usize..20).prop_map(|blocks| vec![group(Some(70), blocks)]),
        (6usize..20, 4usize..20).prop_map(|(a, b)| vec![group(Some(1), a), group(Some(64), b)]),
    ]
}

proptest! {
    #[test]
    fn sequences_find_what_they_stored(
        groups in groups(),
        bad_hash in any::<bool>(),
        steps in prop::collection::vec((0u8..8, any::<u16>(), 1usize..150), 1..60),
    ) {
        let mut world = World::new(&groups);
        if bad_hash {
            world.cache.tree.set_hash(|before, tokens| (before + u64::from(tokens[0]) + u64::from(tokens[9])) % 5);
        }
        for (step, which, len) in steps {
            let at = usize::from(which) % world.live.len().max(1);
            match step {
                0..=2 => world.begin(&text(which % 8, len), step > 0),
                3 | 4 if !world.live.is_empty() => world.extend(at, &text(which % 3, len)),
                5 if !world.live.is_empty() => world.fork(at),
                6 | 7 if !world.live.is_empty() => world.release(at),
                _ => {}
            }
            world.check();
        }
        world.end();
    }
}

#[test]
fn a_prefix_is_found_as_whole_blocks_and_made_room_for_from_its_end() {
    let mut world = World::new(&[group(None, 6)]);
    let prompt = text(0, 130);
    world.begin(&prompt, true);
    world.release(0);
    assert_eq!(world.cache.pool(0).kept(), 4);
    for (len, found) in [(1, 0), (32, 0), (33, 32), (96, 64), (129, 128), (130, 128)] {
        let table = world.cache.attach(|at| prompt[at], len - 1);
        assert_eq!(table.len(), found, "{len} tokens");
        world.cache.release(table);
    }
    // Three blocks for another text: one is free besides the one that was only in part written.
    world.begin(&text(1, 70)[..70].iter().map(|t| t + 50).collect::<Vec<_>>(), true);
    assert_eq!(world.cache.evictions(), 1);
    let table = world.cache.attach(|at| prompt[at], 129);
    assert_eq!(table.len(), 96);
    world.cache.release(table);
    world.end();
}

#[test]
fn a_prefix_is_found_to_the_token_where_a_block_begins_alike() {
    for windows in [vec![group(None, 9)], vec![group(Some(40), 8), group(None, 9)]] {
        let mut world = World::new(&windows);
        let prompt = text(0, 100);
        world.begin(&prompt, true);
        world.release(0);
        let found = |world: &mut World, tokens: &[u32], most: usize| {
            let mut table = world.cache.attach(|at| tokens[at], most);
            world.attach_part(&mut table, tokens, most);
            let len = table.len();
            world.live.push((tokens[..len].to_vec(), table));
            world.check();
            world.release(world.live.len() - 1);
            len
        };
        // The last tokens, which fill no block, are not kept.
        for (most, expected) in [(0, 0), (1, 1), (31, 31), (32, 32), (33, 33), (63, 63), (95, 95), (99, 96)] {
            assert_eq!(found(&mut world, &prompt, most), expected, "{windows:?}");
        }
        for differs in [0, 1, 20, 31, 32, 40, 64, 95] {
            let mut other = prompt.clone();
            other[differs] += 1000;
            assert_eq!(found(&mut world, &other, 99), differs, "{windows:?}");
        }
        world.end();
    }
}

#[test]
fn a_block_that_begins_alike_does_not_make_room_for_its_copy() {
    let mut world = World::new(&[group(None, 2)]);
    let prompt = text(0, 64);
    world.begin(&prompt, true);
    world.release(0);
    // Both blocks are kept, and the first is the nearest to the other text: the second makes room.
    let other: Vec<u32> = prompt[..20].iter().copied().chain(900..960).collect();
    world.begin(&other[..30], true);
    assert_eq!((world.live[0].1.len(), world.cache.evictions()), (30, 1));
    // With no other block, there is no copy.
    let mut world = World::new(&[group(None, 1)]);
    world.begin(&prompt[..32], true);
    world.release(0);
    let mut table = world.cache.attach(|at| other[at], 29);
    world.attach_part(&mut table, &other, 29);
    assert_eq!((table.len(), world.cache.pool(0).kept()), (0, 1));
    world.cache.release(table);
    world.end();
}

#[test]
fn a_prefix_counts_as_far_back_as_every_window_survives() {
    let groups = [group(None, 12), group(Some(40), 5)];
    let mut world = World::new(&groups);
    let prompt = text(0, 200);
    for part in prompt.chunks(32) {
        match world.live.len() {
            0 => world.begin(part, true),
            _ => world.extend(0, part),
        }
        world.check();
    }
    world.release(0);
    // A continuation at 192 sees positions from 153 on: all blocks of the window are there. Of those before, only
    // the ones that were not needed since are.
    let found = |world: &mut World, most: usize| {
        let table = world.cache.attach(|at| prompt[at], most);
        let len = table.len();
        world.cache.release(table);
        len
    };
    assert_eq!(world.cache.evictions(), 2, "seven blocks of a window with room for five");
    assert_eq!(found(&mut world, 199), 192);
    assert_eq!(found(&mut world, 127), 0, "position 96 sees what was in the second block");
    assert_eq!(found(&mut world, 128), 128);
    world.end();
}

#[test]
fn sequences_that_compute_the_same_end_up_with_the_same_blocks() {
    let mut world = World::new(&[group(None, 20)]);
    let prompt = text(3, 100);
    world.begin(&prompt[..1], true);
    world.begin(&prompt[..1], true);
    world.extend(0, &prompt[1..]);
    world.extend(1, &prompt[1..]);
    world.check();
    let [(_, a), (_, b)] = &world.live[..] else { panic!("two sequences") };
    assert_eq!(a.blocks[0][..3], b.blocks[0][..3]);
    assert_ne!(a.blocks[0][3], b.blocks[0][3]);
    assert_eq!(world.cache.pool(0).available(), 15);
    world.end();
}
