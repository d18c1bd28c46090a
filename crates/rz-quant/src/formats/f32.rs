//! F32: IEEE single precision, little-endian. A block is one element.

use rz_kernels::{PANEL_ROWS, PanelKind};

use super::lanes;
use crate::BlockFormat;

/// The marker of this format.
pub struct F32;

impl BlockFormat for F32 {
    type Block = [u8; 4];
    const ELEMENTS: usize = 1;
    const PANEL: Option<PanelKind> = Some(PanelKind::F32);

    fn decode(block: &[u8; 4], out: &mut [f32]) {
        out[0] = f32::from_le_bytes(*block);
    }

    fn encode(x: &[f32]) -> [u8; 4] {
        x[0].to_le_bytes()
    }

    #[inline(always)]
    fn pack(blocks: &[&[u8; 4]; PANEL_ROWS], out: &mut [u8]) {
        out.copy_from_slice(blocks.map(|block| *block).as_flattened());
    }

    #[inline(always)]
    fn pack_rows(rows: &[&[[u8; 4]]; PANEL_ROWS], out: &mut [u8]) {
        lanes::interleave_elements(rows, out);
    }

    fn unpack(panel: &[u8], lane: usize) -> [u8; 4] {
        std::array::from_fn(|i| panel[4 * lane + i])
    }
}
