//! Whether the longest word is always a right one.

use std::collections::HashSet;

use super::parse::Node;
use super::set::Set;

/// Places that the automaton of a word may have.
const LARGEST: usize = 2_000;
/// Steps that making one may take.
const STEPS: usize = 200_000;

/// An automaton whose states are the places of characters in a word, and the place before it.
pub(super) struct Automaton {
    sets: Vec<Set>,
    /// Which places may come after each; after none, the first.
    next: Vec<Vec<usize>>,
    first: Vec<usize>,
    last: Vec<bool>,
}

/// Where a part of a word may begin and end.
struct Part {
    nullable: bool,
    first: Vec<usize>,
    last: Vec<usize>,
}

impl Automaton {
    /// That of a word without references; nothing where it is too large.
    pub(super) fn new(node: &Node) -> Option<Self> {
        let mut automaton = Self { sets: Vec::new(), next: Vec::new(), first: Vec::new(), last: Vec::new() };
        let mut steps = STEPS;
        let part = automaton.add(node, &mut steps)?;
        automaton.first = part.first;
        automaton.last = vec![false; automaton.sets.len()];
        part.last.into_iter().for_each(|place| automaton.last[place] = true);
        Some(automaton)
    }

    fn add(&mut self, node: &Node, steps: &mut usize) -> Option<Part> {
        Some(match node {
            Node::Set(set) => {
                if self.sets.len() >= LARGEST {
                    return None;
                }
                self.sets.push(set.clone());
                self.next.push(Vec::new());
                let place = vec![self.sets.len() - 1];
                Part { nullable: false, first: place.clone(), last: place }
            }
            Node::Sequence(items) => {
                let mut whole = Part { nullable: true, first: Vec::new(), last: Vec::new() };
                for item in items {
                    let part = self.add(item, steps)?;
                    whole = self.join(whole, part, steps)?;
                }
                whole
            }
            Node::Choice(items) => {
                let mut whole = Part { nullable: false, first: Vec::new(), last: Vec::new() };
                for item in items {
                    let part = self.add(item, steps)?;
                    whole.nullable |= part.nullable;
                    whole.first.extend(part.first);
                    whole.last.extend(part.last);
                }
                whole
            }
            Node::Repeat(inner, least, most) => {
                let mut whole = Part { nullable: true, first: Vec::new(), last: Vec::new() };
                // Without a bound, the last copy comes as often as it likes.
                let copies = most.unwrap_or((*least).max(1));
                for copy in 0..copies {
                    let mut part = self.add(inner, steps)?;
                    if most.is_none() && copy + 1 == copies {
                        self.connect(&part.last.clone(), &part.first, steps)?;
                    }
                    part.nullable |= copy >= *least;
                    whole = self.join(whole, part, steps)?;
                }
                whole
            }
            Node::Rule(_) => return None,
        })
    }

    fn join(&mut self, a: Part, b: Part, steps: &mut usize) -> Option<Part> {
        self.connect(&a.last, &b.first, steps)?;
        let mut first = a.first;
        if a.nullable {
            first.extend(&b.first);
        }
        let mut last = b.last;
        if b.nullable {
            last.extend(a.last);
        }
        *steps = steps.checked_sub(first.len() + last.len())?;
        Some(Part { nullable: a.nullable && b.nullable, first, last })
    }

    fn connect(&mut self, from: &[usize], to: &[usize], steps: &mut usize) -> Option<()> {
        *steps = steps.checked_sub(from.len().checked_mul(to.len())?)?;
        from.iter().for_each(|place| self.next[*place].extend(to));
        Some(())
    }
}

/// Whether a word of `shorter` and a character that may follow it together begin a word of `longer`, so that who looks
/// for the longest word goes on with that one. It takes its time off the `steps`; when they are used up, it has to be
/// feared.
pub(super) fn goes_on(shorter: &Automaton, follow: &Set, longer: &Automaton, steps: &mut usize) -> bool {
    let ends = |a: usize, b: usize| {
        shorter.last[a] && longer.next[b].iter().any(|next| longer.sets[*next].meets(follow))
    };
    !follow.is_empty() && meet(shorter, longer, steps, ends)
}

/// Whether one text is a word of both, or has to be feared to be.
pub(super) fn share_a_text(one: &Automaton, other: &Automaton, steps: &mut usize) -> bool {
    meet(one, other, steps, |a, b| one.last[a] && other.last[b])
}

/// Whether some text leads both to places that are looked for.
fn meet(
    one: &Automaton,
    other: &Automaton,
    steps: &mut usize,
    looked_for: impl Fn(usize, usize) -> bool,
) -> bool {
    let mut seen = HashSet::new();
    let mut open = vec![(&one.first, &other.first)];
    while let Some((these, those)) = open.pop() {
        for &a in these {
            for &b in those {
                let Some(left) = steps.checked_sub(1) else { return true };
                *steps = left;
                if one.sets[a].meets(&other.sets[b]) && seen.insert((a, b)) {
                    if looked_for(a, b) {
                        return true;
                    }
                    open.push((&one.next[a], &other.next[b]));
                }
            }
        }
    }
    false
}
