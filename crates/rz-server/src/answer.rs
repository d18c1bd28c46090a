//! Answers in progress: one or several sequences of one request, taken apart and counted.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::app::Admission;
use crate::backend::{Backend, Event, Events, Finish, Generate, Job, Refusal, Task, TokenScore, Usage};
use crate::body::off_thread;
use crate::metrics::ModelMetrics;
use crate::output::{CLOSE, Format, Part, Splitter};
use crate::prompt::{Prepared, Prompt, prepare};
use crate::sampling::Sampling;
use crate::slots::{Seat, Slots};
use crate::{ApiError, App};

/// What a request asks for, whatever API it came in by.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Each gets its own answers.
    pub(crate) prompts: Vec<Prompt>,
    /// Answers to each prompt.
    pub(crate) choices: usize,
    pub(crate) sampling: Sampling,
}

/// Answers in progress. They end when this is dropped.
pub(crate) struct Answer {
    /// Those of each prompt; none where nothing more is to come.
    jobs: Vec<Option<Events>>,
    /// The answers to the first prompt, then those to the second, and so on.
    choices: Vec<Choice>,
    choices_per_job: usize,
    ready: VecDeque<(usize, Piece)>,
    /// The job that is asked first, so that each gets its turn.
    next: usize,
    deadline: Option<tokio::time::Instant>,
    started: Instant,
    metrics: Arc<ModelMetrics>,
    admission: Admission,
}

/// A piece of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    /// The tokens of the prompt, where they were asked for.
    Prompt(Vec<TokenScore>),
    /// Text, with the tokens that it came with, where they were asked for.
    Text(String, Vec<TokenScore>),
    /// Thoughts.
    Reasoning(String),
    /// A function is called.
    CallStart { index: usize, id: String, name: String },
    /// More arguments of a call.
    CallArguments { index: usize, text: String },
    /// The end of this answer.
    End(End),
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) finish: Finish,
    /// Whether a function was called.
    pub(crate) called: bool,
    pub(crate) usage: Usage,
    /// Tokens of thoughts.
    pub(crate) reasoning_tokens: usize,
    /// The slot that the request had, of the first answer to each prompt.
    pub(crate) slot: Option<usize>,
}

/// An answer as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Whole {
    pub(crate) prompt: Vec<TokenScore>,
    pub(crate) text: String,
    pub(crate) reasoning: String,
    pub(crate) calls: Vec<Call>,
    pub(crate) tokens: Vec<TokenScore>,
    pub(crate) end: End,
}

/// A call of a function. The arguments are JSON, as far as the model made it so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: String,
}

struct Choice {
    splitter: Splitter,
    /// The slot of its prompt; the first answer has it.
    seat: Option<Seat>,
    /// Tokens that the next text brings with it.
    tokens: Vec<TokenScore>,
    keep_tokens: bool,
    calls: usize,
    reasoning_tokens: usize,
    last_token: Option<Instant>,
    prompt_tokens: usize,
    generated: usize,
    done: bool,
}

/// Begins to answer. `prompts` in tokens are given back, for APIs that show them.
pub(crate) async fn start(
    app: &Arc<App>,
    admission: Admission,
    plan: Plan,
) -> Result<(Answer, Vec<Vec<u32>>), ApiError> {
    let most = app.config.max_choices;
    let asked = plan.prompts.len().saturating_mul(plan.choices);
    if asked == 0 || asked > most {
        let message = format!("{asked} answers are asked for: ask for 1 to {most} at a time");
        return Err(ApiError::invalid("n", message));
    }
    let started = Instant::now();
    let backend = admission.lease.backend().clone();
    let keep_tokens = plan.sampling.logprobs.is_some();
    let choices_per_job = plan.choices;
    let slots = admission.lease.slots().clone();
    let submitted = off_thread(move || submit(&*backend, &slots, &plan)).await?;
    let (mut jobs, mut choices, mut prompts) = (Vec::new(), Vec::new(), Vec::new());
    for (events, seat, format, prompt) in submitted {
        jobs.push(Some(events));
        let mut seat = Some(seat);
        choices.extend((0..choices_per_job).map(|_| Choice {
            splitter: Splitter::new(format.clone()),
            seat: seat.take(),
            tokens: Vec::new(),
            keep_tokens,
            calls: 0,
            reasoning_tokens: 0,
            last_token: None,
            prompt_tokens: prompt.len(),
            generated: 0,
            done: false,
        }));
        prompts.push(prompt);
    }
    let answer = Answer {
        jobs,
        choices,
        choices_per_job,
        ready: VecDeque::new(),
        next: 0,
        deadline: app.config.request_time.map(|time| (started + time).into()),
        started,
        metrics: app.metrics.model(admission.lease.name()),
        admission,
    };
    Ok((answer, prompts))
}

/// A job that was taken, its slot, how its answers are to be read, and its prompt.
type Submitted = (Events, Seat, Format, Vec<u32>);

fn submit(backend: &dyn Backend, slots: &Arc<Slots>, plan: &Plan) -> Result<Vec<Submitted>, ApiError> {
    let sampling = &plan.sampling;
    let tokenizer = backend.tokenizer();
    if let Some((id, _)) = sampling.logit_bias.iter().find(|(id, _)| *id as usize >= tokenizer.len()) {
        let message = format!("'logit_bias' names the token {id}, and the model has {}", tokenizer.len());
        return Err(ApiError::invalid("logit_bias", message));
    }
    // All prompts are looked at before any work begins.
    let constrained = sampling.constraint.is_some();
    let prepared = plan.prompts.iter().map(|prompt| prepare(backend, prompt, constrained));
    let prepared: Vec<Prepared> = prepared.collect::<Result<_, _>>()?;
    let mut submitted = Vec::new();
    for prompt in prepared {
        if prompt.constraint.is_some() && constrained {
            return Err(ApiError::invalid(
                "tool_choice",
                "'tool_choice' asks for a call and another parameter for something else: give one of them",
            ));
        }
        let mut markers = prompt.format.tools.iter().flat_map(|format| format.markers());
        let special = |marker: &str| tokenizer.id(marker).is_some_and(|id| tokenizer.is_special(id));
        let special = markers.any(special) || (prompt.format.reasoning && special("</think>"));
        let generate = Generate {
            choices: plan.choices,
            settings: sampling.settings.clone(),
            logit_bias: sampling.logit_bias.clone(),
            seed: sampling.seed,
            max_tokens: sampling.max_tokens,
            min_tokens: sampling.min_tokens,
            stop: sampling.stop.clone(),
            ignore_eos: sampling.ignore_eos,
            special,
            logprobs: sampling.logprobs,
            prompt_logprobs: sampling.prompt_logprobs,
            cache_prompt: sampling.cache_prompt,
            constraint: prompt.constraint.or_else(|| sampling.constraint.clone()),
            constraint_after: prompt.format.thinking.then_some(CLOSE),
        };
        let job = Job {
            prompt: prompt.tokens.clone(),
            task: Task::Generate(Box::new(generate)),
            priority: sampling.priority,
            time_limit: None,
        };
        let seat = slots.take(sampling.slot, &prompt.tokens)?;
        submitted.push((backend.submit(job).map_err(refused)?, seat, prompt.format, prompt.tokens));
    }
    Ok(submitted)
}

/// What a refusal means for a client.
pub(crate) fn refused(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Busy { retry_after } => ApiError::busy("the model's queue is full", retry_after),
        Refusal::TooLong { tokens, context } => ApiError::context_length(tokens, context),
        Refusal::Closed => ApiError::unavailable("the model is being unloaded", 1),
        Refusal::Unsupported { param, message } => ApiError::unsupported(param, message),
        Refusal::Invalid(message) => ApiError::bad_request(message),
    }
}

impl Answer {
    /// The model, whatever alias it was asked for by.
    pub(crate) fn model(&self) -> &str {
        self.admission.lease.name()
    }

    /// The model.
    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        self.admission.lease.backend()
    }

    /// The next piece, with the number of the answer that it belongs to; nothing after the last.
    ///
    /// # Errors
    /// When the model failed. Nothing comes after that.
    pub(crate) async fn next(&mut self) -> Result<Option<(usize, Piece)>, ApiError> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            if self.choices.iter().all(|choice| choice.done) {
                return Ok(None);
            }
            let deadline = self.deadline;
            let event = poll_fn(|context| self.poll_event(context));
            let event = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, event).await,
                None => Ok(event.await),
            };
            match event {
                Ok((index, event)) => self.take(index, event)?,
                Err(_) => self.end_all(),
            }
        }
    }

    /// All answers, when they are complete.
    pub(crate) async fn collect(mut self) -> Result<Vec<Whole>, ApiError> {
        let mut wholes: Vec<Whole> = self.choices.iter().map(|_| Whole::default()).collect();
        while let Some((index, piece)) = self.next().await? {
            wholes[index].add(piece);
        }
        Ok(wholes)
    }

    /// The next event of any job, with the number of its answer.
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<(usize, Option<Event>)> {
        let count = self.jobs.len();
        for step in 0..count {
            let job = (self.next + step) % count;
            let Some(events) = &mut self.jobs[job] else { continue };
            if let Poll::Ready(event) = events.poll_next(context) {
                self.next = (job + 1) % count;
                let first = job * self.choices_per_job;
                return Poll::Ready(match event {
                    Some((choice, event)) => (first + choice.min(self.choices_per_job - 1), Some(event)),
                    None => (first, None),
                });
            }
        }
        Poll::Pending
    }

    fn take(&mut self, index: usize, event: Option<Event>) -> Result<(), ApiError> {
        let now = Instant::now();
        let choice = &mut self.choices[index];
        let mut parts = Vec::new();
        match event {
            Some(Event::Prompt(tokens)) => self.ready.push_back((index, Piece::Prompt(tokens))),
            Some(Event::Token { token, text }) => {
                match choice.last_token {
                    None => self.metrics.first_token(now - self.started),
                    Some(last) => self.metrics.next_token(now - last),
                }
                choice.last_token = Some(now);
                if let Some(seat) = &mut choice.seat {
                    seat.push(token.id);
                }
                choice.generated += 1;
                choice.reasoning_tokens += usize::from(choice.splitter.is_reasoning());
                if choice.keep_tokens {
                    choice.tokens.push(token);
                }
                choice.splitter.push(&text, &mut parts);
                self.add_parts(index, parts);
            }
            Some(Event::Text(text)) => {
                choice.splitter.push(&text, &mut parts);
                self.add_parts(index, parts);
            }
            Some(Event::Finished { finish, usage }) => {
                self.metrics.finished(&finish, &usage, now - self.started);
                self.end(index, finish, usage);
            }
            Some(Event::Failed(message)) => {
                choice.done = true;
                self.metrics.broken(true, now - self.started);
                tracing::error!(model = self.model(), error = %message, "a request failed");
                return Err(ApiError::internal(message));
            }
            Some(Event::Refused(message)) => {
                choice.done = true;
                self.metrics.broken(true, now - self.started);
                return Err(ApiError::bad_request(message));
            }
            Some(Event::Embedding(_)) | None => {
                choice.done = true;
                self.metrics.broken(true, now - self.started);
                return Err(ApiError::internal("the model ended before its answer did"));
            }
        }
        Ok(())
    }

    fn add_parts(&mut self, index: usize, parts: Vec<Part>) {
        let choice = &mut self.choices[index];
        let mut given = false;
        for part in parts {
            let piece = match part {
                Part::Text(text) => {
                    given = true;
                    Piece::Text(text, std::mem::take(&mut choice.tokens))
                }
                Part::Reasoning(text) => {
                    // Probabilities are given for text.
                    choice.tokens.clear();
                    Piece::Reasoning(text)
                }
                Part::CallStart(name) => {
                    choice.calls += 1;
                    Piece::CallStart { index: choice.calls - 1, id: crate::ids::name("call_"), name }
                }
                Part::CallArguments(text) => {
                    Piece::CallArguments { index: choice.calls.saturating_sub(1), text }
                }
            };
            self.ready.push_back((index, piece));
        }
        // Tokens are given even while their text waits, where nothing but text can come.
        if !given && choice.keep_tokens && choice.splitter.is_plain() && !choice.tokens.is_empty() {
            let tokens = std::mem::take(&mut choice.tokens);
            self.ready.push_back((index, Piece::Text(String::new(), tokens)));
        }
    }

    fn end(&mut self, index: usize, finish: Finish, usage: Usage) {
        let mut parts = Vec::new();
        self.choices[index].splitter.finish(&mut parts);
        self.add_parts(index, parts);
        let choice = &mut self.choices[index];
        choice.done = true;
        if !choice.tokens.is_empty() {
            let tokens = std::mem::take(&mut choice.tokens);
            self.ready.push_back((index, Piece::Text(String::new(), tokens)));
        }
        // After its last answer a job has nothing more to say.
        let job = index / self.choices_per_job;
        let first = job * self.choices_per_job;
        if self.choices[first..first + self.choices_per_job].iter().all(|choice| choice.done) {
            self.jobs[job] = None;
        }
        let choice = &self.choices[index];
        let called = choice.splitter.called();
        let slot = choice.seat.as_ref().map(Seat::id);
        let end = End { finish, called, usage, reasoning_tokens: choice.reasoning_tokens, slot };
        self.ready.push_back((index, Piece::End(end)));
    }

    /// The time of the request is up.
    fn end_all(&mut self) {
        for index in 0..self.choices.len() {
            let choice = &mut self.choices[index];
            if choice.done {
                continue;
            }
            let usage = Usage {
                prompt_tokens: choice.prompt_tokens,
                completion_tokens: choice.generated,
                ..Usage::default()
            };
            self.metrics.finished(&Finish::TimeLimit, &usage, self.started.elapsed());
            self.end(index, Finish::TimeLimit, usage);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        for _ in self.choices.iter().filter(|choice| !choice.done) {
            self.metrics.broken(false, self.started.elapsed());
        }
    }
}

impl Default for End {
    fn default() -> Self {
        Self { finish: Finish::Stop, called: false, usage: Usage::default(), reasoning_tokens: 0, slot: None }
    }
}

impl Default for Whole {
    fn default() -> Self {
        let end = End::default();
        let (prompt, text) = (Vec::new(), String::new());
        Self { prompt, text, reasoning: String::new(), calls: Vec::new(), tokens: Vec::new(), end }
    }
}

impl Whole {
    /// Adds the next piece of this answer.
    pub(crate) fn add(&mut self, piece: Piece) {
        match piece {
            Piece::Prompt(tokens) => self.prompt = tokens,
            Piece::Text(text, tokens) => {
                self.text += &text;
                self.tokens.extend(tokens);
            }
            Piece::Reasoning(text) => self.reasoning += &text,
            Piece::CallStart { id, name, .. } => {
                self.calls.push(Call { id, name, arguments: String::new() });
            }
            Piece::CallArguments { index, text } => {
                if let Some(call) = self.calls.get_mut(index) {
                    call.arguments += &text;
                }
            }
            Piece::End(end) => self.end = end,
        }
    }
}
