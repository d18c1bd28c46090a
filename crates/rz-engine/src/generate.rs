//! The answer to a prompt, token by token.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rz_model::Forward;
use rz_model::sampler::{Chain, StepContext};
use rz_tokenizer::{DecodeOptions, Tokenizer};

use crate::constraint::{self, Broken, Constraint, TokenMask};
use crate::text::Text;
use crate::{EngineError, Session};

/// What to generate, and when to end.
pub struct Request<'a> {
    /// The tokens to continue.
    pub prompt: &'a [u32],
    /// How tokens are chosen.
    pub chain: Chain,
    /// The same seed and prompt give the same tokens.
    pub seed: u64,
    /// The most tokens to generate; without it, until the model ends or the context is full.
    pub max_tokens: Option<usize>,
    /// Text that ends the answer, and is not part of it.
    pub stop: &'a [String],
    /// Goes on after tokens that end the generation.
    pub ignore_eos: bool,
    /// Which tokens may come.
    pub constraint: Option<Box<dyn Constraint>>,
    /// How tokens become text. Continuing ones, without special tokens, unless told otherwise.
    pub decode: DecodeOptions,
    /// Ends the generation when it becomes true, at the latest after the next chunk or token.
    pub cancel: Option<&'a AtomicBool>,
}

impl<'a> Request<'a> {
    /// Continues the prompt until the model ends or the context is full.
    pub fn new(prompt: &'a [u32], chain: Chain) -> Self {
        let decode = DecodeOptions { continues: true, ..DecodeOptions::default() };
        Self {
            prompt,
            chain,
            seed: 0,
            max_tokens: None,
            stop: &[],
            ignore_eos: false,
            constraint: None,
            decode,
            cancel: None,
        }
    }
}

/// What happens while an answer is generated. The texts of all events together are the answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A token was generated.
    Token {
        /// Its id.
        id: u32,
        /// The text that became certain with it, often but not always its own: characters come whole, and
        /// text that may turn out to be a stop string waits.
        text: String,
    },
    /// Text that waited and belongs to the answer, at its end.
    Text(String),
    /// The end. Nothing comes after it.
    Finished {
        /// Why.
        reason: Finish,
        /// What it took.
        stats: Stats,
    },
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finish {
    /// The model gave this token, which ends a generation.
    EndOfGeneration(u32),
    /// The stop string of this index was completed.
    StopString(usize),
    /// Nothing can follow under the constraint.
    ConstraintEnd,
    /// As many tokens as were asked for.
    MaxTokens,
    /// The context holds no more tokens.
    ContextFull,
    /// It was cancelled.
    Cancelled,
}

/// What a generation took. Time that the caller spends between events does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that did not have to be computed.
    pub cached_tokens: usize,
    /// Tokens generated, without one that ended the generation.
    pub generated_tokens: usize,
    /// Passes of one token after the prompt.
    pub decode_steps: usize,
    /// Time for the prompt.
    pub prefill: Duration,
    /// Time for everything after it.
    pub decode: Duration,
    /// Time to the first token, or zero without one.
    pub first_token: Duration,
}

impl Stats {
    /// Tokens of the prompt computed per second.
    pub fn prefill_rate(&self) -> f64 {
        rate(self.prompt_tokens - self.cached_tokens, self.prefill)
    }

    /// Passes of one token per second.
    pub fn decode_rate(&self) -> f64 {
        rate(self.decode_steps, self.decode)
    }
}

/// A generation in progress: an iterator of events.
///
/// It does its work when the next event is asked for. After an error it ends; the session can be used on.
pub struct Generation<'a, F: Forward> {
    session: &'a mut Session<F>,
    tokenizer: &'a Tokenizer,
    request: Request<'a>,
    text: Text<&'a Tokenizer>,
    mask: TokenMask,
    /// The prompt and what was generated.
    history: Vec<u32>,
    state: State,
    ready: VecDeque<Event>,
    stats: Stats,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// The prompt is to be fed.
    Prompt,
    /// The next token can be chosen.
    Choose,
    /// The token chosen last is to be fed.
    Feed,
    Done,
}

impl<F: Forward> Session<F> {
    /// Continues a prompt. What the session holds of its beginning is used again.
    ///
    /// # Errors
    /// When the prompt is empty or does not fit into the context, or a stop string is empty.
    pub fn generate<'a>(
        &'a mut self,
        tokenizer: &'a Tokenizer,
        request: Request<'a>,
    ) -> Result<Generation<'a, F>, EngineError> {
        let prompt_tokens = request.prompt.len();
        if prompt_tokens == 0 {
            return Err(EngineError::EmptyPrompt);
        }
        if prompt_tokens > self.context() {
            return Err(EngineError::ContextFull { tokens: prompt_tokens, context: self.context() });
        }
        let text = Text::new(tokenizer, request.decode, request.stop)?;
        let text = text.whole_characters(request.constraint.is_some());
        let cached_tokens = self.reuse(request.prompt);
        Ok(Generation {
            text,
            mask: TokenMask::new(tokenizer.len()),
            history: request.prompt.to_vec(),
            session: self,
            tokenizer,
            request,
            state: State::Prompt,
            ready: VecDeque::new(),
            stats: Stats { prompt_tokens, cached_tokens, ..Stats::default() },
        })
    }
}

impl<F: Forward> Iterator for Generation<'_, F> {
    type Item = Result<Event, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && self.state != State::Done {
            let start = Instant::now();
            let (state, generated) = (self.state, self.stats.generated_tokens);
            let result = self.advance();
            let spent = if state == State::Prompt { &mut self.stats.prefill } else { &mut self.stats.decode };
            *spent += start.elapsed();
            if generated == 0 && self.stats.generated_tokens == 1 {
                self.stats.first_token = self.stats.prefill + self.stats.decode;
            }
            match result {
                Ok(None) => {}
                Ok(Some(reason)) => self.finish(reason),
                Err(error) => {
                    self.state = State::Done;
                    return Some(Err(error));
                }
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

impl<F: Forward> Generation<'_, F> {
    /// Does the next piece of work. Says why, when it is the last.
    fn advance(&mut self) -> Result<Option<Finish>, EngineError> {
        match self.state {
            _ if self.request.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) => {
                Ok(Some(Finish::Cancelled))
            }
            State::Prompt => self.feed_prompt(),
            State::Choose => self.choose(),
            State::Feed => self.feed_chosen(),
            State::Done => Ok(None),
        }
    }

    /// Feeds the prompt's next chunk.
    fn feed_prompt(&mut self) -> Result<Option<Finish>, EngineError> {
        let prompt = self.request.prompt;
        let start = self.session.cached().len();
        let end = prompt.len().min(start + self.session.chunk());
        self.session.pass(&prompt[start..end], prompt.len() - 1 - start)?;
        if end == prompt.len() {
            self.state = State::Choose;
        }
        Ok(None)
    }

    fn choose(&mut self) -> Result<Option<Finish>, EngineError> {
        if self.request.max_tokens.is_some_and(|most| self.stats.generated_tokens >= most) {
            return Ok(Some(Finish::MaxTokens));
        }
        let candidates = self.session.candidates(self.tokenizer.len())?;
        if let Some(constraint) = &mut self.request.constraint
            && !constraint::narrow(&mut **constraint, &mut self.mask, candidates)?
        {
            return Ok(Some(Finish::ConstraintEnd));
        }
        let mut context = StepContext::new(self.request.seed, &self.history, self.request.prompt.len());
        let id = self.request.chain.choose(candidates, &mut context)?;
        let constrained = self.request.constraint.is_some();
        if (!self.request.ignore_eos || constrained) && self.tokenizer.is_end_of_generation(id) {
            return Ok(Some(Finish::EndOfGeneration(id)));
        }
        self.history.push(id);
        self.stats.generated_tokens += 1;
        let (text, stopped) = self.text.push(id);
        self.ready.push_back(Event::Token { id, text });
        self.state = State::Feed;
        if let (None, Some(constraint)) = (stopped, &mut self.request.constraint)
            && constraint::accept(&mut **constraint, id)?
        {
            return Ok(Some(Finish::ConstraintEnd));
        }
        Ok(stopped.map(Finish::StopString))
    }

    fn feed_chosen(&mut self) -> Result<Option<Finish>, EngineError> {
        if self.request.max_tokens.is_some_and(|most| self.stats.generated_tokens >= most) {
            return Ok(Some(Finish::MaxTokens));
        }
        if self.session.cached().len() >= self.session.context() {
            return Ok(Some(Finish::ContextFull));
        }
        self.session.pass(&self.history[self.session.cached().len()..], 0)?;
        self.stats.decode_steps += 1;
        self.state = State::Choose;
        Ok(None)
    }

    /// Lets out the text that waited, and ends.
    fn finish(&mut self, mut reason: Finish) {
        self.state = State::Done;
        if !matches!(reason, Finish::StopString(_)) {
            let (text, stopped) = self.text.finish();
            if let Some(which) = stopped {
                reason = Finish::StopString(which);
            }
            if !text.is_empty() {
                self.ready.push_back(Event::Text(text));
            }
        }
        self.ready.push_back(Event::Finished { reason, stats: self.stats });
    }
}

impl From<Broken> for EngineError {
    fn from(broken: Broken) -> Self {
        Self::Constraint(broken.message())
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}
