//! The engine: who waits, who is worked on, and which tokens the next pass computes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rz_model::Forward;
use rz_tokenizer::Tokenizer;

use super::pass::Pass;
use super::schedule::{Pace, Planned, Prompt, Rank, Sharing};
use super::sequence::{self, Sequence, Tools};
use super::{
    EngineOptions, EngineStats, Event, EventKind, FinishReason, GroupStats, Limits, Refusal, Request,
    RequestId,
};
use crate::cache::{Copy, KvCache, Table};

/// Logits that one pass may compute for prompts, in bytes.
const MAX_LOGITS: usize = 64 << 20;

/// Where several requests were there at a time, more are expected for so long.
const CROWD: Duration = Duration::from_secs(30);

/// Runs many requests over one model, a step at a time.
///
/// Every step computes one token of each answer that is being generated, and a chunk of the prompts that are not
/// computed yet. It knows no clock and no threads: the same calls with the same times give the same events.
pub struct Engine {
    pub(super) model: Box<dyn Forward + Send>,
    pub(super) limits: Limits,
    /// Names the model in files.
    pub(super) identity: String,
    pub(super) max_running: usize,
    pub(super) cache: KvCache,
    /// Answers without blocks, in order.
    pub(super) waiting: BTreeMap<Rank, Box<Sequence>>,
    /// Answers with blocks, in order.
    #[allow(clippy::vec_box)] // they are large, and move from list to list
    pub(super) running: Vec<Box<Sequence>>,
    /// Requests that have answers left.
    pub(super) live: BTreeMap<RequestId, Live>,
    /// Events of what happened between steps.
    ready: Vec<Event>,
    next_id: u64,
    pace: Pace,
    sharing: Sharing,
    /// When several requests were there last.
    crowded: Option<Instant>,
    /// When the last step began, and what it computed, if another follows it.
    last: Option<(Instant, Planned)>,
    /// The time of the last step.
    pub(super) now: Option<Instant>,
    pub(super) pass: Pass,
    pub(super) tools: Tools,
    pub(super) places: Vec<usize>,
    shares: Vec<usize>,
    pub(super) stats: EngineStats,
}

/// A request that has answers left.
pub(super) struct Live {
    answers: usize,
    started: bool,
    /// Whether its prompt was computed, so that other answers to it need not compute it again.
    pub(super) prompt_done: bool,
}

impl Engine {
    /// An engine over a model whose storage of keys and values it has to itself.
    pub fn new(
        model: impl Forward + Send + 'static,
        tokenizer: Arc<Tokenizer>,
        options: EngineOptions,
    ) -> Engine {
        let model: Box<dyn Forward + Send> = Box::new(model);
        let max_batch = model.max_batch().max(1);
        let longest = model.kv_groups().iter().map(|group| group.longest_sequence(max_batch)).min();
        let longest = longest.unwrap_or(usize::MAX).min(u32::MAX as usize);
        let limits = Limits {
            context: options.context.map_or(longest, |context| context.min(longest)),
            max_queue: options.max_queue,
            max_choices: options.max_choices.max(1),
            max_logprobs: options.max_logprobs,
            vocabulary: tokenizer.len().min(model.vocabulary()),
            tokenizer: tokenizer.clone(),
        };
        let most = options.max_chunk.unwrap_or(max_batch).min(max_batch);
        Engine {
            cache: KvCache::new(model.kv_groups()),
            tools: Tools::new(tokenizer, limits.vocabulary),
            limits,
            identity: options.identity,
            max_running: options.max_running.clamp(1, max_batch),
            waiting: BTreeMap::new(),
            running: Vec::new(),
            live: BTreeMap::new(),
            ready: Vec::new(),
            next_id: 0,
            pace: Pace::new(options.target_step, options.min_chunk, most),
            sharing: Sharing::default(),
            crowded: None,
            last: None,
            now: None,
            pass: Pass::default(),
            places: Vec::new(),
            shares: Vec::new(),
            stats: EngineStats::default(),
            model,
        }
    }

    /// What requests are taken. It never changes.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Takes a request.
    ///
    /// # Errors
    /// When it asks for what cannot be, or too many wait.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, Refusal> {
        let id = RequestId(self.next_id);
        self.submit_as(id, request)?;
        Ok(id)
    }

    /// Takes a request under an id that is greater than all before.
    pub(super) fn submit_as(&mut self, id: RequestId, request: Request) -> Result<(), Refusal> {
        self.limits.check(&request)?;
        if self.stats.queued >= self.limits.max_queue {
            return Err(Refusal::QueueFull { waiting: self.stats.queued });
        }
        let sequences = sequence::sequences(id, request, &self.limits.tokenizer)?;
        self.live.insert(id, Live { answers: sequences.len(), started: false, prompt_done: false });
        for sequence in sequences {
            self.waiting.insert(sequence.rank(), Box::new(sequence));
        }
        self.next_id = self.next_id.max(id.0 + 1);
        self.stats.queued += 1;
        self.stats.requests += 1;
        Ok(())
    }

    /// Ends a request; the next step reports it. Nothing happens where it has ended already.
    pub fn cancel(&mut self, id: RequestId) {
        let mut events = std::mem::take(&mut self.ready);
        if self.live.contains_key(&id) {
            self.end_where(|sequence| sequence.job.id == id, FinishReason::Cancelled, &mut events);
        }
        self.ready = events;
    }

    /// Whether there is nothing to do until another request comes.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty() && self.ready.is_empty()
    }

    /// Does the next piece of work at this time.
    pub fn step(&mut self, now: Instant) -> Vec<Event> {
        self.step_with(|| now)
    }

    /// Does the next piece of work with a clock, which is asked before and after.
    pub fn step_with(&mut self, mut clock: impl FnMut() -> Instant) -> Vec<Event> {
        let now = clock();
        self.now = Some(now);
        if let Some((before, planned)) = self.last.take() {
            self.pace.took(planned, now.saturating_duration_since(before));
        }
        let mut events = std::mem::take(&mut self.ready);
        self.see_arrivals(now);
        self.end_where(
            |sequence| sequence.job.deadline.is_some_and(|deadline| deadline <= now),
            FinishReason::Deadline,
            &mut events,
        );
        self.admit(now, &mut events);
        self.watch_crowd(now);
        let planned = self.plan(&mut events);
        self.compute(&mut clock, &mut events);
        let tokens = events.iter().filter(|event| matches!(event.kind, EventKind::Token { .. }));
        self.stats.generated_tokens += tokens.count() as u64;
        if !self.is_idle() {
            self.last = Some((now, planned));
        }
        events
    }

    /// What it is doing, in numbers.
    pub fn stats(&self) -> EngineStats {
        let groups = self.cache.groups().iter().enumerate().map(|(index, group)| {
            let pool = self.cache.pool(index);
            GroupStats {
                window: group.window,
                blocks: pool.total(),
                used: pool.total() - pool.available(),
                kept: pool.kept(),
            }
        });
        EngineStats {
            waiting: self.waiting.len(),
            running: self.running.len(),
            groups: groups.collect(),
            evictions: self.cache.evictions(),
            chunk: self.pace.chunk(),
            ..self.stats.clone()
        }
    }

    /// Requests that do not say when they came came now.
    fn see_arrivals(&mut self, now: Instant) {
        for sequence in self.waiting.values_mut() {
            sequence.arrived.get_or_insert(now);
        }
    }

    /// Steps may take longer where one request has the engine to itself, and had for a while.
    fn watch_crowd(&mut self, now: Instant) {
        if self.live.len() > 1 {
            self.crowded = Some(now);
        }
        let calm = self.crowded.is_none_or(|last| now.saturating_duration_since(last) >= CROWD);
        self.pace.set_calm(calm);
    }

    /// Ends all answers of which this is true.
    fn end_where(
        &mut self,
        mut ends: impl FnMut(&Sequence) -> bool,
        reason: FinishReason,
        events: &mut Vec<Event>,
    ) {
        let waiting: Vec<Rank> = self.waiting.values().filter(|s| ends(s)).map(|s| s.rank()).collect();
        let running: Vec<usize> = (0..self.running.len()).filter(|at| ends(&self.running[*at])).collect();
        for rank in waiting {
            if let Some(sequence) = self.waiting.remove(&rank) {
                self.end(sequence, reason.clone(), events);
            }
        }
        for at in running.into_iter().rev() {
            let sequence = self.running.remove(at);
            self.end(sequence, reason.clone(), events);
        }
    }

    pub(super) fn end(&mut self, mut sequence: Box<Sequence>, reason: FinishReason, events: &mut Vec<Event>) {
        if let Some(table) = sequence.table.take() {
            self.cache.release(table);
        }
        match reason {
            FinishReason::Error(_) | FinishReason::ConstraintFailed(_) => self.stats.errors += 1,
            FinishReason::Cancelled => self.stats.cancelled += 1,
            FinishReason::Deadline => self.stats.timed_out += 1,
            _ => {}
        }
        self.stats.finished += 1;
        sequence.finish(reason, self.now, events);
        let id = sequence.job.id;
        let Some(live) = self.live.get_mut(&id) else { return };
        if sequence.choice == 0 {
            // Others no longer wait for it.
            live.prompt_done = true;
        }
        live.answers -= 1;
        if live.answers == 0 {
            if !live.started {
                self.stats.queued -= 1;
            }
            self.live.remove(&id);
        }
    }

    /// Begins work on those who wait, in order, as far as there is room.
    fn admit(&mut self, now: Instant, events: &mut Vec<Event>) {
        while let Some(rank) = self.next_waiting() {
            if self.running.len() >= self.max_running {
                if self.preempt_for(rank) {
                    continue;
                }
                return;
            }
            let Some(mut sequence) = self.waiting.remove(&rank) else { return };
            sequence.prepare();
            let mut table = self.attach(&sequence);
            let alone = self.running.is_empty();
            // Those who are worked on have been promised room for what they are now.
            let others = self.running.iter().filter_map(|s| Some((s.table.as_ref()?, s.len())));
            if !alone && !self.cache.has_room(&table, sequence.len(), others) {
                self.cache.release(table);
                self.waiting.insert(rank, sequence);
                if self.preempt_for(rank) {
                    continue;
                }
                return;
            }
            if sequence.job.cache_prompt {
                self.attach_part(&sequence, &mut table);
                self.stats.prefix_queries += sequence.len() as u64;
                self.stats.prefix_hits += table.len() as u64;
            }
            self.count_start(&sequence);
            sequence.begin(table, now, events);
            self.insert_running(sequence);
        }
    }

    /// The first who waits, unless for the prompt that another answer computes.
    fn next_waiting(&self) -> Option<Rank> {
        let ready = |sequence: &Sequence| {
            sequence.choice == 0 || self.live.get(&sequence.job.id).is_none_or(|live| live.prompt_done)
        };
        self.waiting.iter().find(|(_, sequence)| ready(sequence)).map(|(rank, _)| *rank)
    }

    fn attach(&mut self, sequence: &Sequence) -> Table {
        if sequence.job.cache_prompt {
            self.cache.attach(|index| sequence.token(index), sequence.reusable())
        } else {
            self.cache.table()
        }
    }

    /// Takes what is kept of the prompt's next tokens, less than a block of them.
    fn attach_part(&mut self, sequence: &Sequence, table: &mut Table) {
        let copies = self.cache.attach_part(table, |index| sequence.token(index), sequence.reusable());
        for Copy { group, from, to } in copies {
            self.model.copy_block(group, from, to);
        }
    }

    fn count_start(&mut self, sequence: &Sequence) {
        if let Some(live) = self.live.get_mut(&sequence.job.id)
            && !live.started
        {
            live.started = true;
            self.stats.queued -= 1;
        }
    }

    pub(super) fn insert_running(&mut self, sequence: Box<Sequence>) {
        let at = self.running.partition_point(|other| other.rank() < sequence.rank());
        self.running.insert(at, sequence);
    }

    /// Takes the room of the last in order, if this one may.
    fn preempt_for(&mut self, rank: Rank) -> bool {
        let gives_way = self.running.last().is_some_and(|last| rank.displaces(&last.rank()));
        if gives_way {
            self.preempt();
        }
        gives_way
    }

    /// Takes the room of the last in order. It waits, to be computed anew.
    fn preempt(&mut self) {
        if let Some(sequence) = self.running.pop() {
            self.stats.preemptions += 1;
            self.set_back(sequence);
        }
    }

    pub(super) fn set_back(&mut self, mut sequence: Box<Sequence>) {
        if let Some(table) = sequence.table.take() {
            self.cache.release(table);
        }
        sequence.begin_anew();
        self.waiting.insert(sequence.rank(), sequence);
    }

    /// Decides how many tokens of each sequence are computed, and takes the blocks for them.
    fn plan(&mut self, events: &mut Vec<Event>) -> Planned {
        let mut planned = Planned::default();
        // Answers that are being generated: one token each, in order.
        let mut at = 0;
        while at < self.running.len() {
            self.running[at].planned = 0;
            if self.running[at].left() == 1 {
                planned.add(self.make_room(at, 1), self.running[at].computed());
            }
            at += 1;
        }
        // Prompts, with what is left of the batch.
        let unplanned = self.running.iter().filter(|sequence| sequence.planned == 0);
        let prompts = unplanned.map(|sequence| Prompt {
            priority: sequence.job.priority,
            left: sequence.left(),
            cost: self.pace.cost(sequence.computed()),
        });
        let prompts: Vec<Prompt> = prompts.collect();
        let [least, most] = self.pace.limits();
        let most = most.min(self.model.max_batch().saturating_sub(planned.tokens));
        self.sharing.share(&prompts, self.pace.budget(), [least, most], &mut self.shares);
        let mut rows = (MAX_LOGITS / size_of::<f32>() / self.model.vocabulary().max(1)).max(1);
        let (mut at, mut prompt) = (0, 0);
        while at < self.running.len() {
            if self.running[at].planned == 0 {
                let mut tokens = self.shares[prompt];
                if self.running[at].scores_prompt() {
                    tokens = tokens.min(rows);
                    rows -= tokens;
                }
                let tokens = self.make_room(at, tokens);
                planned.add(tokens, self.running[at].computed());
                planned.prompts += tokens;
                prompt += 1;
            }
            at += 1;
        }
        if self.running.len() == 1 && self.running[0].planned == 0 {
            // All blocks are its own, and it needs more.
            let sequence = self.running.remove(0);
            self.end(sequence, FinishReason::Length { context_full: true }, events);
        }
        planned
    }

    /// Takes the blocks for up to so many further tokens of a sequence, at the expense of those that come after it,
    /// if need be: the first always gets on. Returns for how many it did.
    fn make_room(&mut self, at: usize, tokens: usize) -> usize {
        loop {
            let is_last = at + 1 == self.running.len();
            let sequence = &mut *self.running[at];
            let Some(table) = &mut sequence.table else { return 0 };
            let fit = self.cache.room(table).saturating_sub(table.len()).min(tokens);
            if fit > 0 || tokens == 0 || is_last {
                let end = table.len() + fit;
                sequence.planned = if self.cache.grow(table, end) { fit } else { 0 };
                return sequence.planned;
            }
            self.preempt();
        }
    }
}
