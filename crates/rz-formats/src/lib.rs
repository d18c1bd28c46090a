#![doc = include_str!("../README.md")]

mod cursor;
mod error;
mod gguf;
mod mapping;
mod metadata;
mod output;
mod safetensors;
mod shown;
mod sniff;
mod tensor;
mod types;
mod value;

pub use error::{FormatError, Place};
pub use gguf::{Gguf, GgufWriter, Split};
pub use mapping::{Advice, Mapping};
pub use metadata::Metadata;
pub use safetensors::{ModelFolder, Safetensors, SafetensorsWriter, json_object};
pub use tensor::Tensor;
pub use types::TensorType;
pub use value::{Array, StringArray, Value};
