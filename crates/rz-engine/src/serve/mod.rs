//! Many requests over one model: an engine that batches them, and a thread that runs it.
//!
//! An [`Engine`] is owned by one thread, which submits [`Request`]s, calls [`Engine::step`] as long as there is
//! something to do, and hands out the [`Event`]s. [`EngineThread`] does that, for requests from any thread.
//!
//! What a request gives does not depend on what else is running: the same request alone gives the same events.

mod compute;
mod engine;
mod event;
mod limits;
mod mailbox;
mod pass;
mod request;
mod schedule;
mod sequence;
mod slot;
mod stats;
mod thread;

pub use crate::constraint::{Constraint, TokenMask};
pub use engine::Engine;
pub use event::{Event, EventKind, FinishReason, RequestId, Scored, StopCause, Timings, TokenScore, Usage};
pub use limits::{EngineOptions, Limits, Refusal};
pub use request::{ContextShift, Pooling, Request, Want};
pub use slot::{Slot, SlotKind};
pub use stats::{EngineStats, GroupStats};
pub use thread::{EngineHandle, EngineThread, EventStream, Progress, Sink, Ticket};
