//! Generation: the same tokens whatever the way, text and stop strings, every way to end.

mod common;
#[path = "common/tokenizer.rs"]
mod tokens;

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Fake, best, toy};
use proptest::prelude::*;
use rz_engine::{EngineError, Event, Finish, Request, Session, Stats};
use rz_model::ModelError;
use rz_model::sampler::{Candidates, Chain, Settings, StepContext};
use rz_tokenizer::{DecodeOptions, Tokenizer};
use tokens::{END, byte, piece, tokenizer};

/// A model that continues any prompt of `prompt` tokens with these, and then ends.
fn scripted(prompt: usize, script: Vec<u32>) -> Session<Fake> {
    Session::new(Fake::scored(270, 8, 64, move |prefix| {
        let mut scores = vec![0.0; 270];
        scores[*script.get(prefix.len() - prompt).unwrap_or(&END) as usize] = 10.0;
        scores[269] = 1e9; // beyond the tokenizer: never to be chosen
        scores
    }))
}

struct Answer {
    tokens: Vec<u32>,
    text: String,
    finish: Finish,
    stats: Stats,
}

fn answer(session: &mut Session<Fake>, tokenizer: &Tokenizer, request: Request<'_>) -> Answer {
    let (mut tokens, mut text, mut end) = (vec![], String::new(), None);
    for event in session.generate(tokenizer, request).unwrap() {
        assert!(end.is_none(), "an event after the end");
        match event.unwrap() {
            Event::Token { id, text: part } => {
                tokens.push(id);
                text += &part;
            }
            Event::Text(part) => text += &part,
            Event::Finished { reason, stats } => end = Some((reason, stats)),
        }
    }
    let (finish, stats) = end.expect("an end");
    assert_eq!(stats.generated_tokens, tokens.len());
    Answer { tokens, text, finish, stats }
}

fn greedy(prompt: &[u32]) -> Request<'_> {
    Request::new(prompt, Chain::greedy())
}

fn limited(prompt: &[u32], max_tokens: usize) -> Request<'_> {
    let mut request = greedy(prompt);
    request.max_tokens = Some(max_tokens);
    request.ignore_eos = true;
    request
}

const PROMPT: [u32; 70] = {
    let mut tokens = [0; 70];
    let mut i = 0;
    while i < 70 {
        tokens[i] = (i * i % 91) as u32;
        i += 1;
    }
    tokens
};

#[test]
fn greedy_tokens_are_the_best_ones_whatever_the_chunk() {
    let tokenizer = tokenizer();
    let mut expected = PROMPT.to_vec();
    for _ in 0..40 {
        expected.push(best(&toy(&expected)));
    }
    for chunk in [1, 7, 64, 70] {
        let mut session = Session::new(Fake::new(8, 128)).with_chunk(chunk);
        let answer = answer(&mut session, &tokenizer, limited(&PROMPT, 40));
        assert_eq!(answer.tokens, expected[70..], "chunk {chunk}");
        assert_eq!(answer.finish, Finish::MaxTokens);
        assert_eq!((answer.stats.prompt_tokens, answer.stats.decode_steps), (70, 39));
    }
}

#[test]
fn a_seed_gives_the_same_tokens_whatever_the_chunk_and_the_cache() {
    let tokenizer = tokenizer();
    let chain = || Chain::new(&Settings::new()).unwrap();
    let mut expected = PROMPT.to_vec();
    let mut candidates = Candidates::new();
    for _ in 0..40 {
        candidates.load(&toy(&expected)).unwrap();
        expected.push(chain().choose(&mut candidates, &mut StepContext::new(5, &expected, 70)).unwrap());
    }
    let mut warm = Session::new(Fake::new(8, 64));
    for chunk in [1, 7, 64] {
        let mut fresh = Session::new(Fake::new(8, 64)).with_chunk(chunk);
        for session in [&mut fresh, &mut warm] {
            let mut request = limited(&PROMPT, 40);
            (request.chain, request.seed) = (chain(), 5);
            assert_eq!(answer(session, &tokenizer, request).tokens, expected[70..]);
        }
        // Something else in between.
        answer(&mut warm, &tokenizer, limited(&PROMPT[..30], 20));
    }
}

#[test]
fn a_conversation_keeps_what_was_said() {
    let tokenizer = tokenizer();
    let mut session = Session::new(Fake::new(8, 64));
    let mut conversation = PROMPT[..20].to_vec();
    let mut computed = 0;
    for turn in 0..4 {
        let kept = answer(&mut session, &tokenizer, limited(&conversation, 10));
        let fresh = answer(&mut Session::new(Fake::new(8, 64)), &tokenizer, limited(&conversation, 10));
        assert_eq!(kept.tokens, fresh.tokens);
        // The last token of an answer is not in the cache yet.
        assert_eq!(kept.stats.cached_tokens, if turn == 0 { 0 } else { conversation.len() - 6 });
        computed += conversation.len() - kept.stats.cached_tokens + kept.stats.decode_steps;
        conversation.extend(kept.tokens);
        conversation.extend(&PROMPT[turn..turn + 5]);
    }
    assert_eq!(session.forward().calls.iter().map(|c| c.0).sum::<usize>(), computed);
}

#[test]
fn the_models_end_is_the_end_unless_ignored() {
    let tokenizer = tokenizer();
    let script = vec![piece("a"), END, piece("b")];
    let ended = answer(&mut scripted(3, script.clone()), &tokenizer, greedy(&[1, 5, 6]));
    assert_eq!((ended.tokens, ended.text.as_str()), (vec![piece("a")], "a"));
    assert_eq!(ended.finish, Finish::EndOfGeneration(END));
    for (special, expected) in [(false, "ab"), (true, "a</s>b")] {
        let mut request = limited(&[1, 5, 6], 3);
        request.decode = DecodeOptions { special, continues: true };
        let ignored = answer(&mut scripted(3, script.clone()), &tokenizer, request);
        assert_eq!((ignored.tokens, ignored.text.as_str()), (script.clone(), expected));
        assert_eq!(ignored.finish, Finish::MaxTokens);
    }
}

#[test]
fn characters_come_whole() {
    let tokenizer = tokenizer();
    // Two bytes of é, four of a face, then the first two bytes of another that never gets complete.
    let script: Vec<u32> = [0xc3, 0xa9, 0xf0, 0x9f, 0x98, 0x80, 0xf0, 0x9f].map(byte).to_vec();
    let mut session = scripted(1, script);
    let events: Vec<Event> =
        session.generate(&tokenizer, greedy(&[1])).unwrap().map(Result::unwrap).collect();
    let texts: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            Event::Token { text, .. } | Event::Text(text) => Some(text.as_str()),
            Event::Finished { .. } => None,
        })
        .collect();
    assert_eq!(texts, ["", "é", "", "", "", "😀", "", "", "\u{fffd}"]);
    assert!(matches!(events.last(), Some(Event::Finished { reason: Finish::EndOfGeneration(END), .. })));
}

/// By definition: the text up to the stop string that is complete first, of several the longest.
fn cut<'a>(text: &'a str, stops: &[String]) -> (&'a str, bool) {
    for end in 0..=text.len() {
        let here = stops.iter().filter(|s| text.as_bytes()[..end].ends_with(s.as_bytes()));
        if let Some(len) = here.map(String::len).max() {
            return (&text[..end - len], true);
        }
    }
    (text, false)
}

proptest! {
    #[test]
    fn stop_strings_end_the_text_wherever_tokens_begin_and_end(
        script in prop::collection::vec(prop::sample::select(vec![
            piece("a"), piece("b"), piece("ab"), piece("▁a"), piece("é"), piece("ba"), piece("!"),
            byte(0xc3), byte(0xa9), byte(b'\n'), byte(b'a'),
        ]), 0..30),
        stops in prop::collection::vec("[ab é!]{1,4}", 0..4),
    ) {
        let tokenizer = tokenizer();
        let full = tokenizer.decode_with(&script, DecodeOptions { special: false, continues: true });
        let (expected, stopped) = cut(&full, &stops);
        let mut request = greedy(&[1]);
        request.stop = &stops;
        let answer = answer(&mut scripted(1, script.clone()), &tokenizer, request);
        prop_assert_eq!(&answer.text, expected);
        prop_assert_eq!(&answer.tokens, &script[..answer.tokens.len()]);
        match answer.finish {
            Finish::StopString(which) => prop_assert!(stopped && full.contains(&stops[which])),
            finish => prop_assert!(!stopped && finish == Finish::EndOfGeneration(END)),
        }
    }
}

#[test]
fn text_that_waited_is_let_out_at_the_end() {
    let tokenizer = tokenizer();
    let stops = ["ab!".to_owned()];
    for (script, max_tokens) in [(vec![piece("ab")], None), (vec![piece("ab"); 3], Some(1))] {
        let mut request = greedy(&[1]);
        (request.stop, request.max_tokens) = (&stops, max_tokens);
        let answer = answer(&mut scripted(1, script), &tokenizer, request);
        assert_eq!(answer.text, "ab");
        assert!(!matches!(answer.finish, Finish::StopString(_)));
    }
}

#[test]
fn a_full_context_is_an_end() {
    let tokenizer = tokenizer();
    for (prompt, tokens) in [(60, 5), (63, 2), (64, 1)] {
        let mut session = Session::new(Fake::new(2, 64));
        let mut request = limited(&PROMPT[..prompt], 0);
        request.max_tokens = None;
        let answer = answer(&mut session, &tokenizer, request);
        assert_eq!((answer.tokens.len(), answer.finish), (tokens, Finish::ContextFull));
        assert_eq!(session.cached().len(), 64);
    }
    let mut session = Session::new(Fake::new(2, 64));
    let error = session.generate(&tokenizer, greedy(&PROMPT[..65])).err().unwrap();
    assert!(matches!(error, EngineError::ContextFull { tokens: 65, context: 64 }), "{error}");
    assert!(session.into_forward().calls.is_empty());
}

#[test]
fn no_tokens_may_be_asked_for() {
    let mut session = Session::new(Fake::new(4, 64));
    let answer = answer(&mut session, &tokenizer(), limited(&PROMPT, 0));
    assert_eq!((answer.tokens.len(), answer.finish), (0, Finish::MaxTokens));
    assert_eq!(session.cached(), PROMPT);
}

#[test]
fn cancelling_ends_before_the_next_step() {
    let tokenizer = tokenizer();
    // Before anything happens.
    let mut session = Session::new(Fake::new(8, 16));
    let cancel = AtomicBool::new(true);
    let mut request = limited(&PROMPT, 9);
    request.cancel = Some(&cancel);
    assert_eq!(answer(&mut session, &tokenizer, request).finish, Finish::Cancelled);
    assert!(session.forward().calls.is_empty());

    // After three tokens.
    cancel.store(false, Ordering::Relaxed);
    let mut request = limited(&PROMPT, 9);
    request.cancel = Some(&cancel);
    let mut seen = 0;
    for event in session.generate(&tokenizer, request).unwrap() {
        match event.unwrap() {
            Event::Finished { reason, .. } => assert_eq!((reason, seen), (Finish::Cancelled, 3)),
            _ => seen += 1,
        }
        cancel.store(seen == 3, Ordering::Relaxed);
    }

    // While the prompt is fed: what was done is not lost.
    let cancel = Rc::new(AtomicBool::new(false));
    let mut fake = Fake::new(8, 16);
    let at_second = cancel.clone();
    fake.on_call = Box::new(move |call| at_second.store(call == 1, Ordering::Relaxed));
    let mut session = Session::new(fake);
    let mut request = limited(&PROMPT, 9);
    request.cancel = Some(&cancel);
    let cancelled = answer(&mut session, &tokenizer, request);
    assert_eq!((cancelled.finish, cancelled.tokens.len()), (Finish::Cancelled, 0));
    assert_eq!(session.cached(), &PROMPT[..32]);
    let resumed = answer(&mut session, &tokenizer, limited(&PROMPT, 9));
    assert_eq!(resumed.stats.cached_tokens, 32);
}

#[test]
fn errors_pass_through_and_leave_the_session_usable() {
    let tokenizer = tokenizer();
    let expected = answer(&mut Session::new(Fake::new(8, 16)), &tokenizer, limited(&PROMPT, 9)).tokens;
    for fail_at in 0..8 {
        let mut fake = Fake::new(8, 16);
        fake.fail_at = Some(fail_at);
        let mut session = Session::new(fake);
        let events: Vec<_> = session.generate(&tokenizer, limited(&PROMPT, 9)).unwrap().collect();
        let (last, before) = events.split_last().unwrap();
        assert!(matches!(last, Err(EngineError::Model(ModelError::Batch(_)))));
        // Five passes for the prompt; each later one follows a token.
        assert_eq!(before.len(), fail_at.saturating_sub(4));
        assert_eq!(answer(&mut session, &tokenizer, limited(&PROMPT, 9)).tokens, expected);
    }
}

#[test]
fn broken_scores_and_requests_are_errors() {
    let tokenizer = tokenizer();
    let mut session = Session::new(Fake::scored(270, 4, 64, |_| vec![f32::NAN; 270]));
    let events: Vec<_> = session.generate(&tokenizer, greedy(&[1])).unwrap().collect();
    assert!(matches!(events[..], [Err(EngineError::Model(ModelError::Score { token: 0, .. }))]));
    assert!(matches!(session.generate(&tokenizer, greedy(&[])), Err(EngineError::EmptyPrompt)));
    let stops = [String::new()];
    let mut request = greedy(&[1]);
    request.stop = &stops;
    assert!(matches!(session.generate(&tokenizer, request), Err(EngineError::EmptyStop)));
}
