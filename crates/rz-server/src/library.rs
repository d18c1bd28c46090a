//! The models that are kept on this machine, whether they are served or not.

use std::ops::ControlFlow;

/// A model that is kept on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The reference it was fetched by.
    pub name: String,
    /// Bytes of its files.
    pub bytes: u64,
}

/// How far a fetch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchProgress {
    /// What is being done, in a word.
    pub stage: &'static str,
    /// Bytes of this step that are done.
    pub bytes: u64,
    /// Bytes of this step in all, when known.
    pub total: Option<u64>,
    /// The file.
    pub file: String,
}

/// Why a model cannot be fetched or removed. Each holds a message of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LibraryError {
    /// There is no such model, or none may have this name.
    Unknown(String),
    /// Something else went wrong.
    Failed(String),
}

impl std::fmt::Display for LibraryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LibraryError::Unknown(message) | LibraryError::Failed(message) => f.write_str(message),
        }
    }
}

/// Fetches, lists and removes models. All of it is called on threads that may wait.
pub trait Library: Send + Sync + 'static {
    /// The models that are there.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn list(&self) -> Result<Vec<Kept>, LibraryError>;

    /// Fetches a model, and gives the name that it is kept under. `Break` from the callback cancels.
    ///
    /// # Errors
    /// When there is no such model, or it cannot be had.
    fn fetch(
        &self,
        name: &str,
        progress: &mut dyn FnMut(FetchProgress) -> ControlFlow<()>,
    ) -> Result<String, LibraryError>;

    /// Removes a model.
    ///
    /// # Errors
    /// When there is no such model, or it cannot be removed.
    fn remove(&self, name: &str) -> Result<(), LibraryError>;
}
