//! Instruction sets: the vector operations every kernel is written in, and the
//! choice of the set that this processor runs.
//!
//! A kernel is one generic [`SimdOp`]; [`Kernels::run`] instantiates it for the
//! chosen set. Every vector has the same logical width on every set (16 lanes of
//! 32 bits, 64 bytes), so that sums are formed in the same order everywhere.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(test)]
mod tests;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;

/// Lanes of a vector of 32-bit numbers.
pub const LANES: usize = 16;

/// Vector operations of one instruction set.
///
/// A value of an implementing type exists only when the processor has the
/// features, so its methods are safe to call.
pub trait Isa: Copy + Send + Sync + 'static {
    /// Sixteen `f32`.
    type F32: Copy;
    /// Sixteen `i32`.
    type I32: Copy;
    /// Sixty-four bytes.
    type Bytes: Copy;

    /// What [`dot_wide`](Self::dot_wide) subtracts from every weight byte.
    const WIDE_OFFSET: i32;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F32;
    /// Lanes from memory.
    fn load(self, x: &[f32; LANES]) -> Self::F32;
    /// Lanes from half-precision bits.
    fn load_f16(self, x: &[u16; LANES]) -> Self::F32;
    /// Lanes from the bits of `bfloat16`.
    fn load_bf16(self, x: &[u16; LANES]) -> Self::F32;
    /// Lanes to memory.
    fn store(self, v: Self::F32, out: &mut [f32; LANES]);
    /// Lanes to half-precision bits, rounded to nearest even.
    fn store_f16(self, v: Self::F32, out: &mut [u16; LANES]);
    /// `a + b`.
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a - b`.
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b`.
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a / b`.
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`; fused, except on WebAssembly and on the portable set.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The larger of each pair; unspecified when one is NaN.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The smaller of each pair; unspecified when one is NaN.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Magnitudes.
    fn abs(self, a: Self::F32) -> Self::F32;
    /// The sum of all lanes: lane `i` meets `i + 8`, then `i + 4`, `i + 2`, `i + 1`.
    fn sum(self, v: Self::F32) -> f32;
    /// The largest lane.
    fn max_lane(self, v: Self::F32) -> f32;
    /// Nearest integers, half to even, for lanes of magnitude below 2^31.
    fn round(self, v: Self::F32) -> Self::I32;
    /// To floating point.
    fn to_f32(self, v: Self::I32) -> Self::F32;
    /// `2^n` for `n` in `-126..=127`.
    fn exp2i(self, n: Self::I32) -> Self::F32;

    /// All lanes `x`.
    fn splat_i32(self, x: i32) -> Self::I32;
    /// `a + b`, wrapping.
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// `a - b`, wrapping.
    fn sub_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// Lanes times `2^count`, wrapping.
    fn shift_left(self, v: Self::I32, count: u32) -> Self::I32;
    /// The sum of all lanes.
    fn sum_i32(self, v: Self::I32) -> i32;
    /// The low byte of every lane, for lanes in `-128..=127`.
    fn store_i8(self, v: Self::I32, out: &mut [i8; LANES]);

    /// Lanes from unsigned bytes.
    fn load_u8(self, x: &[u8; LANES]) -> Self::I32;
    /// Lanes from signed bytes.
    fn load_i8(self, x: &[u8; LANES]) -> Self::I32;
    /// Bits `from..from + count` of each lane, for lanes that are not negative.
    fn bits(self, v: Self::I32, from: u32, count: u32) -> Self::I32;

    /// Asks for bytes that will be read soon. Only a hint.
    fn prefetch(self, line: &[u8; 64]) {
        let _ = line;
    }

    /// Asks for bytes that will be read later, into a larger cache than the nearest. Only a hint.
    fn prefetch_far(self, line: &[u8; 64]) {
        let _ = line;
    }

    /// Bytes from memory.
    fn load_bytes(self, x: &[u8; 64]) -> Self::Bytes;
    /// Bytes to memory.
    fn store_bytes(self, v: Self::Bytes, out: &mut [u8; 64]);
    /// The bits of `mask` in every byte, after the byte was shifted so that its bit `from`
    /// lies at `to`. All bits of `mask` must come from the same byte.
    fn take_bits(self, v: Self::Bytes, from: u32, to: u32, mask: u8) -> Self::Bytes;
    /// The bits of either.
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// `table[q]` for every byte `q`, which must be below 16.
    fn look_up(self, q: Self::Bytes, table: &[u8; 16]) -> Self::Bytes;
    /// Adds to lane `i` the sum over `j < 4` of `w[4i + j] * a[j]`. Exact for weight
    /// bytes up to 127 and any activations.
    fn dot(self, acc: Self::I32, w: Self::Bytes, a: [i8; 4]) -> Self::I32;
    /// Does [`dot`](Self::dot) with each element of `w` in turn, for several sums: adds to
    /// `sums[t]` those of `w[g]` with `a[t][g]`. Exact for weight bytes up to `largest`, which
    /// is at most 127, and activations in `-127..=127`.
    #[inline(always)]
    fn dots<const N: usize>(
        self,
        mut sums: [Self::I32; N],
        w: &[Self::Bytes],
        a: [&[[i8; 4]]; N],
        largest: i32,
    ) -> [Self::I32; N] {
        let _ = largest;
        for g in 0..w.len() {
            for t in 0..N {
                sums[t] = self.dot(sums[t], w[g], a[t][g]);
            }
        }
        sums
    }
    /// As [`dot`](Self::dot), with `w - WIDE_OFFSET` for `w`. Exact for any weight
    /// bytes and activations in `-127..=127`.
    fn dot_wide(self, acc: Self::I32, w: Self::Bytes, a: [i8; 4]) -> Self::I32;
}

/// A kernel: generic over the instruction set.
///
/// `eval` and what it calls carry `#[inline(always)]`, so that they are compiled
/// with the features of the entry point that [`Kernels::run`] picks.
pub trait SimdOp {
    /// What the kernel returns.
    type Output;
    /// Runs the kernel.
    fn eval<I: Isa>(self, isa: I) -> Self::Output;
}

// Whether the processor has a feature. Other architectures have rows without features only.
#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected as is_detected;
#[cfg(target_arch = "x86_64")]
use std::arch::is_x86_feature_detected as is_detected;

// A WebAssembly module runs as a whole or not at all, so there is nothing to detect: it
// has the features that it was compiled for, and a row only exists with them.
#[cfg(target_arch = "wasm32")]
macro_rules! is_detected {
    ($feature:tt) => {
        cfg!(target_feature = $feature)
    };
}

/// Declares the instruction sets, best first. One row makes the detection, the
/// token's constructor and the entry point, so that what is detected and what is
/// compiled cannot differ.
macro_rules! isas {
    ($($(#[$arch:meta])? $name:ident, $label:literal, $token:ty, [$($feature:tt),*], $tile:literal;)*) => {
        /// The instruction sets that this build knows, best first.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum IsaKind { $(
            #[doc = concat!("`", $label, "`.")]
            $(#[$arch])?
            $name
        ),* }

        impl IsaKind {
            /// Every set of this build, best first.
            pub const ALL: &'static [IsaKind] = &[$($(#[$arch])? IsaKind::$name),*];

            /// The name that users give and see.
            pub const fn name(self) -> &'static str {
                match self { $($(#[$arch])? IsaKind::$name => $label),* }
            }

            /// Whether this processor has it.
            pub fn is_available(self) -> bool {
                match self { $($(#[$arch])? IsaKind::$name => true $(&& is_detected!($feature))*),* }
            }

            // Tokens whose sums one pass keeps in registers.
            const fn tile(self) -> usize {
                match self { $($(#[$arch])? IsaKind::$name => $tile),* }
            }
        }

        impl Kernels {
            /// Runs `op` on the chosen instruction set.
            #[inline]
            pub fn run<Op: SimdOp>(self, op: Op) -> Op::Output {
                match self.isa { $($(#[$arch])? IsaKind::$name => {
                    // SAFETY of a call: the processor has the features of this row.
                    $(#[target_feature(enable = $feature)])*
                    #[allow(unused_unsafe, unsafe_code)]
                    unsafe fn enter<Op: SimdOp>(op: Op) -> Op::Output {
                        // SAFETY: the caller has the features; see below.
                        op.eval(unsafe { <$token>::assume() })
                    }
                    // SAFETY: `Kernels` is only made for a set that `is_available`.
                    #[allow(unsafe_code)]
                    unsafe { enter(op) }
                }),* }
            }
        }
    };
}

isas! {
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni, "avx512-vnni", avx512::Avx512Vnni, ["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512vnni"], 8;
    #[cfg(target_arch = "x86_64")]
    AvxVnni, "avx-vnni", avx2::Avx2<avx2::Quads>, ["avx2", "fma", "f16c", "avxvnni"], 4;
    #[cfg(target_arch = "x86_64")]
    Avx2, "avx2", avx2::Avx2<avx2::Pairs>, ["avx2", "fma", "f16c"], 4;
    #[cfg(target_arch = "aarch64")]
    NeonDotprod, "neon-dotprod", neon::Neon<neon::Quads>, ["neon", "dotprod"], 4;
    #[cfg(target_arch = "aarch64")]
    Neon, "neon", neon::Neon<neon::Pairs>, ["neon"], 4;
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Simd128, "simd128", wasm::Simd128, ["simd128"], 2;
    Portable, "portable", portable::Portable, [], 4;
}

/// The chosen instruction set. Made once in `main` and handed down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    isa: IsaKind,
}

impl Kernels {
    /// The best set that this processor has.
    pub fn detect() -> Kernels {
        let isa = IsaKind::ALL.iter().copied().find(|isa| isa.is_available());
        Kernels { isa: isa.unwrap_or(IsaKind::Portable) }
    }

    /// This set, if the processor has it.
    pub fn with(isa: IsaKind) -> Option<Kernels> {
        isa.is_available().then_some(Kernels { isa })
    }

    /// The chosen set.
    pub fn isa(self) -> IsaKind {
        self.isa
    }

    /// Tokens that one pass over a panel serves.
    pub fn tile(self) -> usize {
        self.isa.tile()
    }
}
