//! What a caller learns while a file is fetched, and how it stops it.

use std::ops::ControlFlow;

use crate::StoreError;

/// A step of fetching one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Another process fetches the same file; this one waits for it.
    Waiting,
    /// Asking the server, or pausing before asking it again.
    Connecting,
    /// Bytes arrive.
    Downloading,
    /// The file is taken out of the archive it came in.
    Unpacking,
    /// Bytes that are on disk are checked.
    Verifying,
}

impl Stage {
    /// The stage in one word, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Connecting => "connecting",
            Self::Downloading => "downloading",
            Self::Unpacking => "unpacking",
            Self::Verifying => "verifying",
        }
    }
}

/// A report, given several times a second even when nothing moves.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The step.
    pub stage: Stage,
    /// Bytes of this step that are done.
    pub bytes: u64,
    /// Bytes of this step in all, when known.
    pub total: Option<u64>,
    /// Where the bytes come from, such as `hf:org/repo/file.gguf`.
    pub source: &'a str,
    /// Name of the file being made.
    pub file: &'a str,
}

/// The caller's callback: `ControlFlow::Break(())` cancels, which leaves a part that a later fetch resumes.
pub type OnProgress<'a> = dyn FnMut(Progress<'_>) -> ControlFlow<()> + 'a;

/// The callback together with what stays the same between reports.
pub(crate) struct Reporter<'a, 'b> {
    on_progress: &'a mut OnProgress<'b>,
    file: String,
    source: String,
}

impl<'a, 'b> Reporter<'a, 'b> {
    pub(crate) fn new(on_progress: &'a mut OnProgress<'b>, file: &str) -> Self {
        Self { on_progress, file: file.to_owned(), source: String::new() }
    }

    pub(crate) fn set_file(&mut self, file: &str) {
        file.clone_into(&mut self.file);
    }

    pub(crate) fn set_source(&mut self, source: &str) {
        source.clone_into(&mut self.source);
    }

    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Reports; `Err(Cancelled)` when the caller wants to stop.
    pub(crate) fn report(&mut self, stage: Stage, bytes: u64, total: Option<u64>) -> Result<(), StoreError> {
        let progress = Progress { stage, bytes, total, source: &self.source, file: &self.file };
        match (self.on_progress)(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(StoreError::Cancelled),
        }
    }
}
