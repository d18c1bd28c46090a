//! Q2_K: 256 elements, 84 bytes; 16 sub-blocks of 16 elements.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 0..16 | byte `s`: `scale` of sub-block `s` in its low, `min` in its high half |
//! | 16..80 | `qs`: byte `32h + l` holds elements `128h + l`, `+ 32`, `+ 64`, `+ 96`, two bits each, low bits first |
//! | 80..82 | `d`, scale of the scales, f16 |
//! | 82..84 | `dmin`, scale of the minimums, f16 |
//!
//! `x = d * scale * q - dmin * min`, with `q` in `0..4`, `scale` and `min` in `0..16`.

use bytemuck::{Pod, Zeroable};
use rz_kernels::{PANEL_ROWS, PanelKind};

use super::common::{affine, half};
use super::{lanes, planes, search};
use crate::BlockFormat;

/// The marker of this format.
#[allow(non_camel_case_types)]
pub struct Q2_K;

/// The block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale and minimum of each sub-block, four bits each.
    pub scales: [u8; 16],
    /// Four elements a byte.
    pub qs: [u8; 64],
    /// Scale of the scales, f16, little-endian.
    pub d: [u8; 2],
    /// Scale of the minimums, f16, little-endian.
    pub dmin: [u8; 2],
}

const _: () = assert!(size_of::<Block>() == 84 && align_of::<Block>() == 1);

impl BlockFormat for Q2_K {
    type Block = Block;
    const ELEMENTS: usize = 256;
    const PANEL: Option<PanelKind> = Some(PanelKind::Super2);

    fn decode(block: &Block, out: &mut [f32]) {
        let q = quants(block);
        let (d, dmin) = (half(block.d), half(block.dmin));
        for ((q, out), s) in
            q.as_chunks::<16>().0.iter().zip(out[..256].as_chunks_mut::<16>().0).zip(block.scales)
        {
            affine(d * f32::from(s & 15), -(dmin * f32::from(s >> 4)), q, out);
        }
    }

    fn encode(x: &[f32]) -> Block {
        let found = search::affine::<16, 16>(x, 3, 15);
        Block {
            scales: std::array::from_fn(|j| found.scales[j] | found.mins[j] << 4),
            qs: planes::write::<2, 32, 64>(&found.q, 0),
            d: found.d,
            dmin: found.dmin,
        }
    }

    #[inline(always)]
    fn pack(blocks: &[&Block; PANEL_ROWS], out: &mut [u8]) {
        let (header, planes) = out.split_at_mut(320);
        lanes::store_halves(blocks, |block| block.d, &mut header[..32]);
        lanes::store_halves(blocks, |block| block.dmin, &mut header[32..64]);
        lanes::store_bytes(blocks, |block| block.scales, &mut header[64..]);
        lanes::store_runs::<2, 32, 64, _>(blocks, |block| &block.qs, planes, 0, 128);
    }

    fn unpack(panel: &[u8], lane: usize) -> Block {
        let (header, planes) = panel.split_at(320);
        let q: [u8; 256] = lanes::load::<2, 0, 256>(planes, lane);
        Block {
            scales: lanes::load_bytes(&header[64..], lane),
            qs: planes::write::<2, 32, 64>(&q, 0),
            d: lanes::load_half(&header[..32], lane),
            dmin: lanes::load_half(&header[32..64], lane),
        }
    }
}

/// The values of the elements.
#[inline(always)]
fn quants(block: &Block) -> [u8; 256] {
    let mut q = [0; 256];
    planes::read::<2, 32>(&block.qs, 0, &mut q);
    q
}
