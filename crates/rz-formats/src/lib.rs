//! Memory-mapped, validated readers and writers of model files.

mod error;
mod metadata;
mod value;

pub use error::{FormatError, Place};
pub use metadata::Metadata;
pub use value::{Array, StringArray, Value};
