//! The engine on a thread of its own.

use std::ops::ControlFlow;
use std::sync::{Arc, Barrier, mpsc};

use rz_engine::serve::{EngineOptions, EngineThread, EventKind, FinishReason, Refusal};

use crate::fake::{Fake, continuation, group};
use crate::{Answers, engine, engine_with, greedy, request, text};

fn fake() -> Fake {
    Fake::new(&[group(None, 64)], 64)
}

#[test]
fn many_threads_get_what_they_would_get_alone() {
    let thread = EngineThread::spawn(engine(fake())).unwrap();
    std::thread::scope(|scope| {
        for salt in 0..8 {
            let handle = thread.handle();
            scope.spawn(move || {
                let stream = handle.submit(request(text(50, 30, salt), 40)).unwrap();
                let id = stream.id();
                let mut answers = Answers::default();
                answers.take(stream.collect());
                assert_eq!(answers.of(id).tokens, continuation(&text(50, 30, salt), &greedy(), 0, 40));
            });
        }
    });
    let handle = thread.handle();
    thread.drain();
    let stats = handle.stats();
    assert_eq!((stats.requests, stats.finished, stats.generated_tokens), (8, 8, 320));
    assert!(stats.groups.iter().all(|group| group.used == 0));
    assert!(handle.progress().stopped && !handle.progress().busy && handle.progress().steps > 0);
    assert!(matches!(handle.submit(request(text(5, 0, 1), 1)), Err(Refusal::Stopped)));
    assert_eq!(handle.call(|_| ()), None);
}

/// Clients that come, read a little and go, all at once: nothing is left of any.
#[test]
fn whatever_clients_do_nothing_is_left_of_them() {
    let options = EngineOptions { max_running: 5, max_queue: 6, ..EngineOptions::default() };
    let thread = EngineThread::spawn(engine_with(Fake::new(&[group(None, 12)], 64), options)).unwrap();
    let taken: usize = std::thread::scope(|scope| {
        let clients = (0..6u32).map(|client| {
            let handle = thread.handle();
            scope.spawn(move || {
                let mut taken = 0usize;
                for turn in 0..40u32 {
                    let mix = (client * 40 + turn).wrapping_mul(2_654_435_761) >> 8;
                    let prompt = text(5 + mix as usize % 90, 40, mix % 3);
                    let mut request = request(prompt.clone(), 1 + mix as usize / 7 % 30);
                    (request.n, request.priority) = (1 + mix as usize % 2, mix as i32 % 3);
                    let stream = match handle.submit(request) {
                        Ok(stream) => stream,
                        Err(Refusal::QueueFull { .. }) => continue,
                        Err(refusal) => panic!("{refusal}"),
                    };
                    taken += 1;
                    let id = stream.id();
                    let mut answers = Answers::default();
                    match mix / 3 % 4 {
                        0 => drop(stream),
                        1 => answers.take(stream.take(1 + mix as usize % 9).collect()),
                        2 => {
                            handle.cancel(id);
                            answers.take(stream.collect());
                            assert!(answers.0.values().all(|answer| answer.end.is_some()));
                        }
                        _ => {
                            answers.take(stream.collect());
                            let expected = continuation(&prompt, &greedy(), 0, 30);
                            let answer = answers.of(id);
                            assert!(matches!(answer.reason(), FinishReason::Length { .. }));
                            assert_eq!(answer.tokens, expected[..answer.tokens.len()]);
                        }
                    }
                }
                taken
            })
        });
        clients.collect::<Vec<_>>().into_iter().map(|client| client.join().unwrap()).sum()
    });
    let handle = thread.handle();
    thread.drain();
    let stats = handle.stats();
    assert_eq!(stats.requests, taken as u64);
    assert_eq!((stats.queued, stats.waiting, stats.running, stats.errors), (0, 0, 0, 0));
    assert_eq!(stats.groups[0].used, 0);
    assert!(taken > 40, "{taken}");
}

/// A fake that waits at every batch until the test says go.
fn gated() -> (Fake, mpsc::Sender<()>) {
    let (go, gate) = mpsc::channel();
    let mut fake = fake();
    fake.fails = Box::new(move |_| gate.recv().is_err());
    (fake, go)
}

#[test]
fn whoever_goes_away_is_cancelled_within_a_step() {
    let (fake, go) = gated();
    let thread = EngineThread::spawn(engine(fake)).unwrap();
    let handle = thread.handle();
    let mut gone = handle.submit(request(text(5, 0, 1), 1000)).unwrap();
    go.send(()).unwrap();
    assert!(matches!(gone.next().unwrap().kind, EventKind::Started { .. }));
    assert!(matches!(gone.next().unwrap().kind, EventKind::Token { .. }));
    // It is in its second step, or about to begin it: one more is the last.
    drop(gone);
    go.send(()).unwrap();
    go.send(()).unwrap();
    let stats = handle.call(|engine| engine.stats()).unwrap();
    assert_eq!((stats.running, stats.cancelled), (0, 1));
    // A sink that wants no more.
    let mut left = 2;
    let ticket = handle
        .submit_with(
            request(text(5, 0, 1), 1000),
            Box::new(move |_| {
                left -= 1;
                if left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            }),
        )
        .unwrap();
    (0..3).for_each(|_| go.send(()).unwrap());
    thread.drain();
    assert_eq!(handle.stats().cancelled, 2);
    drop(ticket);
}

#[test]
fn the_state_can_be_asked_for_while_a_step_is_stuck() {
    let (fake, go) = gated();
    let options = EngineOptions { max_queue: 2, ..EngineOptions::default() };
    let thread = EngineThread::spawn(engine_with(fake, options)).unwrap();
    let handle = thread.handle();
    assert_eq!(handle.call(|engine| engine.is_idle()), Some(true));
    let first = handle.submit(request(text(5, 0, 1), 2)).unwrap();
    assert!(!handle.progress().stopped);
    // Nothing here waits for the step. Until that is done, the first counts among those who wait.
    let waiting: Vec<_> = (0..5).map(|salt| handle.submit(request(text(5, 0, salt), 2))).collect();
    assert_eq!(waiting.iter().filter(|w| w.is_ok()).count(), 1);
    assert!(matches!(waiting[4], Err(Refusal::QueueFull { waiting: 2 })));
    handle.stats();
    drop(go);
    // Without its gate the model fails, and everybody hears of it.
    for stream in std::iter::once(first).chain(waiting.into_iter().flatten()) {
        let last = stream.last().unwrap();
        assert!(matches!(last.kind, EventKind::Finished { reason: FinishReason::Error(_), .. }));
    }
    thread.shutdown();
    assert!(handle.progress().stopped);
}

#[test]
fn draining_finishes_and_shutting_down_gives_up() {
    let (fake, go) = gated();
    let thread = EngineThread::spawn(engine(fake)).unwrap();
    let handle = thread.handle();
    let stream = handle.submit(request(text(5, 0, 1), 3)).unwrap();
    handle.drain();
    assert!(matches!(handle.submit(request(text(5, 0, 1), 3)), Err(Refusal::Draining)));
    (0..3).for_each(|_| go.send(()).unwrap());
    let last = stream.last().unwrap();
    assert!(matches!(last.kind, EventKind::Finished { reason: FinishReason::Length { .. }, .. }));
    thread.drain();

    let (fake, go) = gated();
    let thread = EngineThread::spawn(engine(fake)).unwrap();
    let handle = thread.handle();
    let stream = handle.submit(request(text(5, 0, 1), 300)).unwrap();
    let ending = std::thread::spawn(move || thread.shutdown());
    while !matches!(handle.submit(request(text(5, 0, 1), 1)), Err(Refusal::Stopped)) {
        std::thread::yield_now();
    }
    // Its first step may be on its way.
    go.send(()).ok();
    let events: Vec<_> = stream.collect();
    ending.join().unwrap();
    let reason = &events.last().unwrap().kind;
    assert!(matches!(reason, EventKind::Finished { reason: FinishReason::Cancelled, .. }), "{reason:?}");
}

#[test]
fn when_the_engine_dies_everybody_hears_of_it() {
    let mut fake = fake();
    let start = Arc::new(Barrier::new(2));
    let ready = start.clone();
    fake.fails = Box::new(move |_| {
        ready.wait();
        panic!("a bug in a back end, on purpose");
    });
    let thread = EngineThread::spawn(engine(fake)).unwrap();
    let handle = thread.handle();
    let mut several = request(text(5, 0, 1), 3);
    several.n = 2;
    let streams: Vec<_> = [several, request(text(5, 0, 2), 3)].map(|r| handle.submit(r).unwrap()).into();
    start.wait();
    for (stream, answers) in streams.into_iter().zip([2, 1]) {
        let ends = stream.filter(|event| match &event.kind {
            EventKind::Finished { reason, .. } => {
                *reason == FinishReason::Error("the engine has stopped".into())
            }
            _ => false,
        });
        assert_eq!(ends.count(), answers);
    }
    thread.shutdown();
    assert!(handle.progress().stopped);
    assert!(matches!(handle.submit(request(text(5, 0, 1), 3)), Err(Refusal::Stopped)));
}
