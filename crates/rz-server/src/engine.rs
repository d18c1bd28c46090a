//! Models that run on `rz-engine`.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rz_constrain::{Compiler, ConstrainError};
use rz_engine::EngineError;
use rz_engine::serve::{
    self, EngineHandle, EngineThread, EventKind, FinishReason, Pooling, Request, StopCause, Want,
};
use rz_tokenizer::{ChatTemplate, Tokenizer};

use crate::backend::{
    Backend, Event, Events, Finish, Generate, Job, ModelInfo, Refusal, SlotProblem, Stats, Task, TokenScore,
    Usage,
};

/// A model on an engine with a thread of its own.
pub struct EngineBackend {
    info: ModelInfo,
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    compiler: Compiler,
    handle: EngineHandle,
    /// The last step that was seen, and when it was new.
    seen: Mutex<(u64, Instant)>,
    // Ends the engine's thread when it is dropped.
    _thread: EngineThread,
}

impl EngineBackend {
    /// A model on an engine. The tokenizer and the template are the model's.
    pub fn new(
        thread: EngineThread,
        info: ModelInfo,
        tokenizer: Arc<Tokenizer>,
        template: Option<ChatTemplate>,
    ) -> Self {
        let seen = Mutex::new((0, Instant::now()));
        let compiler = Compiler::new(tokenizer.clone());
        Self { info, tokenizer, template, compiler, handle: thread.handle(), seen, _thread: thread }
    }

    fn request(&self, job: Job) -> Result<(Request, Vec<String>), Refusal> {
        let mut request = Request::new(job.prompt);
        request.priority = job.priority;
        request.deadline = job.time_limit.map(|limit| Instant::now() + limit);
        let Task::Generate(generate) = job.task else {
            request.want = Want::Embed(Pooling::Mean);
            return Ok((request, Vec::new()));
        };
        let generate: Generate = *generate;
        if let Some(spec) = &generate.constraint {
            let constraint = match generate.constraint_after {
                None => self.compiler.compile(spec),
                Some(marker) => self.compiler.compile_after(marker, spec),
            };
            request.constraint = Some(constraint.map_err(not_constrained)?);
        }
        request.n = generate.choices;
        request.sampling = generate.settings;
        request.logit_bias = generate.logit_bias;
        request.seed = generate.seed;
        request.max_tokens = generate.max_tokens;
        request.min_tokens = generate.min_tokens;
        request.stop = generate.stop.clone();
        request.ignore_eos = generate.ignore_eos;
        request.decode.special = generate.special;
        request.logprobs = generate.logprobs;
        request.prompt_logprobs = generate.prompt_logprobs;
        request.cache_prompt = generate.cache_prompt;
        Ok((request, generate.stop))
    }
}

impl Backend for EngineBackend {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    fn submit(&self, job: Job) -> Result<Events, Refusal> {
        let (request, stop) = self.request(job)?;
        let (sink, events) = Events::channel();
        let deliver = move |event: serve::Event| {
            let heard = translate(event.kind, &stop).is_none_or(|told| sink.send(event.choice, told));
            if heard { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let ticket = self.handle.submit_with(request, Box::new(deliver)).map_err(refusal)?;
        Ok(events.with_guard(ticket))
    }

    fn stats(&self) -> Stats {
        let stats = self.handle.stats();
        let progress = self.handle.progress();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 != progress.steps || !(progress.busy || progress.stopped) {
            *seen = (progress.steps, Instant::now());
        }
        // Of several groups of layers, the one that is fullest says how full the cache is.
        let fullest = stats.groups.iter();
        let fullest = fullest.max_by_key(|group| group.used.saturating_mul(1 << 20) / group.blocks.max(1));
        Stats {
            running: stats.running,
            waiting: stats.waiting,
            kv_blocks_used: fullest.map_or(0, |group| group.used),
            kv_blocks: fullest.map_or(0, |group| group.blocks),
            block_tokens: rz_model::KV_BLOCK,
            prefix_queries: stats.prefix_queries,
            prefix_hits: stats.prefix_hits,
            preemptions: stats.preemptions,
            stalled: if progress.stopped { Duration::MAX } else { seen.1.elapsed() },
        }
    }

    // Only what concerns the blocks is done between two steps; others do not wait for files.
    fn save_slot(&self, text: &[u32], path: &Path) -> Result<usize, SlotProblem> {
        let text = text.to_vec();
        let captured = self.handle.call(move |engine| (engine.slot_kind(), engine.capture(&text)));
        let (kind, slot) = captured.ok_or(SlotProblem::Closed)?;
        let slot = slot.ok_or_else(|| {
            let message = "nothing that could be saved is kept of its text: use it first";
            SlotProblem::Unusable(message.to_owned())
        })?;
        kind.write(&slot, path).map_err(slot_problem)?;
        Ok(slot.tokens().len())
    }

    fn restore_slot(&self, path: &Path) -> Result<Vec<u32>, SlotProblem> {
        let kind = self.handle.call(|engine| engine.slot_kind()).ok_or(SlotProblem::Closed)?;
        let slot = kind.read(path).map_err(slot_problem)?;
        let tokens = slot.tokens().to_vec();
        self.handle
            .call(move |engine| engine.install(&slot))
            .ok_or(SlotProblem::Closed)?
            .map_err(slot_problem)?;
        Ok(tokens)
    }
}

/// What a client may know of it: not where files lie.
fn slot_problem(error: EngineError) -> SlotProblem {
    match error {
        EngineError::Slot { problem, .. } => SlotProblem::Unusable(format!("it {problem}")),
        EngineError::NoRoom => SlotProblem::NoRoom,
        EngineError::SlotFile { cause, .. } if cause.kind() == io::ErrorKind::NotFound => {
            SlotProblem::Missing
        }
        EngineError::SlotFile { cause, .. } => SlotProblem::Failed(cause.to_string()),
        other => SlotProblem::Failed(other.to_string()),
    }
}

/// An event as the HTTP layer knows it; nothing for those that it does not tell clients of.
fn translate(kind: EventKind, stop: &[String]) -> Option<Event> {
    let score = |id, score: Option<serve::TokenScore>| match score {
        Some(score) => TokenScore { id, logprob: Some(score.logprob), top: score.top },
        None => TokenScore { id, ..TokenScore::default() },
    };
    Some(match kind {
        EventKind::Prompt(tokens) => {
            Event::Prompt(tokens.into_iter().map(|token| score(token.id, token.score)).collect())
        }
        EventKind::Token { id, text, score: scored } => Event::Token { token: score(id, scored), text },
        EventKind::Text(text) => Event::Text(text),
        EventKind::Embedding(vector) => Event::Embedding(vector),
        EventKind::Finished { reason, usage, timings } => {
            let finish = match reason {
                FinishReason::Stop(StopCause::String(which)) => {
                    Finish::StopString(stop.get(which).cloned().unwrap_or_default())
                }
                FinishReason::Length { .. } => Finish::Length,
                FinishReason::Cancelled => Finish::Cancelled,
                FinishReason::Deadline => Finish::TimeLimit,
                FinishReason::Error(message) => return Some(Event::Failed(message)),
                FinishReason::ConstraintFailed(message) => return Some(Event::Refused(message)),
                // The model ended it, its constraint did, or all was done.
                _ => Finish::Stop,
            };
            let usage = Usage {
                prompt_tokens: usage.prompt_tokens,
                cached_tokens: usage.cached_tokens,
                completion_tokens: usage.completion_tokens,
                queued: timings.queued,
                prefill: timings.prefill,
                decode: timings.decode,
            };
            Event::Finished { finish, usage }
        }
        _ => return None,
    })
}

fn not_constrained(error: ConstrainError) -> Refusal {
    match error {
        ConstrainError::Busy => Refusal::Busy { retry_after: 1 },
        ConstrainError::Thread(_) => Refusal::Busy { retry_after: 5 },
        other => Refusal::Invalid(other.to_string()),
    }
}

fn refusal(refusal: serve::Refusal) -> Refusal {
    use serve::Refusal as Engine;
    match refusal {
        Engine::QueueFull { .. } => Refusal::Busy { retry_after: 2 },
        Engine::PromptTooLong { tokens, context } => Refusal::TooLong { tokens, context },
        Engine::Draining | Engine::Stopped => Refusal::Closed,
        other => Refusal::Invalid(other.to_string()),
    }
}
