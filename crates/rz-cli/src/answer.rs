//! One answer: streamed while it is generated, and reported on.

use std::time::{Duration, Instant};

use rz_engine::{Event, Finish, Generation, Stats};
use rz_model::Forward;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::terminal::{self, Out};

/// What was generated.
pub(crate) struct Answer {
    /// The text.
    pub(crate) text: String,
    /// The tokens.
    pub(crate) ids: Vec<u32>,
    /// Why it ended.
    pub(crate) finish: Finish,
    /// What it took.
    pub(crate) stats: Stats,
    /// When the first token was there.
    pub(crate) first: Option<Instant>,
}

/// Generates, and writes the text as it comes if there is somewhere to write it.
pub(crate) fn generate<F: Forward>(
    generation: Generation<'_, F>,
    out: Option<&Out>,
) -> Result<Answer, Failure> {
    let mut answer = Answer {
        text: String::new(),
        ids: Vec::new(),
        finish: Finish::Cancelled,
        stats: Stats::default(),
        first: None,
    };
    for event in generation {
        let text = match event? {
            Event::Token { id, text } => {
                answer.first.get_or_insert_with(Instant::now);
                answer.ids.push(id);
                text
            }
            Event::Text(text) => text,
            Event::Finished { reason, stats } => {
                (answer.finish, answer.stats) = (reason, stats);
                continue;
            }
        };
        if let Some(out) = out.filter(|_| !text.is_empty()) {
            out.text(&text)?;
        }
        answer.text.push_str(&text);
    }
    if let Some(out) = out.filter(|_| !answer.text.ends_with('\n')) {
        out.text("\n")?;
    }
    Ok(answer)
}

impl Answer {
    /// Says what the reader of a text that just ends would not know.
    pub(crate) fn note_end(&self) {
        if self.finish == Finish::ContextFull {
            terminal::note("the context is full: give a larger --ctx to go on longer");
        }
    }

    /// Why it ended, in one word.
    pub(crate) fn finish_name(&self) -> &'static str {
        match self.finish {
            Finish::EndOfGeneration(_) => "end",
            Finish::StopString(_) => "stop",
            Finish::ConstraintEnd => "complete",
            Finish::MaxTokens => "max_tokens",
            Finish::ContextFull => "context_full",
            Finish::Cancelled => "cancelled",
            _ => "other",
        }
    }

    /// The statistics for people.
    pub(crate) fn say_stats(&self, run: &Circumstances) {
        let Stats { prompt_tokens, cached_tokens, generated_tokens, prefill, decode, .. } = self.stats;
        terminal::end_line();
        if let Some(loaded) = run.loaded {
            terminal::say(&format!("loading       {:.3} s", loaded.as_secs_f64()));
        }
        let cached =
            if cached_tokens > 0 { format!(", {cached_tokens} from the cache") } else { String::new() };
        terminal::say(&format!(
            "prompt        {prompt_tokens} tokens{cached}, {:.3} s, {:.1} tokens/s",
            prefill.as_secs_f64(),
            self.stats.prefill_rate()
        ));
        terminal::say(&format!(
            "answer        {generated_tokens} tokens, {:.3} s, {:.1} tokens/s",
            decode.as_secs_f64(),
            self.stats.decode_rate()
        ));
        if self.first.is_some() {
            let since_start = self.since_start(run).map(|since| format!(", {since:.3} s after the start"));
            terminal::say(&format!(
                "first token   {:.3} s{}",
                self.stats.first_token.as_secs_f64(),
                since_start.unwrap_or_default()
            ));
        }
        terminal::say(&format!("computed by   {}", run.by));
        terminal::say(&format!("seed          {}", run.seed));
    }

    /// The statistics as data.
    pub(crate) fn stats_json(&self, run: &Circumstances) -> Value {
        json!({
            "load_s": run.loaded.map(|loaded| loaded.as_secs_f64()),
            "prompt_tokens": self.stats.prompt_tokens,
            "cached_tokens": self.stats.cached_tokens,
            "generated_tokens": self.stats.generated_tokens,
            "prefill_s": self.stats.prefill.as_secs_f64(),
            "prefill_tok_s": self.stats.prefill_rate(),
            "decode_s": self.stats.decode.as_secs_f64(),
            "decode_tok_s": self.stats.decode_rate(),
            "first_token_s": self.first.map(|_| self.stats.first_token.as_secs_f64()),
            "start_to_first_token_s": self.since_start(run),
        })
    }

    fn since_start(&self, run: &Circumstances) -> Option<f64> {
        Some((self.first? - run.started?).as_secs_f64())
    }
}

/// What a report on an answer needs besides the answer.
pub(crate) struct Circumstances {
    /// When the program started, where the first token is counted from there.
    pub(crate) started: Option<Instant>,
    /// How long loading took, if it was part of this.
    pub(crate) loaded: Option<Duration>,
    /// Threads and instruction set.
    pub(crate) by: String,
    /// The seed.
    pub(crate) seed: u64,
}
