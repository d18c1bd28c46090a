//! Prefixes that are used again, and several answers to one prompt.

use std::time::Instant;

use rz_engine::serve::{EngineOptions, Request};

use crate::fake::{Fake, continuation, group};
use crate::{Answers, answer, assert_empty, engine, engine_with, greedy, request, text};

#[test]
fn a_shared_prefix_is_computed_once() {
    let fake = Fake::new(&[group(None, 64)], 512);
    let log = fake.log.clone();
    let mut engine = engine(fake);
    let first = answer(&mut engine, request(text(1000, 990, 1), 3));
    assert_eq!(first.usage().cached_tokens, 0);
    let computed = |log: &std::sync::Mutex<crate::fake::Log>| {
        log.lock().unwrap().batches.iter().map(|batch| batch.0).sum::<usize>()
    };
    assert_eq!(computed(&log), 1002);
    let second = answer(&mut engine, request(text(1000, 990, 2), 3));
    assert_eq!(second.usage().cached_tokens, 990);
    assert_eq!(computed(&log), 1002 + 12);
    assert_eq!(second.tokens, continuation(&text(1000, 990, 2), &greedy(), 0, 3));
    let stats = engine.stats();
    assert_eq!((stats.prefix_queries, stats.prefix_hits), (2000, 990));
    // The same again, and a conversation that goes on from an answer.
    let again = answer(&mut engine, request(text(1000, 990, 1), 3));
    assert_eq!((again.usage().cached_tokens, &again.tokens), (992, &first.tokens));
    let mut longer = text(1000, 990, 1);
    longer.extend(continuation(&longer, &greedy(), 0, 40));
    answer(&mut engine, request(text(1000, 990, 1), 40));
    assert_eq!(answer(&mut engine, request(longer.clone(), 2)).usage().cached_tokens, 1024);
    // A request that does not want it.
    let mut alone = request(longer, 2);
    alone.cache_prompt = false;
    assert_eq!(answer(&mut engine, alone).usage().cached_tokens, 0);
    assert_empty(&engine);
}

#[test]
fn windows_limit_what_is_found() {
    let mut engine = engine(Fake::new(&[group(Some(64), 5), group(None, 64)], 32));
    let prompt = text(320, 320, 1);
    answer(&mut engine, request(prompt.clone(), 2));
    // The end of the text is there, and what came long before is not, in the group with a window.
    assert_eq!(answer(&mut engine, request(prompt.clone(), 2)).usage().cached_tokens, 319);
    let mut other = prompt[..100].to_vec();
    other.extend(text(60, 0, 9));
    let found = answer(&mut engine, request(other.clone(), 4));
    assert_eq!(found.usage().cached_tokens, 0);
    assert_eq!(found.tokens, continuation(&other, &greedy(), 0, 4));
    assert_empty(&engine);
}

#[test]
fn several_answers_share_their_prompt() {
    for (blocks, max_running) in [(64, 32), (64, 2), (8, 32)] {
        let fake = Fake::new(&[group(None, blocks)], 512);
        let log = fake.log.clone();
        let options = EngineOptions { max_running, ..EngineOptions::default() };
        let mut engine = engine_with(fake, options);
        let prompt = text(100, 0, 1);
        let mut several = Request::new(prompt.clone());
        (several.n, several.seed, several.max_tokens, several.ignore_eos) = (4, 7, Some(20), true);
        let sampling = several.sampling.clone();
        let id = engine.submit(several).unwrap();
        let mut answers = Answers::default();
        answers.run(&mut engine);
        for choice in 0..4 {
            let expected = continuation(&prompt, &sampling, 7 + choice as u64, 20);
            assert_eq!(answers.0[&(id, choice)].tokens, expected, "answer {choice}, {blocks} blocks");
        }
        assert_ne!(answers.0[&(id, 0)].tokens, answers.0[&(id, 1)].tokens);
        if (blocks, max_running) == (64, 32) {
            let batches = &log.lock().unwrap().batches;
            assert_eq!(batches.iter().map(|batch| batch.0).sum::<usize>(), 100 + 4 * 19);
            assert_eq!(answers.0[&(id, 3)].usage().cached_tokens, 100);
        }
        assert_empty(&engine);
    }
}

#[test]
fn many_answers_wait_for_one_prompt_and_hold_up_nobody() {
    let options =
        EngineOptions { max_running: 4, min_chunk: 16, max_chunk: Some(16), ..EngineOptions::default() };
    let mut engine = engine_with(Fake::new(&[group(None, 64)], 64), options);
    let mut several = request(text(200, 0, 1), 3);
    several.n = 10;
    let first = engine.submit(several).unwrap();
    let second = engine.submit(request(text(10, 0, 2), 2)).unwrap();
    let mut answers = Answers::default();
    for _ in 0..4 {
        answers.take(engine.step(Instant::now()));
    }
    // The others wait for the prompt, which takes longer.
    assert!(answers.of(second).end.is_some());
    assert!(answers.of(first).tokens.is_empty());
    answers.run(&mut engine);
    assert_eq!((0..10).filter(|choice| answers.0[&(first, *choice)].tokens.len() == 3).count(), 10);
    assert_empty(&engine);
}
