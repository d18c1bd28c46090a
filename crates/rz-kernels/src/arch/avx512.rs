//! AVX-512 with VNNI: one register holds a whole logical vector.

use std::arch::x86_64::*;

use super::{Isa, LANES};

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// The token of the AVX-512-VNNI set.
#[derive(Clone, Copy)]
pub(super) struct Avx512Vnni(());

impl Avx512Vnni {
    /// The token.
    ///
    /// # Safety
    /// The processor must have the features that the row in `isas!` lists.
    pub(super) const unsafe fn assume() -> Avx512Vnni {
        Avx512Vnni(())
    }
}

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

impl Isa for Avx512Vnni {
    type F32 = __m512;
    type I32 = __m512i;
    type Bytes = __m512i;

    const WIDE_OFFSET: i32 = 0;

    ops! {
        fn splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        fn load(x: &[f32; LANES]) -> __m512 = _mm512_loadu_ps(x.as_ptr());
        fn load_f16(x: &[u16; LANES]) -> __m512 = _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast()));
        fn load_bf16(x: &[u16; LANES]) -> __m512 = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(
            _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast())),
        ));
        fn store(v: __m512, out: &mut [f32; LANES]) = _mm512_storeu_ps(out.as_mut_ptr(), v);
        fn store_f16(v: __m512, out: &mut [u16; LANES]) =
            _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtps_ph::<NEAREST>(v));
        fn add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        fn sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        fn mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fn div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        fn max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        fn min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        fn abs(a: __m512) -> __m512 = _mm512_abs_ps(a);
        fn sum(v: __m512) -> f32 = {
            let v = _mm256_add_ps(_mm512_castps512_ps256(v), high_half(v));
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        };
        fn max_lane(v: __m512) -> f32 = _mm512_reduce_max_ps(v);
        fn round(v: __m512) -> __m512i =
            _mm512_cvt_roundps_epi32::<NEAREST>(v);
        fn to_f32(v: __m512i) -> __m512 = _mm512_cvtepi32_ps(v);
        fn exp2i(n: __m512i) -> __m512 =
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(n, _mm512_set1_epi32(127))));
        fn splat_i32(x: i32) -> __m512i = _mm512_set1_epi32(x);
        fn add_i32(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        fn sub_i32(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
        fn shift_left(v: __m512i, count: u32) -> __m512i = _mm512_sll_epi32(v, _mm_cvtsi32_si128(count as i32));
        fn sum_i32(v: __m512i) -> i32 = _mm512_reduce_add_epi32(v);
        fn store_i8(v: __m512i, out: &mut [i8; LANES]) =
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(v));
        fn load_u8(x: &[u8; LANES]) -> __m512i = _mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast()));
        fn load_i8(x: &[u8; LANES]) -> __m512i = _mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()));
        fn bits(v: __m512i, from: u32, count: u32) -> __m512i = _mm512_and_si512(
            _mm512_srl_epi32(v, _mm_cvtsi32_si128(from as i32)),
            _mm512_set1_epi32((1 << count) - 1),
        );
        fn prefetch(line: &[u8; 64]) = _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        fn prefetch_far(line: &[u8; 64]) = _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast());
        fn load_bytes(x: &[u8; 64]) -> __m512i = _mm512_loadu_si512(x.as_ptr().cast());
        fn store_bytes(v: __m512i, out: &mut [u8; 64]) = _mm512_storeu_si512(out.as_mut_ptr().cast(), v);
        fn take_bits(v: __m512i, from: u32, to: u32, mask: u8) -> __m512i = {
            let shifted = if from > to {
                _mm512_srl_epi16(v, _mm_cvtsi32_si128((from - to) as i32))
            } else {
                _mm512_sll_epi16(v, _mm_cvtsi32_si128((to - from) as i32))
            };
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8))
        };
        fn or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        fn look_up(q: __m512i, table: &[u8; 16]) -> __m512i =
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), q);
        fn dot(acc: __m512i, w: __m512i, a: [i8; 4]) -> __m512i =
            _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(i32::from_ne_bytes(a.map(|x| x as u8))));
        fn dot_wide(acc: __m512i, w: __m512i, a: [i8; 4]) -> __m512i =
            _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(i32::from_ne_bytes(a.map(|x| x as u8))));
    }
}

#[inline(always)]
fn high_half(v: __m512) -> __m256 {
    // SAFETY: only called by the token's methods; AVX-512F holds.
    unsafe { _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v))) }
}
