//! F16: IEEE half precision, little-endian. A block is one element.

use super::common::{half, to_half};
use crate::BlockFormat;

/// The marker of this format.
pub struct F16;

impl BlockFormat for F16 {
    type Block = [u8; 2];
    const ELEMENTS: usize = 1;

    fn decode(block: &[u8; 2], out: &mut [f32]) {
        out[0] = half(*block);
    }

    // Nearest even; beyond the range infinite, as IEEE 754 says.
    fn encode(x: &[f32]) -> [u8; 2] {
        to_half(x[0])
    }
}
