//! Q8_0: 32 elements, 34 bytes.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 0..2 | `d`, scale, f16 |
//! | 2..34 | `qs`: byte `j` holds element `j`, two's complement |
//!
//! `x = d * q`, with `q` in `-128..128`; the encoder uses `-127..=127`.

use bytemuck::{Pod, Zeroable};
use rz_kernels::{PANEL_ROWS, PanelKind};

use super::common::{HALF_MAX, half, inverse, limited, peak, to_half};
use super::lanes;
use crate::BlockFormat;

/// The marker of this format.
#[allow(non_camel_case_types)]
pub struct Q8_0;

/// The block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale, f16, little-endian.
    pub d: [u8; 2],
    /// One element a byte.
    pub qs: [i8; 32],
}

const _: () = assert!(size_of::<Block>() == 34 && align_of::<Block>() == 1);

impl BlockFormat for Q8_0 {
    type Block = Block;
    const ELEMENTS: usize = 32;
    const PANEL: Option<PanelKind> = Some(PanelKind::Bits8);

    fn decode(block: &Block, out: &mut [f32]) {
        let d = half(block.d);
        for (q, out) in block.qs.iter().zip(&mut out[..32]) {
            *out = d * f32::from(*q);
        }
    }

    fn encode(x: &[f32]) -> Block {
        let x: [f32; 32] = limited(x, -127.0 * HALF_MAX, 127.0 * HALF_MAX);
        let d = peak(&x).abs() / 127.0;
        let id = inverse(d);
        Block { d: to_half(d), qs: x.map(|v| (v * id).round() as i8) }
    }

    // A panel holds q + 128, which flips the sign bit.

    #[inline(always)]
    fn pack(blocks: &[&Block; PANEL_ROWS], out: &mut [u8]) {
        let (scales, planes) = out.split_at_mut(32);
        lanes::store_halves(blocks, |block| block.d, scales);
        lanes::interleave(blocks, |block| bytemuck::cast_ref::<_, [u8; 32]>(&block.qs), planes);
        planes.iter_mut().for_each(|q| *q ^= 0x80);
    }

    fn unpack(panel: &[u8], lane: usize) -> Block {
        let (scales, planes) = panel.split_at(32);
        let q: [u8; 32] = lanes::load_bits(planes, lane);
        Block { d: lanes::load_half(scales, lane), qs: q.map(|q| (q ^ 0x80) as i8) }
    }
}
