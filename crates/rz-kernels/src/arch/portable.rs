//! Plain Rust: runs everywhere, and what other sets are compared with.

use half::f16;

use super::{Isa, LANES};

/// The token of the portable set.
#[derive(Clone, Copy)]
pub(super) struct Portable(());

impl Portable {
    /// The token.
    ///
    /// # Safety
    /// None needed: every processor has it. Unsafe for the sake of the one macro.
    #[allow(unsafe_code)]
    pub(super) const unsafe fn assume() -> Portable {
        Portable(())
    }
}

type F32 = [f32; LANES];
type I32 = [i32; LANES];

#[inline(always)]
fn zip(a: F32, b: F32, f: impl Fn(f32, f32) -> f32) -> F32 {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Isa for Portable {
    type F32 = F32;
    type I32 = I32;
    type Bytes = [u8; 64];

    const WIDE_OFFSET: i32 = 128;

    #[inline(always)]
    fn splat(self, x: f32) -> F32 {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> F32 {
        *x
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> F32 {
        x.map(|bits| f16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; LANES]) -> F32 {
        x.map(|bits| f32::from_bits(u32::from(bits) << 16))
    }
    #[inline(always)]
    fn store(self, v: F32, out: &mut [f32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    fn store_f16(self, v: F32, out: &mut [u16; LANES]) {
        *out = v.map(|x| f16::from_f32(x).to_bits());
    }
    #[inline(always)]
    fn add(self, a: F32, b: F32) -> F32 {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: F32, b: F32) -> F32 {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: F32, b: F32) -> F32 {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: F32, b: F32) -> F32 {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: F32, b: F32, c: F32) -> F32 {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn max(self, a: F32, b: F32) -> F32 {
        zip(a, b, f32::max)
    }
    #[inline(always)]
    fn min(self, a: F32, b: F32) -> F32 {
        zip(a, b, f32::min)
    }
    #[inline(always)]
    fn abs(self, a: F32) -> F32 {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn sum(self, mut v: F32) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                v[i] += v[i + half];
            }
        }
        v[0]
    }
    #[inline(always)]
    fn max_lane(self, v: F32) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    fn round(self, v: F32) -> I32 {
        v.map(|x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    fn to_f32(self, v: I32) -> F32 {
        v.map(|x| x as f32)
    }
    #[inline(always)]
    fn exp2i(self, n: I32) -> F32 {
        n.map(|n| f32::from_bits(((n + 127) << 23) as u32))
    }

    #[inline(always)]
    fn splat_i32(self, x: i32) -> I32 {
        [x; LANES]
    }
    #[inline(always)]
    fn add_i32(self, a: I32, b: I32) -> I32 {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn sub_i32(self, a: I32, b: I32) -> I32 {
        std::array::from_fn(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    fn shift_left(self, v: I32, count: u32) -> I32 {
        v.map(|x| x.wrapping_shl(count))
    }
    #[inline(always)]
    fn sum_i32(self, v: I32) -> i32 {
        v.into_iter().sum()
    }
    #[inline(always)]
    fn store_i8(self, v: I32, out: &mut [i8; LANES]) {
        *out = v.map(|x| x as i8);
    }

    #[inline(always)]
    fn load_u8(self, x: &[u8; LANES]) -> I32 {
        x.map(i32::from)
    }
    #[inline(always)]
    fn load_i8(self, x: &[u8; LANES]) -> I32 {
        x.map(|b| i32::from(b as i8))
    }
    #[inline(always)]
    fn bits(self, v: I32, from: u32, count: u32) -> I32 {
        v.map(|x| x >> from & ((1 << count) - 1))
    }

    #[inline(always)]
    fn load_bytes(self, x: &[u8; 64]) -> [u8; 64] {
        *x
    }
    #[inline(always)]
    fn store_bytes(self, v: [u8; 64], out: &mut [u8; 64]) {
        *out = v;
    }
    #[inline(always)]
    fn take_bits(self, v: [u8; 64], from: u32, to: u32, mask: u8) -> [u8; 64] {
        v.map(|b| ((u32::from(b) << to) >> from) as u8 & mask)
    }
    #[inline(always)]
    fn or(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn look_up(self, q: [u8; 64], table: &[u8; 16]) -> [u8; 64] {
        q.map(|q| table[usize::from(q & 15)])
    }
    #[inline(always)]
    fn dot(self, acc: I32, w: [u8; 64], a: [i8; 4]) -> I32 {
        std::array::from_fn(|i| {
            (0..4).fold(acc[i], |sum: i32, j| sum.wrapping_add(i32::from(w[4 * i + j]) * i32::from(a[j])))
        })
    }
    #[inline(always)]
    fn dot_wide(self, acc: I32, w: [u8; 64], a: [i8; 4]) -> I32 {
        std::array::from_fn(|i| {
            (0..4).fold(acc[i], |sum, j| sum + (i32::from(w[4 * i + j]) - 128) * i32::from(a[j]))
        })
    }
}
