//! One file for each format: its byte layout, its formula, its codec.

mod common;
mod f32;
mod q4_0;
mod q4_1;
mod q8_0;

pub use f32::F32;
pub use q4_0::Q4_0;
pub use q4_1::Q4_1;
pub use q8_0::Q8_0;
