//! The kinds of model files.

use rz_formats::{Gguf, ModelFolder};

use crate::ModelError;
use crate::folder::FolderOrigin;
use crate::origin::Origin;

/// An opened model file.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// A GGUF file, or the shards of one.
    Gguf(&'a Gguf),
    /// A folder as published on Hugging Face.
    Folder(&'a ModelFolder),
}

impl<'a> From<&'a ModelFolder> for Source<'a> {
    fn from(folder: &'a ModelFolder) -> Source<'a> {
        Source::Folder(folder)
    }
}

impl<'a> From<&'a Gguf> for Source<'a> {
    fn from(gguf: &'a Gguf) -> Source<'a> {
        Source::Gguf(gguf)
    }
}

impl Source<'_> {
    pub(crate) fn with_origin<T>(
        self,
        work: impl FnOnce(&dyn Origin) -> Result<T, ModelError>,
    ) -> Result<T, ModelError> {
        match self {
            Source::Gguf(gguf) => work(gguf),
            Source::Folder(folder) => work(&FolderOrigin::new(folder)?),
        }
    }
}
