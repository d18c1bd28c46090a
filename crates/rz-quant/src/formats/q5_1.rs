//! Q5_1: 32 elements, 24 bytes.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 0..2 | `d`, scale, f16 |
//! | 2..4 | `m`, minimum, f16 |
//! | 4..8 | `qh`: bit `j` of this little-endian word is bit 4 of element `j` |
//! | 8..24 | `qs`: byte `j` holds bits 0..4 of element `j` in its low, of `j + 16` in its high half |
//!
//! `x = d * q + m`, with `q` in `0..32`.

use bytemuck::{Pod, Zeroable};
use rz_kernels::{PANEL_ROWS, PanelKind};

use super::common::{HALF_MAX, affine, half, inverse, limited, range, to_half};
use super::{lanes, planes};
use crate::BlockFormat;

/// The marker of this format.
#[allow(non_camel_case_types)]
pub struct Q5_1;

/// The block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale, f16, little-endian.
    pub d: [u8; 2],
    /// Minimum, f16, little-endian.
    pub m: [u8; 2],
    /// The high bit of each element.
    pub qh: [u8; 4],
    /// The low four bits, two elements a byte.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<Block>() == 24 && align_of::<Block>() == 1);

impl BlockFormat for Q5_1 {
    type Block = Block;
    const ELEMENTS: usize = 32;
    const PANEL: Option<PanelKind> = Some(PanelKind::Bits5Min);

    fn decode(block: &Block, out: &mut [f32]) {
        let mut q = [0; 32];
        planes::read::<4, 16>(&block.qs, 0, &mut q);
        planes::read::<1, 1>(&block.qh, 4, &mut q);
        affine(half(block.d), half(block.m), &q, &mut out[..32]);
    }

    // The smallest element becomes q = 0, the largest q = 31.
    fn encode(x: &[f32]) -> Block {
        let x: [f32; 32] = limited(x, -HALF_MAX, 30.0 * HALF_MAX);
        let (m, max) = range(&x);
        let d = (max - m) / 31.0;
        let id = inverse(d);
        let q = x.map(|v| (((v - m) * id + 0.5) as u8).min(31));
        Block {
            d: to_half(d),
            m: to_half(m),
            qh: planes::write::<1, 1, 4>(&q, 4),
            qs: planes::write::<4, 16, 16>(&q, 0),
        }
    }

    // The low bits of the file are paired as those of the planes.
    #[inline(always)]
    fn pack(blocks: &[&Block; PANEL_ROWS], out: &mut [u8]) {
        let (fields, planes) = out.split_at_mut(64);
        lanes::store_halves(blocks, |block| block.d, &mut fields[..32]);
        lanes::store_halves(blocks, |block| block.m, &mut fields[32..]);
        let (low, high) = planes.split_at_mut(256);
        lanes::interleave(blocks, |block| &block.qs, low);
        lanes::store_bits(blocks, |block| block.qh, high);
    }

    fn unpack(panel: &[u8], lane: usize) -> Block {
        let (fields, planes) = panel.split_at(64);
        let q: [u8; 32] = lanes::load::<4, 1, 32>(planes, lane);
        Block {
            d: lanes::load_half(&fields[..32], lane),
            m: lanes::load_half(&fields[32..], lane),
            qh: planes::write::<1, 1, 4>(&q, 4),
            qs: planes::write::<4, 16, 16>(&q, 0),
        }
    }
}
