//! What is written, and where: results on standard output, everything else on standard error.
//!
//! Text of models and files is not trusted: on a terminal its control characters are shown, not obeyed.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Standard output.
pub(crate) struct Out {
    terminal: bool,
}

impl Out {
    /// Standard output as the process got it.
    pub(crate) fn new() -> Self {
        Self { terminal: io::stdout().is_terminal() }
    }

    /// Writes text, at once. What is no text on a terminal is escaped there.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        let text = if self.terminal { shown(text) } else { text.into() };
        self.bytes(text.as_bytes())
    }

    /// Writes text and ends the line.
    pub(crate) fn line(&self, text: &str) -> Result<(), Failure> {
        self.text(&format!("{text}\n"))
    }

    /// Writes a value as one line of JSON.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|error| Failure::other(error.to_string()))?;
        self.line(&json_escapes(&text))
    }

    /// Writes bytes as they are, at once.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => Failure::reader_gone(),
            _ => Failure::other(format!("cannot write to standard output: {error}")),
        })
    }
}

/// Says why the program ends.
pub(crate) fn error(message: &str) {
    labelled("error:", "\x1b[1;31m", message);
}

/// Says something that is worth knowing and stops nothing.
pub(crate) fn note(message: &str) {
    labelled("note:", "\x1b[1m", message);
}

/// Writes a line to standard error. There is nobody to tell when that fails.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", shown(line));
}

/// Whether somebody sees standard error.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Ends a line that a program's own output has left open on a terminal.
pub(crate) fn end_line() {
    if is_watched() {
        let _ = writeln!(io::stderr().lock());
    }
}

/// A line is being edited on the terminal, in a mode that the user's shell would not like.
/// Who edits brings the terminal back; who ends the process meanwhile calls [`end_editing`].
pub(crate) struct Editing(());

impl Editing {
    /// Remembers how the terminal is.
    pub(crate) fn start() -> Self {
        #[cfg(unix)]
        unix::remember();
        Self(())
    }
}

impl Drop for Editing {
    fn drop(&mut self) {
        #[cfg(unix)]
        unix::forget();
    }
}

/// If a line is being edited, brings the terminal back to how it was.
pub(crate) fn end_editing() {
    #[cfg(unix)]
    unix::restore();
}

#[cfg(unix)]
mod unix {
    use std::io::{self, Write};
    use std::sync::{Mutex, PoisonError};

    use rustix::process::getpgrp;
    use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

    static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

    fn before() -> std::sync::MutexGuard<'static, Option<Termios>> {
        BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn remember() {
        *before() = tcgetattr(io::stdin()).ok();
    }

    pub(super) fn forget() {
        *before() = None;
    }

    pub(super) fn restore() {
        let Some(modes) = before().take() else { return };
        // In the background the terminal is somebody else's, and changing it would stop us.
        if tcgetpgrp(io::stdin()).is_ok_and(|group| group != getpgrp()) {
            return;
        }
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &modes);
        // Pasted text is marked no longer; the shell begins on a line of its own.
        let mut stdout = io::stdout();
        let _ = stdout.write_all(b"\x1b[?2004l\r\n").and_then(|()| stdout.flush());
    }
}

/// Text for a terminal: line breaks and tabs stay, all other control characters are spelled out.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c.is_control() && c != '\n' && c != '\t')
}

/// Text of others on one line: all control characters are spelled out.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, char::is_control)
}

fn labelled(label: &str, style: &str, message: &str) {
    // Some messages list things on lines of their own.
    let joined: Vec<_> = message.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect();
    let message = joined.join("; ");
    let _ = writeln!(anstream::stderr().lock(), "{style}{label}\x1b[0m {}", one_line(&message));
}

fn escaped(text: &str, hide: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&hide) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hide(c) {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.into()
}

/// JSON escapes C0; the other control characters can only be inside of its strings.
fn json_escapes(json: &str) -> Cow<'_, str> {
    if !json.contains(char::is_control) {
        return json.into();
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if c.is_control() {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_layout_is_kept() {
        assert_eq!(shown("a\tb\nc é 日 😀"), "a\tb\nc é 日 😀");
        assert_eq!(shown("\x1b[2J\x07\r\u{9b}1m\x7f"), "\\u{1b}[2J\\u{7}\\r\\u{9b}1m\\u{7f}");
        assert_eq!(one_line("a\nb\tc"), "a\\nb\\tc");
    }

    #[test]
    fn json_stays_json() {
        let text = "\u{9b}31m \u{7f} \n \u{1b} é";
        let json = serde_json::to_string(text).unwrap();
        let escaped = json_escapes(&json);
        assert!(!escaped.contains(char::is_control));
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
    }
}
