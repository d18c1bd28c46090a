//! What holds for every format in [`DType::ALL`], on arbitrary bytes and values.

use bytemuck::Zeroable;
use proptest::prelude::*;
use rz_kernels::PANEL_ROWS;
use rz_quant::{BlockFormat, DType, FormatVisitor};

/// A sequence of words that is different for every seed.
fn words(seed: u64) -> impl Iterator<Item = u32> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    })
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    words(seed).map(|word| (word >> 24) as u8).take(len).collect()
}

/// A block of values between -1 and 1.
fn values(seed: u64) -> Vec<f32> {
    words(seed).map(|word| (f64::from(word) / f64::from(1u32 << 31) - 1.0) as f32).take(BLOCK).collect()
}

/// A block of any bits at all: one word in four is replaced by a special value.
fn any_bits(seed: u64) -> Vec<f32> {
    const SPECIAL: [f32; 8] =
        [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::from_bits(1)];
    words(seed)
        .zip(words(!seed))
        .map(|(word, pick)| SPECIAL.get((pick >> 27) as usize).copied().unwrap_or(f32::from_bits(word)))
        .take(BLOCK)
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
        F::pack(&std::array::from_fn(|lane| &blocks[lane]), &mut panel);
        let mut back = vec![F::Block::zeroed(); blocks.len()];
        for (lane, block) in back.iter_mut().enumerate() {
            *block = F::unpack(&panel, lane);
        }
        bytemuck::cast_slice(&back).to_vec()
    }
}

/// Elements of the largest block.
const BLOCK: usize = 256;

fn round_trip(dtype: DType, x: &[f32]) -> Vec<f32> {
    let (mut blocks, mut back) = (Vec::new(), vec![f32::NAN; x.len()]);
    dtype.encode(x, &mut blocks);
    assert_eq!(dtype.row_bytes(x.len()), Some(blocks.len()), "{dtype}");
    dtype.decode(&blocks, &mut back);
    back
}

fn rms(x: &[f32], y: &[f32]) -> f64 {
    let squares: f64 = x.iter().zip(y).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum();
    (squares / x.len() as f64).sqrt()
}

/// Formats of one element convert it; the others search for scales.
fn is_block_format(dtype: DType) -> bool {
    dtype.block_elements() > 1
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn panels_give_back_every_bit(seed: u64) {
        for dtype in DType::ALL.iter().filter(|dtype| dtype.panel().is_some()) {
            let blocks = bytes(seed, PANEL_ROWS * dtype.block_bytes());
            prop_assert_eq!(dtype.visit(PanelRoundTrip(&blocks)), blocks, "{}", dtype);
        }
    }

    #[test]
    fn any_bytes_decode(seed: u64) {
        for &dtype in DType::ALL {
            let mut out = vec![0.0; BLOCK];
            dtype.decode(&bytes(seed, dtype.row_bytes(BLOCK).expect("whole blocks")), &mut out);
        }
    }

    #[test]
    fn any_values_encode_to_finite_blocks(seed: u64) {
        let x = any_bits(seed);
        for &dtype in DType::ALL {
            let back = round_trip(dtype, &x);
            if is_block_format(dtype) {
                prop_assert!(back.iter().all(|v| v.is_finite()), "{}: {:?}", dtype, back);
            }
        }
    }

    #[test]
    fn the_error_follows_the_scale_of_the_values(seed: u64, exponent in -1i32..10) {
        let x = values(seed);
        // A power of two scales everything exactly as long as no half-precision
        // field becomes subnormal or overflows.
        let scaled: Vec<f32> = x.iter().map(|v| v * 2f32.powi(exponent)).collect();
        for &dtype in DType::ALL {
            let (back, back_scaled) = (round_trip(dtype, &x), round_trip(dtype, &scaled));
            let (error, error_scaled) = (rms(&x, &back), rms(&scaled, &back_scaled) * 2f64.powi(-exponent));
            prop_assert!(error < 0.2, "{}: {}", dtype, error);
            prop_assert!((error - error_scaled).abs() <= 0.05 * error + 1e-4, "{}: {} {}", dtype, error, error_scaled);
        }
    }

    #[test]
    fn values_on_the_grid_of_a_block_nearly_come_back(seed: u64) {
        let x = values(seed);
        for &dtype in DType::ALL {
            let once = round_trip(dtype, &x);
            let (lost, lost_again) = (rms(&x, &once), rms(&once, &round_trip(dtype, &once)));
            prop_assert!(lost_again <= 0.8 * lost, "{}: {}, then {}", dtype, lost, lost_again);
        }
    }

    #[test]
    fn one_outlier_keeps_its_value(at in 0..BLOCK, value in prop::sample::select(vec![-1000.0f32, -3.0, 0.5, 7.0])) {
        let mut x = vec![0.0; BLOCK];
        x[at] = value;
        for &dtype in DType::ALL {
            let back = round_trip(dtype, &x);
            // The scales of MXFP4 are powers of two, and from 6 times the scale to 8 there is nothing.
            let most = if dtype == DType::MXFP4 { 0.25 } else { 0.01 };
            prop_assert!((back[at] - value).abs() <= most * value.abs(), "{}: {} for {}", dtype, back[at], value);
            prop_assert!(back.iter().enumerate().all(|(i, v)| i == at || v.abs() <= 0.01 * value.abs()), "{}", dtype);
        }
    }
}

#[test]
fn zeros_stay_zeros() {
    for &dtype in DType::ALL {
        assert!(round_trip(dtype, &[0.0; BLOCK]).iter().all(|v| *v == 0.0), "{dtype}");
        let tiny = [f32::from_bits(1); BLOCK];
        assert!(
            round_trip(dtype, &tiny).iter().all(|v| *v == 0.0 || dtype == DType::F32 || *v == tiny[0]),
            "{dtype}"
        );
    }
}

#[test]
fn values_beyond_the_range_saturate() {
    for &dtype in DType::ALL.iter().filter(|dtype| is_block_format(**dtype)) {
        let mut x = [0.0; BLOCK];
        (x[3], x[200]) = (1e30, -1e30);
        let back = round_trip(dtype, &x);
        assert!(back[3] > 30_000.0 && back[200] < -30_000.0, "{dtype}: {} {}", back[3], back[200]);
    }
}

#[test]
fn names_and_numbers_lead_back_to_the_format() {
    for (i, &dtype) in DType::ALL.iter().enumerate() {
        assert_eq!(DType::from_id(dtype.id()), Some(dtype));
        assert!(DType::ALL[..i].iter().all(|other| other.id() < dtype.id() && other.name() != dtype.name()));
        assert_eq!(dtype.to_string(), dtype.name());
        assert_eq!(dtype.row_bytes(BLOCK), Some(BLOCK / dtype.block_elements() * dtype.block_bytes()));
        if dtype.block_bytes() > dtype.block_elements() {
            assert_eq!(
                dtype.row_bytes(usize::MAX - (BLOCK - 1)),
                None,
                "{dtype}: more bytes than a usize counts"
            );
        }
        if is_block_format(dtype) {
            assert_eq!(dtype.row_bytes(BLOCK + 1), None);
        }
    }
    assert_eq!(DType::from_id(u32::MAX), None);
}
