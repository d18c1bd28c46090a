//! Random numbers that are the same everywhere: whole numbers only, no library's logarithm.

/// Fills `out` with numbers of mean 0 and standard deviation `sigma`, normal up to three times that: sums of twelve
/// uniform ones. They depend on the name of the tensor and the row.
pub(super) fn normal(name: &str, row: u64, sigma: f32, out: &mut [f32]) {
    let mut state = mix(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    }));
    state = mix(state ^ row.wrapping_mul(STEP));
    // Twelve parts of 16 bits have variance 12 * (65536^2 - 1) / 12.
    let scale = sigma / 65536.0;
    for x in out {
        let mut sum = 0i64;
        for _ in 0..3 {
            state = state.wrapping_add(STEP);
            let bits = mix(state);
            sum += [0, 16, 32, 48].map(|from| (bits >> from & 0xffff) as i64).iter().sum::<i64>();
        }
        *x = scale * (sum - 6 * 65535) as f32;
    }
}

/// The golden ratio of 64 bits, which spreads consecutive numbers.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Every bit of the result depends on every bit of `x`: the finaliser of SplitMix64.
fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_pinned() {
        let mut out = [0.0; 4];
        normal("blk.0.attn_q.weight", 3, 0.02, &mut out);
        let bits = out.map(|x| (x / 0.02 * 65536.0).round());
        let mut again = [0.0; 4];
        normal("blk.0.attn_q.weight", 3, 0.02, &mut again);
        assert_eq!(out, again);
        assert!(bits.iter().all(|x| x.abs() <= 6.0 * 65536.0));
        normal("blk.0.attn_q.weight", 4, 0.02, &mut again);
        assert!(out.iter().zip(&again).all(|(a, b)| a != b), "rows differ");
        normal("blk.1.attn_q.weight", 3, 0.02, &mut again);
        assert!(out.iter().zip(&again).all(|(a, b)| a != b), "tensors differ");
    }

    #[test]
    fn the_mixer_is_the_published_one() {
        // The first outputs of SplitMix64 for seed 1234567, as its authors' test gives them.
        let outputs: Vec<u64> =
            (1..=3u64).map(|i| mix(1_234_567u64.wrapping_add(i.wrapping_mul(STEP)))).collect();
        assert_eq!(
            outputs,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }
}
