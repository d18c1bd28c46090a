//! Fetching a file over HTTP: what to ask for, what the answer means, when to try again.

mod stream;

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use crate::{
    Config, HfFile, StoreError, TICK,
    error::one_line,
    part::{Expected, Note, Part},
    progress::{Reporter, Stage},
};
use stream::{Event, Head, Request};

/// An attempt counts as progress when it brought at least this much that was not there before.
const PROGRESS: u64 = 1 << 16;
/// A server that asks for a longer pause is not waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why an attempt ended.
pub(super) struct Failure {
    pub(super) error: StoreError,
    pub(super) again: Again,
}

/// Whether another attempt makes sense.
#[derive(Clone, Copy)]
pub(super) enum Again {
    /// It would end the same way.
    No,
    /// The server was not reached: only if it was reached before.
    IfReached,
    /// Yes, after this pause at the least.
    After(Duration),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { error, again: Again::No }
    }
}

impl Failure {
    pub(super) fn network(origin: &str, again: Again, detail: impl Into<String>) -> Self {
        Self { error: StoreError::Network { origin: origin.into(), detail: detail.into() }, again }
    }
}

/// Completes `part` with the file's bytes. Whether they are the right ones, [`Part::finish`] checks.
pub(crate) fn download(
    config: &Config,
    file: &HfFile,
    part: &mut Part,
    expected: &Expected,
    report: &mut Reporter<'_, '_>,
) -> Result<(), StoreError> {
    let agent = stream::agent(config)?;
    let mut best = part.len();
    let mut reached = part.len() > 0;
    let mut failed = 0;
    loop {
        if part.note().is_some_and(|note| note.total == part.len()) {
            return Ok(());
        }
        let failure = match attempt(config, &agent, file, part, expected, report) {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        reached |= part.len() > 0;
        if part.len() >= best.saturating_add(PROGRESS) {
            best = part.len();
            failed = 0;
        }
        failed += 1;
        let pause = match failure.again {
            Again::IfReached if reached => Duration::ZERO,
            Again::After(pause) => pause,
            Again::No | Again::IfReached => return Err(failure.error),
        };
        if failed >= config.attempts || pause > LONGEST_PAUSE {
            return Err(failure.error);
        }
        let backoff = config.backoff.saturating_mul(1 << (failed - 1).min(6));
        wait(pause.max(backoff).min(LONGEST_PAUSE), part, report)?;
    }
}

/// One request and what comes of it.
fn attempt(
    config: &Config,
    agent: &ureq::Agent,
    file: &HfFile,
    part: &mut Part,
    expected: &Expected,
    report: &mut Reporter<'_, '_>,
) -> Result<(), Failure> {
    let origin = file.to_string();
    let request = Request {
        origin: origin.clone(),
        url: file.url(&config.hf_endpoint),
        token: config.hf_token.clone(),
        start: part.len(),
        validator: part.note().and_then(Note::validator).map(str::to_owned),
    };
    report.report(Stage::Connecting, part.len(), part.note().map(|note| note.total))?;
    let events = stream::start(agent.clone(), request)?;
    let head = match next(&events, Stage::Connecting, part, report)? {
        Event::Head(head) => head,
        Event::Failed(failure) => return Err(failure),
        Event::Chunk(_) | Event::End => return Err(broken_off(&origin, part)),
    };
    let total = accept(&head, config, file, part, expected)?;
    loop {
        report.report(Stage::Downloading, part.len(), Some(total))?;
        match next(&events, Stage::Downloading, part, report)? {
            Event::Chunk(bytes) if part.len() + bytes.len() as u64 > total => {
                let found = part.len() + bytes.len() as u64;
                return Err(StoreError::Size { origin, expected: total, found }.into());
            }
            Event::Chunk(bytes) => part.write(&bytes)?,
            Event::Failed(failure) => return Err(failure),
            Event::Head(_) | Event::End if part.len() == total => return Ok(()),
            Event::Head(_) | Event::End => return Err(broken_off(&origin, part)),
        }
    }
}

/// Judges the answer's head, makes `part` ready for the body, and tells the size of the whole file.
fn accept(
    head: &Head,
    config: &Config,
    file: &HfFile,
    part: &mut Part,
    expected: &Expected,
) -> Result<u64, Failure> {
    let origin = file.to_string();
    if head.encoded {
        return Err(Failure::network(
            &origin,
            Again::No,
            "the server compressed the file, which was not asked for",
        ));
    }
    let (start, total) = match (head.status, head.range) {
        (200, _) => (0, head.length.or(expected.bytes)),
        (206, Some((start, total))) => (start, Some(total)),
        (206, None) => {
            part.restart()?;
            return Err(Failure::network(
                &origin,
                Again::After(Duration::ZERO),
                "the server sent a part without saying which",
            ));
        }
        // What we hold is no part of what the server has now.
        (416, _) if part.len() > 0 => {
            part.restart()?;
            return Err(Failure::network(
                &origin,
                Again::After(Duration::ZERO),
                "the file changed on the server",
            ));
        }
        _ => return Err(refused(head, config, file)),
    };
    let Some(total) = total else {
        return Err(Failure::network(&origin, Again::No, "the server does not say how long the file is"));
    };
    if let Some(bytes) = expected.bytes.filter(|bytes| *bytes != total) {
        return Err(StoreError::Size { origin, expected: bytes, found: total }.into());
    }
    let note = Note {
        source: origin.clone(),
        etag: head.etag.clone(),
        modified: head.modified.clone(),
        sha256: head.linked_sha256.clone(),
        total,
    };
    let continues = start == part.len() && (start == 0 || part.note() == Some(&note));
    if !continues {
        part.restart()?;
        if start != 0 {
            return Err(Failure::network(
                &origin,
                Again::After(Duration::ZERO),
                "the file changed on the server",
            ));
        }
    }
    part.set_note(note)?;
    Ok(total)
}

/// The error for an answer that is no success.
fn refused(head: &Head, config: &Config, file: &HfFile) -> Failure {
    let repository = file.repository();
    let status = head.status;
    let mut advice = match status {
        401 if config.hf_token.is_none() => format!(
            "there is no such repository, or it is private or gated: check the name, or accept the terms of \
             {repository} on the hub and give an access token (HF_TOKEN)"
        ),
        401 => "the access token (HF_TOKEN) was not accepted: it is wrong, expired, or may not read this repository".into(),
        403 => format!(
            "access denied: accept the terms of {repository} on the hub and give an access token (HF_TOKEN) that may read it"
        ),
        404 => "there is no such file: check organisation, repository, revision and file name (upper and lower case matter)".into(),
        407 => "the proxy asks for a password".into(),
        429 => "too many requests: wait a while, or give an access token (HF_TOKEN)".into(),
        500.. => "the server has a fault: try again later".into(),
        _ => "that is not what a file server should say: check the endpoint (HF_ENDPOINT)".into(),
    };
    if let Some(message) = &head.message {
        advice = format!("{advice} (it says: {})", one_line(message, 200));
    }
    let again = match status {
        408 | 425 | 429 | 500..=599 => Again::After(head.retry_after.unwrap_or_default()),
        _ => Again::No,
    };
    Failure { error: StoreError::Http { origin: file.to_string(), status, advice }, again }
}

fn broken_off(origin: &str, part: &Part) -> Failure {
    let total = part.note().map_or(0, |note| note.total);
    let detail =
        format!("the connection broke off after {} of {total} bytes; run it again to resume", part.len());
    Failure::network(origin, Again::After(Duration::ZERO), detail)
}

/// The next event, reporting while none comes.
fn next(
    events: &Receiver<Event>,
    stage: Stage,
    part: &Part,
    report: &mut Reporter<'_, '_>,
) -> Result<Event, StoreError> {
    loop {
        match events.recv_timeout(TICK) {
            Ok(event) => return Ok(event),
            Err(RecvTimeoutError::Disconnected) => return Ok(Event::End),
            Err(RecvTimeoutError::Timeout) => {
                report.report(stage, part.len(), part.note().map(|note| note.total))?;
            }
        }
    }
}

/// Pauses, reporting.
fn wait(pause: Duration, part: &Part, report: &mut Reporter<'_, '_>) -> Result<(), StoreError> {
    let end = Instant::now() + pause;
    loop {
        report.report(Stage::Connecting, part.len(), part.note().map(|note| note.total))?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(TICK));
    }
}
