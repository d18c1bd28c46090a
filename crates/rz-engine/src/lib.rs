#![doc = include_str!("../README.md")]

mod bench;
mod cache;
mod constraint;
mod error;
mod generate;
mod model_file;
mod perplexity;
pub mod serve;
mod session;
mod stop;
mod tables;
mod text;

pub use bench::{BenchOptions, BenchReport, bench, median, read_bandwidth};
pub use constraint::{Constraint, TokenMask};
pub use error::EngineError;
pub use generate::{Event, Finish, Generation, Request, Stats};
pub use model_file::ModelFile;
pub use perplexity::{Perplexity, PerplexityOptions, perplexity};
pub use session::Session;
