//! The loop that both kinds of byte-pair encoding share: join the best pair of
//! neighbours until no pair can be joined.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The id of a symbol that is no token of the vocabulary.
pub(crate) const NO_TOKEN: u32 = u32::MAX;

/// The id of a symbol that was joined to the one on its left.
const JOINED: u32 = u32::MAX - 1;

/// Ids below this are tokens.
pub(crate) const MAX_TOKENS: u32 = u32::MAX - 1;

/// The end of the chain of symbols.
const END: u32 = u32::MAX;

/// Up to this many symbols, looking at every pair each time beats keeping a queue.
const SHORT: usize = 24;

/// A piece of the text that is a token, or a character that is none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol {
    /// The token, or [`NO_TOKEN`].
    pub(crate) id: u32,
    /// Where the symbol starts in the text.
    pub(crate) start: u32,
    /// Where it ends.
    pub(crate) end: u32,
}

/// A pair that can be joined.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Join {
    /// Pairs of lower rank are joined first; of equal rank, the leftmost.
    pub(crate) rank: u32,
    /// The token that the pair becomes.
    pub(crate) id: u32,
}

/// Memory for the joins of one piece of text after another.
#[derive(Default)]
pub(crate) struct Merger {
    /// The symbols to join, in the order of the text; afterwards those that remain.
    pub(crate) symbols: Vec<Symbol>,
    links: Vec<Link>,
    queue: BinaryHeap<Reverse<Candidate>>,
    joins: Vec<Option<Join>>,
}

#[derive(Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
}

/// A join that was possible when it was queued. Ordered by rank, then position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    left_id: u32,
    right_id: u32,
    id: u32,
}

impl Merger {
    /// Joins pairs of [`symbols`](Self::symbols), as `find` allows, until none is left.
    ///
    /// Takes n log n steps for n symbols.
    pub(crate) fn run(&mut self, find: impl Fn(&Symbol, &Symbol) -> Option<Join>) {
        if self.symbols.len() <= SHORT { self.run_short(find) } else { self.run_long(find) }
    }

    fn run_short(&mut self, find: impl Fn(&Symbol, &Symbol) -> Option<Join>) {
        let Merger { symbols, joins, .. } = self;
        joins.clear();
        joins.extend(symbols.windows(2).map(|pair| find(&pair[0], &pair[1])));
        loop {
            let best =
                joins.iter().enumerate().filter_map(|(at, join)| join.map(|join| (join.rank, at))).min();
            let Some((_, at)) = best else { return };
            let Some(join) = joins.remove(at) else { return };
            let right = symbols.remove(at + 1);
            symbols[at] = Symbol { id: join.id, start: symbols[at].start, end: right.end };
            if at > 0 {
                joins[at - 1] = find(&symbols[at - 1], &symbols[at]);
            }
            if at < joins.len() {
                joins[at] = find(&symbols[at], &symbols[at + 1]);
            }
        }
    }

    fn run_long(&mut self, find: impl Fn(&Symbol, &Symbol) -> Option<Join>) {
        let Merger { symbols, links, queue, .. } = self;
        let count = symbols.len() as u32;
        links.clear();
        links.extend((0..count).map(|at| Link {
            previous: at.wrapping_sub(1),
            next: if at + 1 == count { END } else { at + 1 },
        }));
        queue.clear();
        let candidate = |symbols: &[Symbol], left: u32, right: u32| {
            let (l, r) = (&symbols[left as usize], &symbols[right as usize]);
            find(l, r)
                .map(|Join { rank, id }| Reverse(Candidate { rank, left, left_id: l.id, right_id: r.id, id }))
        };
        queue.extend((1..count).filter_map(|right| candidate(symbols, right - 1, right)));
        while let Some(Reverse(Candidate { left, left_id, right_id, id, .. })) = queue.pop() {
            // The same two ids side by side are the same pair, whenever it was queued.
            let right = links[left as usize].next;
            if symbols[left as usize].id != left_id || right == END || symbols[right as usize].id != right_id
            {
                continue;
            }
            let Link { next, .. } = links[right as usize];
            symbols[left as usize].id = id;
            symbols[left as usize].end = symbols[right as usize].end;
            symbols[right as usize].id = JOINED;
            links[left as usize].next = next;
            if next != END {
                links[next as usize].previous = left;
                queue.extend(candidate(symbols, left, next));
            }
            let Link { previous, .. } = links[left as usize];
            if previous != END {
                queue.extend(candidate(symbols, previous, left));
            }
        }
        symbols.retain(|symbol| symbol.id != JOINED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Letters are tokens 0 to 3; the pair (a, b) becomes a token for some a and b.
    fn find(left: &Symbol, right: &Symbol) -> Option<Join> {
        let (a, b) = (left.id, right.id);
        let id = 4 + (a * 7 + b) % 97;
        (a < 60 && b < 60 && !(a + b).is_multiple_of(3)).then_some(Join { rank: (a * 31 + b * 17) % 11, id })
    }

    fn symbols(ids: &[u32]) -> Vec<Symbol> {
        (0u32..).zip(ids).map(|(at, &id)| Symbol { id, start: at, end: at + 1 }).collect()
    }

    proptest! {
        #[test]
        fn both_ways_join_the_same_pairs(ids in prop::collection::vec(0u32..4, 0..200)) {
            let mut short = Merger { symbols: symbols(&ids), ..Merger::default() };
            let mut long = Merger { symbols: symbols(&ids), ..Merger::default() };
            short.run_short(find);
            long.run_long(find);
            let parts = |merger: &Merger| {
                merger.symbols.iter().map(|symbol| (symbol.id, symbol.start, symbol.end)).collect::<Vec<_>>()
            };
            prop_assert_eq!(parts(&short), parts(&long));
            let mut at = 0;
            for symbol in &long.symbols {
                prop_assert_eq!(symbol.start, at);
                at = symbol.end;
            }
            prop_assert_eq!(at as usize, ids.len());
        }
    }
}
