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

/// Fetches, lists and removes models. All of it is called on threads that may wait.
pub trait Library: Send + Sync + 'static {
    /// The models that are there.
    ///
    /// # Errors
    /// A message of one line.
    fn list(&self) -> Result<Vec<Kept>, String>;

    /// Fetches a model. `Break` from the callback cancels.
    ///
    /// # Errors
    /// A message of one line.
    fn fetch(
        &self,
        name: &str,
        progress: &mut dyn FnMut(FetchProgress) -> ControlFlow<()>,
    ) -> Result<(), String>;

    /// Removes a model.
    ///
    /// # Errors
    /// A message of one line.
    fn remove(&self, name: &str) -> Result<(), String>;
}
