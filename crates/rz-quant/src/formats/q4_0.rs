//! Q4_0: 32 elements, 18 bytes.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 0..2 | `d`, scale, f16 |
//! | 2..18 | `qs`: byte `j` holds element `j` in its low, `j + 16` in its high half |
//!
//! `x = d * (q - 8)`, with `q` in `0..16`.

use bytemuck::{Pod, Zeroable};
use rz_kernels::{PANEL_ROWS, PanelKind};

use super::common::{HALF_MAX, half, inverse, limited, peak, to_half};
use super::lanes;
use crate::BlockFormat;

/// The marker of this format.
#[allow(non_camel_case_types)]
pub struct Q4_0;

/// The block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale, f16, little-endian.
    pub d: [u8; 2],
    /// Two elements a byte.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<Block>() == 18 && align_of::<Block>() == 1);

impl BlockFormat for Q4_0 {
    type Block = Block;
    const ELEMENTS: usize = 32;
    const PANEL: Option<PanelKind> = Some(PanelKind::Bits4);

    fn decode(block: &Block, out: &mut [f32]) {
        let d = half(block.d);
        let (low, high) = out[..32].split_at_mut(16);
        for ((q, low), high) in block.qs.iter().zip(low).zip(high) {
            *low = d * (f32::from(q & 15) - 8.0);
            *high = d * (f32::from(q >> 4) - 8.0);
        }
    }

    // The element of the largest magnitude becomes q = 0, which stands for -8.
    fn encode(x: &[f32]) -> Block {
        let x: [f32; 32] = limited(x, -8.0 * HALF_MAX, 8.0 * HALF_MAX);
        let d = peak(&x) / -8.0;
        let id = inverse(d);
        let q = x.map(|v| ((v * id + 8.5) as u8).min(15));
        Block { d: to_half(d), qs: std::array::from_fn(|j| q[j] | q[j + 16] << 4) }
    }

    // The file pairs the very columns that the planes pair.
    #[inline(always)]
    fn pack(blocks: &[&Block; PANEL_ROWS], out: &mut [u8]) {
        let (scales, planes) = out.split_at_mut(32);
        lanes::store_halves(blocks, |block| block.d, scales);
        lanes::interleave(blocks, |block| &block.qs, planes);
    }

    fn unpack(panel: &[u8], lane: usize) -> Block {
        let (scales, planes) = panel.split_at(32);
        Block { d: lanes::load_half(scales, lane), qs: lanes::load_bits(planes, lane) }
    }
}
