#![doc = include_str!("../README.md")]

mod cursor;
mod error;
mod gguf;
mod mapping;
mod metadata;
mod tensor;
mod types;
mod value;

pub use error::{FormatError, Place};
pub use gguf::{Gguf, GgufWriter, Split};
pub use mapping::{Advice, Mapping};
pub use metadata::Metadata;
pub use tensor::Tensor;
pub use types::TensorType;
pub use value::{Array, StringArray, Value};
