//! GGUF block formats, their reference codecs and matrix products over them.
//!
//! [`DType`] lists the formats; each has one file in `formats/` that opens with
//! its byte layout and formula and holds its codec.

mod dtype;
pub mod formats;
mod gated;
mod matrix;
mod pack;

pub use dtype::{BlockFormat, DType, FormatVisitor};
pub use gated::{Affine, gated};
pub use matrix::{Input, Matrix, ShapeError, matmul};
pub use pack::{PACKED_LAYOUT, pack, pack_panels};
