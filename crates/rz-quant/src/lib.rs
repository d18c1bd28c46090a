//! GGUF block formats, their reference codecs and matrix products over them.
//!
//! [`DType`] lists the formats; each has one file in `formats/` that opens with
//! its byte layout and formula and holds its codec.

mod dtype;
pub mod formats;

pub use dtype::{BlockFormat, DType, FormatVisitor};
