//! Why a text cannot be held to something.

/// Why a constraint cannot be made. Each is one line for whoever asked for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConstrainError {
    /// It is longer than anybody needs.
    #[error("{what} has {found} bytes, expected at most {limit}: make it shorter")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// Its bytes.
        found: usize,
        /// The most that is accepted.
        limit: usize,
    },
    /// It nests deeper than anybody needs.
    #[error("{what} nests deeper than {limit} levels: make it flatter")]
    TooDeep {
        /// What it is.
        what: &'static str,
        /// The deepest that is accepted.
        limit: usize,
    },
    /// It cannot be understood, asks for what is not supported, or is too complex.
    #[error("{what} cannot be used: {message}")]
    Invalid {
        /// What it is.
        what: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// It took too long to compile.
    #[error("{what} takes more than {seconds} s to compile: make it simpler")]
    TooSlow {
        /// What it is.
        what: &'static str,
        /// The time that it may take.
        seconds: u64,
    },
    /// Others are being compiled.
    #[error("too many constraints are being compiled: try again")]
    Busy,
    /// The tokens of the model have no bytes of their own.
    #[error("answers of this model cannot be constrained: {0}")]
    Tokenizer(String),
    /// There is no thread to compile on.
    #[error("cannot start a thread: {0}")]
    Thread(String),
}
