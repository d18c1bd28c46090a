//! Every way to end.

use std::time::{Duration, Instant};

use rz_engine::serve::{ContextShift, EngineOptions, EventKind, FinishReason, Request, StopCause};

use crate::fake::{Fake, continuation, group};
use crate::tokens::{END, byte, piece};
use crate::{Answers, answer, assert_empty, engine, engine_with, greedy, request, text};

/// Biases under which an answer is this token again and again.
fn always(token: u32) -> Vec<(u32, f32)> {
    vec![(token, 1e4)]
}

fn small() -> Fake {
    Fake::new(&[group(None, 16)], 64)
}

#[test]
fn the_model_ends_unless_it_is_ignored_or_too_early() {
    let mut engine = engine(small());
    let ending = |max_tokens| {
        let mut request = Request::new(text(10, 0, 1));
        (request.sampling, request.max_tokens, request.logit_bias) = (greedy(), max_tokens, always(END));
        request
    };
    let ended = answer(&mut engine, ending(Some(9)));
    assert_eq!(
        (ended.tokens.len(), ended.reason()),
        (0, &FinishReason::Stop(StopCause::EndOfGeneration(END)))
    );
    let mut ignored = ending(Some(9));
    ignored.ignore_eos = true;
    let ignored = answer(&mut engine, ignored);
    assert_eq!((ignored.tokens, ignored.text.as_str()), (vec![END; 9], ""));
    let mut later = ending(Some(9));
    later.min_tokens = 4;
    let later = answer(&mut engine, later);
    assert_eq!(later.reason(), &FinishReason::Stop(StopCause::EndOfGeneration(END)));
    assert_eq!(later.tokens.len(), 4);
    assert!(!later.tokens.contains(&END));
}

#[test]
fn stop_strings_and_tokens_end_and_are_no_part_of_the_text() {
    let mut engine = engine(small());
    let saying = |token| {
        let mut request = request(text(10, 0, 1), 6);
        request.logit_bias = always(token);
        request
    };
    let mut stopped = saying(piece("ab"));
    stopped.stop = vec!["nothing".into(), "ba".into()];
    let stopped = answer(&mut engine, stopped);
    assert_eq!((stopped.text.as_str(), stopped.reason()), ("a", &FinishReason::Stop(StopCause::String(1))));
    assert_eq!(stopped.tokens.len(), 2);
    // Text that waits for the rest of a stop string is let out at the end.
    let mut waited = saying(piece("ab"));
    waited.stop = vec!["ababababababab!".into()];
    let waited = answer(&mut engine, waited);
    assert_eq!((waited.text.as_str(), waited.tokens.len()), ("abababababab", 6));
    let mut late = saying(piece("ab"));
    (late.stop, late.min_tokens) = (vec!["b".into()], 3);
    let late = answer(&mut engine, late);
    assert_eq!((late.text.as_str(), late.tokens.len()), ("abababa", 4));
    let mut token = saying(piece("ab"));
    token.stop_tokens = vec![piece("!"), piece("ab")];
    let token = answer(&mut engine, token);
    assert_eq!((token.tokens.len(), token.reason()), (0, &FinishReason::Stop(StopCause::Token(piece("ab")))));
    // Characters come whole, and what never becomes one is let out as a replacement.
    let part = answer(&mut engine, saying(byte(0xf0)));
    assert_eq!(part.text, "\u{fffd}".repeat(6));
}

#[test]
fn a_full_context_ends_an_answer() {
    for (context, blocks) in [(Some(60), 16), (None, 2)] {
        let options = EngineOptions { context, ..EngineOptions::default() };
        let mut engine = engine_with(Fake::new(&[group(None, blocks)], 64), options);
        let held = context.unwrap_or(64);
        for len in [held, held - 1, 5] {
            let mut endless = request(text(len, 0, 1), 0);
            (endless.max_tokens, endless.n) = (None, 2);
            let id = engine.submit(endless).unwrap();
            let mut answers = Answers::default();
            answers.run(&mut engine);
            for choice in 0..2 {
                let answer = &answers.0[&(id, choice)];
                assert_eq!(answer.reason(), &FinishReason::Length { context_full: true });
                assert_eq!(answer.tokens, continuation(&text(len, 0, 1), &greedy(), 0, held + 1 - len));
            }
        }
        assert_empty(&engine);
    }
}

#[test]
fn a_shifted_context_goes_on_from_what_is_kept() {
    let options = EngineOptions { context: Some(60), ..EngineOptions::default() };
    let mut engine = engine_with(small(), options);
    let prompt = text(50, 0, 1);
    let mut shifting = request(prompt.clone(), 100);
    shifting.context_shift = Some(ContextShift { keep: 10 });
    let other = engine.submit(request(text(20, 0, 2), 20)).unwrap();
    let id = engine.submit(shifting).unwrap();
    let mut answers = Answers::default();
    answers.run(&mut engine);
    // By definition: at 61 tokens, the older half of those after the first ten goes.
    let (mut seen, mut expected) = (prompt, vec![]);
    while expected.len() < 100 {
        let next = continuation(&seen, &greedy(), 0, 1)[0];
        expected.push(next);
        seen.push(next);
        if seen.len() > 60 {
            seen.drain(10..10 + (seen.len() - 10).div_ceil(2));
        }
    }
    assert_eq!(answers.of(id).tokens, expected);
    assert_eq!(answers.of(other).tokens, continuation(&text(20, 0, 2), &greedy(), 0, 20));
    assert_empty(&engine);
}

#[test]
fn cancelling_takes_one_step_wherever_the_request_is() {
    let options = EngineOptions { max_running: 1, max_chunk: Some(8), ..EngineOptions::default() };
    let mut engine = engine_with(small(), options);
    let now = Instant::now();
    // While its prompt is computed, while it generates, while it waits.
    for steps in [0, 1, 3, 9] {
        let running = engine.submit(request(text(30, 0, 1), 50)).unwrap();
        let waiting = engine.submit(request(text(30, 0, 2), 50)).unwrap();
        let mut answers = Answers::default();
        (0..steps).for_each(|_| answers.take(engine.step(now)));
        engine.cancel(running);
        engine.cancel(waiting);
        engine.cancel(waiting);
        assert!(!engine.is_idle());
        answers.take(engine.step(now));
        assert!(engine.is_idle());
        for id in [running, waiting] {
            assert_eq!(answers.of(id).reason(), &FinishReason::Cancelled);
        }
        assert_empty(&engine);
        engine.cancel(running);
        assert!(engine.is_idle(), "it has ended already");
    }
    assert_eq!(engine.stats().cancelled, 8);
}

#[test]
fn deadlines_end_what_runs_and_what_waits() {
    let options = EngineOptions { max_running: 1, ..EngineOptions::default() };
    let mut engine = engine_with(small(), options);
    let start = Instant::now();
    let mut ids = vec![];
    for after in [20, 10, 1000] {
        let mut late = request(text(20, 0, 1), 40);
        late.deadline = Some(start + Duration::from_millis(after));
        ids.push(engine.submit(late).unwrap());
    }
    let (mut answers, mut ended) = (Answers::default(), vec![]);
    for step in 0.. {
        if engine.is_idle() {
            break;
        }
        let events = engine.step(start + Duration::from_millis(step));
        ended.extend(events.iter().filter_map(|event| match event.kind {
            EventKind::Finished { .. } => Some((event.request, step)),
            _ => None,
        }));
        answers.take(events);
    }
    assert_eq!(ended, [(ids[1], 10), (ids[0], 20), (ids[2], 59)]);
    assert_eq!(answers.of(ids[0]).reason(), &FinishReason::Deadline);
    assert_eq!(answers.of(ids[0]).tokens, continuation(&text(20, 0, 1), &greedy(), 0, 20));
    assert_eq!(engine.stats().timed_out, 2);
    assert_empty(&engine);
}

#[test]
fn who_makes_the_model_fail_fails_alone() {
    let mut fake = small();
    let poison = piece("!");
    fake.fails = Box::new(move |batch| batch.tokens.contains(&poison));
    let mut engine = engine(fake);
    let mut answers = Answers::default();
    let good: Vec<_> =
        (1..4).map(|salt| (salt, engine.submit(request(text(20, 0, salt), 9)).unwrap())).collect();
    let mut prompt = text(20, 0, 4);
    prompt[7] = poison;
    let bad = engine.submit(request(prompt, 9)).unwrap();
    answers.run(&mut engine);
    let reason = answers.of(bad).reason();
    assert!(matches!(reason, FinishReason::Error(problem) if problem.contains("on purpose")), "{reason:?}");
    for (salt, id) in good {
        assert_eq!(answers.of(id).tokens, continuation(&text(20, 0, salt), &greedy(), 0, 9));
    }
    assert_eq!(engine.stats().errors, 1);
    assert_empty(&engine);
}

#[test]
fn no_tokens_may_be_asked_for() {
    let mut engine = engine(small());
    let answer = answer(&mut engine, request(text(20, 0, 1), 0));
    assert_eq!((answer.tokens.len(), answer.reason()), (0, &FinishReason::Length { context_full: false }));
    assert_eq!(answer.usage().prompt_tokens, 20);
}
