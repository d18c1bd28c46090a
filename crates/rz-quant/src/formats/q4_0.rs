//! Q4_0: 32 elements, 18 bytes.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 0..2 | `d`, scale, f16 |
//! | 2..18 | `qs`: byte `j` holds element `j` in its low, `j + 16` in its high half |
//!
//! `x = d * (q - 8)`, with `q` in `0..16`.

use bytemuck::{Pod, Zeroable};
use half::f16;
use rz_kernels::PanelKind;

use crate::BlockFormat;

/// The marker of this format.
#[allow(non_camel_case_types)]
pub struct Q4_0;

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

impl BlockFormat for Q4_0 {
    type Block = Block;
    const ELEMENTS: usize = 32;
    const PANEL: Option<PanelKind> = Some(PanelKind::Bits4);

    fn decode(block: &Block, out: &mut [f32]) {
        let d = f16::from_le_bytes(block.d).to_f32();
        for (j, q) in block.qs.into_iter().enumerate() {
            out[j] = d * (f32::from(q & 15) - 8.0);
            out[j + 16] = d * (f32::from(q >> 4) - 8.0);
        }
    }

    // The element of the largest magnitude maps to q = 0, which is -8.
    fn encode(x: &[f32]) -> Block {
        let peak = x[..32].iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
        let d = peak / -8.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let quantize = |v: f32| ((v * inverse + 8.5) as u8).min(15);
        Block {
            d: f16::from_f32(d).to_le_bytes(),
            qs: std::array::from_fn(|j| quantize(x[j]) | quantize(x[j + 16]) << 4),
        }
    }

    fn pack(block: &Block, lane: usize, out: &mut [u8]) {
        out[2 * lane..][..2].copy_from_slice(&block.d);
        for (group, q) in block.qs.chunks_exact(4).enumerate() {
            out[32 + 64 * group + 4 * lane..][..4].copy_from_slice(q);
        }
    }

    fn unpack(panel: &[u8], lane: usize) -> Block {
        let mut block = Block::zeroed();
        block.d.copy_from_slice(&panel[2 * lane..][..2]);
        for (group, q) in block.qs.chunks_exact_mut(4).enumerate() {
            q.copy_from_slice(&panel[32 + 64 * group + 4 * lane..][..4]);
        }
        block
    }
}
