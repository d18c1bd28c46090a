//! How long short prompts wait beside a long one, on machines of any speed.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use rz_engine::serve::{Engine, EngineOptions, EventKind, RequestId};

use crate::fake::{Fake, group};
use crate::{engine_with, request, text};

/// What passes take, in seconds.
#[derive(Clone, Copy, Debug)]
struct Machine {
    pass: f64,
    token: f64,
    position: f64,
}

/// An engine on a machine, whose time is what its passes took.
struct Run {
    machine: Machine,
    engine: Engine,
    log: std::sync::Arc<std::sync::Mutex<crate::fake::Log>>,
    start: Instant,
    now: f64,
    counted: (usize, usize),
}

impl Run {
    fn new(machine: Machine) -> Run {
        let fake = Fake::new(&[group(None, 200)], 512);
        let log = fake.log.clone();
        let options = EngineOptions { context: Some(4100), ..EngineOptions::default() };
        let engine = engine_with(fake, options);
        Run { machine, engine, log, start: Instant::now(), now: 0.0, counted: (0, 0) }
    }

    fn submit(&mut self, tokens: usize, salt: u32) -> RequestId {
        let mut request = request(text(tokens, 0, salt), 1);
        request.cache_prompt = false;
        self.engine.submit(request).unwrap()
    }

    /// Does a step. Returns how long it took, and who got a token.
    fn step(&mut self) -> (f64, Vec<RequestId>) {
        let Run { machine, log, start, now, counted, .. } = self;
        let begin = *now;
        let mut asked = false;
        let events = self.engine.step_with(|| {
            // The second time is after the pass.
            if std::mem::replace(&mut asked, true) {
                let log = log.lock().unwrap();
                let batch = log.batches[counted.0];
                *now += machine.pass + machine.token * batch.0 as f64;
                *now += machine.position * (log.positions - counted.1) as f64;
                *counted = (counted.0 + 1, log.positions);
            }
            *start + Duration::from_secs_f64(*now)
        });
        let tokens = events.iter().filter(|event| matches!(event.kind, EventKind::Token { .. }));
        (self.now - begin, tokens.map(|event| event.request).collect())
    }

    /// How long a prompt takes alone.
    fn alone(&mut self, tokens: usize) -> f64 {
        let begin = self.now;
        self.submit(tokens, 1);
        while !self.engine.is_idle() {
            self.step();
        }
        self.now - begin
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// By definition: the time from when a short prompt comes until it has its first token, one after the other
    /// with pauses between, beside how long one takes that comes alone. But for the first: the long one had been
    /// alone before it, and nobody could know.
    #[test]
    fn a_short_prompt_takes_at_most_three_times_as_long_beside_a_long_one(
        token in 4e-4f64..0.1,
        // What reading the weights takes, in tokens; how many positions take as long as a token.
        pass in 0f64..8.0,
        position in 1500f64..50_000.0,
        short in 16usize..=32,
        pauses in prop::collection::vec(0f64..6.0, 1..50),
    ) {
        let mut run = Run::new(Machine { pass: pass * token, token, position: token / position });
        for _ in 0..3 {
            run.alone(short);
        }
        let alone = run.alone(short);
        let long_alone = run.alone(4000);
        let begin = run.now;
        let long = run.submit(4000, 2);
        let mut pauses = pauses.into_iter().cycle();
        let mut comes = begin + alone * pauses.next().unwrap();
        let (mut short_one, mut waits, mut of_short) = (None, Vec::new(), 0.0);
        loop {
            if short_one.is_none() && comes <= run.now {
                short_one = Some(run.submit(short, 3));
            }
            let (taken, tokens) = run.step();
            if tokens.contains(&long) {
                break;
            }
            of_short += if short_one.is_some() { taken } else { 0.0 };
            if short_one.is_some_and(|id| tokens.contains(&id)) {
                short_one = None;
                waits.push(run.now - comes);
                comes = run.now + alone * pauses.next().unwrap();
            }
        }
        let first = waits.remove(0);
        prop_assert!(first <= 4.5 * alone, "{} for the first, {} alone", first, alone);
        waits.sort_by(f64::total_cmp);
        let most = waits.iter().take((0.99 * waits.len() as f64).ceil() as usize).next_back();
        let most = most.copied().unwrap_or(0.0);
        prop_assert!(most <= 3.0 * alone, "{} of {} waits, {} alone", most, waits.len(), alone);
        let long_beside = run.now - begin - of_short;
        prop_assert!(long_beside <= 1.5 * long_alone, "{} and {}", long_beside, long_alone);
    }
}
