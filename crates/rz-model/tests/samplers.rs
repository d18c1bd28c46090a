//! Each sampler against its definition, over arbitrary scores.

use proptest::prelude::*;
use rz_model::ModelError;
use rz_model::sampler::{Candidate, Candidates, Chain, Kind, Param, SAMPLERS, Settings, StepContext, Value};

/// What is left after a chain of one sampler, best first.
fn apply(sampler: &str, set: &[(&str, Value)], row: &[f32], history: &[u32]) -> Vec<Candidate> {
    let mut settings = Settings::new();
    settings.set_order([sampler]).unwrap();
    for &(name, value) in set {
        settings.set(name, value).unwrap();
    }
    let mut candidates = Candidates::new();
    candidates.load(row).unwrap();
    let context = &mut StepContext::new(1, history, 0);
    let token = Chain::new(&settings).unwrap().choose(&mut candidates, context).unwrap();
    let mut left: Vec<_> = candidates.iter().collect();
    assert!(left.iter().any(|c| c.id == token));
    assert_eq!(left.len(), candidates.len());
    left.sort_by(|a, b| b.logit.partial_cmp(&a.logit).unwrap().then(a.id.cmp(&b.id)));
    left
}

/// Ids and probabilities, best first, from the definition of softmax.
fn distribution(row: &[f32]) -> Vec<(u32, f64)> {
    let total: f64 = row.iter().map(|l| f64::from(*l).exp()).sum();
    let mut all: Vec<_> = (0..).zip(row.iter().map(|l| f64::from(*l).exp() / total)).collect();
    all.retain(|(_, p)| *p > 0.0);
    all.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap());
    all
}

fn ids(left: &[Candidate]) -> Vec<u32> {
    left.iter().map(|c| c.id).collect()
}

fn rows() -> impl Strategy<Value = Vec<f32>> {
    let score = prop_oneof![
        3 => -12f32..12.0,
        2 => (-8i8..8).prop_map(f32::from),
        1 => Just(f32::NEG_INFINITY),
    ];
    prop::collection::vec(score, 1..1500).prop_filter("a candidate", |row| row.iter().any(|l| l.is_finite()))
}

/// Any bits, with an emphasis on the ends of the range.
fn bits() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => any::<u32>().prop_map(f32::from_bits),
        1 => Just(f32::MAX),
        1 => Just(f32::MIN),
        1 => Just(f32::from_bits(1)),
        1 => Just(f32::NEG_INFINITY),
    ]
}

/// A value at a place in the setting's range, its ends included; of wide ranges the low part.
fn within(param: &Param, at: f64) -> Value {
    match param.kind {
        Kind::Float { min, max, .. } => (min + (max - min) * at.powi(4)).clamp(min, max).into(),
        Kind::Int { min, max, .. } => (min + (at * max.min(700) as f64) as i64).into(),
        Kind::Bool { .. } => (at > 0.8).into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn top_k_keeps_the_k_best(row in rows(), k in 1i64..1600) {
        let all = distribution(&row);
        let left = apply("top_k", &[("top_k", k.into())], &row, &[]);
        let expected: Vec<u32> = all.iter().take(k as usize).map(|c| c.0).collect();
        prop_assert_eq!(ids(&left), expected);
    }

    #[test]
    fn top_p_keeps_the_shortest_head_that_reaches_p(row in rows(), p in 0f64..1.0) {
        let all = distribution(&row);
        let left = apply("top_p", &[("top_p", p.into())], &row, &[]);
        let n = left.len();
        prop_assert!(n >= 1);
        prop_assert_eq!(ids(&left), all[..n].iter().map(|c| c.0).collect::<Vec<_>>());
        let sum = |n: usize| all[..n].iter().map(|c| c.1).sum::<f64>();
        prop_assert!(sum(n) >= p - 1e-9, "{} tokens have {} of {}", n, sum(n), p);
        prop_assert!(n == 1 || sum(n - 1) < p + 1e-9, "{} tokens have {} of {}", n - 1, sum(n - 1), p);
    }

    #[test]
    fn min_p_keeps_what_reaches_its_share_of_the_best(row in rows(), p in 0f64..=1.0) {
        let all = distribution(&row);
        let left = apply("min_p", &[("min_p", p.into())], &row, &[]);
        let n = left.len();
        prop_assert_eq!(ids(&left), all[..n].iter().map(|c| c.0).collect::<Vec<_>>());
        let share = |i: usize| all[i].1 / all[0].1;
        prop_assert!(share(n - 1) >= p - 1e-9);
        prop_assert!(n == all.len() || share(n) < p + 1e-9);
    }

    #[test]
    fn greedy_and_temperature_zero_keep_the_best(row in rows()) {
        let best = distribution(&row)[0].0;
        prop_assert_eq!(ids(&apply("greedy", &[("greedy", true.into())], &row, &[])), [best]);
        prop_assert_eq!(ids(&apply("temperature", &[("temperature", 0.into())], &row, &[])), [best]);
    }

    #[test]
    fn temperature_divides(row in rows(), temperature in 0.05f64..10.0) {
        let left = apply("temperature", &[("temperature", temperature.into())], &row, &[]);
        prop_assert_eq!(left.len(), row.iter().filter(|l| l.is_finite()).count());
        for c in left {
            let exact = f64::from(row[c.id as usize]) / temperature;
            prop_assert!((f64::from(c.logit) - exact).abs() <= exact.abs() * 1e-7);
        }
    }

    #[test]
    fn the_penalty_touches_each_late_token_once(
        row in rows(),
        history in prop::collection::vec(0u32..2000, 0..300),
        last in -1i64..100,
        penalty in 0.5f64..2.0,
    ) {
        let set = [("repeat_penalty", penalty.into()), ("repeat_last_n", last.into())];
        let left = apply("penalties", &set, &row, &history);
        prop_assert_eq!(left.len(), row.iter().filter(|l| l.is_finite()).count());
        let window = if last < 0 { 0 } else { history.len().saturating_sub(last as usize) };
        for c in left {
            let before = f64::from(row[c.id as usize]);
            let expected = match history[window..].contains(&c.id) {
                true if before > 0.0 => before / penalty,
                true => before * penalty,
                false => before,
            };
            prop_assert!((f64::from(c.logit) - expected).abs() <= expected.abs() * 1e-7);
        }
    }

    /// One chain follows an answer token by token; the prompt's tokens do not count.
    #[test]
    fn frequency_and_presence_count_the_answer(
        row in rows(),
        history in prop::collection::vec(0u32..40, 0..60),
        prompt in 0usize..20,
        frequency in -2f64..2.0,
        presence in -2f64..2.0,
    ) {
        let prompt = prompt.min(history.len());
        let mut settings = Settings::new();
        settings.set_order(["frequency"]).unwrap();
        settings.set("frequency_penalty", frequency).unwrap();
        settings.set("presence_penalty", presence).unwrap();
        let mut chain = Chain::new(&settings).unwrap();
        // Forwards, and at the end with a part of the answer lost.
        for end in (prompt..=history.len()).chain([prompt]) {
            let mut candidates = Candidates::new();
            candidates.load(&row).unwrap();
            chain.choose(&mut candidates, &mut StepContext::new(1, &history[..end], prompt)).unwrap();
            for c in candidates.iter() {
                let count = history[prompt..end].iter().filter(|id| **id == c.id).count();
                let before = f64::from(row[c.id as usize]);
                let penalty = if count > 0 { presence + frequency * count as f64 } else { 0.0 };
                prop_assert!((f64::from(c.logit) - (before - penalty)).abs() <= 1e-5);
            }
        }
    }

    /// Whatever the scores and settings: a token that was a candidate, or the error that says what is wrong.
    #[test]
    fn nothing_panics(
        mut row in prop::collection::vec(bits(), 0..600),
        finite: bool,
        history in prop::collection::vec(prop_oneof![0u32..600, any::<u32>()], 0..100),
        order in Just((0..SAMPLERS.len()).collect::<Vec<_>>()).prop_shuffle(),
        values in prop::collection::vec(0f64..=1.0, 16),
        seed: u64,
    ) {
        if finite {
            row.iter_mut().filter(|l| !l.is_finite()).for_each(|l| *l = f32::NEG_INFINITY);
        }
        let mut settings = Settings::new();
        settings.set_order(order.iter().map(|&i| SAMPLERS[i].name)).unwrap();
        for (param, at) in SAMPLERS.iter().flat_map(|s| s.params).zip(values) {
            settings.set(param.name, within(param, at)).unwrap();
        }
        let mut candidates = Candidates::new();
        let mut chain = Chain::new(&settings).unwrap();
        let chosen = candidates.load(&row).and_then(|()| {
            chain.choose(&mut candidates, &mut StepContext::new(seed, &history, 0))
        });
        match chosen {
            Ok(token) => prop_assert!(row[token as usize].is_finite()),
            Err(ModelError::Score { token, value }) => {
                prop_assert_eq!(row[token as usize].to_bits(), value.to_bits());
                prop_assert!(value.is_nan() || value == f32::INFINITY);
            }
            Err(ModelError::NoCandidates) => prop_assert!(row.iter().all(|l| *l == f32::NEG_INFINITY)),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

#[test]
fn no_scores_and_no_candidates_are_errors() {
    let mut chain = Chain::new(&Settings::new()).unwrap();
    let mut candidates = Candidates::new();
    for row in [&[][..], &[f32::NEG_INFINITY; 5]] {
        candidates.load(row).unwrap();
        let error = chain.choose(&mut candidates, &mut StepContext::new(0, &[], 0)).unwrap_err();
        assert!(matches!(error, ModelError::NoCandidates), "{error}");
    }
}

#[test]
fn scores_too_large_to_divide_leave_the_best() {
    let row = [f32::MAX, f32::MIN, 1.0, f32::MAX / 2.0];
    assert_eq!(ids(&apply("temperature", &[("temperature", 0.5.into())], &row, &[])), [0]);
    let row = [10.0, 10.000001, 9.0];
    assert_eq!(ids(&apply("temperature", &[("temperature", 1e-300.into())], &row, &[])), [1]);
}

#[test]
fn the_order_of_steps_is_the_one_that_was_set() {
    // Divided by 0.1, only two scores are within ln(20) = 3.0 of the best; as they are, all four.
    let row = [3.0, 2.8, 2.5, 0.5];
    let left = |order: [&str; 2]| {
        let mut settings = Settings::new();
        settings.set_order(order).unwrap();
        settings.set("temperature", 0.1).unwrap();
        let mut candidates = Candidates::new();
        candidates.load(&row).unwrap();
        let mut chain = Chain::new(&settings).unwrap();
        chain.choose(&mut candidates, &mut StepContext::new(0, &[], 0)).unwrap();
        candidates.len()
    };
    assert_eq!(left(["temperature", "min_p"]), 2);
    assert_eq!(left(["min_p", "temperature"]), 4);
}
