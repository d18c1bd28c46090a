//! What holds for every format in [`DType::ALL`], on arbitrary bytes and values.

use bytemuck::Zeroable;
use proptest::prelude::*;
use rz_kernels::PANEL_ROWS;
use rz_quant::{BlockFormat, DType, FormatVisitor};

/// Bytes that repeat only after a long prime period, so that misplaced ones show.
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect()
}

/// Packs sixteen blocks into a panel block and reads them back.
struct PanelRoundTrip<'a>(&'a [u8]);

impl FormatVisitor for PanelRoundTrip<'_> {
    type Output = Vec<u8>;

    fn visit<F: BlockFormat>(self) -> Vec<u8> {
        let blocks: &[F::Block] = bytemuck::cast_slice(self.0);
        let kind = F::PANEL.expect("a format with a panel");
        let mut panel = vec![0xa5; kind.block_bytes()];
        for (lane, block) in blocks.iter().enumerate() {
            F::pack(block, lane, &mut panel);
        }
        let mut back = vec![F::Block::zeroed(); blocks.len()];
        for (lane, block) in back.iter_mut().enumerate() {
            *block = F::unpack(&panel, lane);
        }
        bytemuck::cast_slice(&back).to_vec()
    }
}

proptest! {
    #[test]
    fn panels_give_back_every_bit(seed: u64) {
        for dtype in DType::ALL.iter().filter(|dtype| dtype.panel().is_some()) {
            let blocks = bytes(seed, PANEL_ROWS * dtype.block_bytes());
            prop_assert_eq!(dtype.visit(PanelRoundTrip(&blocks)), blocks, "{}", dtype);
        }
    }
}
