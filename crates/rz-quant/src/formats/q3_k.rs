//! Q3_K: 256 elements, 110 bytes; 16 sub-blocks of 16 elements.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 0..32 | `hmask`: bit `b` of byte `l` is bit 2 of element `32b + l` |
//! | 32..96 | `qs`: byte `32h + l` holds bits 0..2 of elements `128h + l`, `+ 32`, `+ 64`, `+ 96`, low bits first |
//! | 96..104 | byte `j`: bits 0..4 of `scale` `j` in its low, of `j + 8` in its high half |
//! | 104..108 | byte `j`: bits 4..6 of `scale` `j`, `j + 4`, `j + 8`, `j + 12`, low bits first |
//! | 108..110 | `d`, scale of the scales, f16 |
//!
//! `x = d * (scale - 32) * (q - 4)`, with `q` in `0..8` and `scale` in `0..64`.

use bytemuck::{Pod, Zeroable};
use rz_kernels::{PANEL_ROWS, PanelKind};

use super::common::{centred, half};
use super::{lanes, planes, search};
use crate::BlockFormat;

/// The marker of this format.
#[allow(non_camel_case_types)]
pub struct Q3_K;

/// The block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// The high bit of each element.
    pub hmask: [u8; 32],
    /// The low two bits, four elements a byte.
    pub qs: [u8; 64],
    /// The low four bits of the scales, two a byte.
    pub scales_low: [u8; 8],
    /// The high two bits of the scales, four a byte.
    pub scales_high: [u8; 4],
    /// Scale of the scales, f16, little-endian.
    pub d: [u8; 2],
}

const _: () = assert!(size_of::<Block>() == 110 && align_of::<Block>() == 1);

impl BlockFormat for Q3_K {
    type Block = Block;
    const ELEMENTS: usize = 256;
    const PANEL: Option<PanelKind> = Some(PanelKind::Super3);

    fn decode(block: &Block, out: &mut [f32]) {
        let q = quants(block);
        let mut scales = [0; 16];
        planes::read::<4, 8>(&block.scales_low, 0, &mut scales);
        planes::read::<2, 4>(&block.scales_high, 4, &mut scales);
        let d = half(block.d);
        for ((q, out), s) in q.as_chunks::<16>().0.iter().zip(out[..256].as_chunks_mut::<16>().0).zip(scales)
        {
            centred(d * (f32::from(s) - 32.0), 4.0, q, out);
        }
    }

    fn encode(x: &[f32]) -> Block {
        let found = search::centred(x, 4, 32);
        let scales = found.scales.map(|s| (s + 32) as u8);
        Block {
            hmask: planes::write::<1, 32, 32>(&found.q, 2),
            qs: planes::write::<2, 32, 64>(&found.q, 0),
            scales_low: planes::write::<4, 8, 8>(&scales, 0),
            scales_high: planes::write::<2, 4, 4>(&scales, 4),
            d: found.d,
        }
    }

    // The file's own bytes of scales, eight and four, are what the panel interleaves.
    #[inline(always)]
    fn pack(blocks: &[&Block; PANEL_ROWS], out: &mut [u8]) {
        let (header, planes) = out.split_at_mut(224);
        lanes::store_halves(blocks, |block| block.d, &mut header[..32]);
        lanes::store_bytes(blocks, |block| block.scales_low, &mut header[32..160]);
        lanes::store_bytes(blocks, |block| block.scales_high, &mut header[160..]);
        lanes::store_runs::<2, 32, 64, _>(blocks, |block| &block.qs, planes, 0, 192);
        lanes::store_runs::<1, 32, 32, _>(blocks, |block| &block.hmask, planes, 128, 192);
    }

    fn unpack(panel: &[u8], lane: usize) -> Block {
        let (header, planes) = panel.split_at(224);
        let q: [u8; 256] = lanes::load::<2, 1, 256>(planes, lane);
        Block {
            hmask: planes::write::<1, 32, 32>(&q, 2),
            qs: planes::write::<2, 32, 64>(&q, 0),
            scales_low: lanes::load_bytes(&header[32..160], lane),
            scales_high: lanes::load_bytes(&header[160..], lane),
            d: lanes::load_half(&header[..32], lane),
        }
    }
}

/// The values of the elements.
#[inline(always)]
fn quants(block: &Block) -> [u8; 256] {
    let mut q = [0; 256];
    planes::read::<2, 32>(&block.qs, 0, &mut q);
    planes::read::<1, 32>(&block.hmask, 2, &mut q);
    q
}
