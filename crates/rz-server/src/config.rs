//! What can be set on a server.

use std::path::PathBuf;
use std::time::Duration;

use crate::Keys;

/// How a server behaves. Every limit has a default that suits one machine and a few dozen clients.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Keys of clients; without any, everybody is served.
    pub keys: Keys,
    /// Lets those without a key read `/metrics`.
    pub open_metrics: bool,
    /// Names that the `Host` header may have, without ports. Empty: any. It keeps web pages from
    /// reaching a server on this machine through a name of their own (DNS rebinding).
    pub hosts: Vec<String>,
    /// Origins of web pages that may use the server, besides its own; `*`: all of them.
    pub origins: Vec<String>,
    /// Bytes that the body of a request may have.
    pub max_body: usize,
    /// Time in which a body has to arrive.
    pub body_time: Duration,
    /// Time in which the client has to take what is sent to it.
    pub write_time: Duration,
    /// Time that one request may take in all; it ends with what there is by then.
    pub request_time: Option<Duration>,
    /// The most tokens that one request may generate, and what it gets when it names no number.
    pub max_tokens: Option<usize>,
    /// Answers that one request may ask for (`n`, arrays of prompts).
    pub max_choices: usize,
    /// Requests for models that are worked on or wait at the same time.
    pub max_requests: usize,
    /// Time that a request waits for a model to be loaded.
    pub load_time: Duration,
    /// Work without progress for this long counts as a failure of the engine.
    pub stall_time: Duration,
    /// Models that nobody used for this long are unloaded; without it, never.
    pub idle_time: Option<Duration>,
    /// Bytes of memory that loaded models may take together.
    pub model_memory: Option<u64>,
    /// Time between comments that keep a silent stream open.
    pub keep_alive: Duration,
    /// Serves the web page at `/`.
    pub page: bool,
    /// Lets clients fetch and delete models (`/api/pull`, `/api/delete`).
    pub manage_models: bool,
    /// Answers of `/v1/responses` that are kept, at most; 0: none.
    pub kept_responses: usize,
    /// Folder that clients may save slots to; without it, they may not.
    pub slot_folder: Option<PathBuf>,
}

impl Config {
    /// Texts that one request may have turned into vectors. They take less than answers do.
    pub(crate) fn max_texts(&self) -> usize {
        self.max_choices.saturating_mul(16)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keys: Keys::default(),
            open_metrics: false,
            hosts: Vec::new(),
            origins: Vec::new(),
            max_body: 8 << 20,
            body_time: Duration::from_secs(30),
            write_time: Duration::from_secs(60),
            request_time: None,
            max_tokens: None,
            max_choices: 16,
            max_requests: 256,
            load_time: Duration::from_secs(600),
            stall_time: Duration::from_secs(120),
            idle_time: None,
            model_memory: None,
            keep_alive: Duration::from_secs(15),
            page: true,
            manage_models: false,
            kept_responses: 256,
            slot_folder: None,
        }
    }
}
