#![doc = include_str!("../README.md")]

mod bench;
mod blocks;
mod error;
mod generate;
mod perplexity;
mod session;
mod stop;

pub use bench::{BenchOptions, BenchReport, bench, median, read_bandwidth};
pub use blocks::BlockPool;
pub use error::EngineError;
pub use generate::{Event, Finish, Generation, Request, Stats};
pub use perplexity::{Perplexity, PerplexityOptions, perplexity};
pub use session::Session;
