//! The engine over a fake back end, whose scores give away every token and block that is out of place.

mod alone;
mod answers;
mod beside;
mod ends;
mod fake;
mod refusals;
mod sharing;
mod slots;
mod threads;
#[path = "../common/tokenizer.rs"]
mod tokens;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fake::Fake;
use rz_engine::serve::{Engine, EngineOptions, Event, EventKind, FinishReason, Request, RequestId, Usage};
use rz_model::sampler::Settings;

/// An engine whose chunks are not cut short.
fn engine(fake: Fake) -> Engine {
    engine_with(fake, EngineOptions::default())
}

fn engine_with(fake: Fake, options: EngineOptions) -> Engine {
    Engine::new(fake, Arc::new(tokens::tokenizer()), options)
}

fn greedy() -> Settings {
    let mut settings = Settings::new();
    settings.set("greedy", true).unwrap();
    settings
}

/// A request for exactly so many of the likeliest tokens.
fn request(prompt: Vec<u32>, max_tokens: usize) -> Request {
    let mut request = Request::new(prompt);
    (request.sampling, request.max_tokens, request.ignore_eos) = (greedy(), Some(max_tokens), true);
    request
}

/// Tokens of texts that differ from `salt` to `salt` after `shared` tokens.
fn text(len: usize, shared: usize, salt: u32) -> Vec<u32> {
    (0..len).map(|at| (at as u32 * 31 + if at < shared { 0 } else { salt * 7 + 1 }) % 259 + 3).collect()
}

/// What became of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    text: String,
    started: bool,
    end: Option<(FinishReason, Usage)>,
}

impl Answer {
    fn reason(&self) -> &FinishReason {
        &self.end.as_ref().expect("an end").0
    }

    fn usage(&self) -> Usage {
        self.end.as_ref().expect("an end").1
    }
}

/// Collects events by request and answer.
#[derive(Default)]
struct Answers(BTreeMap<(RequestId, usize), Answer>);

impl Answers {
    fn take(&mut self, events: Vec<Event>) {
        for event in events {
            let answer = self.0.entry((event.request, event.choice)).or_default();
            assert!(answer.end.is_none(), "an event after the end: {event:?}");
            match event.kind {
                EventKind::Started { .. } => {
                    assert!(!std::mem::replace(&mut answer.started, true), "two beginnings");
                }
                EventKind::Token { id, text, .. } => {
                    assert!(answer.started);
                    answer.tokens.push(id);
                    answer.text += &text;
                }
                EventKind::Text(text) => answer.text += &text,
                EventKind::Finished { reason, usage, .. } => {
                    assert_eq!(usage.completion_tokens, answer.tokens.len());
                    answer.end = Some((reason, usage));
                }
                _ => {}
            }
        }
    }

    /// Steps, a millisecond each, until there is nothing to do.
    fn run(&mut self, engine: &mut Engine) -> usize {
        let start = Instant::now();
        for step in 0.. {
            if engine.is_idle() {
                return step;
            }
            assert!(step < 20_000, "it does not come to an end: {:?}", engine.stats());
            self.take(engine.step(start + Duration::from_millis(step as u64)));
        }
        unreachable!()
    }

    fn of(&self, id: RequestId) -> &Answer {
        &self.0[&(id, 0)]
    }
}

/// What one request gives in this engine.
fn answer(engine: &mut Engine, request: Request) -> Answer {
    let mut answers = Answers::default();
    let id = engine.submit(request).unwrap();
    answers.run(engine);
    answers.of(id).clone()
}

/// No sequence holds a block.
fn assert_empty(engine: &Engine) {
    let stats = engine.stats();
    assert!(stats.groups.iter().all(|group| group.used == 0), "{stats:?}");
    assert_eq!((stats.queued, stats.waiting, stats.running), (0, 0, 0), "{stats:?}");
}
