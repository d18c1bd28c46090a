//! NEON, and NEON with the dot products of ARMv8.2: a logical vector is four registers.

use std::arch::aarch64::*;
use std::arch::asm;
use std::marker::PhantomData;

use super::{Isa, LANES};

/// The token of the sets around NEON, which differ in how they multiply bytes.
#[derive(Clone, Copy)]
pub(super) struct Neon<P>(PhantomData<P>);

impl<P> Neon<P> {
    /// The token.
    ///
    /// # Safety
    /// The processor must have the features that the row in `isas!` lists.
    pub(super) const unsafe fn assume() -> Neon<P> {
        Neon(PhantomData)
    }
}

/// How bytes are multiplied.
pub(super) trait Products: Copy + Send + Sync + 'static {
    /// Adds the sums of four neighbouring products of signed bytes, of which two together
    /// are at most 2^15 - 1 in magnitude.
    ///
    /// # Safety
    /// The processor must have the features of the set.
    unsafe fn add(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t;
}

/// NEON itself: by way of the 16-bit sums of pairs.
#[derive(Clone, Copy)]
pub(super) struct Pairs;

impl Products for Pairs {
    #[inline(always)]
    unsafe fn add(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe {
            let low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
            let high = vmull_high_s8(a, b);
            vpadalq_s16(acc, vpaddq_s16(low, high))
        }
    }
}

/// The dot products of ARMv8.2: one instruction.
#[derive(Clone, Copy)]
pub(super) struct Quads;

impl Products for Quads {
    #[inline(always)]
    unsafe fn add(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: the caller has the instruction.
        unsafe { sdot(acc, a, b) }
    }
}

// The intrinsic is not stable yet. A function of its own, so that the assembler knows the
// feature wherever the call ends up.
#[inline]
#[target_feature(enable = "dotprod")]
fn sdot(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction reads and writes these registers only.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inout(vreg) acc,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

// The same for each register of logical vectors. No closures: those would be compiled
// without the features of the set, and what they call could not be inlined.
macro_rules! each {
    (@$at:tt $($v:ident),* => $body:expr) => {{
        $(let $v = $v[$at];)*
        $body
    }};
    (|$($v:ident),*| $body:expr) => {
        [
            each!(@0 $($v),* => $body),
            each!(@1 $($v),* => $body),
            each!(@2 $($v),* => $body),
            each!(@3 $($v),* => $body),
        ]
    };
}

// The same for the lane that each register starts with.
macro_rules! quarters {
    (|$i:ident| $body:expr) => {{
        let $i = [0, 4, 8, 12];
        each!(|$i| $body)
    }};
}

type F32 = [float32x4_t; 4];
type I32 = [int32x4_t; 4];
type Bytes = [uint8x16_t; 4];

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

impl<P: Products> Isa for Neon<P> {
    type F32 = F32;
    type I32 = I32;
    type Bytes = Bytes;

    const WIDE_OFFSET: i32 = 128;

    ops! {
        fn splat(x: f32) -> F32 = [vdupq_n_f32(x); 4];
        fn load(x: &[f32; LANES]) -> F32 = quarters!(|i| vld1q_f32(x.as_ptr().add(i)));
        fn load_f16(x: &[u16; LANES]) -> F32 = quarters!(|i| {
            vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x.as_ptr().add(i))))
        });
        fn load_bf16(x: &[u16; LANES]) -> F32 = quarters!(|i| {
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(x.as_ptr().add(i))))
        });
        fn store(v: F32, out: &mut [f32; LANES]) =
            for i in [0, 4, 8, 12] {
                vst1q_f32(out.as_mut_ptr().add(i), v[i / 4]);
            };
        // The default rounding mode of the processor is to nearest even.
        fn store_f16(v: F32, out: &mut [u16; LANES]) =
            for i in [0, 4, 8, 12] {
                vst1_u16(out.as_mut_ptr().add(i), vreinterpret_u16_f16(vcvt_f16_f32(v[i / 4])));
            };
        fn add(a: F32, b: F32) -> F32 = each!(|a, b| vaddq_f32(a, b));
        fn sub(a: F32, b: F32) -> F32 = each!(|a, b| vsubq_f32(a, b));
        fn mul(a: F32, b: F32) -> F32 = each!(|a, b| vmulq_f32(a, b));
        fn div(a: F32, b: F32) -> F32 = each!(|a, b| vdivq_f32(a, b));
        fn mul_add(a: F32, b: F32, c: F32) -> F32 = each!(|a, b, c| vfmaq_f32(c, a, b));
        fn max(a: F32, b: F32) -> F32 = each!(|a, b| vmaxq_f32(a, b));
        fn min(a: F32, b: F32) -> F32 = each!(|a, b| vminq_f32(a, b));
        fn abs(a: F32) -> F32 = each!(|a| vabsq_f32(a));
        fn sum(v: F32) -> f32 = {
            let v = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
            let v = vadd_f32(vget_low_f32(v), vget_high_f32(v));
            vget_lane_f32::<0>(v) + vget_lane_f32::<1>(v)
        };
        fn max_lane(v: F32) -> f32 =
            vmaxvq_f32(vmaxq_f32(vmaxq_f32(v[0], v[1]), vmaxq_f32(v[2], v[3])));
        fn round(v: F32) -> I32 = each!(|v| vcvtnq_s32_f32(v));
        fn to_f32(v: I32) -> F32 = each!(|v| vcvtq_f32_s32(v));
        fn exp2i(n: I32) -> F32 =
            each!(|n| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127)))));
        fn splat_i32(x: i32) -> I32 = [vdupq_n_s32(x); 4];
        fn add_i32(a: I32, b: I32) -> I32 = each!(|a, b| vaddq_s32(a, b));
        fn sub_i32(a: I32, b: I32) -> I32 = each!(|a, b| vsubq_s32(a, b));
        fn shift_left(v: I32, count: u32) -> I32 = each!(|v| vshlq_s32(v, vdupq_n_s32(count as i32)));
        fn sum_i32(v: I32) -> i32 =
            vaddvq_s32(vaddq_s32(vaddq_s32(v[0], v[1]), vaddq_s32(v[2], v[3])));
        fn store_i8(v: I32, out: &mut [i8; LANES]) = {
            let low = vcombine_s16(vmovn_s32(v[0]), vmovn_s32(v[1]));
            let high = vcombine_s16(vmovn_s32(v[2]), vmovn_s32(v[3]));
            vst1q_s8(out.as_mut_ptr(), vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
        };
        fn load_u8(x: &[u8; LANES]) -> I32 = {
            let x = vld1q_u8(x.as_ptr());
            let (low, high) = (vmovl_u8(vget_low_u8(x)), vmovl_high_u8(x));
            let x = [
                vmovl_u16(vget_low_u16(low)),
                vmovl_high_u16(low),
                vmovl_u16(vget_low_u16(high)),
                vmovl_high_u16(high),
            ];
            each!(|x| vreinterpretq_s32_u32(x))
        };
        fn load_i8(x: &[u8; LANES]) -> I32 = {
            let x = vreinterpretq_s8_u8(vld1q_u8(x.as_ptr()));
            let (low, high) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
            [
                vmovl_s16(vget_low_s16(low)),
                vmovl_high_s16(low),
                vmovl_s16(vget_low_s16(high)),
                vmovl_high_s16(high),
            ]
        };
        // A shift by a negative number of places is one to the right.
        fn bits(v: I32, from: u32, count: u32) -> I32 = each!(|v| {
            let shifted = vshlq_s32(v, vdupq_n_s32(-(from as i32)));
            vandq_s32(shifted, vdupq_n_s32((1 << count) - 1))
        });
        fn load_bytes(x: &[u8; 64]) -> Bytes = quarters!(|i| vld1q_u8(x.as_ptr().add(4 * i)));
        fn store_bytes(v: Bytes, out: &mut [u8; 64]) =
            for i in [0, 16, 32, 48] {
                vst1q_u8(out.as_mut_ptr().add(i), v[i / 16]);
            };
        fn take_bits(v: Bytes, from: u32, to: u32, mask: u8) -> Bytes = each!(|v| {
            vandq_u8(vshlq_u8(v, vdupq_n_s8(to as i8 - from as i8)), vdupq_n_u8(mask))
        });
        fn or(a: Bytes, b: Bytes) -> Bytes = each!(|a, b| vorrq_u8(a, b));
        fn look_up(q: Bytes, table: &[u8; 16]) -> Bytes = {
            let table = vld1q_u8(table.as_ptr());
            each!(|q| vqtbl1q_u8(table, q))
        };
        fn dot(acc: I32, w: Bytes, a: [i8; 4]) -> I32 = {
            let a = repeat(a);
            each!(|acc, w| P::add(acc, vreinterpretq_s8_u8(w), a))
        };
        fn dot_wide(acc: I32, w: Bytes, a: [i8; 4]) -> I32 = {
            let a = repeat(a);
            // Flipping the highest bit subtracts 128 modulo 256.
            let w = each!(|w| veorq_u8(w, vdupq_n_u8(128)));
            each!(|acc, w| P::add(acc, vreinterpretq_s8_u8(w), a))
        };
    }
}

/// Four bytes, again and again.
#[inline(always)]
fn repeat(bytes: [i8; 4]) -> int8x16_t {
    // SAFETY: only called by the token's methods; NEON holds.
    unsafe { vreinterpretq_s8_s32(vdupq_n_s32(i32::from_ne_bytes(bytes.map(|x| x as u8)))) }
}
