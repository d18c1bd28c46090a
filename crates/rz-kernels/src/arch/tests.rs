//! Every operation of every instruction set of this machine, against its definition.

use half::{bf16, f16};

use super::{Isa, IsaKind, Kernels, LANES, SimdOp};

fn every_isa() -> impl Iterator<Item = Kernels> {
    IsaKind::ALL.iter().filter_map(|&isa| Kernels::with(isa))
}

/// Runs a generic check on every set of this machine.
macro_rules! on_every_isa {
    (|$isa:ident: $I:ident| $body:block) => {{
        struct Check;
        impl SimdOp for Check {
            type Output = ();
            #[inline(always)]
            fn eval<$I: Isa>(self, $isa: $I) $body
        }
        for kernels in every_isa() {
            let done = std::panic::catch_unwind(|| kernels.run(Check));
            assert!(done.is_ok(), "on {}", kernels.isa().name());
        }
        #[cfg(target_arch = "x86_64")]
        super::avx2::evex::run(Check);
    }};
}

struct Random(u64);

impl Random {
    fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| (self.word() >> 24) as u8)
    }

    /// Numbers of many magnitudes.
    fn floats(&mut self) -> [f32; LANES] {
        std::array::from_fn(|_| {
            let fraction = self.word() as i32 as f32 / (1u32 << 31) as f32;
            fraction * 2.0f32.powi((self.word() >> 27) as i32 - 16)
        })
    }
}

#[inline(always)]
fn lanes<I: Isa>(isa: I, v: I::F32) -> [f32; LANES] {
    let mut out = [f32::NAN; LANES];
    isa.store(v, &mut out);
    out
}

/// Whole numbers below 2^24.
#[inline(always)]
fn whole_lanes<I: Isa>(isa: I, v: I::I32) -> [i32; LANES] {
    lanes(isa, isa.to_f32(v)).map(|x| x as i32)
}

#[test]
fn there_is_always_a_set() {
    assert_eq!(IsaKind::ALL.last(), Some(&IsaKind::Portable));
    assert!(IsaKind::Portable.is_available());
    let best = every_isa().next().map(Kernels::isa);
    assert_eq!(best, Some(Kernels::detect().isa()), "the best comes first");
    for kernels in every_isa() {
        assert!((1..=8).contains(&kernels.tile()), "{:?}", kernels.isa());
    }
}

#[test]
fn arithmetic_is_that_of_single_precision() {
    on_every_isa!(|isa: I| {
        let mut random = Random(1);
        for _ in 0..50 {
            let (a, b, c) = (random.floats(), random.floats(), random.floats());
            let (x, y, z) = (isa.load(&a), isa.load(&b), isa.load(&c));
            let pairs = |f: fn(f32, f32) -> f32| -> [f32; LANES] { std::array::from_fn(|i| f(a[i], b[i])) };
            assert_eq!(lanes(isa, x), a);
            assert_eq!(lanes(isa, isa.splat(a[3])), [a[3]; LANES]);
            assert_eq!(lanes(isa, isa.add(x, y)), pairs(|a, b| a + b));
            assert_eq!(lanes(isa, isa.sub(x, y)), pairs(|a, b| a - b));
            assert_eq!(lanes(isa, isa.mul(x, y)), pairs(|a, b| a * b));
            assert_eq!(lanes(isa, isa.div(x, y)), pairs(|a, b| a / b));
            assert_eq!(lanes(isa, isa.max(x, y)), pairs(f32::max));
            assert_eq!(lanes(isa, isa.min(x, y)), pairs(f32::min));
            assert_eq!(lanes(isa, isa.abs(x)), a.map(f32::abs));
            for (i, got) in lanes(isa, isa.mul_add(x, y, z)).into_iter().enumerate() {
                let (fused, rounded_twice) = (a[i].mul_add(b[i], c[i]), a[i] * b[i] + c[i]);
                assert!(got == fused || got == rounded_twice, "{} * {} + {}: {got}", a[i], b[i], c[i]);
            }
            let mut sum = a;
            for half in [8, 4, 2, 1] {
                (0..half).for_each(|i| sum[i] += sum[i + half]);
            }
            assert_eq!(isa.sum(x).to_bits(), sum[0].to_bits(), "the order of a sum is fixed");
            assert_eq!(isa.max_lane(x), a.into_iter().fold(f32::NEG_INFINITY, f32::max));
        }
    });
}

#[test]
fn the_largest_lane_is_found_wherever_it_is() {
    on_every_isa!(|isa: I| {
        for at in 0..LANES {
            let mut x = [-1.0; LANES];
            x[at] = at as f32;
            assert_eq!(isa.max_lane(isa.load(&x)), at as f32);
        }
    });
}

#[test]
fn every_half_is_read_and_written() {
    on_every_isa!(|isa: I| {
        for start in (0..=u16::MAX).step_by(LANES) {
            let bits: [u16; LANES] = std::array::from_fn(|i| start + i as u16);
            let (halves, brains) = (lanes(isa, isa.load_f16(&bits)), lanes(isa, isa.load_bf16(&bits)));
            let mut back = [0; LANES];
            isa.store_f16(isa.load(&halves), &mut back);
            for i in 0..LANES {
                let half = f16::from_bits(bits[i]);
                if half.is_nan() {
                    assert!(halves[i].is_nan() && f16::from_bits(back[i]).is_nan());
                } else {
                    assert_eq!(halves[i].to_bits(), half.to_f32().to_bits(), "{:#06x}", bits[i]);
                    assert_eq!(back[i], bits[i]);
                }
                let brain = bf16::from_bits(bits[i]).to_f32();
                assert!(brains[i].to_bits() == brain.to_bits() || brains[i].is_nan() && brain.is_nan());
            }
        }
    });
}

#[test]
fn halves_are_rounded_to_nearest_even() {
    on_every_isa!(|isa: I| {
        let mut random = Random(2);
        for round in 0..200 {
            // Between two halves, at the tie and just beside it; large, small and subnormal.
            let x: [f32; LANES] = std::array::from_fn(|i| {
                let half = f16::from_bits((random.word() >> 17) as u16).to_f32();
                let half = if half.is_finite() { half } else { 65504.0 };
                let next = f16::from_bits(f16::from_f32(half).to_bits() + 1).to_f32().min(65520.0);
                let tie = half + (next - half) / 2.0;
                let beside = [tie, tie.next_up(), tie.next_down(), half, 1e9, 1e-9][(i + round) % 6];
                if i % 2 == 0 { beside } else { -beside }
            });
            let mut got = [0; LANES];
            isa.store_f16(isa.load(&x), &mut got);
            assert_eq!(got, x.map(|x| f16::from_f32(x).to_bits()), "{x:?}");
        }
    });
}

#[test]
fn whole_numbers_are_rounded_converted_and_summed() {
    on_every_isa!(|isa: I| {
        let x: [f32; LANES] = [
            0.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997, 126.5, 127.5, -127.5, -0.0, 3.3, -3.7,
            8388607.0, -8388607.0,
        ];
        let whole = x.map(|x| x.round_ties_even() as i32);
        let rounded = isa.round(isa.load(&x));
        assert_eq!(whole_lanes(isa, rounded), whole);
        assert_eq!(isa.sum_i32(rounded), whole.iter().sum());
        for at in 0..LANES {
            let mut x = [0.0; LANES];
            x[at] = 1e6;
            assert_eq!(isa.sum_i32(isa.round(isa.load(&x))), 1_000_000, "lane {at}");
        }
        assert_eq!(whole_lanes(isa, isa.splat_i32(-77)), [-77; LANES]);
        for start in (-126..=127 - 15).step_by(7) {
            let n: [i32; LANES] = std::array::from_fn(|i| start + i as i32);
            let powers = lanes(isa, isa.exp2i(isa.round(isa.load(&n.map(|n| n as f32)))));
            assert_eq!(powers, n.map(|n| 2.0f64.powi(n) as f32));
        }
    });
}

#[test]
fn bytes_become_lanes_and_back() {
    on_every_isa!(|isa: I| {
        for start in (0..=255u8).step_by(LANES) {
            let bytes: [u8; LANES] = std::array::from_fn(|i| start + i as u8);
            let (unsigned, signed) = (isa.load_u8(&bytes), isa.load_i8(&bytes));
            assert_eq!(whole_lanes(isa, unsigned), bytes.map(i32::from));
            assert_eq!(whole_lanes(isa, signed), bytes.map(|b| i32::from(b as i8)));
            let mut out = [0; LANES];
            isa.store_i8(signed, &mut out);
            assert_eq!(out, bytes.map(|b| b as i8));
            for (from, count) in [(0, 4), (4, 4), (0, 2), (2, 2), (6, 2), (7, 1), (0, 8)] {
                let expected = bytes.map(|b| i32::from(b) >> from & ((1 << count) - 1));
                assert_eq!(whole_lanes(isa, isa.bits(unsigned, from, count)), expected);
            }
        }
    });
}

/// Four bytes of weights, taken out of a vector with the help of a dot product.
#[inline(always)]
fn bytes_of<I: Isa>(isa: I, v: I::Bytes) -> [u8; 64] {
    let mut out = [0; 64];
    for j in 0..4 {
        let mut one = [0; 4];
        one[j] = 1;
        let lanes = whole_lanes(isa, isa.dot_wide(isa.splat_i32(0), v, one));
        (0..LANES).for_each(|i| out[4 * i + j] = (lanes[i] + I::WIDE_OFFSET) as u8);
    }
    out
}

#[test]
fn bits_move_within_their_bytes() {
    on_every_isa!(|isa: I| {
        let mut random = Random(3);
        for _ in 0..20 {
            let (a, b) = (random.bytes::<64>(), random.bytes::<64>());
            let (x, y) = (isa.load_bytes(&a), isa.load_bytes(&b));
            assert_eq!(bytes_of(isa, x), a);
            assert_eq!(bytes_of(isa, isa.or(x, y)), std::array::from_fn(|i| a[i] | b[i]));
            for width in [1, 2, 4] {
                for from in (0..8).step_by(width) {
                    for to in 0..=8 - width {
                        let mask = (((1u32 << width) - 1) << to) as u8;
                        let got = isa.take_bits(x, from as u32, to as u32, mask);
                        let expected = a.map(|b| (((u32::from(b) >> from) << to) as u8) & mask);
                        assert_eq!(bytes_of(isa, got), expected, "{width} bits from {from} to {to}");
                    }
                }
            }
        }
    });
}

#[test]
fn tables_are_looked_up() {
    on_every_isa!(|isa: I| {
        let mut random = Random(5);
        for _ in 0..20 {
            let (q, table) = (random.bytes::<64>().map(|q| q & 15), random.bytes::<16>());
            let got = isa.look_up(isa.load_bytes(&q), &table);
            assert_eq!(bytes_of(isa, got), q.map(|q| table[usize::from(q)]));
        }
    });
}

fn dots(acc: i32, w: &[u8; 64], offset: i32, a: [i8; 4]) -> [i32; LANES] {
    std::array::from_fn(|i| {
        acc + (0..4).map(|j| (i32::from(w[4 * i + j]) - offset) * i32::from(a[j])).sum::<i32>()
    })
}

#[test]
fn runs_of_dot_products_are_exact_for_the_largest_weights() {
    on_every_isa!(|isa: I| {
        let mut random = Random(6);
        for largest in [1, 3, 7, 15, 28, 31, 63, 64, 127] {
            for round in 0..12 {
                let w: [[u8; 64]; 8] = std::array::from_fn(|_| match round {
                    0..4 => [largest; 64],
                    _ => random.bytes::<64>().map(|w| w % (largest + 1)),
                });
                let a: [[[i8; 4]; 8]; 3] = std::array::from_fn(|t| {
                    std::array::from_fn(|_| match (round + t) % 4 {
                        0 => [127; 4],
                        1 => [-127; 4],
                        2 => [127, 127, -127, -127],
                        _ => random.bytes::<4>().map(|a| (a as i8).max(-127)),
                    })
                });
                let mut bytes = [isa.load_bytes(&[0; 64]); 8];
                for g in 0..8 {
                    bytes[g] = isa.load_bytes(&w[g]);
                }
                for count in [8, 4, 3] {
                    let a: [&[[i8; 4]]; 3] = [&a[0][..count], &a[1][..count], &a[2][..count]];
                    let start = [isa.splat_i32(-5); 3];
                    let got = isa.dots(start, &bytes[..count], a, i32::from(largest));
                    for t in 0..3 {
                        let mut expected = [-5; LANES];
                        for g in 0..count {
                            let own = dots(0, &w[g], 0, a[t][g]);
                            (0..LANES).for_each(|i| expected[i] += own[i]);
                        }
                        assert_eq!(whole_lanes(isa, got[t]), expected, "{count} of at most {largest}");
                    }
                }
            }
        }
    });
}

#[test]
fn whole_numbers_are_added_subtracted_and_shifted() {
    on_every_isa!(|isa: I| {
        let x: [f32; LANES] = std::array::from_fn(|i| (i as f32 - 7.0) * 1001.0);
        let (a, b) = (isa.round(isa.load(&x)), isa.splat_i32(-300));
        let whole = x.map(|x| x as i32);
        assert_eq!(whole_lanes(isa, isa.add_i32(a, b)), whole.map(|x| x - 300));
        assert_eq!(whole_lanes(isa, isa.sub_i32(a, b)), whole.map(|x| x + 300));
        for count in [0, 1, 7, 10] {
            assert_eq!(whole_lanes(isa, isa.shift_left(a, count)), whole.map(|x| x << count));
        }
    });
}

#[test]
fn dot_products_are_exact() {
    on_every_isa!(|isa: I| {
        let mut random = Random(4);
        for round in 0..200 {
            let a: [i8; 4] = match round {
                0 => [127; 4],
                1 => [-128; 4],
                2 => [-127, 127, -127, 127],
                _ => random.bytes::<4>().map(|b| b as i8),
            };
            let any: [u8; 64] = match round % 4 {
                0 => [0xff; 64],
                1 => [0; 64],
                2 => std::array::from_fn(|i| [0, 255, 128, 127][i % 4]),
                _ => random.bytes(),
            };
            let start = round - 100;
            let small = any.map(|w| w & 127);
            let got = isa.dot(isa.splat_i32(start), isa.load_bytes(&small), a);
            assert_eq!(whole_lanes(isa, got), dots(start, &small, 0, a), "{small:?} by {a:?}");
            let a = a.map(|a| a.max(-127));
            let got = isa.dot_wide(isa.splat_i32(start), isa.load_bytes(&any), a);
            assert_eq!(whole_lanes(isa, got), dots(start, &any, I::WIDE_OFFSET, a), "{any:?} by {a:?}");
        }
    });
}
