//! The tokens that may come next, with their scores.

use std::cmp::Reverse;

use super::weight;
use crate::ModelError;

/// A token that may come next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub id: u32,
    /// Its score: the logarithm of its probability up to a constant. Always finite.
    pub logit: f32,
}

/// The tokens that may come next, each with a finite score.
///
/// Starts as a row of scores indexed by token id, and becomes a list of candidates when a step narrows
/// it. Sorts no further than a step asks, and keeps its buffers from token to token.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    /// While `dense`: the score of each id, -inf for those that are no candidates.
    row: Vec<f32>,
    /// Otherwise: the candidates.
    list: Vec<Candidate>,
    dense: bool,
    order: Order,
    len: usize,
    /// Sums of the weights of each block.
    sums: Vec<u64>,
}

/// How the list is sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Order {
    #[default]
    Unknown,
    ById,
    BestFirst,
}

/// Entries of the row or the list whose weights are summed at a time.
const BLOCK: usize = 256;

/// Candidates that are sorted first when nobody knows how many will be needed.
const FIRST_SORTED: usize = 256;

impl Candidates {
    /// No candidates.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the scores of the tokens with ids `0..logits.len()`; `-inf` is no candidate.
    ///
    /// # Errors
    /// When a score is NaN or `+inf`. There are no candidates then.
    pub fn load(&mut self, logits: &[f32]) -> Result<(), ModelError> {
        self.clear();
        let bad = logits.iter().map(|l| u32::from(!is_score(*l))).sum::<u32>();
        if bad > 0 {
            let (id, &value) =
                logits.iter().enumerate().find(|(_, l)| !is_score(**l)).unwrap_or((0, &f32::NAN));
            return Err(ModelError::Score { token: id as u32, value });
        }
        self.row.extend_from_slice(logits);
        self.dense = true;
        self.len = count(logits);
        Ok(())
    }

    /// Takes a list of candidates in any order. Each id should occur once.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn load_list(&mut self, list: impl IntoIterator<Item = Candidate>) -> Result<(), ModelError> {
        self.clear();
        for candidate in list {
            if !is_score(candidate.logit) {
                self.clear();
                return Err(ModelError::Score { token: candidate.id, value: candidate.logit });
            }
            if candidate.logit > f32::NEG_INFINITY {
                self.list.push(candidate);
            }
        }
        self.len = self.list.len();
        Ok(())
    }

    /// How many candidates there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The candidates, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = Candidate> {
        let row = if self.dense { &self.row[..] } else { &[] };
        let list = if self.dense { &[] } else { &self.list[..] };
        row.iter()
            .enumerate()
            .filter(|(_, logit)| **logit > f32::NEG_INFINITY)
            .map(|(id, &logit)| Candidate { id: id as u32, logit })
            .chain(list.iter().copied())
    }

    /// The candidate with the highest score.
    pub fn best(&self) -> Option<Candidate> {
        if self.dense {
            let logit = highest(&self.row);
            let id = self.row.iter().position(|l| *l == logit)? as u32;
            return (logit > f32::NEG_INFINITY).then_some(Candidate { id, logit });
        }
        if self.order == Order::BestFirst {
            return self.list.first().copied();
        }
        self.list.iter().copied().max_by_key(rank)
    }

    /// The largest magnitude of a score, or 0 without candidates.
    pub fn magnitude(&self) -> f32 {
        let finite = |logit: f32| if logit > f32::NEG_INFINITY { logit.abs() } else { 0.0 };
        // Magnitudes are ordered as their bits are.
        let larger = |most: u32, logit: f32| most.max(finite(logit).to_bits());
        f32::from_bits(if self.dense {
            self.row.iter().fold(0, |most, l| larger(most, *l))
        } else {
            self.list.iter().fold(0, |most, c| larger(most, c.logit))
        })
    }

    /// Changes every score. One that overflows is brought back to the largest finite value; `-inf` and
    /// NaN exclude the candidate.
    ///
    /// `change` may also be called for ids that are no candidates: what it gives for them is ignored.
    pub fn map(&mut self, mut change: impl FnMut(Candidate) -> f32) {
        if self.dense {
            for (id, logit) in self.row.iter_mut().enumerate() {
                let changed = settle(change(Candidate { id: id as u32, logit: *logit }));
                *logit = if *logit > f32::NEG_INFINITY { changed } else { f32::NEG_INFINITY };
            }
            self.len = count(&self.row);
        } else {
            for candidate in &mut self.list {
                candidate.logit = settle(change(*candidate));
            }
            self.after_list_change();
        }
    }

    /// Changes the scores of some ids, as [`map`](Self::map) does. `ids` is sorted and without
    /// repetitions; those that are no candidates are passed over.
    pub fn map_ids(&mut self, ids: &[u32], mut change: impl FnMut(Candidate) -> f32) {
        debug_assert!(ids.is_sorted_by(|a, b| a < b));
        if self.dense {
            for &id in ids {
                if let Some(logit) = self.row.get_mut(id as usize)
                    && *logit > f32::NEG_INFINITY
                {
                    *logit = settle(change(Candidate { id, logit: *logit }));
                    self.len -= usize::from(*logit == f32::NEG_INFINITY);
                }
            }
        } else {
            for candidate in &mut self.list {
                if ids.binary_search(&candidate.id).is_ok() {
                    candidate.logit = settle(change(*candidate));
                }
            }
            self.after_list_change();
        }
    }

    /// Keeps the candidates that satisfy the condition.
    pub fn retain(&mut self, mut keep: impl FnMut(Candidate) -> bool) {
        if self.dense {
            self.list.clear();
            for (id, &logit) in self.row.iter().enumerate() {
                let candidate = Candidate { id: id as u32, logit };
                if logit > f32::NEG_INFINITY && keep(candidate) {
                    self.list.push(candidate);
                }
            }
            self.dense = false;
            self.order = Order::ById;
        } else {
            self.list.retain(|c| keep(*c));
        }
        self.len = self.list.len();
    }

    /// Keeps the `count` best candidates.
    pub fn keep_best(&mut self, count: usize) {
        if count >= self.len {
            return;
        }
        if count == 1 {
            let best = self.best();
            self.list.clear();
            self.list.extend(best);
        } else if self.dense && count <= self.row.len() / 4 {
            self.scan_best(count);
        } else {
            self.make_list();
            select(&mut self.list, count);
            self.list.truncate(count);
        }
        self.list.sort_unstable_by_key(|c| Reverse(rank(c)));
        self.dense = false;
        self.order = Order::BestFirst;
        self.len = self.list.len();
    }

    /// Goes through the candidates from the best down until `is_last` says so, and drops those after.
    /// Sorts only about as many as are looked at.
    pub fn keep_until(&mut self, mut is_last: impl FnMut(Candidate) -> bool) {
        let was_dense = self.dense;
        self.make_list();
        let mut sorted = if self.order == Order::BestFirst { self.list.len() } else { 0 };
        let mut seen = 0;
        while seen < self.list.len() {
            if seen == sorted {
                let rest = &mut self.list[sorted..];
                let more = rest.len().min(FIRST_SORTED.max(3 * sorted));
                select(rest, more);
                rest[..more].sort_unstable_by_key(|c| Reverse(rank(c)));
                sorted += more;
            }
            seen += 1;
            if is_last(self.list[seen - 1]) {
                break;
            }
        }
        if was_dense && seen > FIRST_SORTED {
            // Gathered from the row they come in order of id, as the draw wants them.
            let lowest = rank(&self.list[seen - 1]);
            self.dense = true;
            self.retain(|c| rank(&c) >= lowest);
        } else {
            self.list.truncate(seen);
            self.order = Order::BestFirst;
            self.len = seen;
        }
    }

    /// Sum of the weights of all candidates. A candidate's weight is the 40-bit integer nearest to
    /// 2^40 times its probability divided by that of the best.
    pub fn total_weight(&mut self) -> u128 {
        let Some(best) = self.best() else { return 0 };
        self.sum_blocks(best)
    }

    /// Draws a candidate by the weights: with the candidates in order of their ids, the one at which the
    /// running sum of weights first exceeds `random / 2^64` of the total.
    pub fn choose(&mut self, random: u64) -> Option<u32> {
        let best = self.best()?;
        if self.len == 1 {
            return Some(best.id);
        }
        if !self.dense && self.order != Order::ById {
            self.list.sort_unstable_by_key(|c| c.id);
            self.order = Order::ById;
        }
        // The total is below 2^72, so 56 random bits fit beside it.
        let mut target = (u128::from(random >> 8) * self.sum_blocks(best)) >> 56;
        let block = self.sums.iter().position(|sum| {
            let here = target < u128::from(*sum);
            target -= if here { 0 } else { u128::from(*sum) };
            here
        })?;
        let mut target = u64::try_from(target).ok()?;
        let first = block * BLOCK;
        let weights = self.block_weights(block, best);
        let at = first
            + weights.iter().position(|weight| {
                let here = target < *weight;
                target -= if here { 0 } else { *weight };
                here
            })?;
        Some(if self.dense { at as u32 } else { self.list[at].id })
    }

    /// Leaves the weights' sums over blocks in `sums` and returns their total.
    fn sum_blocks(&mut self, best: Candidate) -> u128 {
        let len = if self.dense { self.row.len() } else { self.list.len() };
        self.sums.clear();
        for block in 0..len.div_ceil(BLOCK) {
            let sum = self.block_weights(block, best).iter().sum();
            self.sums.push(sum);
        }
        self.sums.iter().map(|sum| u128::from(*sum)).sum()
    }

    /// Weights of a block of the row or the list; those of no candidates are 0.
    fn block_weights(&self, block: usize, best: Candidate) -> [u64; BLOCK] {
        let mut weights = [0; BLOCK];
        let best = f64::from(best.logit);
        if self.dense {
            for (weight, logit) in weights.iter_mut().zip(&self.row[block * BLOCK..]) {
                *weight = weight::weight(f64::from(*logit) - best);
            }
        } else {
            for (weight, candidate) in weights.iter_mut().zip(&self.list[block * BLOCK..]) {
                *weight = weight::weight(f64::from(candidate.logit) - best);
            }
        }
        weights
    }

    fn clear(&mut self) {
        self.row.clear();
        self.list.clear();
        self.dense = false;
        self.order = Order::Unknown;
        self.len = 0;
    }

    fn make_list(&mut self) {
        if self.dense {
            self.retain(|_| true);
        }
    }

    /// Leaves the `count` best of the row in the list, unsorted: one pass, with a floor that rises each
    /// time the buffer is full. A later score equal to the floor loses to the lower ids before it.
    fn scan_best(&mut self, count: usize) {
        const STRIDE: usize = 64;
        self.list.clear();
        let mut floor = f32::NEG_INFINITY;
        for (first, logits) in (0..).step_by(STRIDE).zip(self.row.chunks(STRIDE)) {
            // Nearly all are below the floor: many are passed over at a time.
            if logits.iter().map(|logit| u32::from(*logit > floor)).sum::<u32>() == 0 {
                continue;
            }
            for (id, &logit) in (first..).zip(logits) {
                if logit > floor {
                    self.list.push(Candidate { id, logit });
                    if self.list.len() == 2 * count {
                        select(&mut self.list, count);
                        self.list.truncate(count);
                        floor = self.list[count - 1].logit;
                    }
                }
            }
        }
        select(&mut self.list, count);
        self.list.truncate(count);
    }

    fn after_list_change(&mut self) {
        self.list.retain(|c| c.logit > f32::NEG_INFINITY);
        if self.order == Order::BestFirst && !self.list.is_sorted_by_key(|c| Reverse(rank(c))) {
            self.order = Order::Unknown;
        }
        self.len = self.list.len();
    }
}

/// Score of a candidate relative to the best one.
pub(super) fn difference(candidate: Candidate, best: Candidate) -> f64 {
    f64::from(candidate.logit) - f64::from(best.logit)
}

/// Orders candidates: a higher score ranks higher, of equal ones the lower id.
fn rank(candidate: &Candidate) -> u64 {
    let bits = (candidate.logit + 0.0).to_bits(); // -0.0 + 0.0 is 0.0
    let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(ordered) << 32 | u64::from(!candidate.id)
}

/// Moves the `count` best to the front, the last of them to index `count - 1`.
fn select(list: &mut [Candidate], count: usize) {
    if 0 < count && count < list.len() {
        list.select_nth_unstable_by_key(count - 1, |c| Reverse(rank(c)));
    }
}

/// How many scores are those of candidates.
fn count(row: &[f32]) -> usize {
    row.iter().map(|l| u32::from(*l > f32::NEG_INFINITY)).sum::<u32>() as usize
}

/// The highest of the scores, none of which is NaN.
fn highest(row: &[f32]) -> f32 {
    let higher = |a: f32, b: f32| if b > a { b } else { a };
    let (lanes, rest) = row.as_chunks::<16>();
    let start = [f32::NEG_INFINITY; 16];
    let best = lanes.iter().fold(start, |best, lane| std::array::from_fn(|i| higher(best[i], lane[i])));
    best.iter().chain(rest).copied().fold(f32::NEG_INFINITY, higher)
}

/// Whether a model may give this score: neither NaN nor +inf.
fn is_score(logit: f32) -> bool {
    logit < f32::INFINITY
}

/// Brings the result of arithmetic on a score back to a finite value or -inf.
fn settle(logit: f32) -> f32 {
    if logit > f32::NEG_INFINITY { logit.min(f32::MAX) } else { f32::NEG_INFINITY }
}
