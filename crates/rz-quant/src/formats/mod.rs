//! One file for each format: its byte layout, its formula, its codec.

mod f32;
mod q4_0;

pub use f32::F32;
pub use q4_0::Q4_0;
