//! The tokens that may come next, with their scores.

use std::cmp::Reverse;

use super::weight::weight;
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
}

/// How the list is sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Order {
    #[default]
    Unknown,
    ById,
    BestFirst,
}

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
        let mut len = 0;
        let mut sound = true;
        for &logit in logits {
            sound &= is_score(logit);
            len += usize::from(logit > f32::NEG_INFINITY);
        }
        if !sound {
            let (id, &value) =
                logits.iter().enumerate().find(|(_, l)| !is_score(**l)).unwrap_or((0, &f32::NAN));
            return Err(ModelError::Score { token: id as u32, value });
        }
        self.row.extend_from_slice(logits);
        self.dense = true;
        self.len = len;
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
            let mut best = Candidate { id: 0, logit: f32::NEG_INFINITY };
            for (id, &logit) in self.row.iter().enumerate() {
                if logit > best.logit {
                    best = Candidate { id: id as u32, logit };
                }
            }
            return (best.logit > f32::NEG_INFINITY).then_some(best);
        }
        if self.order == Order::BestFirst {
            return self.list.first().copied();
        }
        self.list.iter().copied().max_by_key(rank)
    }

    /// Changes every score. One that overflows is brought back to the largest finite value; `-inf` and
    /// NaN exclude the candidate.
    pub fn map(&mut self, mut change: impl FnMut(Candidate) -> f32) {
        if self.dense {
            let mut len = 0;
            for (id, logit) in self.row.iter_mut().enumerate() {
                if *logit > f32::NEG_INFINITY {
                    *logit = settle(change(Candidate { id: id as u32, logit: *logit }));
                    len += usize::from(*logit > f32::NEG_INFINITY);
                }
            }
            self.len = len;
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
        self.list.truncate(seen);
        self.order = Order::BestFirst;
        self.len = seen;
    }

    /// Sum of the weights of all candidates. A candidate's weight is the 40-bit integer nearest to
    /// 2^40 times its probability divided by that of the best.
    pub fn total_weight(&self) -> u128 {
        let Some(best) = self.best() else { return 0 };
        self.iter().map(|c| u128::from(weight(difference(c, best)))).sum()
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
        let mut target = (u128::from(random >> 8) * self.total_weight()) >> 56;
        for candidate in self.iter() {
            let weight = u128::from(weight(difference(candidate, best)));
            if target < weight {
                return Some(candidate.id);
            }
            target -= weight;
        }
        None
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
        self.list.clear();
        let mut floor = f32::NEG_INFINITY;
        for (id, &logit) in self.row.iter().enumerate() {
            if logit > floor {
                self.list.push(Candidate { id: id as u32, logit });
                if self.list.len() == 2 * count {
                    select(&mut self.list, count);
                    self.list.truncate(count);
                    floor = self.list[count - 1].logit;
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

/// Whether a model may give this score: neither NaN nor +inf.
fn is_score(logit: f32) -> bool {
    logit < f32::INFINITY
}

/// Brings the result of arithmetic on a score back to a finite value or -inf.
fn settle(logit: f32) -> f32 {
    if logit > f32::NEG_INFINITY { logit.min(f32::MAX) } else { f32::NEG_INFINITY }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(candidates: &Candidates) -> Vec<u32> {
        let mut ids: Vec<_> = candidates.iter().map(|c| c.id).collect();
        ids.sort_unstable();
        ids
    }

    /// Scores with many ties, zeros of both signs and excluded tokens.
    fn rows() -> impl Strategy<Value = Vec<f32>> {
        let score = prop_oneof![
            4 => (-6i8..6).prop_map(|x| f32::from(x) * 0.5),
            4 => -30f32..30.0,
            1 => Just(-0.0),
            1 => Just(f32::NEG_INFINITY),
        ];
        prop::collection::vec(score, 0..700)
    }

    /// The oracle's order: by definition, with a stable sort.
    fn best_first(row: &[f32]) -> Vec<(u32, f32)> {
        let mut all: Vec<_> = (0..).zip(row.iter().copied()).filter(|(_, l)| l.is_finite()).collect();
        all.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap());
        all
    }

    #[test]
    fn a_full_buffer_keeps_the_lower_ids_of_equal_scores() {
        let mut candidates = Candidates::new();
        candidates.load(&[1.0; 100]).unwrap();
        candidates.keep_best(3);
        assert_eq!(ids(&candidates), [0, 1, 2]);
        assert_eq!(candidates.best().unwrap().id, 0);
    }

    #[test]
    fn scores_that_are_no_numbers_are_refused() {
        let mut candidates = Candidates::new();
        for value in [f32::NAN, -f32::NAN, f32::INFINITY] {
            let error = candidates.load(&[0.0, f32::NEG_INFINITY, value, 1.0]).unwrap_err();
            assert!(matches!(error, ModelError::Score { token: 2, .. }), "{error}");
            assert!(candidates.is_empty() && candidates.best().is_none());
            let error = candidates.load_list([Candidate { id: 9, logit: value }]).unwrap_err();
            assert!(matches!(error, ModelError::Score { token: 9, .. }), "{error}");
        }
    }

    #[test]
    fn overflow_is_brought_back_and_nan_excluded() {
        let mut candidates = Candidates::new();
        candidates.load(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        candidates.map(|c| [f32::INFINITY, f32::NAN, f32::NEG_INFINITY, 0.0][c.id as usize]);
        assert_eq!(candidates.len(), 2);
        assert_eq!(candidates.best(), Some(Candidate { id: 0, logit: f32::MAX }));
        candidates.map_ids(&[0, 3, 77], |_| f32::NAN);
        assert!(candidates.is_empty());
        assert_eq!(candidates.choose(0), None);
    }

    proptest! {
        #[test]
        fn the_best_are_kept(row in rows(), count in 0usize..720, as_list: bool) {
            let sorted = best_first(&row);
            let mut candidates = Candidates::new();
            candidates.load(&row).unwrap();
            prop_assert_eq!(candidates.len(), sorted.len());
            prop_assert_eq!(candidates.best().map(|c| c.id), sorted.first().map(|c| c.0));
            if as_list {
                candidates.load_list(sorted.iter().rev().map(|&(id, logit)| Candidate { id, logit })).unwrap();
            }
            candidates.keep_best(count);
            let mut kept: Vec<_> = sorted.iter().take(count).map(|c| c.0).collect();
            kept.sort_unstable();
            prop_assert_eq!(ids(&candidates), kept);
            prop_assert_eq!(candidates.best().map(|c| c.id), sorted.iter().take(count).next().map(|c| c.0));
        }

        #[test]
        fn walking_down_meets_them_in_order(row in rows(), stop in 1usize..720) {
            let sorted = best_first(&row);
            let mut candidates = Candidates::new();
            candidates.load(&row).unwrap();
            let mut met = vec![];
            candidates.keep_until(|c| { met.push((c.id, c.logit)); met.len() == stop });
            prop_assert_eq!(&met[..], &sorted[..stop.min(sorted.len())]);
            prop_assert_eq!(candidates.len(), met.len());
        }

        /// The draw is the inverse of the cumulative distribution in order of id.
        #[test]
        fn draws_invert_the_distribution(row in rows(), random: u64) {
            let mut candidates = Candidates::new();
            candidates.load(&row).unwrap();
            let chosen = candidates.choose(random);
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let shares: Vec<f64> = row.iter().map(|l| (f64::from(*l) - f64::from(top)).exp()).collect();
            let Some(chosen) = chosen else {
                prop_assert!(top == f32::NEG_INFINITY);
                return Ok(());
            };
            prop_assert!(row[chosen as usize].is_finite());
            let total: f64 = shares.iter().sum();
            let before: f64 = shares[..chosen as usize].iter().sum::<f64>() / total;
            let after = before + shares[chosen as usize] / total;
            let at = random as f64 / 2f64.powi(64);
            prop_assert!(before - 1e-9 <= at && at <= after + 1e-9, "{} not in {}..{}", at, before, after);
        }

        #[test]
        fn the_order_of_a_list_does_not_matter(
            row in rows(), random: u64, seed in prop::collection::vec(any::<u32>(), 700), cut in 1usize..50,
        ) {
            let mut dense = Candidates::new();
            dense.load(&row).unwrap();
            let mut shuffled: Vec<Candidate> = dense.iter().collect();
            shuffled.sort_by_key(|c| seed[c.id as usize]);
            let mut list = Candidates::new();
            list.load_list(shuffled).unwrap();
            prop_assert_eq!(dense.total_weight(), list.total_weight());
            prop_assert_eq!(dense.clone().choose(random), list.clone().choose(random));
            dense.keep_best(cut);
            list.keep_best(cut);
            prop_assert_eq!(dense.choose(random), list.choose(random));
        }
    }
}
