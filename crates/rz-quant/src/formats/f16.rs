//! F16: IEEE half precision, little-endian. A block is one element.

use rz_kernels::{PANEL_ROWS, PanelKind};

use super::common::{half, to_half};
use super::lanes;
use crate::BlockFormat;

/// The marker of this format.
pub struct F16;

impl BlockFormat for F16 {
    type Block = [u8; 2];
    const ELEMENTS: usize = 1;
    const PANEL: Option<PanelKind> = Some(PanelKind::F16);

    fn decode(block: &[u8; 2], out: &mut [f32]) {
        out[0] = half(*block);
    }

    // Nearest even; beyond the range infinite, as IEEE 754 says.
    fn encode(x: &[f32]) -> [u8; 2] {
        to_half(x[0])
    }

    #[inline(always)]
    fn pack(blocks: &[&[u8; 2]; PANEL_ROWS], out: &mut [u8]) {
        out.copy_from_slice(blocks.map(|block| *block).as_flattened());
    }

    #[inline(always)]
    fn pack_rows(rows: &[&[[u8; 2]]; PANEL_ROWS], out: &mut [u8]) {
        lanes::interleave_elements(rows, out);
    }

    fn unpack(panel: &[u8], lane: usize) -> [u8; 2] {
        std::array::from_fn(|i| panel[2 * lane + i])
    }
}
