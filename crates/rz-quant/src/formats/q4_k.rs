//! Q4_K: 256 elements, 144 bytes; 8 sub-blocks of 32 elements.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 0..2 | `d`, scale of the scales, f16 |
//! | 2..4 | `dmin`, scale of the minimums, f16 |
//! | 4..16 | `scale` and `min` of each sub-block, six bits each, see below |
//! | 16..144 | `qs`: byte `32p + l` holds element `64p + l` in its low, `64p + 32 + l` in its high half |
//!
//! `x = d * scale * q - dmin * min`, with `q` in `0..16`, `scale` and `min` in `0..64`.
//!
//! Of the twelve bytes, byte `j < 4` holds `scale[j]` in its low six bits and the
//! high two bits of `scale[j + 4]` above; byte `j + 4` the same of `min`; byte
//! `j + 8` the low four bits of `scale[j + 4]`, then those of `min[j + 4]`.

use bytemuck::{Pod, Zeroable};
use rz_kernels::{PANEL_ROWS, PanelKind};

use super::common::{affine, half};
use super::{lanes, planes, search};
use crate::BlockFormat;

/// The marker of this format.
#[allow(non_camel_case_types)]
pub struct Q4_K;

/// The block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale of the scales, f16, little-endian.
    pub d: [u8; 2],
    /// Scale of the minimums, f16, little-endian.
    pub dmin: [u8; 2],
    /// Scale and minimum of each sub-block, six bits each.
    pub scales: [u8; 12],
    /// Two elements a byte.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<Block>() == 144 && align_of::<Block>() == 1);

impl BlockFormat for Q4_K {
    type Block = Block;
    const ELEMENTS: usize = 256;
    const PANEL: Option<PanelKind> = Some(PanelKind::Super4);

    fn decode(block: &Block, out: &mut [f32]) {
        let q = quants(block);
        let (d, dmin) = (half(block.d), half(block.dmin));
        let (scales, mins) = planes::read_scales(&block.scales);
        let sub_blocks = q.as_chunks::<32>().0.iter().zip(out[..256].as_chunks_mut::<32>().0);
        for (((q, out), scale), min) in sub_blocks.zip(scales).zip(mins) {
            affine(d * f32::from(scale), -(dmin * f32::from(min)), q, out);
        }
    }

    fn encode(x: &[f32]) -> Block {
        let found = search::affine::<32, 8>(x, 15, 63);
        Block {
            d: found.d,
            dmin: found.dmin,
            scales: planes::write_scales(&found.scales, &found.mins),
            qs: planes::write::<4, 32, 128>(&found.q, 0),
        }
    }

    #[inline(always)]
    fn pack(blocks: &[&Block; PANEL_ROWS], out: &mut [u8]) {
        let (header, planes) = out.split_at_mut(320);
        lanes::store_halves(blocks, |block| block.d, &mut header[..32]);
        lanes::store_halves(blocks, |block| block.dmin, &mut header[32..64]);
        lanes::store_bytes(blocks, |block| planes::read_scales(&block.scales).0, &mut header[64..192]);
        lanes::store_bytes(blocks, |block| planes::read_scales(&block.scales).1, &mut header[192..]);
        lanes::store_runs::<4, 32, 128, _>(blocks, |block| &block.qs, planes, 0, 256);
    }

    fn unpack(panel: &[u8], lane: usize) -> Block {
        let (header, planes) = panel.split_at(320);
        let q: [u8; 256] = lanes::load::<4, 0, 256>(planes, lane);
        Block {
            d: lanes::load_half(&header[..32], lane),
            dmin: lanes::load_half(&header[32..64], lane),
            scales: planes::write_scales(
                &lanes::load_bytes(&header[64..192], lane),
                &lanes::load_bytes(&header[192..], lane),
            ),
            qs: planes::write::<4, 32, 128>(&q, 0),
        }
    }
}

/// The values of the elements.
#[inline(always)]
fn quants(block: &Block) -> [u8; 256] {
    let mut q = [0; 256];
    planes::read::<4, 32>(&block.qs, 0, &mut q);
    q
}
