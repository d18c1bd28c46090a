#![doc = include_str!("../README.md")]

mod answer;
mod app;
mod backend;
mod body;
mod chat;
mod config;
mod embed;
mod engine;
mod error;
mod fields;
mod guard;
mod ids;
mod kept;
mod keys;
mod library;
mod line;
mod metrics;
mod output;
mod patience;
mod prompt;
mod refuse;
mod registry;
mod routes;
mod sampling;
mod serve;
mod slots;
mod stream;
#[cfg(feature = "tls")]
mod tls;

pub use app::{App, Health};
pub use backend::{
    Backend, ConstraintSpec, Event, EventSink, Events, Finish, Generate, Job, ModelInfo, Refusal,
    SlotProblem, Stats, Task, TokenScore, Usage,
};
pub use config::Config;
pub use engine::EngineBackend;
pub use error::{ApiError, ServerError};
pub use keys::Keys;
pub use library::{FetchProgress, Kept, Library, LibraryError};
pub use registry::{Loader, ModelState, Registry, Served};
pub use routes::router;
pub use serve::{Address, Listener, ServeOptions, serve};
#[cfg(feature = "tls")]
pub use tls::Certificate;
