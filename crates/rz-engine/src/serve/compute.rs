//! The second half of a step: the pass, and what it brings about.

use std::cmp::Reverse;
use std::ops::Bound;
use std::time::Instant;

use rz_model::{ModelError, Want as Row};

use super::pass::Rows;
use super::sequence::Sequence;
use super::{ContextShift, Engine, Event, EventKind, FinishReason, Want};
use crate::cache::Copy;

/// What a pass brought about.
#[derive(Default)]
struct Outcome {
    /// Sequences that do not simply go on, by place.
    places: Vec<(usize, Next)>,
    /// Further answers.
    forks: Vec<(Box<Sequence>, Next)>,
}

/// What becomes of a sequence.
enum Next {
    GoesOn,
    Ends(FinishReason),
    /// Its context is full, and it goes on with a part of it.
    Shifts(ContextShift),
}

impl Engine {
    /// Computes what is planned.
    pub(super) fn compute(&mut self, clock: &mut impl FnMut() -> Instant, events: &mut Vec<Event>) {
        let mut places = std::mem::take(&mut self.places);
        places.clear();
        places.extend((0..self.running.len()).filter(|at| self.running[*at].planned > 0));
        if !places.is_empty() {
            self.stats.steps += 1;
            let mut outcome = Outcome::default();
            let first = self.pass.run(&mut *self.model, &self.running, &places);
            self.now = Some(clock());
            match first {
                Ok(()) => self.harvest(&places, &mut outcome, events),
                // What fails together may succeed alone: only those end that fail by themselves.
                Err(_) if places.len() > 1 => {
                    for place in places.chunks(1) {
                        match self.pass.run(&mut *self.model, &self.running, place) {
                            Ok(()) => self.harvest(place, &mut outcome, events),
                            Err(error) => {
                                outcome.places.push((place[0], failed(&error)));
                            }
                        }
                    }
                }
                Err(error) => outcome.places.push((places[0], failed(&error))),
            }
            self.settle(outcome, events);
        }
        self.places = places;
    }

    /// Takes what a pass gave for the sequences at these places.
    fn harvest(&mut self, places: &[usize], outcome: &mut Outcome, events: &mut Vec<Event>) {
        let Some(now) = self.now else { return };
        let vocabulary = self.limits.vocabulary;
        let mut rows = Rows::default();
        for &place in places {
            let sequence = &mut *self.running[place];
            let (start, prompt_len) = (sequence.computed(), sequence.prompt_len());
            let end = start + std::mem::take(&mut sequence.planned);
            self.stats.prompt_tokens += (end.min(prompt_len) - start.min(prompt_len)) as u64;
            let mut logits: &[f32] = &[];
            for at in start..end {
                match sequence.wanted(at) {
                    Row::Nothing => {}
                    Row::Hidden => sequence.pool(self.pass.hidden(&mut rows)),
                    Row::Logits => {
                        logits = self.pass.logits(&mut rows, vocabulary);
                        if at + 1 < sequence.len() {
                            sequence.score_prompt(at, logits);
                        }
                    }
                }
            }
            if let Some(mut table) = sequence.table.take() {
                self.cache.advance(&mut table, |index| sequence.token(index), end);
                sequence.table = Some(table);
            }
            if end < sequence.len() {
                continue;
            }
            if let Want::Embed(_) = sequence.job.want {
                sequence.event(EventKind::Embedding(sequence.embedding()), events);
                outcome.places.push((place, Next::Ends(FinishReason::Complete)));
                continue;
            }
            let reason = sequence.advance(logits, &mut self.tools, now, events);
            let next = next(sequence, reason, self.limits.context);
            outcome.places.push((place, next));
            let live = self.live.get_mut(&self.running[place].job.id);
            if live.is_some_and(|live| !std::mem::replace(&mut live.prompt_done, true)) {
                self.fork(place, rows, outcome, events);
            }
        }
    }

    /// The prompt of several answers was computed for the first: the others go on from there, as far as there is
    /// room. Those for which there is none come later, and find most of it.
    fn fork(&mut self, place: usize, rows: Rows, outcome: &mut Outcome, events: &mut Vec<Event>) {
        let Some(now) = self.now else { return };
        let logits = self.pass.last_logits(rows, self.limits.vocabulary);
        let first = self.running[place].rank();
        let mut copies: Vec<Copy> = Vec::new();
        loop {
            let others = self.waiting.range((Bound::Excluded(first), Bound::Unbounded)).next();
            let Some(rank) = others.map(|(rank, _)| *rank).filter(|rank| rank.request == first.request)
            else {
                return;
            };
            if self.running.len() + outcome.forks.len() >= self.max_running {
                return;
            }
            let Some(table) = &self.running[place].table else { return };
            let Some(table) = self.cache.fork(table, &mut copies) else { return };
            for Copy { group, from, to } in copies.drain(..) {
                self.model.copy_block(group, from, to);
            }
            let Some(mut sequence) = self.waiting.remove(&rank) else { return };
            sequence.prepare();
            sequence.begin(table, now, events);
            let reason = sequence.advance(logits, &mut self.tools, now, events);
            let next = next(&sequence, reason, self.limits.context);
            outcome.forks.push((sequence, next));
        }
    }

    /// Puts sequences where they belong after a pass.
    fn settle(&mut self, outcome: Outcome, events: &mut Vec<Event>) {
        let Outcome { mut places, forks } = outcome;
        // From the back, so that places stay what they are.
        places.retain(|(_, next)| !matches!(next, Next::GoesOn));
        places.sort_by_key(|(place, _)| Reverse(*place));
        let leaving: Vec<(Box<Sequence>, Next)> =
            places.into_iter().map(|(place, next)| (self.running.remove(place), next)).collect();
        for (mut sequence, next) in leaving.into_iter().chain(forks) {
            match next {
                Next::GoesOn => self.insert_running(sequence),
                Next::Ends(reason) => self.end(sequence, reason, events),
                Next::Shifts(shift) => {
                    sequence.shift(shift);
                    self.set_back(sequence);
                }
            }
        }
    }
}

/// What becomes of a sequence for which a token was chosen, or that ends for this reason.
fn next(sequence: &Sequence, reason: Option<FinishReason>, context: usize) -> Next {
    match (reason, sequence.job.context_shift) {
        (Some(reason), _) => Next::Ends(reason),
        (None, _) if sequence.len() <= context => Next::GoesOn,
        (None, Some(shift)) => Next::Shifts(shift),
        (None, None) => Next::Ends(FinishReason::Length { context_full: true }),
    }
}

fn failed(error: &ModelError) -> Next {
    Next::Ends(FinishReason::Error(error.to_string()))
}
