//! The random numbers of sampling: a counter-based generator of fixed algorithm.

/// The random numbers that belong to one token of one sequence.
///
/// The algorithm is Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
/// 1, 2, 3", 2011) and will not change, so that a seed means the same for ever:
///
/// - key = the seed, low word first;
/// - counter = low word of the token's index, high word of it, number of the block from 0, zero;
/// - the four words of a block are handed out in order; 64-bit numbers take the low word first.
#[derive(Clone, Debug)]
pub struct Rng {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl Rng {
    /// The numbers for the token at `index` of the sequence with this seed.
    pub fn new(seed: u64, index: u64) -> Self {
        let [key, index] = [seed, index].map(|x| [x as u32, (x >> 32) as u32]);
        Self { key, counter: [index[0], index[1], 0, 0], block: [0; 4], used: 4 }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == self.block.len() {
            self.block = philox4x32_10(self.counter, self.key);
            self.counter[2] = self.counter[2].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let low = self.next_u32();
        u64::from(self.next_u32()) << 32 | u64::from(low)
    }

    /// A number uniform in `0.0..1.0`, a multiple of 2^-53.
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// The generator's block function: ten rounds of Philox over four 32-bit words.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let product = |a: u32, b: u32| {
        let wide = u64::from(a) * u64::from(b);
        ((wide >> 32) as u32, wide as u32)
    };
    let (mut x, mut k) = (counter, key);
    for round in 0..10 {
        if round > 0 {
            k = [k[0].wrapping_add(KEY_STEPS[0]), k[1].wrapping_add(KEY_STEPS[1])];
        }
        let (high0, low0) = product(MULTIPLIERS[0], x[0]);
        let (high1, low1) = product(MULTIPLIERS[1], x[2]);
        x = [high1 ^ x[1] ^ k[0], low1, high0 ^ x[3] ^ k[1], low0];
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers published with the authors' own implementation.
    #[test]
    fn published_vectors() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32_10(counter, key), expected);
        }
    }

    #[test]
    fn seed_and_index_land_in_key_and_counter() {
        let mut rng = Rng::new(0x299f_31d0_a409_3822, 0x85a3_08d3_243f_6a88);
        let blocks = [0, 1]
            .map(|block| philox4x32_10([0x243f_6a88, 0x85a3_08d3, block, 0], [0xa409_3822, 0x299f_31d0]));
        for word in blocks.concat() {
            assert_eq!(rng.next_u32(), word);
        }
    }

    #[test]
    fn wide_numbers_take_the_low_word_first() {
        // The first block of seed 0, index 0 is the first published vector.
        assert_eq!(Rng::new(0, 0).next_u64(), 0xe169_c58d_6627_e8d5);
        assert_eq!(Rng::new(0, 0).next_f64(), (0xe169_c58d_6627_e8d5_u64 >> 11) as f64 / 2f64.powi(53));
    }
}
