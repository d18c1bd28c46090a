//! What an answer holds: scores, vectors, text under a constraint.

use std::time::Instant;

use rz_engine::serve::{
    Constraint, EventKind, FinishReason, Pooling, Request, Scored, StopCause, TokenMask, TokenScore, Want,
};

use crate::fake::{Fake, continuation, group, hash, hidden, scores};
use crate::tokens::{END, PIECES, byte, piece};
use crate::{Answers, answer, assert_empty, engine, greedy, request, text};

/// By definition: how likely a token was after a text, and which were the likeliest.
fn score(prefix: &[u32], id: u32, top: usize) -> (f64, Vec<u32>) {
    let scores = &scores(hash(prefix))[..266];
    let total: f64 = scores.iter().map(|s| f64::from(*s).exp()).sum();
    let mut order: Vec<u32> = (0..266).collect();
    order.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
    ((f64::from(scores[id as usize]).exp() / total).ln(), order[..top].to_vec())
}

fn assert_score(found: &TokenScore, prefix: &[u32], id: u32, top: usize) {
    let (logprob, likeliest) = score(prefix, id, top);
    assert!((f64::from(found.logprob) - logprob).abs() < 1e-4, "{found:?}, expected {logprob}");
    assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), likeliest);
    for (id, logprob) in &found.top {
        assert!((f64::from(*logprob) - score(prefix, *id, 0).0).abs() < 1e-4);
    }
}

#[test]
fn tokens_come_with_their_scores() {
    let mut engine = engine(Fake::new(&[group(None, 64)], 64));
    let prompt = text(100, 0, 1);
    // Once with an empty cache, once with one that holds the prompt, once cut into pieces by others.
    for round in 0..3 {
        let mut request = request(prompt.clone(), 5);
        (request.logprobs, request.prompt_logprobs, request.n) = (Some(3), Some(2), 2);
        let id = engine.submit(request).unwrap();
        if round == 2 {
            for salt in 0..4 {
                engine.submit(crate::request(text(70, 0, salt), 9)).unwrap();
            }
        }
        let (mut history, mut scored) = (prompt.clone(), None);
        while !engine.is_idle() {
            for event in engine.step(Instant::now()) {
                match event.kind {
                    EventKind::Prompt(scores) => {
                        assert_eq!((event.request, event.choice), (id, 0));
                        assert!(scored.replace(scores).is_none());
                    }
                    EventKind::Token { id: token, score, .. } if (event.request, event.choice) == (id, 0) => {
                        assert!(scored.is_some(), "the prompt comes first");
                        assert_score(&score.unwrap(), &history, token, 3);
                        history.push(token);
                    }
                    EventKind::Token { score, .. } if event.request != id => assert!(score.is_none()),
                    _ => {}
                }
            }
        }
        assert_eq!(history.len(), 105);
        let scored: Vec<Scored> = scored.unwrap();
        assert_eq!(scored.iter().map(|s| s.id).collect::<Vec<_>>(), prompt);
        assert!(scored[0].score.is_none());
        for (at, scored) in scored.iter().enumerate().skip(1) {
            assert_score(scored.score.as_ref().unwrap(), &prompt[..at], prompt[at], 2);
        }
    }
    assert_empty(&engine);
}

#[test]
fn the_scores_of_a_prompt_of_one_token_and_of_no_answer() {
    let mut engine = engine(Fake::new(&[group(None, 8)], 64));
    for (len, max_tokens) in [(1, 1), (1, 0), (40, 0)] {
        let mut request = request(text(len, 0, 1), max_tokens);
        request.prompt_logprobs = Some(0);
        engine.submit(request).unwrap();
        let mut prompts = 0;
        while !engine.is_idle() {
            for event in engine.step(Instant::now()) {
                if let EventKind::Prompt(scored) = event.kind {
                    assert_eq!(scored.len(), len);
                    assert!(scored[1..].iter().all(|s| s.score.as_ref().is_some_and(|s| s.top.is_empty())));
                    prompts += 1;
                }
            }
        }
        assert_eq!(prompts, 1);
    }
}

#[test]
fn vectors_are_pooled_by_definition() {
    let mut engine = engine(Fake::new(&[group(None, 64)], 32));
    let prompt = text(90, 0, 1);
    let states: Vec<[f32; 3]> = (1..=90).map(|len| hidden(hash(&prompt[..len]))).collect();
    let mean = [0, 1, 2].map(|i| (states.iter().map(|s| f64::from(s[i])).sum::<f64>() / 90.0) as f32);
    for (pooling, expected) in [
        (Pooling::Last, states[89]),
        (Pooling::First, states[0]),
        (Pooling::Mean, mean),
        (Pooling::Last, states[89]),
    ] {
        let mut request = Request::new(prompt.clone());
        request.want = Want::Embed(pooling);
        engine.submit(request).unwrap();
        // Others compute in the same passes.
        engine.submit(crate::request(text(70, 0, 2), 9)).unwrap();
        let (mut vector, mut answers) = (None, Answers::default());
        while !engine.is_idle() {
            let events = engine.step(Instant::now());
            for event in &events {
                if let EventKind::Embedding(embedding) = &event.kind {
                    assert!(vector.replace(embedding.clone()).is_none());
                }
            }
            answers.take(events);
        }
        assert_eq!(vector.unwrap(), expected, "{pooling:?}");
        let reasons: Vec<_> = answers.0.values().map(|answer| answer.reason().clone()).collect();
        assert!(reasons.contains(&FinishReason::Complete));
    }
    assert_empty(&engine);
}

/// Allows the letters of a word, one after the other, and then the end.
#[derive(Clone)]
struct Word {
    word: &'static [u8],
    at: usize,
    /// Whether the end need not be said.
    closes: bool,
}

impl Constraint for Word {
    fn allow(&mut self, mask: &mut TokenMask) -> Result<(), String> {
        assert!((0..mask.len() as u32).all(|token| !mask.is_allowed(token)), "none is allowed at first");
        match self.word.get(self.at) {
            Some(b'?') => return Err("a word that cannot go on".into()),
            Some(b'!') => panic!("a bug in a constraint, on purpose"),
            Some(b'*') => (3..259).for_each(|token| mask.allow(token)),
            Some(letter) => mask.allow(byte(*letter)),
            None => mask.allow(END),
        }
        Ok(())
    }

    fn accept(&mut self, _token: u32) -> Result<(), String> {
        self.at += 1;
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.closes && self.at == self.word.len()
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

#[test]
fn a_constraint_decides_what_may_come() {
    let mut engine = engine(Fake::new(&[group(None, 64)], 64));
    let word = |word: &'static [u8], closes| {
        let mut request = request(text(40, 0, 1), 100);
        request.constraint = Some(Box::new(Word { word, at: 0, closes }));
        request.n = 2;
        request
    };
    let expected = [
        (word(b"yes", false), "yes", FinishReason::Stop(StopCause::EndOfGeneration(END))),
        (word(b"yes", true), "yes", FinishReason::ConstraintEnd),
        (word(b"", true), "", FinishReason::ConstraintEnd),
        (word(b"no?", true), "no", FinishReason::ConstraintFailed("a word that cannot go on".into())),
        (word(b"n!", true), "n", FinishReason::Error("the constraint failed: this is a bug".into())),
    ];
    let mut answers = Answers::default();
    let mut ids = vec![];
    for (request, text, reason) in expected {
        ids.push((engine.submit(request).unwrap(), text, reason));
    }
    let free = engine.submit(crate::request(text(40, 0, 1), 9)).unwrap();
    answers.run(&mut engine);
    for (id, text, reason) in ids {
        for choice in 0..2 {
            let answer = &answers.0[&(id, choice)];
            assert_eq!((answer.text.as_str(), answer.reason()), (text, &reason));
        }
    }
    assert_eq!(answers.of(free).tokens, continuation(&text(40, 0, 1), &greedy(), 0, 9));
    assert_empty(&engine);
}

/// Under a constraint that allows much, the likeliest of what is allowed is chosen.
#[test]
fn the_likeliest_allowed_token_is_chosen() {
    let mut engine = engine(Fake::new(&[group(None, 64)], 64));
    let mut request = request(text(40, 0, 1), 8);
    request.constraint = Some(Box::new(Word { word: b"********", at: 0, closes: false }));
    let answer = answer(&mut engine, request);
    let mut history = text(40, 0, 1);
    for token in answer.tokens {
        let scores = scores(hash(&history));
        let best = (3..259).max_by(|a: &usize, b| scores[*a].total_cmp(&scores[*b])).unwrap();
        assert_eq!(token as usize, best);
        history.push(token);
    }
    assert_eq!(history.len(), 48);
}

#[test]
fn biases_exclude_and_prefer() {
    let mut engine = engine(Fake::new(&[group(None, 64)], 64));
    let prompt = text(20, 0, 3);
    let first = continuation(&prompt, &greedy(), 0, 1)[0];
    let mut without = request(prompt.clone(), 1);
    without.logit_bias = vec![(first, f32::NEG_INFINITY), (0, -1.0)];
    let second = answer(&mut engine, without).tokens[0];
    assert_eq!(score(&prompt, 0, 2).1, [first, second]);
    let mut preferred = request(prompt, PIECES.len());
    // Of two biases for one token, the last counts.
    preferred.logit_bias = vec![(piece("!"), 100.0), (piece("é"), -100.0), (piece("é"), 200.0)];
    assert_eq!(answer(&mut engine, preferred).text, "é".repeat(PIECES.len()));
}
