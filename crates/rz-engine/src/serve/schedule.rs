//! Who comes first, and how the tokens of a step are shared out among prompts.

use std::cmp::Reverse;
use std::time::Duration;

use super::RequestId;

/// The order in which sequences are served: age, and a head start for each step of priority. Whatever comes later,
/// everyone's turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    turn: i64,
    priority: Reverse<i32>,
    pub(super) request: RequestId,
    choice: usize,
}

/// So many requests that came before one are overtaken by it if their priority is lower by one. More than wait at
/// a time, as a rule.
const HEAD_START: i64 = 1024;

impl Rank {
    pub(super) fn new(priority: i32, request: RequestId, choice: usize) -> Rank {
        let turn = i64::try_from(request.0).unwrap_or(i64::MAX);
        let turn = turn.saturating_sub(i64::from(priority) * HEAD_START);
        Rank { turn, priority: Reverse(priority), request, choice }
    }

    /// Whether it may take the room of another: it comes first, and not only because it is older.
    pub(super) fn displaces(&self, other: &Rank) -> bool {
        self < other && self.priority < other.priority
    }
}

/// A prompt that is being computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prompt {
    pub(super) priority: i32,
    /// Tokens that are left.
    pub(super) left: usize,
}

/// Shares the tokens of steps out among prompts.
#[derive(Clone, Debug, Default)]
pub(super) struct Sharing {
    /// Tokens that the first in order is short of its part.
    owed: usize,
    order: Vec<usize>,
}

impl Sharing {
    /// Shares up to `budget` tokens out among prompts, which come in order of rank.
    ///
    /// Those of the highest priority come first, and of those the ones with the least left: the short need not wait
    /// for the long. Nor do those that end with this step wait for parts of others: these only fill it up to `least`
    /// tokens. But however many short ones come, a quarter of all tokens is for the first in order. What it misses
    /// is owed to it, and it gets half a step as soon as it is as much.
    pub(super) fn share(&mut self, prompts: &[Prompt], budget: usize, least: usize, shares: &mut Vec<usize>) {
        shares.clear();
        shares.resize(prompts.len(), 0);
        let Some(first) = prompts.first() else { return };
        let half = budget.div_ceil(2);
        if self.owed >= half {
            shares[0] = first.left.min(half);
        }
        let mut taken = shares[0];
        self.order.clear();
        self.order.extend(0..prompts.len());
        self.order.sort_by_key(|i| (Reverse(prompts[*i].priority), prompts[*i].left, *i));
        let mut some_end = false;
        for &i in &self.order {
            let wanted = prompts[i].left - shares[i];
            let mut more = wanted.min(budget - taken);
            let ends = more == wanted;
            if some_end && !ends {
                more = more.min(least.saturating_sub(taken));
            }
            some_end |= ends;
            shares[i] += more;
            taken += more;
        }
        self.owed = (self.owed + (taken - shares[0]).div_ceil(3)).saturating_sub(shares[0]);
    }
}

/// How many tokens of prompts a step takes. Whoever comes waits for the step that is being done, so it should take no
/// longer than a short prompt does, wherever in a long one it is.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    target: Duration,
    least: usize,
    most: usize,
    size: usize,
    /// The least seconds that a token took.
    best: Option<f64>,
    /// How many times as long a step may take.
    factor: usize,
}

/// The chunk as long as no step was measured.
const FIRST_CHUNK: usize = 32;

/// A short prompt.
const SHORT: f64 = 32.0;

/// How many times as long a step may take when nobody else was there for a while.
const CALM: usize = 2;

/// What the best time loses with every step: a machine may become slower for good.
const FORGET: f64 = 1.0 / 1024.0;

impl Chunk {
    pub(super) fn new(target: Duration, least: usize, most: usize) -> Chunk {
        let most = most.max(1);
        let least = least.clamp(1, most);
        Chunk { target, least, most, size: FIRST_CHUNK.clamp(least, most), best: None, factor: 1 }
    }

    /// Says whether steps hold up nobody, as far as can be foreseen: then they may be longer, which is more efficient.
    pub(super) fn set_calm(&mut self, calm: bool) {
        self.factor = if calm { CALM } else { 1 };
    }

    /// What a step takes at most.
    pub(super) fn size(&self) -> usize {
        (self.factor * self.size).min(self.most)
    }

    /// What a step may take in any case.
    pub(super) fn least(&self) -> usize {
        self.least
    }

    /// Takes note that a step took so long, with so many tokens of prompts and one each of so many answers.
    pub(super) fn took(&mut self, prompt_tokens: usize, answers: usize, time: Duration) {
        if prompt_tokens == 0 || time.is_zero() {
            return;
        }
        let of_token = time.as_secs_f64() / (prompt_tokens + answers) as f64;
        if prompt_tokens >= self.least {
            self.best = Some(self.best.map_or(of_token, |best| of_token.min(best * (1.0 + FORGET))));
        }
        let short = SHORT * self.best.unwrap_or(0.0);
        let target = self.target.as_secs_f64().max(short) * self.factor as f64;
        let (size, taken) = (self.size(), of_token * prompt_tokens as f64);
        // A step that computed less says nothing about one that would compute more.
        if prompt_tokens < size && taken <= target {
            return;
        }
        // Never more than twice or half: one odd step is not to be believed.
        let size = prompt_tokens.min(size) as f64 * (target / taken).clamp(0.5, 2.0);
        self.size = (size as usize / self.factor).clamp(self.least, self.most);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prompt(priority: i32, left: usize) -> Prompt {
        Prompt { priority, left }
    }

    fn prompts() -> impl Strategy<Value = Vec<Prompt>> {
        prop::collection::vec(
            (0i32..3, 1usize..500).prop_map(|(priority, left)| prompt(priority, left)),
            0..20,
        )
    }

    proptest! {
        #[test]
        fn nothing_is_wasted_and_nobody_gets_more_than_is_left(
            steps in prop::collection::vec((prompts(), 0usize..600), 1..20),
            least in 0usize..60,
        ) {
            let (mut sharing, mut shares) = (Sharing::default(), vec![]);
            for (prompts, budget) in steps {
                sharing.share(&prompts, budget, least, &mut shares);
                prop_assert_eq!(shares.len(), prompts.len());
                let (taken, left): (usize, usize) = (shares.iter().sum(), prompts.iter().map(|p| p.left).sum());
                prop_assert!(taken <= budget);
                prop_assert!(shares.iter().zip(&prompts).all(|(share, prompt)| *share <= prompt.left));
                // A step is cut short for the sake of those that end with it only.
                let ends = shares.iter().zip(&prompts).any(|(share, prompt)| *share == prompt.left);
                prop_assert!(taken == budget.min(left) || (ends && taken >= least.min(budget).min(left)));
            }
        }

        /// By definition: a quarter of all that is computed while it is the first, but for less than two steps.
        #[test]
        fn the_first_in_order_gets_a_quarter_whatever_comes(
            steps in prop::collection::vec(prompts(), 1..200),
            budget in 1usize..100,
            least in 0usize..60,
        ) {
            let (mut sharing, mut shares) = (Sharing::default(), vec![]);
            let (mut of_first, mut of_all) = (0, 0);
            for others in steps {
                let prompts = [vec![prompt(0, 100_000)], others].concat();
                sharing.share(&prompts, budget, least, &mut shares);
                of_first += shares[0];
                of_all += shares.iter().sum::<usize>();
                prop_assert!(4 * (of_first + 2 * budget) >= of_all, "{} of {}", of_first, of_all);
            }
        }

        /// Whatever comes later, only so many come first.
        #[test]
        fn everyones_turn_comes(priority in -1000i32..=1000, id in any::<u32>(), other in -1000i32..=1000) {
            let rank = Rank::new(priority, RequestId(id.into()), 0);
            let higher = u64::from(other.saturating_sub(priority).max(0).unsigned_abs());
            let last = u64::from(id) + higher * HEAD_START as u64;
            prop_assert!(rank < Rank::new(other, RequestId(last + 1), 0));
            if other > priority {
                prop_assert!(Rank::new(other, RequestId(last - 1), 0).displaces(&rank));
            }
        }
    }

    #[test]
    fn priority_comes_before_age_and_age_before_what_comes_much_later() {
        let rank = |priority, id| Rank::new(priority, RequestId(id), 0);
        assert!(rank(0, 1) < rank(0, 2));
        assert!(!rank(0, 1).displaces(&rank(0, 2)), "age alone takes nobody's room");
        assert!(rank(1, 300).displaces(&rank(0, 1)));
        assert!(rank(0, 1) < rank(1, 2000) && !rank(0, 1).displaces(&rank(1, 2000)));
        assert!(rank(i32::MAX, 0) < rank(i32::MIN, u64::MAX));
    }

    #[test]
    fn short_prompts_do_not_wait_for_long_ones() {
        let (mut sharing, mut shares) = (Sharing::default(), vec![]);
        sharing.share(&[prompt(0, 4000), prompt(0, 100), prompt(0, 20)], 64, 16, &mut shares);
        assert_eq!(shares, [0, 0, 20]);
        sharing.share(&[prompt(0, 4000), prompt(0, 100)], 64, 16, &mut shares);
        assert_eq!(shares, [0, 64]);
        // What they took is made up for a little later.
        sharing.share(&[prompt(0, 4000), prompt(0, 36), prompt(0, 40)], 64, 16, &mut shares);
        assert_eq!(shares, [0, 36, 0]);
        sharing.share(&[prompt(0, 4000), prompt(0, 40), prompt(0, 20)], 64, 16, &mut shares);
        assert_eq!(shares, [32, 0, 20]);
        // A step that would be very short is filled up.
        sharing.share(&[prompt(0, 4000), prompt(0, 5)], 64, 16, &mut shares);
        assert_eq!(shares, [11, 5]);
        sharing.share(&[prompt(1, 4000), prompt(0, 5)], 64, 16, &mut shares);
        assert_eq!(shares, [64, 0]);
    }

    /// The chunk on a machine that takes so many milliseconds for each token and for each step.
    fn settle(chunk: &mut Chunk, per_token: f64, per_step: f64, calm: bool) -> usize {
        chunk.set_calm(calm);
        for _ in 0..60 {
            let taken = per_step + per_token * (chunk.size() + 3) as f64;
            chunk.took(chunk.size(), 3, Duration::from_secs_f64(taken / 1e3));
        }
        chunk.size()
    }

    fn chunk() -> Chunk {
        Chunk::new(Duration::from_millis(50), 8, 512)
    }

    #[test]
    fn the_chunk_finds_the_target() {
        assert!((95..=105).contains(&settle(&mut chunk(), 0.5, 0.0, false)));
        assert!((75..=90).contains(&settle(&mut chunk(), 0.5, 10.0, false)));
        assert!((170..=190).contains(&settle(&mut chunk(), 0.5, 10.0, true)));
        assert_eq!(settle(&mut chunk(), 0.001, 0.0, false), 512);
        assert_eq!(settle(&mut chunk(), 0.001, 0.0, true), 512);
    }

    /// Where the target is out of reach, it is the time of a short prompt that counts, wherever in a long one.
    #[test]
    fn on_a_slow_machine_a_step_takes_as_long_as_a_short_prompt() {
        let mut chunk = chunk();
        assert!((30..=33).contains(&settle(&mut chunk, 100.0, 0.0, false)));
        assert!((60..=65).contains(&settle(&mut chunk, 100.0, 0.0, true)));
        let deep = settle(&mut chunk, 200.0, 0.0, false);
        assert!((15..=18).contains(&deep), "{deep}");
        assert_eq!(settle(&mut chunk, 1000.0, 0.0, false), 8);
        assert_eq!(settle(&mut chunk, 1000.0, 0.0, true), 16);
        // In the end it is believed that the machine has become slower.
        (0..100).for_each(|_| assert!(settle(&mut chunk, 1000.0, 0.0, false) >= 8));
        assert!(chunk.size() >= 20, "{}", chunk.size());
    }

    #[test]
    fn steps_that_were_not_full_do_not_shorten_or_lengthen_the_chunk() {
        let mut chunk = chunk();
        let before = chunk.size();
        chunk.took(before, 0, Duration::from_millis(50));
        assert_eq!(chunk.size(), before);
        chunk.took(0, 5, Duration::from_secs(9));
        chunk.took(before / 2, 0, Duration::from_millis(1));
        assert_eq!(chunk.size(), before);
        chunk.took(before / 2, 0, Duration::from_secs(1));
        assert!(chunk.size() < before);
    }
}
