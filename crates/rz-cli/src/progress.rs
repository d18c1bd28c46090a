//! Progress of what takes long, on standard error.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rz_store::{ModelRef, Progress, Stage, Store};

use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::{table, terminal};

/// What is over sooner shows no bar.
const SOON: Duration = Duration::from_millis(500);

/// Where there is no bar, a line says how far things are this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The file of a model, fetched if need be.
pub(crate) fn fetch(store: &Store, model: &ModelRef) -> Result<PathBuf, Failure> {
    let listening = Listening::start();
    let mut fetching = Fetching { bar: None, last: None };
    let path = store.fetch(model, &mut |progress| {
        fetching.show(&progress);
        if listening.interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if let Some(bar) = &fetching.bar {
        bar.finish_and_clear();
    }
    Ok(path?)
}

/// A fetch: a bar for people, a line for each step elsewhere.
struct Fetching {
    bar: Option<ProgressBar>,
    last: Option<(Stage, String)>,
}

impl Fetching {
    fn show(&mut self, progress: &Progress<'_>) {
        let step = (progress.stage, progress.source.to_owned());
        let is_new = self.last.as_ref() != Some(&step);
        let text = format!("{} {}", progress.stage.name(), terminal::one_line(progress.file));
        if !terminal::is_watched() {
            if is_new && !matches!(progress.stage, Stage::Connecting) {
                let size = progress.total.map(|total| format!(", {}", table::bytes(total)));
                terminal::say(&format!("{text} from {}{}", progress.source, size.unwrap_or_default()));
            }
        } else {
            let bar = self.bar.get_or_insert_with(ProgressBar::no_length);
            if is_new {
                bar.reset();
                bar.set_style(style(progress.total.is_some()));
                bar.println(format!("{text} from {}", terminal::one_line(progress.source)));
            }
            if let Some(total) = progress.total {
                bar.set_length(total);
            }
            bar.set_position(progress.bytes);
        }
        if is_new {
            self.last = Some(step);
        }
    }
}

/// Loading: a bar, once it takes longer than people like to wait for nothing.
pub(crate) struct Loading {
    what: &'static str,
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Loading {
    /// Loading begins.
    pub(crate) fn start() -> Self {
        Self::of("loading")
    }

    /// Something else begins that goes through all weights.
    pub(crate) fn of(what: &'static str) -> Self {
        Self { what, started: Instant::now(), bar: None }
    }

    /// So many bytes of so many are ready.
    pub(crate) fn show(&mut self, ready: usize, total: usize) {
        if self.bar.is_none() && (self.started.elapsed() < SOON || !terminal::is_watched()) {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(total as u64).with_message(self.what);
            bar.set_style(style(true));
            bar
        });
        bar.set_position(ready as u64);
    }

    /// Loading is over; the bar goes, and the time that it took comes back.
    pub(crate) fn finish(self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.started.elapsed()
    }
}

/// Steps of which the number is known: a bar for people, a line now and then elsewhere.
pub(crate) struct Counting {
    last: Instant,
    bar: Option<ProgressBar>,
}

impl Counting {
    /// Counting begins.
    pub(crate) fn start() -> Self {
        Self { last: Instant::now(), bar: None }
    }

    /// So many of so many are done.
    pub(crate) fn show(&mut self, done: usize, total: usize, what: &str) {
        if terminal::is_watched() {
            let bar = self.bar.get_or_insert_with(|| {
                let template = "[{bar:30}] {pos}/{len} {msg}, {eta} left";
                let style = ProgressStyle::with_template(template);
                let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
                ProgressBar::new(total as u64).with_style(style.progress_chars("=> "))
            });
            bar.set_message(what.to_owned());
            bar.set_position(done as u64);
        } else if self.last.elapsed() >= LINE_EVERY {
            self.last = Instant::now();
            terminal::say(&format!("{done}/{total} {what}"));
        }
    }

    /// Counting is over.
    pub(crate) fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(known: bool) -> ProgressStyle {
    let template = match known {
        true => {
            "{msg}[{bar:30}] {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left"
        }
        false => "{msg}{spinner} {decimal_bytes}, {decimal_bytes_per_sec}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ")
}
