//! What the server logs, on standard error.

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;

use crate::failure::Failure;
use crate::terminal;

/// How important an event must be to be logged.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogLevel {
    /// Nothing
    Off,
    /// Failures
    Error,
    /// And what may become one
    Warn,
    /// And each request for a model
    Info,
    /// And every other request
    Debug,
}

/// How events are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogFormat {
    /// A line for people
    Text,
    /// A line of JSON
    Json,
}

/// Begins to log. Called once.
pub(super) fn start(level: LogLevel, format: LogFormat) -> Result<(), Failure> {
    let level = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(terminal::is_watched());
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::other(format!("cannot log: {error}")))
}
