//! What can go wrong between a prompt and its answer.

use std::path::PathBuf;

use rz_model::ModelError;

/// Why a session cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The back end or a sampler failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// There is nothing to continue.
    #[error("the prompt has no tokens: give at least one, such as the model's begin token")]
    EmptyPrompt,
    /// The tokens do not fit into the context.
    #[error(
        "{tokens} tokens do not fit into a context of {context}: shorten the prompt or ask for a larger context"
    )]
    ContextFull {
        /// Tokens there would be.
        tokens: usize,
        /// Tokens that fit.
        context: usize,
    },
    /// A stop string without characters would stop everything.
    #[error("a stop string is empty: give it at least one character")]
    EmptyStop,
    /// The constraint of an answer cannot go on.
    #[error("{0}")]
    Constraint(String),
    /// A file of a saved slot that cannot be used, or cannot be made.
    #[error("{}: the slot {problem}", path.display())]
    Slot {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A slot that is larger than what is free.
    #[error("the slot does not fit into the blocks that are free: try again when less is running")]
    NoRoom,
    /// A file of a saved slot that cannot be read or written.
    #[error("{}: {cause}", path.display())]
    SlotFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A window for measuring perplexity that cannot be used.
    #[error("{what} of {value} cannot be used to measure perplexity: it takes {expected}")]
    Window {
        /// Which length.
        what: &'static str,
        /// Its value.
        value: usize,
        /// What it must be.
        expected: String,
    },
    /// The text is shorter than one window.
    #[error(
        "the text has {tokens} tokens, and one window needs {window}: give a longer text or a smaller context"
    )]
    TextTooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a window.
        window: usize,
    },
    /// The system has no memory.
    #[error("cannot reserve memory for {purpose}: {cause}")]
    Memory {
        /// What for.
        purpose: &'static str,
        /// What the system said.
        cause: std::io::Error,
    },
}
