//! The set of candidates against plain sorting and plain arithmetic.

use proptest::prelude::*;
use rz_model::ModelError;
use rz_model::sampler::{Candidate, Candidates};

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
