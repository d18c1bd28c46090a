//! Model families: each reads a file's hyper-parameters into a [`ModelSpec`].
//!
//! A family is one file and one row of [`ARCHS`].

mod keys;
mod llama;

use rz_formats::Gguf;

use crate::{ModelError, ModelSpec};
pub(crate) use keys::Keys;

/// A model family.
pub struct Arch {
    /// The name in `general.architecture`.
    pub name: &'static str,
    read: fn(&Keys<'_>) -> Result<ModelSpec, ModelError>,
}

/// Every family that can be run.
pub const ARCHS: &[Arch] = &[llama::ARCH];

impl ModelSpec {
    /// Reads the description of the model in `gguf`.
    ///
    /// # Errors
    /// When the family is not known, a key is missing or has a value that is not
    /// supported, or a key that changes results is set and the family does not read it.
    pub fn from_gguf(gguf: &Gguf) -> Result<ModelSpec, ModelError> {
        let metadata = gguf.metadata();
        let name = metadata.require_str("general.architecture")?;
        let Some(arch) = ARCHS.iter().find(|arch| arch.name == name) else {
            return Err(ModelError::Architecture {
                file: metadata.file().to_owned(),
                found: name.chars().take(64).collect(),
                supported: ARCHS.iter().map(|arch| arch.name).collect::<Vec<_>>().join(", "),
            });
        };
        let keys = Keys::new(gguf, arch.name);
        let spec = (arch.read)(&keys)?;
        keys.check_unread()?;
        Ok(spec)
    }
}
