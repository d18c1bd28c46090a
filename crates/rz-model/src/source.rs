//! The kinds of model files.

use rz_formats::Gguf;

use crate::ModelError;
use crate::origin::Origin;

/// An opened model file.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// A GGUF file, or the shards of one.
    Gguf(&'a Gguf),
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
        }
    }
}
