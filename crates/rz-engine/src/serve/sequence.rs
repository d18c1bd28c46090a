//! One answer in the making: its tokens, how the next one is chosen, and what it has cost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rz_model::Want as Row;
use rz_model::sampler::{Candidates, Chain, StepContext};
use rz_tokenizer::Tokenizer;

use super::schedule::Rank;
use super::{
    Constraint, ContextShift, Event, EventKind, FinishReason, Pooling, Refusal, Request, RequestId, Scored,
    StopCause, Timings, TokenMask, TokenScore, Usage, Want,
};
use crate::cache::Table;
use crate::constraint::{self, Broken};
use crate::perplexity::loss;
use crate::text::Text;

/// What the answers to a request have in common.
pub(super) struct Job {
    pub(super) id: RequestId,
    prompt: Vec<u32>,
    pub(super) priority: i32,
    pub(super) deadline: Option<Instant>,
    pub(super) cache_prompt: bool,
    pub(super) context_shift: Option<ContextShift>,
    pub(super) want: Want,
    pub(super) prompt_logprobs: Option<usize>,
    seed: u64,
    /// In order of tokens, each once.
    logit_bias: Vec<(u32, f32)>,
    biased: Vec<u32>,
    max_tokens: Option<usize>,
    min_tokens: usize,
    stop_tokens: Vec<u32>,
    /// Tokens that end the answer, in order: excluded as long as it is too short.
    ends: Vec<u32>,
    ignore_eos: bool,
    logprobs: Option<usize>,
}

/// An answer in the making.
pub(super) struct Sequence {
    pub(super) job: Arc<Job>,
    pub(super) choice: usize,
    /// The prompt and what was generated. Empty until it is looked at for the first time: who waits takes little.
    history: Vec<u32>,
    /// Its blocks while it is worked on.
    pub(super) table: Option<Table>,
    /// Tokens of it that the step computes.
    pub(super) planned: usize,
    cached: usize,
    pub(super) arrived: Option<Instant>,
    started: Option<Instant>,
    prompt_done: Option<Instant>,
    first_token: Option<Instant>,
    /// Tokens that were forgotten because the context was full.
    dropped: usize,
    pub(super) generated: usize,
    chain: Chain,
    text: Text<Arc<Tokenizer>>,
    constraint: Option<Box<dyn Constraint>>,
    prompt_scores: Vec<Scored>,
    pooled: Vec<f64>,
}

/// What choosing a token takes, kept from token to token.
pub(super) struct Tools {
    pub(super) tokenizer: Arc<Tokenizer>,
    candidates: Candidates,
    mask: TokenMask,
}

impl Tools {
    pub(super) fn new(tokenizer: Arc<Tokenizer>, vocabulary: usize) -> Tools {
        Tools { tokenizer, candidates: Candidates::new(), mask: TokenMask::new(vocabulary) }
    }
}

/// The sequences of a request that was checked, the prompt's own first.
pub(super) fn sequences(
    id: RequestId,
    request: Request,
    tokenizer: &Arc<Tokenizer>,
) -> Result<Vec<Sequence>, Refusal> {
    let mut logit_bias = request.logit_bias;
    // Of several for a token, the last counts.
    logit_bias.reverse();
    logit_bias.sort_by_key(|(token, _)| *token);
    logit_bias.dedup_by_key(|(token, _)| *token);
    let mut stop_tokens = request.stop_tokens;
    stop_tokens.sort_unstable();
    stop_tokens.dedup();
    let mut ends = stop_tokens.clone();
    ends.extend(tokenizer.end_of_generation());
    ends.sort_unstable();
    ends.dedup();
    let job = Arc::new(Job {
        id,
        prompt: request.prompt,
        priority: request.priority,
        deadline: request.deadline,
        cache_prompt: request.cache_prompt,
        context_shift: request.context_shift,
        want: request.want,
        prompt_logprobs: request.prompt_logprobs,
        seed: request.seed,
        biased: logit_bias.iter().map(|(token, _)| *token).collect(),
        logit_bias,
        max_tokens: request.max_tokens,
        min_tokens: request.min_tokens,
        stop_tokens,
        ends,
        ignore_eos: request.ignore_eos,
        logprobs: request.logprobs,
    });
    let sequence = |choice| {
        let text = Text::new(tokenizer.clone(), request.decode, &request.stop);
        let empty = |_| Refusal::Parameter {
            name: "stop",
            found: "an empty text".into(),
            expected: "texts of at least one character".into(),
        };
        Ok(Sequence {
            job: job.clone(),
            choice,
            history: Vec::new(),
            table: None,
            planned: 0,
            cached: 0,
            arrived: request.arrived,
            started: None,
            prompt_done: None,
            first_token: None,
            dropped: 0,
            generated: 0,
            chain: Chain::new(&request.sampling)?,
            text: text.map_err(empty)?.whole_characters(request.constraint.is_some()),
            constraint: request.constraint.as_ref().map(|constraint| constraint.fork()),
            prompt_scores: Vec::new(),
            pooled: Vec::new(),
        })
    };
    (0..request.n).map(sequence).collect()
}

impl Sequence {
    /// Takes a copy of the prompt, where it has none yet.
    pub(super) fn prepare(&mut self) {
        if self.history.is_empty() {
            self.history.extend_from_slice(&self.job.prompt);
        }
    }

    /// Tokens of the prompt.
    pub(super) fn prompt_len(&self) -> usize {
        self.job.prompt.len()
    }

    pub(super) fn rank(&self) -> Rank {
        Rank::new(self.job.priority, self.job.id, self.choice)
    }

    /// Tokens of the sequence as the model sees it, without those that were forgotten.
    pub(super) fn len(&self) -> usize {
        self.history.len() - self.dropped
    }

    /// The token at an index of the sequence as the model sees it.
    pub(super) fn token(&self, index: usize) -> u32 {
        let kept = self.job.context_shift.map_or(usize::MAX, |shift| shift.keep);
        self.history[if index < kept { index } else { index + self.dropped }]
    }

    /// Positions that are computed.
    pub(super) fn computed(&self) -> usize {
        self.table.as_ref().map_or(0, Table::len)
    }

    /// Tokens that are not computed.
    pub(super) fn left(&self) -> usize {
        self.len() - self.computed()
    }

    /// Work on it begins, or begins anew, with what the table holds.
    pub(super) fn begin(&mut self, table: Table, now: Instant, events: &mut Vec<Event>) {
        if self.started.is_none() {
            self.started = Some(now);
            self.cached = table.len();
            let queued = now.saturating_duration_since(self.arrived.unwrap_or(now));
            self.event(EventKind::Started { queued, cached_tokens: self.cached }, events);
        }
        self.table = Some(table);
    }

    /// How many of its first tokens may come from elsewhere: those that nothing is wanted of.
    pub(super) fn reusable(&self) -> usize {
        let scores_prompt = self.scores_prompt() && self.prompt_scores.len() < self.job.prompt.len();
        let pools_all = matches!(self.job.want, Want::Embed(Pooling::First | Pooling::Mean));
        if scores_prompt || pools_all { 0 } else { self.len() - 1 }
    }

    /// What is wanted of the token at an index.
    pub(super) fn wanted(&self, index: usize) -> Row {
        let last = index + 1 == self.len();
        match self.job.want {
            Want::Generate if last => Row::Logits,
            Want::Generate => {
                let predicts = index + 1;
                let scored = predicts >= self.prompt_scores.len().max(1) && predicts < self.job.prompt.len();
                if self.scores_prompt() && scored { Row::Logits } else { Row::Nothing }
            }
            Want::Embed(Pooling::Last) if last => Row::Hidden,
            Want::Embed(Pooling::First) if index == 0 => Row::Hidden,
            Want::Embed(Pooling::Mean) => Row::Hidden,
            Want::Embed(_) => Row::Nothing,
        }
    }

    /// Whether it gives the log-probabilities of its prompt: only the first answer does.
    pub(super) fn scores_prompt(&self) -> bool {
        self.job.prompt_logprobs.is_some() && self.choice == 0 && self.job.want == Want::Generate
    }

    /// Takes the scores that the token at an index of the prompt gives for the next.
    pub(super) fn score_prompt(&mut self, index: usize, logits: &[f32]) {
        if self.prompt_scores.is_empty() {
            self.prompt_scores.push(Scored { id: self.history[0], score: None });
        }
        if index + 1 == self.prompt_scores.len() {
            let id = self.history[index + 1];
            let score = score(logits, id, self.job.prompt_logprobs.unwrap_or(0));
            self.prompt_scores.push(Scored { id, score: Some(score) });
        }
    }

    /// Takes the hidden state of one more token.
    pub(super) fn pool(&mut self, hidden: &[f32]) {
        self.pooled.resize(hidden.len(), 0.0);
        for (sum, x) in self.pooled.iter_mut().zip(hidden) {
            *sum += f64::from(*x);
        }
    }

    /// The vector that was asked for.
    pub(super) fn embedding(&self) -> Vec<f32> {
        let count = if self.job.want == Want::Embed(Pooling::Mean) { self.job.prompt.len() } else { 1 };
        self.pooled.iter().map(|sum| (sum / count as f64) as f32).collect()
    }

    /// What has to be done again is forgotten.
    pub(super) fn begin_anew(&mut self) {
        self.planned = 0;
        self.pooled.clear();
    }

    /// Makes room in a context that is full: the newer half of what need not be kept stays.
    pub(super) fn shift(&mut self, shift: ContextShift) {
        let rest = self.len().saturating_sub(shift.keep);
        self.dropped += rest.div_ceil(2).min(self.len().saturating_sub(1));
    }

    /// Chooses the next token by the logits of the last one, those of the tokenizer's tokens. Says why, when that
    /// ends the answer.
    pub(super) fn advance(
        &mut self,
        logits: &[f32],
        tools: &mut Tools,
        now: Instant,
        events: &mut Vec<Event>,
    ) -> Option<FinishReason> {
        if self.prompt_done.is_none() {
            self.prompt_done = Some(now);
            if self.scores_prompt() {
                if self.prompt_scores.is_empty() {
                    self.prompt_scores.push(Scored { id: self.history[0], score: None });
                }
                let scores = self.prompt_scores.clone();
                self.event(EventKind::Prompt(scores), events);
            }
        }
        if self.job.max_tokens == Some(0) {
            return Some(FinishReason::Length { context_full: false });
        }
        let id = match self.choose(logits, tools) {
            Ok(id) => id,
            Err(reason) => return Some(reason),
        };
        let ends = tools.tokenizer.is_end_of_generation(id);
        if ends && (!self.job.ignore_eos || self.constraint.is_some()) {
            return Some(FinishReason::Stop(StopCause::EndOfGeneration(id)));
        }
        if self.job.stop_tokens.binary_search(&id).is_ok() {
            return Some(FinishReason::Stop(StopCause::Token(id)));
        }
        let score = self.job.logprobs.map(|top| score(logits, id, top));
        self.history.push(id);
        self.generated += 1;
        self.first_token.get_or_insert(now);
        let (text, stopped) = if self.generated <= self.job.min_tokens {
            (self.text.push_unstopped(id), None)
        } else {
            self.text.push(id)
        };
        self.event(EventKind::Token { id, text, score }, events);
        if let Some(which) = stopped {
            return Some(FinishReason::Stop(StopCause::String(which)));
        }
        if let Some(constraint) = &mut self.constraint {
            match constraint::accept(&mut **constraint, id) {
                Err(broken) => return Some(broken.into()),
                Ok(true) => return Some(FinishReason::ConstraintEnd),
                Ok(false) => {}
            }
        }
        let enough = self.job.max_tokens.is_some_and(|most| self.generated >= most);
        enough.then_some(FinishReason::Length { context_full: false })
    }

    fn choose(&mut self, logits: &[f32], tools: &mut Tools) -> Result<u32, FinishReason> {
        let failed = |error: rz_model::ModelError| FinishReason::Error(error.to_string());
        let Tools { candidates, mask, .. } = tools;
        candidates.load(logits).map_err(failed)?;
        let job = &*self.job;
        if !job.biased.is_empty() {
            let mut bias = job.logit_bias.iter();
            let mut next = bias.next();
            candidates.map_ids(&job.biased, |candidate| {
                while next.is_some_and(|(token, _)| *token < candidate.id) {
                    next = bias.next();
                }
                candidate.logit + next.map_or(0.0, |(_, bias)| *bias)
            });
        }
        if self.generated < job.min_tokens {
            candidates.map_ids(&job.ends, |_| f32::NEG_INFINITY);
        }
        if let Some(constraint) = &mut self.constraint {
            if !constraint::narrow(&mut **constraint, mask, candidates)? {
                return Err(FinishReason::ConstraintEnd);
            }
            if candidates.is_empty() {
                // What was excluded above is all that can follow, and comes all the same.
                candidates.load(logits).map_err(failed)?;
                constraint::narrow_to(mask, candidates);
            }
        }
        let seed = job.seed.wrapping_add(self.choice as u64);
        let mut context = StepContext::new(seed, &self.history, job.prompt.len());
        self.chain.choose(candidates, &mut context).map_err(failed)
    }

    /// Lets out the text that waited, and ends.
    pub(super) fn finish(&mut self, mut reason: FinishReason, now: Option<Instant>, events: &mut Vec<Event>) {
        if !matches!(reason, FinishReason::Stop(StopCause::String(_))) {
            let (text, stopped) = self.text.finish();
            if let Some(which) = stopped {
                reason = FinishReason::Stop(StopCause::String(which));
            }
            if !text.is_empty() {
                self.event(EventKind::Text(text), events);
            }
        }
        let usage = Usage {
            prompt_tokens: self.job.prompt.len(),
            cached_tokens: self.cached,
            completion_tokens: self.generated,
        };
        let since = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from),
            _ => Duration::ZERO,
        };
        let end = now;
        let timings = Timings {
            queued: since(self.arrived, self.started.or(end)),
            prefill: since(self.started, self.prompt_done.or(end)),
            decode: since(self.prompt_done, end),
            first_token: since(self.arrived, self.first_token),
        };
        self.event(EventKind::Finished { reason, usage, timings }, events);
    }

    pub(super) fn event(&self, kind: EventKind, events: &mut Vec<Event>) {
        events.push(Event { request: self.job.id, choice: self.choice, kind });
    }
}

impl From<Broken> for FinishReason {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Said(message) => Self::ConstraintFailed(message),
            bug @ Broken::Bug => Self::Error(bug.message()),
        }
    }
}

/// How likely a token is, and which `top` tokens are the likeliest.
fn score(logits: &[f32], id: u32, top: usize) -> TokenScore {
    let logprob = |id: u32| -loss(logits, id) as f32;
    let mut best: Vec<u32> = Vec::with_capacity(top + 1);
    if top > 0 {
        for (id, logit) in logits.iter().enumerate() {
            if best.len() == top && best.last().is_some_and(|last| *logit <= logits[*last as usize]) {
                continue;
            }
            // Of equal ones the first comes first.
            let at = best.partition_point(|other| logits[*other as usize] >= *logit);
            best.insert(at, id as u32);
            best.truncate(top);
        }
    }
    let shift = best.first().map_or(0.0, |id| f64::from(logits[*id as usize]));
    let first = best.first().map_or(0.0, |id| loss(logits, *id));
    let top = best.iter().map(|id| (*id, (f64::from(logits[*id as usize]) - shift - first) as f32)).collect();
    TokenScore { logprob: logprob(id), top }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_tokens_come_in_order_with_their_logarithms() {
        let logits: Vec<f32> = (0..200).map(|i| ((i * 37 % 101) as f32) / 7.0).collect();
        let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        let logprob = |id: usize| (f64::from(logits[id]).exp() / total).ln();
        let mut order: Vec<usize> = (0..200).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        for top in [0, 1, 5, 20, 300] {
            let found = score(&logits, 17, top);
            assert!((f64::from(found.logprob) - logprob(17)).abs() < 1e-5);
            assert_eq!(found.top.len(), top.min(200));
            for ((id, found), expected) in found.top.iter().zip(&order) {
                assert_eq!(*id as usize, *expected);
                assert!((f64::from(*found) - logprob(*expected)).abs() < 1e-5);
            }
        }
    }
}
