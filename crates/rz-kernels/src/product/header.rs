//! Headers of panel blocks: the scale and the offset of each sub-block.

use crate::Isa;
use crate::panel::{CURVED_LEVELS, FLOAT_LEVELS};

/// What a kind's header says. `weight = scale * (q - CENTRE) - minimum` for every sub-block.
pub(super) trait Header {
    /// 16-bit units of the header.
    const UNITS: usize;
    /// Blocks of 32 columns that one header serves.
    const STEPS: usize;
    /// Sub-blocks of 32 columns: 1, or 2 of 16.
    const PARTS: usize;
    /// What stands for `q`, in kinds whose levels are no row of whole numbers.
    const TABLE: Option<&'static [u8; 16]> = None;
    /// What is taken off `q`, or what stands for it: zero or a power of two.
    const CENTRE: i32 = 0;
    /// Whether that takes all 8 bits.
    const WIDE: bool = false;

    /// Whether there are minimums.
    const MINIMUM: bool = false;

    /// The factors of sub-block `index`, for sixteen rows.
    fn at<I: Isa>(isa: I, header: &[u16], index: usize) -> Factors<I::F32>;
}

/// What turns the `q` of a sub-block into weights.
pub(super) struct Factors<V> {
    pub(super) scale: V,
    pub(super) minimum: Option<V>,
}

/// `scale * (q - CENTRE)`.
pub(super) struct Centred<const CENTRE: i32>;

impl<const CENTRE: i32> Header for Centred<CENTRE> {
    const UNITS: usize = 16;
    const STEPS: usize = 1;
    const PARTS: usize = 1;
    const CENTRE: i32 = CENTRE;
    const WIDE: bool = CENTRE == 128;

    #[inline(always)]
    fn at<I: Isa>(isa: I, header: &[u16], _index: usize) -> Factors<I::F32> {
        Factors { scale: isa.load_f16(halves(header, 0)), minimum: None }
    }
}

/// `scale * q + minimum`.
pub(super) struct Minimum;

impl Header for Minimum {
    const MINIMUM: bool = true;
    const UNITS: usize = 32;
    const STEPS: usize = 1;
    const PARTS: usize = 1;

    #[inline(always)]
    fn at<I: Isa>(isa: I, header: &[u16], _index: usize) -> Factors<I::F32> {
        let minimum = isa.sub(isa.splat(0.0), isa.load_f16(halves(header, 1)));
        Factors { scale: isa.load_f16(halves(header, 0)), minimum: Some(minimum) }
    }
}

/// `d * scale * q - dmin * min`, scales and minimums in four bits.
pub(super) struct ScaleMinNibbles;

impl Header for ScaleMinNibbles {
    const MINIMUM: bool = true;
    const UNITS: usize = 32 + 128;
    const STEPS: usize = 8;
    const PARTS: usize = 2;

    #[inline(always)]
    fn at<I: Isa>(isa: I, header: &[u16], index: usize) -> Factors<I::F32> {
        let both = isa.load_u8(bytes(&header[32..], index));
        scale_min(isa, header, isa.bits(both, 0, 4), isa.bits(both, 4, 4))
    }
}

/// `d * scale * q - dmin * min`, scales and minimums in a byte each.
pub(super) struct ScaleMinBytes;

impl Header for ScaleMinBytes {
    const MINIMUM: bool = true;
    const UNITS: usize = 32 + 128;
    const STEPS: usize = 8;
    const PARTS: usize = 1;

    #[inline(always)]
    fn at<I: Isa>(isa: I, header: &[u16], index: usize) -> Factors<I::F32> {
        let scale = isa.load_u8(bytes(&header[32..], index));
        let minimum = isa.load_u8(bytes(&header[32..], 8 + index));
        scale_min(isa, header, scale, minimum)
    }
}

#[inline(always)]
fn scale_min<I: Isa>(isa: I, header: &[u16], scale: I::I32, minimum: I::I32) -> Factors<I::F32> {
    let d = isa.load_f16(halves(header, 0));
    let dmin = isa.load_f16(halves(header, 1));
    let minimum = isa.mul(dmin, isa.to_f32(minimum));
    Factors { scale: isa.mul(d, isa.to_f32(scale)), minimum: Some(minimum) }
}

/// `d * (scale - 32) * (q - 4)`, scales in six bits.
pub(super) struct SixBitScales;

impl Header for SixBitScales {
    const UNITS: usize = 16 + 64 + 32;
    const STEPS: usize = 8;
    const PARTS: usize = 2;
    const CENTRE: i32 = 4;

    #[inline(always)]
    fn at<I: Isa>(isa: I, header: &[u16], index: usize) -> Factors<I::F32> {
        let low = isa.load_u8(bytes(&header[16..], index % 8));
        let low = isa.to_f32(isa.bits(low, 4 * (index as u32 / 8), 4));
        let high = isa.load_u8(bytes(&header[16 + 64..], index % 4));
        let high = isa.to_f32(isa.bits(high, 2 * (index as u32 / 4), 2));
        let scale = isa.sub(isa.mul_add(high, isa.splat(16.0), low), isa.splat(32.0));
        let scale = isa.mul(isa.load_f16(halves(header, 0)), scale);
        Factors { scale, minimum: None }
    }
}

/// `d * scale * (q - 32)`, scales in a signed byte.
pub(super) struct SignedScales;

impl Header for SignedScales {
    const UNITS: usize = 16 + 128;
    const STEPS: usize = 8;
    const PARTS: usize = 2;
    const CENTRE: i32 = 32;

    #[inline(always)]
    fn at<I: Isa>(isa: I, header: &[u16], index: usize) -> Factors<I::F32> {
        let scale = isa.to_f32(isa.load_i8(bytes(&header[16..], index)));
        let scale = isa.mul(isa.load_f16(halves(header, 0)), scale);
        Factors { scale, minimum: None }
    }
}

/// `scale * CURVED_LEVELS[q]`.
pub(super) struct Curved;

impl Header for Curved {
    const UNITS: usize = 16;
    const STEPS: usize = 1;
    const PARTS: usize = 1;
    const TABLE: Option<&'static [u8; 16]> = Some(&raised(CURVED_LEVELS, Self::CENTRE));
    const CENTRE: i32 = 128;
    const WIDE: bool = true;

    #[inline(always)]
    fn at<I: Isa>(isa: I, header: &[u16], _index: usize) -> Factors<I::F32> {
        Factors { scale: isa.load_f16(halves(header, 0)), minimum: None }
    }
}

/// `d * scale * CURVED_LEVELS[q]`, scales in a signed byte.
pub(super) struct SuperCurved;

impl Header for SuperCurved {
    const UNITS: usize = 16 + 64;
    const STEPS: usize = 8;
    const PARTS: usize = 1;
    const TABLE: Option<&'static [u8; 16]> = Curved::TABLE;
    const CENTRE: i32 = Curved::CENTRE;
    const WIDE: bool = true;

    #[inline(always)]
    fn at<I: Isa>(isa: I, header: &[u16], index: usize) -> Factors<I::F32> {
        let scale = isa.to_f32(isa.load_i8(bytes(&header[16..], index)));
        Factors { scale: isa.mul(isa.load_f16(halves(header, 0)), scale), minimum: None }
    }
}

/// `2^(e - 128) * FLOAT_LEVELS[q]`.
pub(super) struct PowerOfTwo;

impl Header for PowerOfTwo {
    const UNITS: usize = 8;
    const STEPS: usize = 1;
    const PARTS: usize = 1;
    const TABLE: Option<&'static [u8; 16]> = Some(&raised(FLOAT_LEVELS, Self::CENTRE));
    const CENTRE: i32 = 16;

    #[inline(always)]
    fn at<I: Isa>(isa: I, header: &[u16], _index: usize) -> Factors<I::F32> {
        // In two factors, since 2^-128 is below the normal numbers.
        let e = isa.load_u8(bytes(header, 0));
        let half = isa.bits(e, 1, 7);
        let middle = isa.splat_i32(64);
        let first = isa.exp2i(isa.sub_i32(half, middle));
        let second = isa.exp2i(isa.sub_i32(isa.sub_i32(e, half), middle));
        Factors { scale: isa.mul(first, second), minimum: None }
    }
}

/// Levels as bytes without a sign.
const fn raised(levels: [i8; 16], by: i32) -> [u8; 16] {
    let mut table = [0; 16];
    let mut i = 0;
    while i < 16 {
        table[i] = (levels[i] as i32 + by) as u8;
        i += 1;
    }
    table
}

#[inline(always)]
fn halves(header: &[u16], index: usize) -> &[u16; 16] {
    header[16 * index..].first_chunk().expect("a whole header")
}

#[inline(always)]
fn bytes(units: &[u16], index: usize) -> &[u8; 16] {
    let units: &[u16; 8] = units[8 * index..].first_chunk().expect("a whole header");
    bytemuck::cast_ref(units)
}
