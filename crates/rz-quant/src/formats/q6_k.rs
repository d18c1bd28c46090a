//! Q6_K: 256 elements, 210 bytes; 16 sub-blocks of 16 elements.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 0..128 | `ql`: byte `64h + l` holds bits 0..4 of element `128h + l` in its low, of `128h + 64 + l` in its high half |
//! | 128..192 | `qh`: byte `32h + l` holds bits 4..6 of elements `128h + l`, `+ 32`, `+ 64`, `+ 96`, low bits first |
//! | 192..208 | `scale` of each sub-block, two's complement |
//! | 208..210 | `d`, scale of the scales, f16 |
//!
//! `x = d * scale * (q - 32)`, with `q` in `0..64` and `scale` in `-128..128`.

use bytemuck::{Pod, Zeroable};
use rz_kernels::{PANEL_ROWS, PanelKind};

use super::common::{centred, half};
use super::{lanes, planes, search};
use crate::BlockFormat;

/// The marker of this format.
#[allow(non_camel_case_types)]
pub struct Q6_K;

/// The block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// The low four bits, two elements a byte.
    pub ql: [u8; 128],
    /// The high two bits, four elements a byte.
    pub qh: [u8; 64],
    /// Scale of each sub-block.
    pub scales: [i8; 16],
    /// Scale of the scales, f16, little-endian.
    pub d: [u8; 2],
}

const _: () = assert!(size_of::<Block>() == 210 && align_of::<Block>() == 1);

impl BlockFormat for Q6_K {
    type Block = Block;
    const ELEMENTS: usize = 256;
    const PANEL: Option<PanelKind> = Some(PanelKind::Super6);

    fn decode(block: &Block, out: &mut [f32]) {
        let q = quants(block);
        let d = half(block.d);
        for ((q, out), s) in
            q.as_chunks::<16>().0.iter().zip(out[..256].as_chunks_mut::<16>().0).zip(block.scales)
        {
            centred(d * f32::from(s), 32.0, q, out);
        }
    }

    fn encode(x: &[f32]) -> Block {
        let found = search::centred(x, 32, 128);
        Block {
            ql: planes::write::<4, 64, 128>(&found.q, 0),
            qh: planes::write::<2, 32, 64>(&found.q, 4),
            scales: found.scales,
            d: found.d,
        }
    }

    #[inline(always)]
    fn pack(blocks: &[&Block; PANEL_ROWS], out: &mut [u8]) {
        let (header, planes) = out.split_at_mut(288);
        lanes::store_halves(blocks, |block| block.d, &mut header[..32]);
        lanes::store_bytes(blocks, |block| bytemuck::cast::<_, [u8; 16]>(block.scales), &mut header[32..]);
        lanes::store_runs::<4, 64, 128, _>(blocks, |block| &block.ql, planes, 0, 384);
        lanes::store_runs::<2, 32, 64, _>(blocks, |block| &block.qh, planes, 256, 384);
    }

    fn unpack(panel: &[u8], lane: usize) -> Block {
        let (header, planes) = panel.split_at(288);
        let q: [u8; 256] = lanes::load::<4, 2, 256>(planes, lane);
        Block {
            ql: planes::write::<4, 64, 128>(&q, 0),
            qh: planes::write::<2, 32, 64>(&q, 4),
            scales: lanes::load_bytes(&header[32..], lane).map(|scale| scale as i8),
            d: lanes::load_half(&header[..32], lane),
        }
    }
}

/// The values of the elements.
#[inline(always)]
fn quants(block: &Block) -> [u8; 256] {
    let mut q = [0; 256];
    planes::read::<4, 64>(&block.ql, 0, &mut q);
    planes::read::<2, 32>(&block.qh, 4, &mut q);
    q
}
