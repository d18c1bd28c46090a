//! The thread that runs an engine, and how others speak with it.

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::mailbox::{Mailbox, Phase, Refused};
use super::{
    Engine, EngineStats, Event, EventKind, FinishReason, Limits, Refusal, Request, RequestId, Timings, Usage,
};

/// Takes the events of a request, on the engine's thread: it must not wait for anything. `Break` cancels the
/// request; no more events come then.
pub type Sink = Box<dyn FnMut(Event) -> ControlFlow<()> + Send>;

/// An engine on a thread of its own.
///
/// Dropping it gives up all requests and lets the thread end by itself.
pub struct EngineThread {
    handle: EngineHandle,
    thread: Option<JoinHandle<()>>,
}

/// Speaks with an engine from any thread. Cheap to clone.
#[derive(Clone)]
pub struct EngineHandle {
    shared: Arc<Shared>,
}

struct Shared {
    mailbox: Mailbox<Letter>,
    limits: Limits,
    next_id: AtomicU64,
    stats: Mutex<Arc<EngineStats>>,
    steps: AtomicU64,
    busy: AtomicBool,
    stopped: AtomicBool,
}

enum Letter {
    Submit(RequestId, Box<Request>, Sink),
    Cancel(RequestId),
    Call(Box<dyn FnOnce(&mut Engine) + Send>),
}

/// Whether an engine gets on. One that is busy and whose `steps` stay the same for long is stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Steps since its beginning.
    pub steps: u64,
    /// Whether it has something to do.
    pub busy: bool,
    /// Whether its thread has ended.
    pub stopped: bool,
}

impl EngineThread {
    /// Runs an engine on a thread.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn spawn(engine: Engine) -> io::Result<EngineThread> {
        let shared = Arc::new(Shared {
            mailbox: Mailbox::new(),
            limits: engine.limits().clone(),
            next_id: AtomicU64::new(engine.next_id()),
            stats: Mutex::new(Arc::new(engine.stats())),
            steps: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        let handle = EngineHandle { shared: shared.clone() };
        let thread =
            std::thread::Builder::new().name("rz-engine".into()).spawn(move || run(engine, &shared))?;
        Ok(EngineThread { handle, thread: Some(thread) })
    }

    /// A handle to it.
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// Waits until every request that was taken has its answer; others are refused from now on.
    pub fn drain(mut self) {
        self.end(Phase::Draining);
    }

    /// Gives up all requests and waits until the thread has ended.
    pub fn shutdown(mut self) {
        self.end(Phase::Closed);
    }

    fn end(&mut self, phase: Phase) {
        self.handle.shared.mailbox.end(phase);
        if let Some(thread) = self.thread.take() {
            // What it might have panicked with was reported where it happened.
            thread.join().ok();
        }
    }
}

impl Drop for EngineThread {
    fn drop(&mut self) {
        self.handle.shared.mailbox.end(Phase::Closed);
    }
}

impl EngineHandle {
    /// Submits a request, whose events come as a stream. Dropping the stream cancels it.
    ///
    /// Events wait in the stream until they are taken: as many as there are tokens, at most.
    ///
    /// # Errors
    /// When the request asks for what cannot be, too many wait, or the engine is about to stop.
    pub fn submit(&self, request: Request) -> Result<EventStream, Refusal> {
        let (send, events) = mpsc::channel();
        let sink = move |event| match send.send(event) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        };
        Ok(EventStream { ticket: self.submit_with(request, Box::new(sink))?, events })
    }

    /// Submits a request, whose events go to `sink`. Dropping the ticket cancels it.
    ///
    /// # Errors
    /// As for [`submit`](Self::submit).
    pub fn submit_with(&self, mut request: Request, sink: Sink) -> Result<Ticket, Refusal> {
        let shared = &self.shared;
        shared.limits.check(&request)?;
        request.arrived.get_or_insert_with(Instant::now);
        let id = RequestId(shared.next_id.fetch_add(1, Ordering::Relaxed));
        let letter = Letter::Submit(id, Box::new(request), sink);
        match shared.mailbox.post_work(letter, shared.limits.max_queue) {
            Ok(()) => Ok(Ticket { id, handle: self.clone() }),
            Err(Refused::Full(waiting)) => Err(Refusal::QueueFull { waiting }),
            Err(Refused::Draining) => Err(Refusal::Draining),
            Err(Refused::Closed) => Err(Refusal::Stopped),
        }
    }

    /// Cancels a request, at the latest after the step that is being done.
    pub fn cancel(&self, id: RequestId) {
        self.shared.mailbox.post(Letter::Cancel(id));
    }

    /// What requests are taken.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// What the engine was doing after its last step. Never waits for a step.
    pub fn stats(&self) -> Arc<EngineStats> {
        self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the engine gets on. Never waits for anything.
    pub fn progress(&self) -> Progress {
        let Shared { steps, busy, stopped, .. } = &*self.shared;
        Progress {
            steps: steps.load(Ordering::Acquire),
            busy: busy.load(Ordering::Acquire),
            stopped: stopped.load(Ordering::Acquire),
        }
    }

    /// Refuses requests from now on; those that were taken get their answers, and then the thread ends.
    pub fn drain(&self) {
        self.shared.mailbox.end(Phase::Draining);
    }

    /// Does something with the engine between two steps, and waits for it; `None` when the engine has stopped.
    pub fn call<R: Send + 'static>(&self, call: impl FnOnce(&mut Engine) -> R + Send + 'static) -> Option<R> {
        let (send, result) = mpsc::channel();
        let call = Box::new(move |engine: &mut Engine| {
            // Nobody waits if this fails.
            send.send(call(engine)).ok();
        });
        self.shared.mailbox.post(Letter::Call(call));
        result.recv().ok()
    }
}

/// A request that was taken. Dropping it cancels the request, if that has not ended.
pub struct Ticket {
    id: RequestId,
    handle: EngineHandle,
}

impl Ticket {
    /// The request's name.
    pub fn id(&self) -> RequestId {
        self.id
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.handle.cancel(self.id);
    }
}

/// The events of a request: an iterator that waits for the next one, and ends after the last answer's end.
pub struct EventStream {
    ticket: Ticket,
    events: mpsc::Receiver<Event>,
}

impl EventStream {
    /// The request's name.
    pub fn id(&self) -> RequestId {
        self.ticket.id
    }

    /// The next event, if there is one by then.
    pub fn next_within(&mut self, timeout: Duration) -> Option<Event> {
        self.events.recv_timeout(timeout).ok()
    }
}

impl Iterator for EventStream {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.events.recv().ok()
    }
}

/// Steps as long as there is something to do.
fn run(mut engine: Engine, shared: &Shared) {
    let mut readers = Readers { readers: HashMap::new(), shared };
    let mut letters = Vec::new();
    loop {
        let idle = engine.is_idle();
        shared.busy.store(!idle, Ordering::Release);
        let phase = shared.mailbox.take(idle, &mut letters);
        shared.busy.store(true, Ordering::Release);
        for letter in letters.drain(..) {
            match letter {
                Letter::Submit(id, request, sink) => readers.submit(&mut engine, id, *request, sink),
                Letter::Cancel(id) => engine.cancel(id),
                Letter::Call(call) => call(&mut engine),
            }
        }
        if phase == Phase::Closed {
            readers.readers.keys().for_each(|id| engine.cancel(*id));
        }
        if !engine.is_idle() {
            let events = engine.step_with(Instant::now);
            readers.deliver(&mut engine, events);
        }
        let stats = engine.stats();
        shared.mailbox.set_taken(stats.queued);
        *shared.stats.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(stats);
        shared.steps.fetch_add(1, Ordering::Release);
        if phase != Phase::Open && engine.is_idle() {
            break;
        }
    }
}

/// Who gets the events of which request. When the thread ends, in whatever way, everybody hears of it.
struct Readers<'a> {
    readers: HashMap<RequestId, Reader>,
    shared: &'a Shared,
}

struct Reader {
    sink: Sink,
    /// For each answer, whether it has ended.
    ended: Vec<bool>,
}

impl Reader {
    /// Tells of the end of all answers that have not ended.
    fn fail(&mut self, request: RequestId, problem: &str) {
        for choice in (0..self.ended.len()).filter(|choice| !self.ended[*choice]) {
            let reason = FinishReason::Error(problem.into());
            let (usage, timings) = (Usage::default(), Timings::default());
            let kind = EventKind::Finished { reason, usage, timings };
            if (self.sink)(Event { request, choice, kind }).is_break() {
                return;
            }
        }
    }
}

impl Readers<'_> {
    fn submit(&mut self, engine: &mut Engine, id: RequestId, request: Request, sink: Sink) {
        let mut reader = Reader { sink, ended: vec![false; request.n] };
        match engine.submit_as(id, request) {
            Ok(()) => {
                self.readers.insert(id, reader);
            }
            Err(refusal) => reader.fail(id, &refusal.to_string()),
        }
    }

    fn deliver(&mut self, engine: &mut Engine, events: Vec<Event>) {
        for event in events {
            let (id, choice) = (event.request, event.choice);
            // Who went away hears no more.
            let Some(reader) = self.readers.get_mut(&id) else { continue };
            reader.ended[choice] = matches!(event.kind, EventKind::Finished { .. });
            let gone = (reader.sink)(event).is_break();
            if gone {
                engine.cancel(id);
            }
            if gone || reader.ended.iter().all(|ended| *ended) {
                self.readers.remove(&id);
            }
        }
    }
}

impl Drop for Readers<'_> {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.busy.store(false, Ordering::Release);
        let problem = "the engine has stopped";
        for letter in self.shared.mailbox.close() {
            if let Letter::Submit(id, request, sink) = letter {
                Reader { sink, ended: vec![false; request.n] }.fail(id, problem);
            }
        }
        for (id, reader) in &mut self.readers {
            reader.fail(*id, problem);
        }
    }
}
