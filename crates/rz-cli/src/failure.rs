//! How a command ends when it does not succeed: an exit code and one line for people.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::process::ExitCode;

use rz_engine::EngineError;
use rz_formats::FormatError;
use rz_model::ModelError;
use rz_store::StoreError;
use rz_tokenizer::TokenizerError;

use crate::{machine, table, terminal};

/// Exit code of wrong usage, and of files, models and prompts that cannot be used.
const BAD_INPUT: u8 = 2;
/// Exit code of every other failure.
const FAILED: u8 = 1;
/// Exit code after Ctrl-C, as shells have it: 128 and the number of the signal.
pub(crate) const INTERRUPTED: u8 = 130;

/// Why a command ends.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: Option<String>,
}

impl Failure {
    /// Something that was given cannot be used.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self { code: BAD_INPUT, message: Some(message.into()) }
    }

    /// Something else went wrong.
    pub(crate) fn other(message: impl Into<String>) -> Self {
        Self { code: FAILED, message: Some(message.into()) }
    }

    /// The user ended it; there is nothing to say.
    pub(crate) fn interrupted() -> Self {
        Self { code: INTERRUPTED, message: None }
    }

    /// Whoever read the output has gone: that is how pipes end, and no failure.
    pub(crate) fn reader_gone() -> Self {
        Self { code: 0, message: None }
    }

    /// An answer of the operating system about a file that was named.
    pub(crate) fn file(action: &str, path: &Path, cause: &io::Error) -> Self {
        let message = format!("cannot {action} '{}': {cause}", path.display());
        match cause.kind() {
            ErrorKind::BrokenPipe => Self::reader_gone(),
            ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::AlreadyExists
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidFilename => Self::input(message),
            _ => Self::other(message),
        }
    }

    /// The line for people, if there is one.
    pub(crate) fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// Whether there is something to say. Without it, the program is simply to end.
    pub(crate) fn is_said(&self) -> bool {
        self.message.is_some()
    }

    /// Says what happened, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if let Some(message) = &self.message {
            terminal::error(message);
        }
        ExitCode::from(self.code)
    }
}

impl From<FormatError> for Failure {
    fn from(error: FormatError) -> Self {
        Self::input(error.to_string())
    }
}

impl From<TokenizerError> for Failure {
    fn from(error: TokenizerError) -> Self {
        Self::input(error.to_string())
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Memory { .. } | ModelError::NoCandidates => Self::other(error.to_string()),
            ModelError::Lock { .. } => {
                let most =
                    machine::lockable_memory().map(|bytes| format!(" (it is {})", table::bytes(bytes)));
                Self::other(format!(
                    "{error}: raise what a process may lock{} with ulimit -l, or leave --mlock out",
                    most.unwrap_or_default()
                ))
            }
            _ => Self::input(error.to_string()),
        }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Model(error) => error.into(),
            EngineError::Memory { .. } => Self::other(error.to_string()),
            EngineError::ContextFull { tokens, context } => Self::input(format!(
                "{tokens} tokens do not fit into a context of {context}: shorten the prompt or give a larger --ctx"
            )),
            _ => Self::input(error.to_string()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Cancelled => Self::interrupted(),
            StoreError::BadReference { .. }
            | StoreError::UnknownModel { .. }
            | StoreError::NoSuchFile { .. }
            | StoreError::NotStored { .. }
            | StoreError::NotManaged { .. }
            | StoreError::NotGguf { .. }
            | StoreError::Setting { .. } => Self::input(error.to_string()),
            _ => Self::other(error.to_string()),
        }
    }
}
