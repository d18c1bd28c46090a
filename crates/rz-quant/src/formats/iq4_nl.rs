//! IQ4_NL: 32 elements, 18 bytes.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 0..2 | `d`, scale, f16 |
//! | 2..18 | `qs`: byte `j` holds element `j` in its low, `j + 16` in its high half |
//!
//! `x = d * LEVELS[q]`, with `q` in `0..16` and [`CURVED_LEVELS`](rz_kernels::CURVED_LEVELS).

use bytemuck::{Pod, Zeroable};
use rz_kernels::{CURVED_LEVELS as LEVELS, PANEL_ROWS, PanelKind};

use super::common::half;
use super::{lanes, planes, search};
use crate::BlockFormat;

/// The marker of this format.
#[allow(non_camel_case_types)]
pub struct IQ4_NL;

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

impl BlockFormat for IQ4_NL {
    type Block = Block;
    const ELEMENTS: usize = 32;
    const PANEL: Option<PanelKind> = Some(PanelKind::Curved4);

    fn decode(block: &Block, out: &mut [f32]) {
        let d = half(block.d);
        let (low, high) = out[..32].split_at_mut(16);
        for ((q, low), high) in block.qs.iter().zip(low).zip(high) {
            *low = d * f32::from(LEVELS[usize::from(q & 15)]);
            *high = d * f32::from(LEVELS[usize::from(q >> 4)]);
        }
    }

    fn encode(x: &[f32]) -> Block {
        let (d, q) = search::tabled_block::<32>(x, &LEVELS);
        Block { d, qs: planes::write::<4, 16, 16>(&q, 0) }
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
