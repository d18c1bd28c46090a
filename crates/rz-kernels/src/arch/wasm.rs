//! WebAssembly's 128-bit vectors: a logical vector is four of them.

use std::arch::wasm32::*;

use half::f16;

use super::{Isa, LANES};

/// The token of the WebAssembly set.
#[derive(Clone, Copy)]
pub(super) struct Simd128(());

impl Simd128 {
    /// The token.
    ///
    /// # Safety
    /// The program must be compiled for `simd128`: there is nothing to be asked at run time.
    pub(super) const unsafe fn assume() -> Simd128 {
        Simd128(())
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

type Vector = [v128; 4];

// SAFETY (every block below): the token proves the features, and each pointer
// comes from a reference to an array of exactly the bytes that are accessed.
macro_rules! ops {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:expr;)*) => { $(
        #[inline(always)]
        #[allow(unused_unsafe)]
        fn $name(self, $($arg: $ty),*) $(-> $ret)? {
            // SAFETY: see the macro's comment.
            unsafe { $body }
        }
    )* };
}

impl Isa for Simd128 {
    type F32 = Vector;
    type I32 = Vector;
    type Bytes = Vector;

    const WIDE_OFFSET: i32 = 0;

    ops! {
        fn splat(x: f32) -> Vector = [f32x4_splat(x); 4];
        fn load(x: &[f32; LANES]) -> Vector = quarters!(|i| v128_load(x.as_ptr().add(i).cast()));
        // Exponent and fraction in their places leave the exponent short by the difference
        // of the biases, 112; a product with a power of two is exact.
        fn load_f16(x: &[u16; LANES]) -> Vector = quarters!(|i| {
            let bits = u32x4_load_extend_u16x4(x.as_ptr().add(i).cast());
            let magnitude = u32x4_shl(v128_and(bits, u32x4_splat(0x7fff)), 13);
            let magnitude = f32x4_mul(magnitude, f32x4_splat(f32::from_bits((127 + 112) << 23)));
            let exponent = u32x4_splat(0x7c00);
            let special = u32x4_eq(v128_and(bits, exponent), exponent);
            let special = v128_and(special, u32x4_splat(0x7f80_0000));
            let sign = u32x4_shl(v128_and(bits, u32x4_splat(0x8000)), 16);
            v128_or(v128_or(magnitude, special), sign)
        });
        fn load_bf16(x: &[u16; LANES]) -> Vector =
            quarters!(|i| u32x4_shl(u32x4_load_extend_u16x4(x.as_ptr().add(i).cast()), 16));
        fn store(v: Vector, out: &mut [f32; LANES]) =
            for i in [0, 4, 8, 12] {
                v128_store(out.as_mut_ptr().add(i).cast(), v[i / 4]);
            };
        // Seldom: what a step writes to the cache. There is no instruction for it.
        fn store_f16(v: Vector, out: &mut [u16; LANES]) = {
            let mut lanes = [0.0f32; LANES];
            for i in [0, 4, 8, 12] {
                v128_store(lanes.as_mut_ptr().add(i).cast(), v[i / 4]);
            }
            *out = lanes.map(|x| f16::from_f32(x).to_bits());
        };
        fn add(a: Vector, b: Vector) -> Vector = each!(|a, b| f32x4_add(a, b));
        fn sub(a: Vector, b: Vector) -> Vector = each!(|a, b| f32x4_sub(a, b));
        fn mul(a: Vector, b: Vector) -> Vector = each!(|a, b| f32x4_mul(a, b));
        fn div(a: Vector, b: Vector) -> Vector = each!(|a, b| f32x4_div(a, b));
        fn mul_add(a: Vector, b: Vector, c: Vector) -> Vector = {
            let ab = each!(|a, b| f32x4_mul(a, b));
            each!(|ab, c| f32x4_add(ab, c))
        };
        fn max(a: Vector, b: Vector) -> Vector = each!(|a, b| f32x4_max(a, b));
        fn min(a: Vector, b: Vector) -> Vector = each!(|a, b| f32x4_min(a, b));
        fn abs(a: Vector) -> Vector = each!(|a| f32x4_abs(a));
        fn sum(v: Vector) -> f32 = {
            let v = f32x4_add(f32x4_add(v[0], v[2]), f32x4_add(v[1], v[3]));
            let v = f32x4_add(v, i32x4_shuffle::<2, 3, 0, 1>(v, v));
            f32x4_extract_lane::<0>(v) + f32x4_extract_lane::<1>(v)
        };
        fn max_lane(v: Vector) -> f32 = {
            let v = f32x4_max(f32x4_max(v[0], v[1]), f32x4_max(v[2], v[3]));
            let v = f32x4_max(v, i32x4_shuffle::<2, 3, 0, 1>(v, v));
            f32x4_extract_lane::<0>(f32x4_max(v, i32x4_shuffle::<1, 0, 3, 2>(v, v)))
        };
        // `nearest` rounds half to even.
        fn round(v: Vector) -> Vector = each!(|v| i32x4_trunc_sat_f32x4(f32x4_nearest(v)));
        fn to_f32(v: Vector) -> Vector = each!(|v| f32x4_convert_i32x4(v));
        fn exp2i(n: Vector) -> Vector = each!(|n| i32x4_shl(i32x4_add(n, i32x4_splat(127)), 23));
        fn splat_i32(x: i32) -> Vector = [i32x4_splat(x); 4];
        fn add_i32(a: Vector, b: Vector) -> Vector = each!(|a, b| i32x4_add(a, b));
        fn sub_i32(a: Vector, b: Vector) -> Vector = each!(|a, b| i32x4_sub(a, b));
        fn shift_left(v: Vector, count: u32) -> Vector = each!(|v| i32x4_shl(v, count));
        fn sum_i32(v: Vector) -> i32 = {
            let v = i32x4_add(i32x4_add(v[0], v[1]), i32x4_add(v[2], v[3]));
            let v = i32x4_add(v, i32x4_shuffle::<2, 3, 0, 1>(v, v));
            i32x4_extract_lane::<0>(i32x4_add(v, i32x4_shuffle::<1, 0, 3, 2>(v, v)))
        };
        fn store_i8(v: Vector, out: &mut [i8; LANES]) = {
            let (low, high) = (i16x8_narrow_i32x4(v[0], v[1]), i16x8_narrow_i32x4(v[2], v[3]));
            v128_store(out.as_mut_ptr().cast(), i8x16_narrow_i16x8(low, high));
        };
        fn load_u8(x: &[u8; LANES]) -> Vector = {
            let x = v128_load(x.as_ptr().cast());
            let (low, high) = (u16x8_extend_low_u8x16(x), u16x8_extend_high_u8x16(x));
            [
                u32x4_extend_low_u16x8(low),
                u32x4_extend_high_u16x8(low),
                u32x4_extend_low_u16x8(high),
                u32x4_extend_high_u16x8(high),
            ]
        };
        fn load_i8(x: &[u8; LANES]) -> Vector = {
            let x = v128_load(x.as_ptr().cast());
            let (low, high) = (i16x8_extend_low_i8x16(x), i16x8_extend_high_i8x16(x));
            [
                i32x4_extend_low_i16x8(low),
                i32x4_extend_high_i16x8(low),
                i32x4_extend_low_i16x8(high),
                i32x4_extend_high_i16x8(high),
            ]
        };
        fn bits(v: Vector, from: u32, count: u32) -> Vector =
            each!(|v| v128_and(u32x4_shr(v, from), i32x4_splat((1 << count) - 1)));
        fn load_bytes(x: &[u8; 64]) -> Vector = quarters!(|i| v128_load(x.as_ptr().add(4 * i).cast()));
        fn store_bytes(v: Vector, out: &mut [u8; 64]) =
            for i in [0, 16, 32, 48] {
                v128_store(out.as_mut_ptr().add(i).cast(), v[i / 16]);
            };
        fn take_bits(v: Vector, from: u32, to: u32, mask: u8) -> Vector = each!(|v| {
            let shifted = if from > to { u8x16_shr(v, from - to) } else { u8x16_shl(v, to - from) };
            v128_and(shifted, u8x16_splat(mask))
        });
        fn or(a: Vector, b: Vector) -> Vector = each!(|a, b| v128_or(a, b));
        fn look_up(q: Vector, table: &[u8; 16]) -> Vector = {
            let table = v128_load(table.as_ptr().cast());
            each!(|q| u8x16_swizzle(table, q))
        };
        fn dot(acc: Vector, w: Vector, a: [i8; 4]) -> Vector = each!(|acc, w| add_quads(acc, w, a));
        fn dot_wide(acc: Vector, w: Vector, a: [i8; 4]) -> Vector = each!(|acc, w| add_quads(acc, w, a));
    }
}

/// Adds the sums of four neighbouring products of unsigned bytes with `a`. Bytes at even and
/// at odd places, widened, make two sums of two products each.
#[inline(always)]
fn add_quads(acc: v128, w: v128, a: [i8; 4]) -> v128 {
    let pair = |low: i8, high: i8| i32x4_splat(i32::from(high) << 16 | i32::from(low) & 0xffff);
    let even = i32x4_dot_i16x8(v128_and(w, u16x8_splat(0xff)), pair(a[0], a[2]));
    let odd = i32x4_dot_i16x8(u16x8_shr(w, 8), pair(a[1], a[3]));
    i32x4_add(acc, i32x4_add(even, odd))
}
