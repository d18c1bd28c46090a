//! Q4_1: 32 elements, 20 bytes.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 0..2 | `d`, scale, f16 |
//! | 2..4 | `m`, minimum, f16 |
//! | 4..20 | `qs`: byte `j` holds element `j` in its low, `j + 16` in its high half |
//!
//! `x = d * q + m`, with `q` in `0..16`.

use bytemuck::{Pod, Zeroable};
use rz_kernels::{PANEL_ROWS, PanelKind};

use super::common::{HALF_MAX, half, inverse, limited, range, to_half};
use super::lanes;
use crate::BlockFormat;

/// The marker of this format.
#[allow(non_camel_case_types)]
pub struct Q4_1;

/// The block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale, f16, little-endian.
    pub d: [u8; 2],
    /// Minimum, f16, little-endian.
    pub m: [u8; 2],
    /// Two elements a byte.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<Block>() == 20 && align_of::<Block>() == 1);

impl BlockFormat for Q4_1 {
    type Block = Block;
    const ELEMENTS: usize = 32;
    const PANEL: Option<PanelKind> = Some(PanelKind::Bits4Min);

    fn decode(block: &Block, out: &mut [f32]) {
        let (d, m) = (half(block.d), half(block.m));
        let (low, high) = out[..32].split_at_mut(16);
        for ((q, low), high) in block.qs.iter().zip(low).zip(high) {
            *low = d * f32::from(q & 15) + m;
            *high = d * f32::from(q >> 4) + m;
        }
    }

    // The smallest element becomes q = 0, the largest q = 15.
    fn encode(x: &[f32]) -> Block {
        let x: [f32; 32] = limited(x, -HALF_MAX, 14.0 * HALF_MAX);
        let (m, max) = range(&x);
        let d = (max - m) / 15.0;
        let id = inverse(d);
        let q = x.map(|v| (((v - m) * id + 0.5) as u8).min(15));
        Block { d: to_half(d), m: to_half(m), qs: std::array::from_fn(|j| q[j] | q[j + 16] << 4) }
    }

    // The file pairs the very columns that the planes pair.
    #[inline(always)]
    fn pack(blocks: &[&Block; PANEL_ROWS], out: &mut [u8]) {
        let (fields, planes) = out.split_at_mut(64);
        lanes::store_halves(blocks, |block| block.d, &mut fields[..32]);
        lanes::store_halves(blocks, |block| block.m, &mut fields[32..]);
        lanes::interleave(blocks, |block| &block.qs, planes);
    }

    fn unpack(panel: &[u8], lane: usize) -> Block {
        let (fields, planes) = panel.split_at(64);
        Block {
            d: lanes::load_half(&fields[..32], lane),
            m: lanes::load_half(&fields[32..], lane),
            qs: lanes::load_bits(planes, lane),
        }
    }
}
