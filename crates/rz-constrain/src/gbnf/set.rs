//! Sets of characters.

/// A set of characters: ranges in order, with gaps between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Set(Vec<(u32, u32)>);

const LAST: u32 = char::MAX as u32;
/// What is no character.
const SURROGATES: (u32, u32) = (0xd800, 0xdfff);

impl Set {
    pub(super) fn of(ranges: impl IntoIterator<Item = (char, char)>) -> Self {
        Self::normal(ranges.into_iter().map(|(first, last)| (first.into(), last.into())).collect())
    }

    /// All characters.
    pub(super) fn all() -> Self {
        Self::default().negated()
    }

    pub(super) fn negated(&self) -> Self {
        let mut gaps = Vec::new();
        let mut next = 0;
        for &(first, last) in &self.0 {
            if first > next {
                gaps.push((next, first - 1));
            }
            next = last + 1;
        }
        if next <= LAST {
            gaps.push((next, LAST));
        }
        let (first, last) = SURROGATES;
        let around = gaps.into_iter().flat_map(|(from, to)| {
            let below = (from, to.min(first - 1));
            let above = (from.max(last + 1), to);
            [below, above].into_iter().filter(|(from, to)| from <= to)
        });
        // Where a gap lies on one side only, both halves are that gap.
        Self::normal(around.collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn meets(&self, other: &Self) -> bool {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            if x.0 <= y.1 && y.0 <= x.1 {
                return true;
            }
            if x.1 < y.1 {
                a.next()
            } else {
                b.next()
            };
        }
        false
    }

    /// Adds those of another set. Says whether there are more now.
    pub(super) fn add(&mut self, other: &Self) -> bool {
        if other.is_empty() {
            return false;
        }
        let sum = Self::normal(self.0.iter().chain(&other.0).copied().collect());
        let more = sum != *self;
        *self = sum;
        more
    }

    pub(super) fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }

    fn normal(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(end) if first <= end.1.saturating_add(1) => end.1 = end.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_join_meet_and_turn_around() {
        let mut set = Set::of([('a', 'c'), ('d', 'f'), ('x', 'x')]);
        assert_eq!(set.ranges(), [(0x61, 0x66), (0x78, 0x78)]);
        assert!(set.meets(&Set::of([('f', 'g')])) && !set.meets(&Set::of([('g', 'w')])));
        assert!(set.add(&Set::of([('g', 'g')])) && !set.add(&Set::of([('a', 'g')])));
        let others = set.negated();
        assert!(!others.meets(&set));
        assert_eq!(others.ranges().len(), 4); // before, between, and after on both sides of the surrogates
        assert_eq!(others.negated(), set);
        assert_eq!(Set::all().ranges(), [(0, 0xd7ff), (0xe000, 0x10ffff)]);
    }
}
