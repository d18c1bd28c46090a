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
    /// What each of the next ones takes, in parts of what one at the beginning takes: see [`Pace::cost`].
    pub(super) cost: usize,
}

/// Shares the time of steps out among prompts.
#[derive(Clone, Debug, Default)]
pub(super) struct Sharing {
    /// What the first in order is short of its part.
    owed: usize,
    /// Whether the last step was for others that ended with it, though something was owed.
    put_off: bool,
    order: Vec<usize>,
}

impl Sharing {
    /// Shares a step that may take as long as `budget` out among prompts, which come in order of rank: at most
    /// `most` tokens, and at least `least` of those that come first.
    ///
    /// Those of the highest priority come first, and of those the ones with the least left: the short need not wait
    /// for the long. Nor do those that end with this step wait for parts of others, which only fill it up to its
    /// half. But however many short ones come, a quarter of all time is for the first in order. What it misses is
    /// owed to it, and as soon as that is half a step, it gets it: with the next step that no other ends with, or
    /// the one after the next.
    pub(super) fn share(
        &mut self,
        prompts: &[Prompt],
        budget: usize,
        [least, most]: [usize; 2],
        shares: &mut Vec<usize>,
    ) {
        shares.clear();
        shares.resize(prompts.len(), 0);
        let Some(first) = prompts.first() else { return };
        self.order.clear();
        self.order.extend(0..prompts.len());
        self.order.sort_by_key(|i| (Reverse(prompts[*i].priority), prompts[*i].left, *i));
        let (mut time, mut tokens, mut some_end) = (0, 0, false);
        let next = &prompts[self.order[0]];
        let ends = self.order[0] != 0 && next.left * next.cost <= budget;
        let half = budget.div_ceil(2);
        if self.owed >= half && (self.put_off || !ends) {
            shares[0] = (self.owed.min(budget) / first.cost).max(least).min(first.left).min(most);
            (time, tokens) = (shares[0] * first.cost, shares[0]);
        }
        self.put_off = ends && shares[0] == 0;
        for &i in &self.order {
            let prompt = &prompts[i];
            let wanted = prompt.left - shares[i];
            let room = budget.saturating_sub(time);
            let mut more = room / prompt.cost;
            if more < wanted {
                more = whole(if some_end { half.saturating_sub(time) } else { room }, prompt.cost);
            }
            if tokens == 0 {
                more = more.max(least);
            }
            more = more.min(wanted).min(most - tokens);
            some_end |= more == wanted;
            shares[i] += more;
            time += more * prompt.cost;
            tokens += more;
        }
        let of_first = shares[0] * first.cost;
        self.owed = (self.owed + (time - of_first).div_ceil(3)).saturating_sub(of_first);
    }
}

/// Tokens of this cost that there is time for: whole tiles of them, if it is at least one.
fn whole(time: usize, cost: usize) -> usize {
    let tokens = time / cost;
    if tokens < TILE { tokens } else { tokens / TILE * TILE }
}

/// How long steps take, learned from those that were done, and how long they may take: whoever comes waits for the
/// step that is being done, so it should take no longer than a short prompt does, wherever in a long one it is.
///
/// A token costs the same at the beginning of every prompt, and more the more positions it sees.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    target: Duration,
    least: usize,
    most: usize,
    /// The least seconds that a token at the beginning of a prompt took.
    token: Option<f64>,
    /// Seconds beyond those, and the positions that were seen in them.
    beyond: f64,
    seen: f64,
    /// How many times as long a step may take.
    factor: f64,
}

/// Tokens, at the beginning of a prompt, that a step may take time for in any case. With a prompt of 16 after it that
/// makes two and a quarter times as long as that prompt takes alone.
const SHORT: f64 = 20.0;

/// How many times as long a step may take when nobody else was there for a while.
const CALM: f64 = 2.0;

/// What a token at the beginning of a prompt costs.
const COST: f64 = 16.0;

/// Products compute multiples of so many tokens well.
const TILE: usize = 4;

/// What the best time loses with every step: a machine may become slower for good.
const FORGET: f64 = 1.0 / 64.0;

/// Tokens that see so many positions take about as long as the first.
const BEGINNING: f64 = 64.0;

/// Positions whose time is remembered: those of a second or so.
const REMEMBER: f64 = 500_000.0;

impl Pace {
    pub(super) fn new(target: Duration, least: usize, most: usize) -> Pace {
        let most = most.max(1);
        Pace { target, least: least.clamp(1, most), most, token: None, beyond: 0.0, seen: 0.0, factor: 1.0 }
    }

    /// Says whether steps hold up nobody, as far as can be foreseen: then they may be longer, which is more efficient.
    pub(super) fn set_calm(&mut self, calm: bool) {
        self.factor = if calm { CALM } else { 1.0 };
    }

    /// What steps cost at most, but for [`least`](Self::least).
    pub(super) fn budget(&self) -> usize {
        let target = self.token.map_or(0.0, |token| self.target.as_secs_f64() / token);
        (COST * (self.factor * target.max(SHORT)).clamp(self.least as f64, self.most as f64)) as usize
    }

    /// What a token costs that sees so many positions before it.
    pub(super) fn cost(&self, positions: usize) -> usize {
        let more = self.token.map_or(0.0, |token| positions as f64 * self.of_position() / token);
        (COST * (1.0 + more)).round() as usize
    }

    /// Tokens of a prompt, at its beginning, that a step takes at most.
    pub(super) fn chunk(&self) -> usize {
        self.budget() / COST as usize
    }

    /// Tokens of prompts that a step may take in any case, and at most.
    pub(super) fn limits(&self) -> [usize; 2] {
        [self.least, self.most]
    }

    fn of_position(&self) -> f64 {
        self.beyond / self.seen.max(1.0)
    }

    /// Takes note that a step took so long, of which so many tokens were of prompts.
    pub(super) fn took(&mut self, step: Planned, time: Duration) {
        if step.prompts < self.least || time.is_zero() {
            return;
        }
        let (time, tokens, seen) = (time.as_secs_f64(), step.tokens as f64, step.positions as f64);
        match self.token {
            Some(token) if seen > BEGINNING * tokens => {
                let (least, expected) = (tokens * token, seen * self.of_position());
                // One odd step is not to be believed.
                self.beyond += (time - least).clamp(0.0, least + 2.0 * expected);
                self.seen += seen;
                let kept = (REMEMBER / self.seen).min(1.0);
                (self.beyond, self.seen) = (kept * self.beyond, kept * self.seen);
            }
            token => {
                let forgetting = token.unwrap_or(f64::INFINITY) * (1.0 + FORGET);
                self.token = Some(forgetting.min(time / tokens));
            }
        }
    }
}

/// What a step computes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Planned {
    pub(super) tokens: usize,
    /// Those of them that are of prompts.
    pub(super) prompts: usize,
    /// The positions that they see, all together.
    pub(super) positions: usize,
}

impl Planned {
    /// So many more tokens, which come after so many positions.
    pub(super) fn add(&mut self, tokens: usize, after: usize) {
        self.tokens += tokens;
        self.positions += tokens * after + tokens * tokens.saturating_sub(1) / 2;
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use proptest::prelude::*;

    use super::*;

    fn prompt(priority: i32, left: usize, cost: usize) -> Prompt {
        Prompt { priority, left, cost }
    }

    fn prompts() -> impl Strategy<Value = Vec<Prompt>> {
        let prompt = (0i32..3, 1usize..500, 16usize..100)
            .prop_map(|(priority, left, cost)| prompt(priority, left, cost));
        prop::collection::vec(prompt, 0..20)
    }

    fn time(shares: &[usize], prompts: &[Prompt]) -> usize {
        shares.iter().zip(prompts).map(|(share, prompt)| share * prompt.cost).sum()
    }

    proptest! {
        #[test]
        fn a_step_is_as_long_as_it_may_be_and_no_longer(
            steps in prop::collection::vec((prompts(), 1usize..5000), 1..20),
            least in 1usize..20,
            most in 20usize..600,
        ) {
            let (mut sharing, mut shares) = (Sharing::default(), vec![]);
            for (prompts, budget) in steps {
                sharing.share(&prompts, budget, [least, most], &mut shares);
                prop_assert_eq!(shares.len(), prompts.len());
                prop_assert!(shares.iter().zip(&prompts).all(|(share, prompt)| *share <= prompt.left));
                let (tokens, time) = (shares.iter().sum::<usize>(), time(&shares, &prompts));
                prop_assert!(tokens <= most && (time <= budget || tokens <= least));
                prop_assert!(prompts.is_empty() || tokens > 0);
                // It is cut short for the sake of those that end with it, and of whole tiles.
                let all = shares.iter().zip(&prompts);
                let ends = all.clone().any(|(share, prompt)| *share == prompt.left);
                let next = all.filter(|(share, prompt)| *share < &prompt.left).map(|(_, prompt)| prompt.cost);
                let room = next.min().unwrap_or(usize::MAX).saturating_mul(TILE);
                prop_assert!(ends || time + room > budget || tokens + TILE > most);
            }
        }

        /// By definition: a quarter of all time while it is the first, but for less than two steps.
        #[test]
        fn the_first_in_order_gets_a_quarter_whatever_comes(
            steps in prop::collection::vec(prompts(), 1..200),
            cost in 16usize..100,
            budget in 1usize..2000,
            least in 1usize..20,
        ) {
            let (mut sharing, mut shares) = (Sharing::default(), vec![]);
            let (mut of_first, mut of_all) = (0, 0);
            for others in steps {
                let prompts = [vec![prompt(0, 100_000, cost)], others].concat();
                sharing.share(&prompts, budget, [least, 1000], &mut shares);
                of_first += shares[0] * cost;
                of_all += time(&shares, &prompts);
                let step = budget.max(100 * least);
                prop_assert!(4 * (of_first + 2 * step) >= of_all, "{} of {}", of_first, of_all);
            }
        }

        /// A step that others end with is not made longer for the first, unless the one before was not, either.
        #[test]
        fn debts_are_paid_between_those_that_end(
            lengths in prop::collection::vec(0usize..=32, 1..200),
            cost in 16usize..100,
        ) {
            let (mut sharing, mut shares) = (Sharing::default(), vec![]);
            let mut put_off = false;
            for short in lengths {
                let mut prompts = vec![prompt(0, 100_000, cost)];
                prompts.extend((short > 0).then(|| prompt(0, short, 16)));
                sharing.share(&prompts, 32 * 16, [4, 512], &mut shares);
                let longer = short > 0 && shares[0] > 0 && time(&shares, &prompts) > 16 * 16;
                prop_assert!(put_off || !longer);
                prop_assert!(longer || short == 0 || shares[1] == short);
                put_off = short > 0 && !longer;
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
        let mut share = |prompts: &[Prompt]| {
            sharing.share(prompts, 32 * 16, [4, 512], &mut shares);
            shares.clone()
        };
        let long = prompt(0, 4000, 16);
        assert_eq!(share(&[long, prompt(0, 100, 16), prompt(0, 20, 16)]), [0, 0, 20]);
        assert_eq!(share(&[long, prompt(0, 100, 16)]), [0, 32]);
        // What they took is made up for a little later, and not twice.
        assert_eq!(share(&[long, prompt(0, 20, 16)]), [0, 20]);
        assert_eq!(share(&[long, prompt(0, 10, 16), prompt(0, 20, 16)]), [24, 8, 0]);
        assert_eq!(share(&[long, prompt(0, 20, 16)]), [0, 20]);
        // A step that would be very short is filled up.
        assert_eq!(share(&[long, prompt(0, 5, 16)]), [8, 5]);
        // A token far into a prompt takes longer.
        assert_eq!(share(&[prompt(0, 4000, 50)]), [8]);
        assert_eq!(share(&[prompt(0, 4000, 70)]), [4]);
        assert_eq!(share(&[prompt(0, 4000, 1000)]), [4]);
        assert_eq!(share(&[prompt(1, 4000, 16), prompt(0, 5, 16)]), [32, 0]);
    }

    /// The pace on a machine that takes so many milliseconds for each step, token and thousand positions, after many
    /// steps of one prompt.
    fn settle(pace: &mut Pace, [step, token, positions]: [f64; 3], prompt: Range<usize>) {
        let mut at = prompt.start;
        while at < prompt.end {
            let mut planned = Planned::default();
            planned.add(3, 50);
            let tokens = whole(pace.budget(), pace.cost(at)).max(pace.least);
            planned.add(tokens, at);
            planned.prompts = tokens;
            let taken = step + token * planned.tokens as f64 + positions * planned.positions as f64 / 1e3;
            pace.took(planned, Duration::from_secs_f64(taken / 1e3));
            at += tokens;
        }
    }

    fn pace() -> Pace {
        Pace::new(Duration::from_millis(50), 4, 512)
    }

    #[test]
    fn a_step_takes_as_long_as_it_may() {
        let chunk = |machine| {
            let mut pace = pace();
            settle(&mut pace, machine, 0..4000);
            pace.chunk()
        };
        assert!((95..=105).contains(&chunk([0.0, 0.5, 0.0])));
        assert!((70..=90).contains(&chunk([10.0, 0.5, 0.0])));
        assert_eq!(chunk([0.0, 0.001, 0.0]), 512);
        // Where the target is out of reach, it is the time of a short prompt that counts.
        assert_eq!(chunk([0.0, 100.0, 0.0]), 20);
        assert_eq!(chunk([300.0, 100.0, 0.0]), 20);
    }

    #[test]
    fn a_step_that_holds_up_nobody_takes_twice_as_long() {
        let mut pace = pace();
        settle(&mut pace, [0.0, 0.5, 0.0], 0..4000);
        let (crowded, cost) = (pace.chunk(), pace.cost(100));
        pace.set_calm(true);
        assert!((2 * crowded - 1..=2 * crowded + 1).contains(&pace.chunk()));
        assert_eq!(pace.cost(100), cost);
        pace.set_calm(false);
        assert_eq!(pace.chunk(), crowded);
    }

    #[test]
    fn what_a_token_takes_is_known_wherever_it_is() {
        for positions in [0.1, 0.5, 2.0] {
            let machine = [3.0, 2.0, positions];
            let (mut pace, at) = (pace(), [0, 100, 1000, 5000]);
            settle(&mut pace, machine, 0..6000);
            let foreseen = |pace: &Pace| {
                let token = 1e3 * pace.token.unwrap_or(0.0);
                at.map(|at| token * pace.cost(at) as f64 / COST / (2.0 + positions * at as f64 / 1e3))
            };
            assert!(foreseen(&pace).iter().all(|ratio| (0.9..1.3).contains(ratio)), "{:?}", foreseen(&pace));
            // Short ones tell nothing of that.
            (0..500).for_each(|_| settle(&mut pace, machine, 0..16));
            assert!(foreseen(&pace).iter().all(|ratio| (0.9..1.3).contains(ratio)), "{:?}", foreseen(&pace));
        }
    }

    #[test]
    fn one_odd_step_is_not_to_be_believed() {
        let mut pace = pace();
        settle(&mut pace, [0.0, 2.0, 0.5], 0..4000);
        let (budget, cost) = (pace.budget(), pace.cost(4000));
        let planned = Planned { tokens: 16, prompts: 16, positions: 16 * 4000 };
        pace.took(planned, Duration::from_secs(9));
        pace.took(Planned { tokens: 3, prompts: 0, positions: 9 }, Duration::from_millis(1));
        assert_eq!(pace.budget(), budget);
        assert!((cost..cost * 3 / 2).contains(&pace.cost(4000)), "{} after {cost}", pace.cost(4000));
    }

    /// In the end it is believed that the machine has become slower.
    #[test]
    fn what_was_is_forgotten() {
        let mut pace = Pace::new(Duration::from_millis(50), 4, 512);
        settle(&mut pace, [0.0, 0.5, 0.0], 0..1000);
        assert!(pace.chunk() >= 95);
        (0..100).for_each(|_| settle(&mut pace, [0.0, 1.0, 0.0], 0..1000));
        assert!((48..=52).contains(&pace.chunk()), "{}", pace.chunk());
    }
}
