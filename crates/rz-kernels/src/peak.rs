//! How fast a processor multiplies bytes when nothing has to be loaded.

use std::hint::black_box;

use crate::{Isa, Kernels, SimdOp};

/// Multiplies bytes in registers, `rounds` times sixteen steps of independent
/// [`Isa::dot`]s, and returns how many multiplications and additions that were: the
/// yardstick that products of many tokens are held against, as [`read_all`](crate::read_all)
/// is for those of one.
pub fn dot_peak(kernels: Kernels, rounds: usize) -> u64 {
    // As many sums as a product keeps: more do not fit the registers of the narrower sets.
    match kernels.tile() {
        0..=4 => kernels.run(Peak::<4> { rounds }),
        _ => kernels.run(Peak::<8> { rounds }),
    }
}

struct Peak<const SUMS: usize> {
    rounds: usize,
}

impl<const SUMS: usize> SimdOp for Peak<SUMS> {
    type Output = u64;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> u64 {
        const STEPS: usize = 16;
        const MACS: usize = 64;
        let weights = [3, 5].map(|byte| isa.load_bytes(&black_box([byte; 64])));
        // Nobody may conclude that all steps give the same.
        let values: [[i8; 4]; STEPS] = black_box(std::array::from_fn(|i| [i as i8, -2, 3, 1 - i as i8]));
        let mut sums = [isa.splat_i32(0); SUMS];
        for _ in 0..self.rounds {
            for value in black_box(&values) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = isa.dot(*sum, weights[i % 2], *value);
                }
            }
        }
        black_box(sums.map(|sum| isa.sum_i32(sum)));
        (self.rounds * STEPS * SUMS * MACS) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IsaKind;

    #[test]
    fn work_is_counted_by_the_round() {
        for kernels in IsaKind::ALL.iter().filter_map(|&isa| Kernels::with(isa)) {
            assert_eq!(dot_peak(kernels, 0), 0);
            let one = dot_peak(kernels, 1);
            assert!([4, 8].contains(&(one / (16 * 64))) && one.is_multiple_of(16 * 64), "{one}");
            assert_eq!(dot_peak(kernels, 7), 7 * one);
        }
    }
}
