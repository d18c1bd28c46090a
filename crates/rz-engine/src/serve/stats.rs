//! What an engine is doing, in numbers.

/// A snapshot of an engine. Counters run from its beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineStats {
    /// Requests that no work was done for yet.
    pub queued: usize,
    /// Answers that wait: of those requests, and those that had to make room.
    pub waiting: usize,
    /// Answers that are worked on.
    pub running: usize,
    /// Keys and values, by group of layers.
    pub groups: Vec<GroupStats>,
    /// Tokens of prompts that were looked for among those that are kept.
    pub prefix_queries: u64,
    /// Of those, the ones that were found.
    pub prefix_hits: u64,
    /// Tokens of prompts that were computed, those of answers that had to make room included.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Answers that had to make room and were begun anew.
    pub preemptions: u64,
    /// Kept blocks that had to make room.
    pub evictions: u64,
    /// Steps that computed something.
    pub steps: u64,
    /// Requests that were taken.
    pub requests: u64,
    /// Answers that ended with an error.
    pub errors: u64,
    /// Answers that were cancelled.
    pub cancelled: u64,
    /// Answers whose deadline passed.
    pub timed_out: u64,
    /// Answers that ended in any way.
    pub finished: u64,
    /// Tokens of a prompt's beginning that a step takes at most, at the moment.
    pub chunk: usize,
}

/// The blocks of a group of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupStats {
    /// How far back its layers see.
    pub window: Option<usize>,
    /// All blocks, each of [`KV_BLOCK`](rz_model::KV_BLOCK) positions.
    pub blocks: usize,
    /// Blocks that sequences use.
    pub used: usize,
    /// Blocks that are kept for prompts that begin alike.
    pub kept: usize,
}
