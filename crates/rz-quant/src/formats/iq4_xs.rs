//! IQ4_XS: 256 elements, 136 bytes; 8 sub-blocks of 32 elements.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 0..2 | `d`, scale of the scales, f16 |
//! | 2..4 | high two bits of the eight scales, low bits first, little-endian |
//! | 4..8 | low four bits of the scales, two a byte, low bits first |
//! | 8..136 | `qs`: byte `16b + l` holds element `32b + l` in its low, `32b + 16 + l` in its high half |
//!
//! `x = d * (scale - 32) * LEVELS[q]`, with `q` in `0..16`, `scale` in `0..64`, and
//! [`CURVED_LEVELS`](rz_kernels::CURVED_LEVELS).

use bytemuck::{Pod, Zeroable};
use rz_kernels::{CURVED_LEVELS as LEVELS, PANEL_ROWS, PanelKind};

use super::common::half;
use super::{lanes, planes, search};
use crate::BlockFormat;

/// The marker of this format.
#[allow(non_camel_case_types)]
pub struct IQ4_XS;

/// The block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale of the scales, f16, little-endian.
    pub d: [u8; 2],
    /// The high two bits of the scales.
    pub scales_high: [u8; 2],
    /// The low four bits of the scales.
    pub scales_low: [u8; 4],
    /// Two elements a byte.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<Block>() == 136 && align_of::<Block>() == 1);

impl BlockFormat for IQ4_XS {
    type Block = Block;
    const ELEMENTS: usize = 256;
    const PANEL: Option<PanelKind> = Some(PanelKind::SuperCurved4);

    fn decode(block: &Block, out: &mut [f32]) {
        let q = quants(block);
        let d = half(block.d);
        let sub_blocks = q.as_chunks::<32>().0.iter().zip(out[..256].as_chunks_mut::<32>().0);
        for ((q, out), scale) in sub_blocks.zip(scales(block)) {
            let scale = d * (f32::from(scale) - 32.0);
            for (q, out) in q.iter().zip(out) {
                *out = scale * f32::from(LEVELS[usize::from(*q)]);
            }
        }
    }

    fn encode(x: &[f32]) -> Block {
        let found = search::tabled(x, &LEVELS, 32);
        block(found.d, found.scales.map(|scale| (scale + 32) as u8), planes::write::<4, 16, 128>(&found.q, 0))
    }

    // A panel holds the scales less 32. The file pairs the very columns that the planes pair.
    #[inline(always)]
    fn pack(blocks: &[&Block; PANEL_ROWS], out: &mut [u8]) {
        let (header, planes) = out.split_at_mut(160);
        lanes::store_halves(blocks, |block| block.d, &mut header[..32]);
        let less = |block: &Block| scales(block).map(|scale| scale.wrapping_sub(32));
        lanes::store_bytes(blocks, less, &mut header[32..]);
        lanes::interleave(blocks, |block| &block.qs, planes);
    }

    fn unpack(panel: &[u8], lane: usize) -> Block {
        let (header, planes) = panel.split_at(160);
        let scales: [u8; 8] = lanes::load_bytes(&header[32..], lane);
        let mut qs = [0; 128];
        for (qs, planes) in qs.chunks_exact_mut(16).zip(planes.chunks_exact(256)) {
            qs.copy_from_slice(&lanes::load_bits::<16>(planes, lane));
        }
        block(lanes::load_half(&header[..32], lane), scales.map(|scale| scale.wrapping_add(32)), qs)
    }
}

/// The block with these fields, scales 32 more than they stand for.
fn block(d: [u8; 2], scales: [u8; 8], qs: [u8; 128]) -> Block {
    Block {
        d,
        scales_high: planes::write::<2, 1, 2>(&scales, 4),
        scales_low: planes::write::<4, 1, 4>(&scales, 0),
        qs,
    }
}

/// The scales of the sub-blocks, 32 more than they stand for.
fn scales(block: &Block) -> [u8; 8] {
    let mut scales = [0; 8];
    planes::read::<4, 1>(&block.scales_low, 0, &mut scales);
    planes::read::<2, 1>(&block.scales_high, 4, &mut scales);
    scales
}

/// The values of the elements.
#[inline(always)]
fn quants(block: &Block) -> [u8; 256] {
    let mut q = [0; 256];
    planes::read::<4, 16>(&block.qs, 0, &mut q);
    q
}
