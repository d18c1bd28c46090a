//! How the tokens of a step are shared out among prompts.

use std::time::Duration;

/// A prompt that is being computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prompt {
    pub(super) priority: i32,
    /// Tokens that are left.
    pub(super) left: usize,
}

/// Shares `budget` tokens out among prompts, which come in order of priority and age. A quarter is for the first:
/// however many short ones come, it gets done. The rest is for the highest priority, and of that for those with
/// the least left: the short need not wait for the long.
pub(super) fn share(prompts: &[Prompt], budget: usize, shares: &mut Vec<usize>) {
    shares.clear();
    shares.resize(prompts.len(), 0);
    let Some(first) = prompts.first() else { return };
    shares[0] = first.left.min(budget.div_ceil(4));
    let mut rest = budget - shares[0];
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(prompts[*i].priority), prompts[*i].left, *i));
    for i in order {
        let more = (prompts[i].left - shares[i]).min(rest);
        shares[i] += more;
        rest -= more;
    }
}

/// How many tokens of prompts a step takes, so that it takes no longer than it should.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    target: Duration,
    least: usize,
    most: usize,
    size: usize,
}

/// The chunk as long as no step was measured.
const FIRST_CHUNK: usize = 64;

impl Chunk {
    pub(super) fn new(target: Duration, least: usize, most: usize) -> Chunk {
        let most = most.max(1);
        let least = least.clamp(1, most);
        Chunk { target, least, most, size: FIRST_CHUNK.clamp(least, most) }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Takes note that a step with so many tokens of prompts took so long.
    pub(super) fn took(&mut self, prompt_tokens: usize, time: Duration) {
        // A step that computed less says nothing about one that would compute more.
        let full = prompt_tokens >= self.size;
        if prompt_tokens == 0 || time.is_zero() || (!full && time <= self.target) {
            return;
        }
        // Never more than twice or half: one odd step is not to be believed.
        let factor = (self.target.as_secs_f64() / time.as_secs_f64()).clamp(0.5, 2.0);
        let size = (prompt_tokens.min(self.size) as f64 * factor) as usize;
        self.size = size.clamp(self.least, self.most);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_is_shared_out_and_the_first_gets_a_quarter(
            prompts in prop::collection::vec((0i32..3, 1usize..500), 0..20),
            budget in 0usize..600,
        ) {
            let mut prompts: Vec<Prompt> =
                prompts.into_iter().map(|(priority, left)| Prompt { priority, left }).collect();
            prompts.sort_by_key(|p| std::cmp::Reverse(p.priority));
            let mut shares = vec![];
            share(&prompts, budget, &mut shares);
            let left: usize = prompts.iter().map(|p| p.left).sum();
            prop_assert_eq!(shares.iter().sum::<usize>(), budget.min(left));
            for (share, prompt) in shares.iter().zip(&prompts) {
                prop_assert!(*share <= prompt.left);
            }
            if let Some(first) = prompts.first() {
                prop_assert!(shares[0] >= first.left.min(budget.div_ceil(4)));
            }
        }
    }

    #[test]
    fn short_prompts_do_not_wait_for_long_ones() {
        let prompt = |priority, left| Prompt { priority, left };
        let mut shares = vec![];
        share(&[prompt(0, 4000), prompt(0, 100), prompt(0, 20)], 64, &mut shares);
        assert_eq!(shares, [16, 28, 20]);
        share(&[prompt(0, 4000), prompt(0, 5)], 64, &mut shares);
        assert_eq!(shares, [59, 5]);
        share(&[prompt(1, 4000), prompt(0, 5)], 64, &mut shares);
        assert_eq!(shares, [64, 0]);
    }

    /// A machine that takes so long for each token and for each step.
    fn settle(target: u64, per_token: f64, per_step: f64) -> usize {
        let mut chunk = Chunk::new(Duration::from_millis(target), 8, 512);
        for _ in 0..60 {
            let taken = per_step + per_token * chunk.size() as f64;
            chunk.took(chunk.size(), Duration::from_secs_f64(taken / 1e3));
        }
        chunk.size()
    }

    #[test]
    fn the_chunk_finds_the_target() {
        assert!((85..=105).contains(&settle(50, 0.5, 0.0)));
        assert!((70..=85).contains(&settle(50, 0.5, 10.0)));
        assert_eq!(settle(50, 100.0, 0.0), 8);
        assert_eq!(settle(50, 0.001, 0.0), 512);
    }

    #[test]
    fn steps_that_were_not_full_do_not_shorten_or_lengthen_the_chunk() {
        let mut chunk = Chunk::new(Duration::from_millis(50), 8, 512);
        let before = chunk.size();
        chunk.took(0, Duration::from_secs(9));
        chunk.took(before / 2, Duration::from_millis(1));
        assert_eq!(chunk.size(), before);
        chunk.took(before / 2, Duration::from_secs(1));
        assert!(chunk.size() < before);
    }
}
