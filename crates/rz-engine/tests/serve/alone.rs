//! Every answer is what it would be alone, whatever else goes on, and every request ends.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use rz_engine::serve::{ContextShift, EngineOptions, FinishReason, Request, RequestId};
use rz_model::KvGroup;
use rz_model::sampler::{Candidates, Chain, Settings, StepContext};

use crate::fake::{Fake, continuation, group, hash, scores};
use crate::{Answers, assert_empty, engine_with, greedy, text};

/// A request as data.
#[derive(Clone, Debug)]
struct Plan {
    len: usize,
    shared: usize,
    salt: u32,
    n: usize,
    tokens: usize,
    seed: Option<u64>,
    priority: i32,
    cache: bool,
    /// The step before which it is submitted.
    at: usize,
    /// Steps after which it is cancelled, and milliseconds after which it is given up.
    cancel: Option<usize>,
    deadline: Option<u64>,
    /// Tokens that are kept when the context is full.
    shift: Option<usize>,
    /// Whether the model fails at its prompt.
    poisoned: bool,
}

/// The longest sequence.
const CONTEXT: usize = 224;

/// A token that no text has by itself.
const POISON: u32 = 265;

impl Plan {
    fn settings(&self) -> Settings {
        if self.seed.is_some() { Settings::new() } else { greedy() }
    }

    fn prompt(&self) -> Vec<u32> {
        let mut prompt = text(self.len, self.shared, self.salt);
        if self.poisoned {
            prompt[self.len / 2] = POISON;
        }
        prompt
    }

    /// By definition: what an answer is, alone.
    fn answer(&self, choice: usize) -> Vec<u32> {
        let (mut history, mut seen) = (self.prompt(), self.prompt());
        let mut chain = Chain::new(&self.settings()).unwrap();
        let mut candidates = Candidates::new();
        let seed = self.seed.unwrap_or(0).wrapping_add(choice as u64);
        for _ in 0..self.tokens {
            match self.shift {
                Some(keep) if seen.len() > CONTEXT => {
                    seen.drain(keep..keep + (seen.len() - keep).div_ceil(2));
                }
                None if seen.len() > CONTEXT => break,
                _ => {}
            }
            candidates.load(&scores(hash(&seen))[..266]).unwrap();
            candidates.map_ids(&[POISON], |_| f32::NEG_INFINITY);
            let mut context = StepContext::new(seed, &history, self.len);
            let token = chain.choose(&mut candidates, &mut context).unwrap();
            history.push(token);
            seen.push(token);
        }
        history.split_off(self.len)
    }

    fn request(&self, start: Instant) -> Request {
        let mut request = Request::new(self.prompt());
        request.logit_bias = vec![(POISON, f32::NEG_INFINITY)];
        request.context_shift = self.shift.map(|keep| ContextShift { keep });
        (request.n, request.max_tokens, request.ignore_eos) = (self.n, Some(self.tokens), true);
        (request.sampling, request.seed) = (self.settings(), self.seed.unwrap_or(0));
        (request.priority, request.cache_prompt) = (self.priority, self.cache);
        request.deadline = self.deadline.map(|after| start + Duration::from_millis(self.at as u64 + after));
        request
    }
}

fn plan() -> impl Strategy<Value = Plan> {
    let prompt = (1usize..=CONTEXT, 0usize..150, 0u32..4);
    let ask = (
        1usize..4,
        prop_oneof![4 => 0usize..60, 1 => 0usize..300],
        prop::option::of(any::<u64>()),
        -1i32..2,
        prop::bool::weighted(0.8),
    );
    let times = (0usize..60, prop::option::weighted(0.2, 0usize..80), prop::option::weighted(0.1, 1u64..80));
    let odd = (prop::option::weighted(0.3, 0usize..100), prop::bool::weighted(0.05));
    (prompt, ask, times, odd).prop_map(|(prompt, ask, times, (shift, poisoned))| {
        let (len, shared, salt) = prompt;
        let (n, tokens, seed, priority, cache) = ask;
        let (at, cancel, deadline) = times;
        Plan { len, shared, salt, n, tokens, seed, priority, cache, at, cancel, deadline, shift, poisoned }
    })
}

/// Groups that hold the longest sequence, and often not much more.
fn groups() -> impl Strategy<Value = Vec<KvGroup>> {
    (7usize..30, 7usize..30, 2usize..80, 0u8..4).prop_map(|(a, b, window, kind)| match kind {
        0 | 1 => vec![group(None, a)],
        2 => vec![group(Some(window), a), group(None, b)],
        _ => vec![group(Some(window), a)],
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn every_answer_is_what_it_would_be_alone(
        plans in prop::collection::vec(plan(), 1..12),
        groups in groups(),
        (max_batch, max_running, min_chunk) in (1usize..70, 1usize..12, 1usize..40),
    ) {
        let options = EngineOptions {
            max_running,
            min_chunk,
            target_step: Duration::from_micros(1500),
            context: Some(CONTEXT),
            ..EngineOptions::default()
        };
        let mut fake = Fake::new(&groups, max_batch);
        fake.fails = Box::new(|batch| batch.tokens.contains(&POISON));
        let mut engine = engine_with(fake, options);
        let (start, mut answers) = (Instant::now(), Answers::default());
        let mut submitted: Vec<(RequestId, Plan)> = vec![];
        let last = plans.iter().map(|plan| plan.at).max().unwrap_or(0);
        let mut step = 0;
        while step <= last || !engine.is_idle() {
            for plan in plans.iter().filter(|plan| plan.at == step) {
                submitted.push((engine.submit(plan.request(start)).unwrap(), plan.clone()));
            }
            for (id, plan) in &submitted {
                if plan.cancel.is_some_and(|after| plan.at + after == step) {
                    engine.cancel(*id);
                }
            }
            let now = start + Duration::from_millis(step as u64);
            answers.take(engine.step(now));
            step += 1;
            prop_assert!(step < 200_000, "it does not come to an end: {:?}", engine.stats());
        }
        assert_empty(&engine);
        for (id, plan) in submitted {
            for choice in 0..plan.n {
                let answer = &answers.0[&(id, choice)];
                let expected = plan.answer(choice);
                if !plan.poisoned {
                    prop_assert!(expected.starts_with(&answer.tokens), "{:?}: {:?}, expected {:?}", plan, answer, expected);
                }
                match answer.reason() {
                    FinishReason::Length { .. } => prop_assert_eq!(answer.tokens.len(), expected.len()),
                    FinishReason::Cancelled => prop_assert!(plan.cancel.is_some()),
                    FinishReason::Deadline => prop_assert!(plan.deadline.is_some()),
                    FinishReason::Error(_) => prop_assert!(plan.poisoned && answer.tokens.is_empty()),
                    reason => prop_assert!(false, "{:?}", reason),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]
    #[test]
    fn the_same_calls_at_the_same_times_give_the_same_events(
        plans in prop::collection::vec(plan(), 1..12),
        groups in groups(),
        (max_batch, max_running, min_chunk) in (1usize..70, 1usize..12, 1usize..40),
        times in prop::collection::vec(0u64..5000, 60),
    ) {
        let start = Instant::now();
        let run = || {
            let options =
                EngineOptions { max_running, min_chunk, context: Some(CONTEXT), ..EngineOptions::default() };
            let mut engine = engine_with(Fake::new(&groups, max_batch), options);
            let (mut now, mut events) = (start, vec![]);
            for (step, time) in times.iter().enumerate() {
                for plan in plans.iter().filter(|plan| plan.at == step) {
                    engine.submit(plan.request(start)).unwrap();
                }
                events.push(engine.step(now));
                now += Duration::from_micros(*time);
            }
            (events, engine.stats())
        };
        prop_assert_eq!(run(), run());
    }
}

/// The first in order always gets on: with room for little more than one, all come through, oldest first.
#[test]
fn with_room_for_one_all_come_through_in_order() {
    let mut engine = engine_with(Fake::new(&[group(None, 7)], 64), EngineOptions::default());
    let mut answers = Answers::default();
    let ids: Vec<RequestId> =
        (0..6).map(|salt| engine.submit(crate::request(text(100, 0, salt), 100)).unwrap()).collect();
    let mut ends = vec![];
    let start = Instant::now();
    while !engine.is_idle() {
        let events = engine.step(start);
        ends.extend(events.iter().filter_map(|event| match event.kind {
            rz_engine::serve::EventKind::Finished { .. } => Some(event.request),
            _ => None,
        }));
        answers.take(events);
    }
    assert_eq!(ends, ids);
    for (salt, id) in ids.into_iter().enumerate() {
        let expected = continuation(&text(100, 0, salt as u32), &greedy(), 0, 100);
        assert_eq!(answers.of(id).tokens, expected);
    }
    assert_empty(&engine);
}

#[test]
fn what_has_to_make_room_loses_nothing() {
    let mut engine = engine_with(Fake::new(&[group(None, 12)], 64), EngineOptions::default());
    let mut answers = Answers::default();
    // Each of them fits at first, and not all of them once they have grown.
    let ids: Vec<RequestId> =
        (0..4).map(|salt| engine.submit(crate::request(text(33, 0, salt), 150)).unwrap()).collect();
    answers.run(&mut engine);
    assert!(engine.stats().preemptions > 0);
    for (salt, id) in ids.into_iter().enumerate() {
        let expected = continuation(&text(33, 0, salt as u32), &greedy(), 0, 150);
        assert_eq!(answers.of(id).tokens, expected);
    }
    assert_empty(&engine);
}

/// Who is let in keeps the room for its prompt: nothing is computed only to make room again.
#[test]
fn no_more_are_let_in_than_their_prompts_have_room() {
    let options = EngineOptions { max_chunk: Some(32), ..EngineOptions::default() };
    let mut engine = engine_with(Fake::new(&[group(None, 20)], 64), options);
    let mut answers = Answers::default();
    let ids: Vec<RequestId> =
        (0..6).map(|salt| engine.submit(crate::request(text(300, 0, salt), 5)).unwrap()).collect();
    answers.run(&mut engine);
    let stats = engine.stats();
    assert_eq!((stats.preemptions, stats.prompt_tokens), (0, 6 * 300));
    for (salt, id) in ids.into_iter().enumerate() {
        assert_eq!(answers.of(id).tokens, continuation(&text(300, 0, salt as u32), &greedy(), 0, 5));
    }
}

#[test]
fn a_higher_priority_takes_room() {
    let options = EngineOptions { max_running: 1, ..EngineOptions::default() };
    let mut engine = engine_with(Fake::new(&[group(None, 12)], 64), options);
    let mut answers = Answers::default();
    let low = engine.submit(crate::request(text(40, 0, 1), 50)).unwrap();
    for _ in 0..10 {
        answers.take(engine.step(Instant::now()));
    }
    let mut urgent = crate::request(text(40, 0, 2), 5);
    urgent.priority = 1;
    let high = engine.submit(urgent).unwrap();
    while answers.0.get(&(high, 0)).is_none_or(|answer| answer.end.is_none()) {
        answers.take(engine.step(Instant::now()));
    }
    assert!(answers.of(low).end.is_none());
    assert_eq!(engine.stats().preemptions, 1);
    answers.run(&mut engine);
    assert_eq!(answers.of(low).tokens, continuation(&text(40, 0, 1), &greedy(), 0, 50));
}

/// Low priorities wait, and not for ever, however many requests of high ones come.
#[test]
fn a_low_priority_does_not_starve() {
    let options = EngineOptions { max_running: 2, ..EngineOptions::default() };
    let mut engine = engine_with(Fake::new(&[group(None, 12)], 64), options);
    let mut answers = Answers::default();
    let now = Instant::now();
    let urgent = |engine: &mut rz_engine::serve::Engine| {
        let mut request = crate::request(text(5, 0, 2), 2);
        request.priority = 1;
        engine.submit(request).unwrap();
    };
    (0..4).for_each(|_| urgent(&mut engine));
    let low = engine.submit(crate::request(text(40, 0, 1), 10)).unwrap();
    let mut overtaken = 0;
    while answers.0.get(&(low, 0)).is_none_or(|answer| answer.end.is_none()) {
        while engine.stats().queued < 4 {
            urgent(&mut engine);
            overtaken += 1;
        }
        answers.take(engine.step(now));
        assert!(overtaken < 1100, "it waits for ever");
    }
    assert!(overtaken > 900, "{overtaken}");
    assert_eq!(answers.of(low).tokens, continuation(&text(40, 0, 1), &greedy(), 0, 10));
}

/// A long prompt gets on while short ones come without end.
#[test]
fn a_long_prompt_does_not_starve() {
    let options = EngineOptions { max_chunk: Some(32), context: Some(2000), ..EngineOptions::default() };
    let mut engine = engine_with(Fake::new(&[group(None, 100)], 128), options);
    let mut answers = Answers::default();
    let now = Instant::now();
    let long = engine.submit(crate::request(text(1000, 0, 1), 1)).unwrap();
    let mut steps = 0;
    while answers.0.get(&(long, 0)).is_none_or(|answer| answer.end.is_none()) {
        while engine.stats().waiting < 3 {
            let mut short = crate::request(text(30, 0, 2), 1);
            short.cache_prompt = false;
            engine.submit(short).unwrap();
        }
        answers.take(engine.step(now));
        steps += 1;
    }
    // A quarter of what a step computes, 20 tokens or so.
    assert!((160..=230).contains(&steps), "{steps}");
}

/// Those who read along get a token with every step, while a long prompt is computed in chunks; short prompts that
/// come later need not wait for it.
#[test]
fn a_long_prompt_stalls_nobody() {
    let options =
        EngineOptions { max_chunk: Some(32), min_chunk: 32, context: Some(2000), ..EngineOptions::default() };
    let mut engine = engine_with(Fake::new(&[group(None, 100)], 128), options);
    let reader = engine.submit(crate::request(text(10, 0, 1), 200)).unwrap();
    let mut answers = Answers::default();
    let now = Instant::now();
    answers.take(engine.step(now));
    let long = engine.submit(crate::request(text(1500, 0, 2), 3)).unwrap();
    let mut short = None;
    let mut first_of_short = None;
    for step in 0..60 {
        if step == 5 {
            short = Some(engine.submit(crate::request(text(40, 0, 3), 3)).unwrap());
        }
        let before = answers.of(reader).tokens.len();
        answers.take(engine.step(now));
        assert_eq!(answers.of(reader).tokens.len(), before + 1, "step {step}");
        if let Some(id) = short
            && first_of_short.is_none()
            && answers.0.get(&(id, 0)).is_some_and(|answer| !answer.tokens.is_empty())
        {
            first_of_short = Some(step);
        }
    }
    assert_eq!(first_of_short, Some(6), "32 tokens a step, and all for the short one");
    assert!(!answers.of(long).tokens.is_empty());
}
