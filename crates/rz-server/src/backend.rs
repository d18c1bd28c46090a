//! What the HTTP layer knows of a model: a small trait, and the plain data that goes through it.

use std::any::Any;
use std::path::Path;
use std::task::{Context, Poll};
use std::time::Duration;

pub use rz_constrain::ConstraintSpec;
use rz_model::sampler::Settings;
use rz_tokenizer::{ChatTemplate, Tokenizer};
use tokio::sync::mpsc;

/// A loaded model that answers requests, many at once.
///
/// The HTTP layer calls nothing else. [`submit`](Self::submit) and what works with files is called on a thread
/// that may wait, the others anywhere: they must return at once, whatever the model is doing.
pub trait Backend: Send + Sync + 'static {
    /// What the model is.
    fn info(&self) -> &ModelInfo;

    /// Its tokenizer.
    fn tokenizer(&self) -> &Tokenizer;

    /// Its chat template, if it has one.
    fn template(&self) -> Option<&ChatTemplate>;

    /// Takes a job, or says why not. The job ends early when the events are dropped.
    ///
    /// # Errors
    /// When the queue is full, or the job cannot be done.
    fn submit(&self, job: Job) -> Result<Events, Refusal>;

    /// How it is doing.
    fn stats(&self) -> Stats;

    /// Writes what is kept of a text's beginning to a file, which is whole or not there. Returns how many tokens
    /// that are.
    ///
    /// # Errors
    /// When nothing is kept of the text, or the file cannot be written.
    fn save_slot(&self, _text: &[u32], _path: &Path) -> Result<usize, SlotProblem> {
        Err(SlotProblem::Unusable("the model's slots cannot be saved".to_owned()))
    }

    /// Reads what [`save_slot`](Self::save_slot) wrote: from now on prompts that begin with these tokens, which it
    /// returns, need not be computed.
    ///
    /// # Errors
    /// When there is no such file, or it is damaged or another model's. Nothing changes then.
    fn restore_slot(&self, _path: &Path) -> Result<Vec<u32>, SlotProblem> {
        Err(SlotProblem::Unusable("the model's slots cannot be restored".to_owned()))
    }
}

/// What a model is, for those who ask.
#[derive(Clone, Debug, Default)]
pub struct ModelInfo {
    /// The family, such as `llama`.
    pub family: String,
    /// Format of most weights, such as `Q4_K`.
    pub quantization: String,
    /// Tokens of context that one request may fill.
    pub context: usize,
    /// Tokens of context that the model was trained for.
    pub trained_context: usize,
    /// Answers that it works on at a time.
    pub parallel: usize,
    /// Rows of the logits.
    pub vocabulary: usize,
    /// Length of a hidden state, and so of an embedding.
    pub embedding: usize,
    /// Layers.
    pub layers: usize,
    /// Numbers that the weights consist of.
    pub parameters: u64,
    /// Bytes of the model's files.
    pub file_bytes: u64,
    /// Bytes of memory that the loaded model takes, cache included.
    pub memory: u64,
    /// The file or folder.
    pub path: String,
}

/// What is to be done with a prompt.
#[derive(Clone, Debug)]
pub enum Task {
    /// Continue it.
    Generate(Box<Generate>),
    /// Turn it into one vector: the mean of the last hidden states.
    Embed,
}

/// One sequence for a model.
#[derive(Clone, Debug)]
pub struct Job {
    /// The tokens.
    pub prompt: Vec<u32>,
    /// What to do with them.
    pub task: Task,
    /// Higher goes first; 0 for everybody who asks for nothing.
    pub priority: i32,
    /// The job ends unfinished after this time.
    pub time_limit: Option<Duration>,
}

/// How a prompt is continued.
#[derive(Clone, Debug)]
pub struct Generate {
    /// Answers to give, each with a seed of its own: that of the job plus the answer's index.
    pub choices: usize,
    /// How tokens are chosen.
    pub settings: Settings,
    /// What is added to the scores of tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed and prompt give the same tokens.
    pub seed: u64,
    /// The most tokens to generate; without it, until the model ends or the context is full.
    pub max_tokens: Option<usize>,
    /// Before so many tokens nothing stops.
    pub min_tokens: usize,
    /// Text that ends the answer, and is not part of it.
    pub stop: Vec<String>,
    /// Goes on after tokens that end the generation.
    pub ignore_eos: bool,
    /// Shows the text of tokens that steer the model.
    pub special: bool,
    /// Log-probabilities of each token, and of this many others.
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt.
    pub prompt_logprobs: Option<usize>,
    /// Uses what is kept of the prompt's beginning, and keeps this one for others.
    pub cache_prompt: bool,
    /// What the answer must be.
    pub constraint: Option<ConstraintSpec>,
    /// Where that begins: behind this text, before which everything may come.
    pub constraint_after: Option<&'static str>,
}

/// Why a job is not taken.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no place in the queue. A client may ask again after this many seconds.
    Busy {
        /// Seconds.
        retry_after: u64,
    },
    /// The prompt is longer than the context.
    TooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that fit.
        context: usize,
    },
    /// The model is being shut down.
    Closed,
    /// The job asks for what the back end cannot do; the message is for the client.
    Unsupported {
        /// The parameter that asks for it.
        param: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The job cannot be done as it is; the message is for the client.
    Invalid(String),
}

/// Why a slot is not saved or restored. Messages are for the client.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SlotProblem {
    /// There is no such file.
    Missing,
    /// The slot, or the file, cannot be used.
    Unusable(String),
    /// There is no room for it now.
    NoRoom,
    /// The model is being shut down.
    Closed,
    /// The file cannot be read or written.
    Failed(String),
}

/// What happens to a job.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The tokens of the prompt with their log-probabilities, where asked for; of the first answer.
    Prompt(Vec<TokenScore>),
    /// A token was generated. The texts of all events together are the answer.
    Token {
        /// Which, and how likely it was, where asked for.
        token: TokenScore,
        /// The text that became certain with it.
        text: String,
    },
    /// Text that waited and belongs to the answer, at its end.
    Text(String),
    /// The vector that was asked for.
    Embedding(Vec<f32>),
    /// The end. Nothing comes after it.
    Finished {
        /// Why.
        finish: Finish,
        /// What it took.
        usage: Usage,
    },
    /// The job failed. Nothing comes after it.
    Failed(String),
    /// The job cannot be ended as it asks to be. Nothing comes after it.
    Refused(String),
}

/// A token, and how likely the model took it to be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenScore {
    /// Its id.
    pub id: u32,
    /// Logarithm of its probability.
    pub logprob: Option<f32>,
    /// The most probable tokens with the logarithms of their probabilities, the best first.
    pub top: Vec<(u32, f32)>,
}

/// Why a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finish {
    /// The model ended it, or all was done.
    Stop,
    /// This stop string was completed.
    StopString(String),
    /// As many tokens as were asked for, or as the context holds.
    Length,
    /// Its time was up.
    TimeLimit,
    /// It was cancelled.
    Cancelled,
}

/// What a job took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that did not have to be computed.
    pub cached_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// Time in the queue.
    pub queued: Duration,
    /// Time for the prompt.
    pub prefill: Duration,
    /// Time for everything after it.
    pub decode: Duration,
}

/// How a model is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Jobs that are being worked on.
    pub running: usize,
    /// Jobs in the queue.
    pub waiting: usize,
    /// Blocks of the cache in use.
    pub kv_blocks_used: usize,
    /// Blocks of the cache.
    pub kv_blocks: usize,
    /// Tokens of a block.
    pub block_tokens: usize,
    /// Tokens of prompts that were looked up in the cache.
    pub prefix_queries: u64,
    /// Those that were found.
    pub prefix_hits: u64,
    /// Jobs that had to start again because blocks ran out.
    pub preemptions: u64,
    /// For how long there has been work and no progress.
    pub stalled: Duration,
}

/// The events of one job, each with the number of the answer that it belongs to. Dropping them cancels it.
pub struct Events {
    receiver: mpsc::UnboundedReceiver<(usize, Event)>,
    /// What is dropped with the events.
    guard: Option<Box<dyn Any + Send>>,
}

/// The other end of [`Events`].
#[derive(Clone, Debug)]
pub struct EventSink(mpsc::UnboundedSender<(usize, Event)>);

impl Events {
    /// A way for events. There are at most as many as a context has tokens, so it has no bound.
    pub fn channel() -> (EventSink, Events) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (EventSink(sender), Events { receiver, guard: None })
    }

    /// Keeps something, such as a request's ticket, for as long as somebody waits for the events.
    #[must_use]
    pub fn with_guard(self, guard: impl Any + Send) -> Events {
        Events { guard: Some(Box::new(guard)), ..self }
    }

    /// The next event; nothing after the last.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, Event)>> {
        self.receiver.poll_recv(context)
    }

    /// The next event; nothing after the last.
    pub async fn next(&mut self) -> Option<(usize, Event)> {
        self.receiver.recv().await
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("guard", &self.guard.is_some()).finish_non_exhaustive()
    }
}

impl EventSink {
    /// Gives an event of an answer to whoever waits. False when nobody does any more: the job is
    /// cancelled.
    pub fn send(&self, choice: usize, event: Event) -> bool {
        self.0.send((choice, event)).is_ok()
    }

    /// Whether nobody waits any more.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_closed()
    }
}
