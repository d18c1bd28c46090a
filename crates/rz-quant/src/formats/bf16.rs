//! BF16: the upper half of IEEE single precision, little-endian. A block is one
//! element.

use half::bf16;

use rz_kernels::{PANEL_ROWS, PanelKind};

use super::lanes;
use crate::BlockFormat;

/// The marker of this format.
pub struct BF16;

impl BlockFormat for BF16 {
    type Block = [u8; 2];
    const ELEMENTS: usize = 1;
    const PANEL: Option<PanelKind> = Some(PanelKind::Bf16);

    fn decode(block: &[u8; 2], out: &mut [f32]) {
        out[0] = f32::from_bits(u32::from(u16::from_le_bytes(*block)) << 16);
    }

    // Nearest even; a NaN stays a (quiet) NaN.
    fn encode(x: &[f32]) -> [u8; 2] {
        bf16::from_f32(x[0]).to_le_bytes()
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
