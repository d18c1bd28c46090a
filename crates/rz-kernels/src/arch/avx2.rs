//! AVX2 with FMA and F16C, and the same with AVX-VNNI: a logical vector is two registers.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::{Isa, LANES};

/// The token of the sets around AVX2, which differ in how they multiply bytes.
#[derive(Clone, Copy)]
pub(super) struct Avx2<P>(PhantomData<P>);

impl<P> Avx2<P> {
    /// The token.
    ///
    /// # Safety
    /// The processor must have the features that the row in `isas!` lists.
    pub(super) const unsafe fn assume() -> Avx2<P> {
        Avx2(PhantomData)
    }
}

/// How bytes are multiplied.
pub(super) trait Products: Copy + Send + Sync + 'static {
    /// Whether pairs are summed in 16 bits first.
    const IN_PAIRS: bool;

    /// As [`Isa::WIDE_OFFSET`].
    const WIDE_OFFSET: i32;

    /// Adds the sums of four neighbouring products, of weight bytes up to 127.
    ///
    /// # Safety
    /// The processor must have the features of the set.
    unsafe fn add(acc: __m256i, weights: __m256i, signed: __m256i) -> __m256i;

    /// The same of any weight bytes, less [`WIDE_OFFSET`](Self::WIDE_OFFSET).
    ///
    /// # Safety
    /// As [`add`](Self::add).
    unsafe fn add_wide(acc: __m256i, weights: __m256i, signed: __m256i) -> __m256i;
}

/// AVX2 itself: by way of the 16-bit sums of pairs.
#[derive(Clone, Copy)]
pub(super) struct Pairs;

impl Products for Pairs {
    const IN_PAIRS: bool = true;
    const WIDE_OFFSET: i32 = 128;

    #[inline(always)]
    unsafe fn add(acc: __m256i, weights: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe {
            let words = _mm256_maddubs_epi16(weights, signed);
            _mm256_add_epi32(acc, _mm256_madd_epi16(words, _mm256_set1_epi16(1)))
        }
    }

    // |w - 128| is at most 128 and carries its sign to the activation, so that
    // the 16-bit sums of pairs reach at most 2 * 128 * 127 and never saturate.
    #[inline(always)]
    unsafe fn add_wide(acc: __m256i, weights: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe {
            let weights = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
            Self::add(acc, _mm256_abs_epi8(weights), _mm256_sign_epi8(signed, weights))
        }
    }
}

/// AVX-VNNI: one instruction, exact for any bytes.
#[derive(Clone, Copy)]
pub(super) struct Quads;

impl Products for Quads {
    const IN_PAIRS: bool = false;
    const WIDE_OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn add(acc: __m256i, weights: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: the caller has AVX-VNNI.
        unsafe { _mm256_dpbusd_avx_epi32(acc, weights, signed) }
    }

    #[inline(always)]
    unsafe fn add_wide(acc: __m256i, weights: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: the caller has AVX-VNNI.
        unsafe { Self::add(acc, weights, signed) }
    }
}

// The same for each register of logical vectors. No closures: those would be compiled
// without the features of the set, and what they call could not be inlined.
macro_rules! each {
    (@$at:tt $($v:ident),* => $body:expr) => {{
        $(let $v = $v[$at];)*
        $body
    }};
    (|$($v:ident),*| $body:expr) => {
        [each!(@0 $($v),* => $body), each!(@1 $($v),* => $body)]
    };
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

impl<P: Products> Isa for Avx2<P> {
    type F32 = F32;
    type I32 = I32;
    type Bytes = [__m256i; 2];

    const WIDE_OFFSET: i32 = P::WIDE_OFFSET;

    // The smaller the weights, the more sums of pairs fit 16 bits before they are widened.
    #[inline(always)]
    fn dots<const N: usize>(
        self,
        mut sums: [I32; N],
        w: &[[__m256i; 2]],
        a: [&[[i8; 4]]; N],
        largest: i32,
    ) -> [I32; N] {
        if !P::IN_PAIRS {
            for g in 0..w.len() {
                for t in 0..N {
                    sums[t] = self.dot(sums[t], w[g], a[t][g]);
                }
            }
            return sums;
        }
        let length = (i32::from(i16::MAX) / (2 * 127 * largest)).clamp(1, 8) as usize;
        for first in (0..w.len()).step_by(length) {
            let end = (first + length).min(w.len());
            let mut words = [[zero(); 2]; N];
            for g in first..end {
                for t in 0..N {
                    words[t] = add_words(words[t], w[g], a[t][g]);
                }
            }
            for t in 0..N {
                sums[t] = widen(sums[t], words[t]);
            }
        }
        sums
    }

    ops! {
        fn splat(x: f32) -> F32 = [_mm256_set1_ps(x); 2];
        fn load(x: &[f32; LANES]) -> F32 =
            [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))];
        fn load_f16(x: &[u16; LANES]) -> F32 = [
            _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(8).cast())),
        ];
        fn load_bf16(x: &[u16; LANES]) -> F32 = {
            let x = [x.as_ptr(), x.as_ptr().add(8)];
            each!(|x| {
                let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
            })
        };
        fn store(v: F32, out: &mut [f32; LANES]) = {
            _mm256_storeu_ps(out.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), v[1]);
        };
        fn store_f16(v: F32, out: &mut [u16; LANES]) = {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_cvtps_ph::<NEAREST>(v[0]));
            _mm_storeu_si128(out.as_mut_ptr().add(8).cast(), _mm256_cvtps_ph::<NEAREST>(v[1]));
        };
        fn add(a: F32, b: F32) -> F32 = each!(|a, b| _mm256_add_ps(a, b));
        fn sub(a: F32, b: F32) -> F32 = each!(|a, b| _mm256_sub_ps(a, b));
        fn mul(a: F32, b: F32) -> F32 = each!(|a, b| _mm256_mul_ps(a, b));
        fn div(a: F32, b: F32) -> F32 = each!(|a, b| _mm256_div_ps(a, b));
        fn mul_add(a: F32, b: F32, c: F32) -> F32 =
            each!(|a, b, c| _mm256_fmadd_ps(a, b, c));
        fn max(a: F32, b: F32) -> F32 = each!(|a, b| _mm256_max_ps(a, b));
        fn min(a: F32, b: F32) -> F32 = each!(|a, b| _mm256_min_ps(a, b));
        fn abs(a: F32) -> F32 = each!(|a| _mm256_andnot_ps(_mm256_set1_ps(-0.0), a));
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
        fn round(v: F32) -> I32 = each!(|v| _mm256_cvtps_epi32(v));
        fn to_f32(v: I32) -> F32 = each!(|v| _mm256_cvtepi32_ps(v));
        fn exp2i(n: I32) -> F32 = each!(|n| {
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))))
        });
        fn splat_i32(x: i32) -> I32 = [_mm256_set1_epi32(x); 2];
        fn add_i32(a: I32, b: I32) -> I32 = each!(|a, b| _mm256_add_epi32(a, b));
        fn sub_i32(a: I32, b: I32) -> I32 = each!(|a, b| _mm256_sub_epi32(a, b));
        fn shift_left(v: I32, count: u32) -> I32 =
            each!(|v| _mm256_sll_epi32(v, _mm_cvtsi32_si128(count as i32)));
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
        fn load_u8(x: &[u8; LANES]) -> I32 = {
            let x = [x.as_ptr(), x.as_ptr().add(8)];
            each!(|x| _mm256_cvtepu8_epi32(_mm_loadl_epi64(x.cast())))
        };
        fn load_i8(x: &[u8; LANES]) -> I32 = {
            let x = [x.as_ptr(), x.as_ptr().add(8)];
            each!(|x| _mm256_cvtepi8_epi32(_mm_loadl_epi64(x.cast())))
        };
        fn bits(v: I32, from: u32, count: u32) -> I32 = each!(|v| {
            let shifted = _mm256_srl_epi32(v, _mm_cvtsi32_si128(from as i32));
            _mm256_and_si256(shifted, _mm256_set1_epi32((1 << count) - 1))
        });
        fn prefetch(line: &[u8; 64]) = _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        fn prefetch_far(line: &[u8; 64]) = _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast());
        fn store_bytes(v: [__m256i; 2], out: &mut [u8; 64]) = {
            _mm256_storeu_si256(out.as_mut_ptr().cast(), v[0]);
            _mm256_storeu_si256(out.as_mut_ptr().add(32).cast(), v[1]);
        };
        fn load_bytes(x: &[u8; 64]) -> [__m256i; 2] = [
            _mm256_loadu_si256(x.as_ptr().cast()),
            _mm256_loadu_si256(x.as_ptr().add(32).cast()),
        ];
        fn take_bits(v: [__m256i; 2], from: u32, to: u32, mask: u8) -> [__m256i; 2] = each!(|v| {
            let shifted = if from > to {
                _mm256_srl_epi16(v, _mm_cvtsi32_si128((from - to) as i32))
            } else {
                _mm256_sll_epi16(v, _mm_cvtsi32_si128((to - from) as i32))
            };
            _mm256_and_si256(shifted, _mm256_set1_epi8(mask as i8))
        });
        fn or(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] =
            each!(|a, b| _mm256_or_si256(a, b));
        fn look_up(q: [__m256i; 2], table: &[u8; 16]) -> [__m256i; 2] = {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            each!(|q| _mm256_shuffle_epi8(table, q))
        };
        fn dot(acc: I32, w: [__m256i; 2], a: [i8; 4]) -> I32 = {
            let a = repeat(a);
            each!(|acc, w| P::add(acc, w, a))
        };
        fn dot_wide(acc: I32, w: [__m256i; 2], a: [i8; 4]) -> I32 = {
            let a = repeat(a);
            each!(|acc, w| P::add_wide(acc, w, a))
        };
    }
}

/// Four bytes, again and again.
#[inline(always)]
fn repeat(a: [i8; 4]) -> __m256i {
    let word = i32::from_ne_bytes([a[0] as u8, a[1] as u8, a[2] as u8, a[3] as u8]);
    // SAFETY: only called by the token's methods; AVX2 holds.
    unsafe { _mm256_set1_epi32(word) }
}

#[inline(always)]
fn zero() -> __m256i {
    // SAFETY: as above.
    unsafe { _mm256_setzero_si256() }
}

/// Adds the 16-bit sums of pairs of products.
#[inline(always)]
fn add_words(words: I32, w: [__m256i; 2], a: [i8; 4]) -> I32 {
    let a = repeat(a);
    // SAFETY: as above.
    unsafe { each!(|words, w| _mm256_add_epi16(words, _mm256_maddubs_epi16(w, a))) }
}

/// Adds neighbouring 16-bit sums to 32-bit ones.
#[inline(always)]
fn widen(sums: I32, words: I32) -> I32 {
    // SAFETY: as above.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        each!(|sums, words| _mm256_add_epi32(sums, _mm256_madd_epi16(words, ones)))
    }
}

/// AVX-VNNI with its instruction as AVX-512 encodes it, so that processors that have only
/// that one test everything else about the set.
#[cfg(test)]
pub(super) mod evex {
    use super::super::SimdOp;
    use super::*;

    #[derive(Clone, Copy)]
    struct Evex;

    impl Products for Evex {
        const IN_PAIRS: bool = Quads::IN_PAIRS;
        const WIDE_OFFSET: i32 = Quads::WIDE_OFFSET;

        #[inline(always)]
        unsafe fn add(acc: __m256i, weights: __m256i, signed: __m256i) -> __m256i {
            // SAFETY: the caller has AVX-512 with VNNI.
            unsafe { _mm256_dpbusd_epi32(acc, weights, signed) }
        }

        #[inline(always)]
        unsafe fn add_wide(acc: __m256i, weights: __m256i, signed: __m256i) -> __m256i {
            // SAFETY: as above.
            unsafe { Self::add(acc, weights, signed) }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512vl,avx512vnni")]
    fn enter<Op: SimdOp>(op: Op) -> Op::Output {
        // SAFETY: this function is only called with these features.
        op.eval(unsafe { Avx2::<Evex>::assume() })
    }

    /// Runs `op` where that is possible.
    pub(in super::super) fn run<Op: SimdOp>(op: Op) -> Option<Op::Output> {
        let possible = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        // SAFETY: just checked.
        possible.then(|| unsafe { enter(op) })
    }
}
