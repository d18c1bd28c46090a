//! AVX2 with FMA and F16C: a logical vector is two registers.

use std::arch::x86_64::*;

use super::{Isa, LANES};

/// The token of the AVX2 set.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// The token.
    ///
    /// # Safety
    /// The processor must have the features that the row in `isas!` lists.
    pub(super) const unsafe fn assume() -> Avx2 {
        Avx2(())
    }
}

type F32 = [__m256; 2];
type I32 = [__m256i; 2];

// SAFETY (every block below): the token proves the features, and each pointer
// comes from a reference to an array of exactly the bytes that are accessed.
macro_rules! ops {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:expr;)*) => { $(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) $(-> $ret)? {
            // SAFETY: see the macro's comment.
            unsafe { $body }
        }
    )* };
}

impl Isa for Avx2 {
    type F32 = F32;
    type I32 = I32;
    type Bytes = [__m256i; 2];

    const WIDE_OFFSET: i32 = 128;

    ops! {
        fn splat(x: f32) -> F32 = [_mm256_set1_ps(x); 2];
        fn load(x: &[f32; LANES]) -> F32 =
            [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))];
        fn load_f16(x: &[u16; LANES]) -> F32 = [
            _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(8).cast())),
        ];
        fn load_bf16(x: &[u16; LANES]) -> F32 = [x.as_ptr(), x.as_ptr().add(8)].map(|x| {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        });
        fn store(v: F32, out: &mut [f32; LANES]) = {
            _mm256_storeu_ps(out.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), v[1]);
        };
        fn store_f16(v: F32, out: &mut [u16; LANES]) = {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_cvtps_ph::<NEAREST>(v[0]));
            _mm_storeu_si128(out.as_mut_ptr().add(8).cast(), _mm256_cvtps_ph::<NEAREST>(v[1]));
        };
        fn add(a: F32, b: F32) -> F32 = [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])];
        fn sub(a: F32, b: F32) -> F32 = [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])];
        fn mul(a: F32, b: F32) -> F32 = [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])];
        fn div(a: F32, b: F32) -> F32 = [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])];
        fn mul_add(a: F32, b: F32, c: F32) -> F32 =
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])];
        fn max(a: F32, b: F32) -> F32 = [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])];
        fn min(a: F32, b: F32) -> F32 = [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])];
        fn abs(a: F32) -> F32 = a.map(|x| _mm256_andnot_ps(_mm256_set1_ps(-0.0), x));
        fn sum(v: F32) -> f32 = {
            let v = _mm256_add_ps(v[0], v[1]);
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        };
        fn max_lane(v: F32) -> f32 = {
            let v = _mm256_max_ps(v[0], v[1]);
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        };
        // The default rounding mode of the processor is to nearest even.
        fn round(v: F32) -> I32 = [_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1])];
        fn to_f32(v: I32) -> F32 = [_mm256_cvtepi32_ps(v[0]), _mm256_cvtepi32_ps(v[1])];
        fn exp2i(n: I32) -> F32 = n.map(|n| {
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))))
        });
        fn splat_i32(x: i32) -> I32 = [_mm256_set1_epi32(x); 2];
        fn sub_i32(a: I32, b: I32) -> I32 = [_mm256_sub_epi32(a[0], b[0]), _mm256_sub_epi32(a[1], b[1])];
        fn shift_left(v: I32, count: u32) -> I32 =
            v.map(|v| _mm256_sll_epi32(v, _mm_cvtsi32_si128(count as i32)));
        fn sum_i32(v: I32) -> i32 = {
            let v = _mm256_add_epi32(v[0], v[1]);
            let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b0100_1110>(v));
            _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32::<0b1011_0001>(v)))
        };
        fn store_i8(v: I32, out: &mut [i8; LANES]) = {
            // Both packs work within 128-bit halves, so the order is mended at the end.
            let words = _mm256_packs_epi32(v[0], v[1]);
            let words = _mm256_permute4x64_epi64::<0b1101_1000>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
        };
        fn load_u8(x: &[u8; LANES]) -> I32 = [x.as_ptr(), x.as_ptr().add(8)]
            .map(|x| _mm256_cvtepu8_epi32(_mm_loadl_epi64(x.cast())));
        fn load_i8(x: &[u8; LANES]) -> I32 = [x.as_ptr(), x.as_ptr().add(8)]
            .map(|x| _mm256_cvtepi8_epi32(_mm_loadl_epi64(x.cast())));
        fn bits(v: I32, from: u32, count: u32) -> I32 = v.map(|v| {
            let shifted = _mm256_srl_epi32(v, _mm_cvtsi32_si128(from as i32));
            _mm256_and_si256(shifted, _mm256_set1_epi32((1 << count) - 1))
        });
        fn load_bytes(x: &[u8; 64]) -> [__m256i; 2] = [
            _mm256_loadu_si256(x.as_ptr().cast()),
            _mm256_loadu_si256(x.as_ptr().add(32).cast()),
        ];
        fn take_bits(v: [__m256i; 2], from: u32, to: u32, mask: u8) -> [__m256i; 2] = v.map(|v| {
            let shifted = if from > to {
                _mm256_srl_epi16(v, _mm_cvtsi32_si128((from - to) as i32))
            } else {
                _mm256_sll_epi16(v, _mm_cvtsi32_si128((to - from) as i32))
            };
            _mm256_and_si256(shifted, _mm256_set1_epi8(mask as i8))
        });
        fn or(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] =
            [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])];
        fn dot(acc: I32, w: [__m256i; 2], a: [i8; 4]) -> I32 = {
            let a = _mm256_set1_epi32(i32::from_ne_bytes(a.map(|x| x as u8)));
            [add_pairs(acc[0], w[0], a), add_pairs(acc[1], w[1], a)]
        };
        // |w - 128| is at most 128 and carries its sign to the activation, so that
        // the 16-bit sums of pairs reach at most 2 * 128 * 127 and never saturate.
        fn dot_wide(acc: I32, w: [__m256i; 2], a: [i8; 4]) -> I32 = {
            let a = _mm256_set1_epi32(i32::from_ne_bytes(a.map(|x| x as u8)));
            let signed = w.map(|w| _mm256_xor_si256(w, _mm256_set1_epi8(-128)));
            [
                add_pairs(acc[0], _mm256_abs_epi8(signed[0]), _mm256_sign_epi8(a, signed[0])),
                add_pairs(acc[1], _mm256_abs_epi8(signed[1]), _mm256_sign_epi8(a, signed[1])),
            ]
        };
    }
}

/// Adds the sums of four neighbouring products of unsigned and signed bytes.
#[inline(always)]
fn add_pairs(acc: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
    // SAFETY: only called by the token's methods; AVX2 holds.
    unsafe {
        let words = _mm256_maddubs_epi16(unsigned, signed);
        _mm256_add_epi32(acc, _mm256_madd_epi16(words, _mm256_set1_epi16(1)))
    }
}
