//! Model families: each reads a file's hyper-parameters into a [`ModelSpec`].
//!
//! A family is one file and one row of [`ARCHS`].

mod gemma2;
mod gemma3;
mod gpt2;
mod keys;
mod llama;
mod phi2;
mod qwen2;
mod qwen3;

use crate::layout::Layout;
use crate::origin::Origin;
use crate::{ModelError, ModelSpec, Source};
pub(crate) use keys::Keys;

/// A model family.
pub struct Arch {
    /// The name in `general.architecture`.
    pub name: &'static str,
    read: fn(&Keys<'_>) -> Result<ModelSpec, ModelError>,
    pub(crate) folder: Option<Layout>,
}

/// Every family that can be run.
pub const ARCHS: &[Arch] =
    &[llama::ARCH, qwen2::ARCH, qwen3::ARCH, phi2::ARCH, gemma2::ARCH, gemma3::ARCH, gpt2::ARCH];

/// What a file says of its model.
#[derive(Clone, Debug)]
pub struct Description {
    /// What is needed to run it.
    pub spec: ModelSpec,
    /// Keys of its family that have no effect here.
    pub unread_keys: Vec<String>,
}

/// Reads the description of a model.
///
/// # Errors
/// When the family is not known, a key is missing or has a value that is not supported,
/// or a key that changes results is set and the family does not read it.
pub fn describe<'a>(source: impl Into<Source<'a>>) -> Result<Description, ModelError> {
    source.into().with_origin(|origin| read(origin))
}

/// Checks, without loading anything, that a file has the tensors that its description asks
/// for. Returns the names of the tensors that the model does not read.
///
/// # Errors
/// When a tensor is missing, has another shape, or is of a type that is not supported.
pub fn check_tensors<'a>(source: impl Into<Source<'a>>, spec: &ModelSpec) -> Result<Vec<String>, ModelError> {
    source.into().with_origin(|origin| Ok(crate::weights::plan(origin, spec)?.1))
}

pub(crate) fn read(origin: &dyn Origin) -> Result<Description, ModelError> {
    let metadata = origin.metadata();
    let name = metadata.require_str("general.architecture")?;
    let Some(arch) = ARCHS.iter().find(|arch| arch.name == name) else {
        return Err(ModelError::Architecture {
            file: metadata.file().to_owned(),
            found: name.chars().take(64).collect(),
            supported: ARCHS.iter().map(|arch| arch.name).collect::<Vec<_>>().join(", "),
        });
    };
    let keys = Keys::new(origin, arch.name);
    let spec = (arch.read)(&keys)?;
    keys.check_unread()?;
    Ok(Description { spec, unread_keys: keys.unread() })
}
