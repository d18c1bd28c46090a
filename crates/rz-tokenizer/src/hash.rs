//! Hashing for the tables of a vocabulary: fast, and keyed by chance so that no
//! file can be made whose entries all collide.

use std::hash::{BuildHasher, RandomState};

/// The random key of one table.
#[derive(Clone, Copy)]
pub(crate) struct Key([u64; 2]);

impl Key {
    /// A fresh key.
    pub(crate) fn random() -> Self {
        let source = RandomState::new();
        Key([source.hash_one(0u8), source.hash_one(1u8) | 1])
    }

    /// The hash of one word.
    pub(crate) fn word(self, word: u64) -> u64 {
        fold(word ^ self.0[0], self.0[1])
    }

    /// The hash of a string of bytes.
    pub(crate) fn bytes(self, bytes: &[u8]) -> u64 {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut hash = self.word(bytes.len() as u64);
        for word in words {
            hash = fold(hash ^ u64::from_le_bytes(*word), self.0[1]);
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        fold(hash ^ u64::from_le_bytes(last), self.0[1])
    }
}

/// Both halves of the product, mixed.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

/// Slots for `count` entries, of which at least a quarter stays free.
fn slots(count: usize) -> usize {
    (count + count / 3 + 1).next_power_of_two()
}

/// A table from 64-bit keys to pairs of numbers, with open addressing.
pub(crate) struct PairTable {
    key: Key,
    slots: Vec<(u64, u32, u32)>,
}

/// Marks a slot that is free. No pair of tokens has this key.
const FREE: u64 = u64::MAX;

impl PairTable {
    /// Room for `count` entries.
    pub(crate) fn with_capacity(count: usize) -> Self {
        let slots = slots(count);
        PairTable { key: Key::random(), slots: vec![(FREE, 0, 0); slots] }
    }

    /// Adds an entry, unless its key is there already. At most as many as there is room for.
    pub(crate) fn insert_first(&mut self, pair: u64, a: u32, b: u32) {
        let at = self.slot(pair);
        if self.slots[at].0 == FREE {
            self.slots[at] = (pair, a, b);
        }
    }

    /// The numbers of `pair`.
    pub(crate) fn get(&self, pair: u64) -> Option<(u32, u32)> {
        let (found, a, b) = self.slots[self.slot(pair)];
        (found == pair && pair != FREE).then_some((a, b))
    }

    fn slot(&self, pair: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = self.key.word(pair) as usize & mask;
        while self.slots[at].0 != pair && self.slots[at].0 != FREE {
            at = (at + 1) & mask;
        }
        at
    }
}

/// A table from strings, kept elsewhere, to their numbers.
pub(crate) struct StringTable {
    key: Key,
    /// The number of a string, or `u32::MAX`, with the upper half of its hash.
    slots: Vec<(u32, u32)>,
}

impl StringTable {
    /// Room for `count` strings.
    pub(crate) fn with_capacity(count: usize) -> Self {
        let slots = slots(count);
        StringTable { key: Key::random(), slots: vec![(u32::MAX, 0); slots] }
    }

    /// Enters `string` as `number`; when it is there already, its number comes back.
    pub(crate) fn insert<'a>(
        &mut self,
        string: &str,
        number: u32,
        text: impl Fn(u32) -> &'a str,
    ) -> Option<u32> {
        let (at, tag) = self.slot(string.as_bytes(), text);
        let (found, _) = self.slots[at];
        if found == u32::MAX {
            self.slots[at] = (number, tag);
            return None;
        }
        Some(found)
    }

    /// The number of `string`, where `text` gives the string of a number.
    pub(crate) fn get<'a>(&self, string: &[u8], text: impl Fn(u32) -> &'a str) -> Option<u32> {
        let (at, _) = self.slot(string, text);
        let (found, _) = self.slots[at];
        (found != u32::MAX).then_some(found)
    }

    fn slot<'a>(&self, string: &[u8], text: impl Fn(u32) -> &'a str) -> (usize, u32) {
        let hash = self.key.bytes(string);
        let (mask, tag) = (self.slots.len() - 1, (hash >> 32) as u32);
        let mut at = hash as usize & mask;
        loop {
            let (number, other) = self.slots[at];
            if number == u32::MAX || (other == tag && text(number).as_bytes() == string) {
                return (at, tag);
            }
            at = (at + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn strings_are_found_by_their_text(strings in prop::collection::vec(".{0,20}", 0..100)) {
            let mut table = StringTable::with_capacity(strings.len());
            let mut oracle = HashMap::new();
            let text = |number: u32| strings[number as usize].as_str();
            for (number, string) in (0u32..).zip(&strings) {
                let before = oracle.get(string).copied();
                oracle.entry(string.clone()).or_insert(number);
                prop_assert_eq!(table.insert(string, number, text), before);
            }
            for string in strings.iter().map(String::as_str).chain(["", "?", "no such string"]) {
                prop_assert_eq!(table.get(string.as_bytes(), text), oracle.get(string).copied());
            }
        }

        #[test]
        fn the_first_of_equal_pairs_stays(pairs in prop::collection::vec(0u64..50, 0..100)) {
            let mut table = PairTable::with_capacity(pairs.len());
            let mut oracle = HashMap::new();
            for (number, &pair) in (0u32..).zip(&pairs) {
                table.insert_first(pair, number, number + 1);
                oracle.entry(pair).or_insert((number, number + 1));
            }
            for pair in (0..60).chain([u64::MAX]) {
                prop_assert_eq!(table.get(pair), oracle.get(&pair).copied());
            }
        }
    }
}
