//! MXFP4 (Open Compute Project, Microscaling Formats 1.0): 32 elements, 17 bytes.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 0 | `e`, exponent of the scale |
//! | 1..17 | `qs`: byte `j` holds element `j` in its low, `j + 16` in its high half |
//!
//! `x = 2^(e - 127) * v`, with `v` a floating-point number of four bits, sign first, then two
//! of exponent and one of fraction: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives. GGUF
//! gives `e = 255`, which the original reserves, no meaning of its own.

use bytemuck::{Pod, Zeroable};
use rz_kernels::{FLOAT_LEVELS as LEVELS, PANEL_ROWS, PanelKind};

use super::common::limited;
use super::{lanes, planes};
use crate::BlockFormat;

/// The marker of this format.
pub struct MXFP4;

/// The block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Exponent of the scale.
    pub e: u8,
    /// Two elements a byte.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<Block>() == 17 && align_of::<Block>() == 1);

impl BlockFormat for MXFP4 {
    type Block = Block;
    const ELEMENTS: usize = 32;
    const PANEL: Option<PanelKind> = Some(PanelKind::Float4);

    fn decode(block: &Block, out: &mut [f32]) {
        let scale = half_scale(block.e);
        let (low, high) = out[..32].split_at_mut(16);
        for ((q, low), high) in block.qs.iter().zip(low).zip(high) {
            *low = scale * f32::from(LEVELS[usize::from(q & 15)]);
            *high = scale * f32::from(LEVELS[usize::from(q >> 4)]);
        }
    }

    // The largest exponent of a number of four bits is 2: the peak's, less 2, is that of
    // the scale. What is then beyond 6 becomes 6.
    fn encode(x: &[f32]) -> Block {
        let x: [f32; 32] = limited(x, f32::MIN, f32::MAX);
        let peak = x.iter().fold(0.0f32, |peak, x| peak.max(x.abs()));
        // A subnormal peak has the exponent 0, as everything below 2^-126.
        let e = ((peak.to_bits() >> 23) as u8).saturating_sub(2);
        let scale = half_scale(e);
        let q = x.map(|x| {
            let miss = |q: u8| (scale * f32::from(LEVELS[usize::from(q)]) - x).abs();
            (1..16).fold(0, |best, q| if miss(q) < miss(best) { q } else { best })
        });
        Block { e, qs: planes::write::<4, 16, 16>(&q, 0) }
    }

    // The file pairs the very columns that the planes pair.
    #[inline(always)]
    fn pack(blocks: &[&Block; PANEL_ROWS], out: &mut [u8]) {
        let (exponents, planes) = out.split_at_mut(16);
        lanes::store_bytes(blocks, |block| [block.e], exponents);
        lanes::interleave(blocks, |block| &block.qs, planes);
    }

    fn unpack(panel: &[u8], lane: usize) -> Block {
        let (exponents, planes) = panel.split_at(16);
        Block { e: exponents[lane], qs: lanes::load_bits(planes, lane) }
    }
}

/// `2^(e - 128)`: half the scale, for levels that are doubled.
fn half_scale(e: u8) -> f32 {
    // Below 2^-126 numbers have the exponent 0 and shift their fraction instead.
    f32::from_bits(match e {
        0 | 1 => 1 << 21 << e,
        _ => u32::from(e - 1) << 23,
    })
}
