//! What people type, or a program sends: lines, and texts of several lines.

use std::io::{self, BufRead, IsTerminal, Read};
use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};

use crate::failure::Failure;
use crate::{environment, terminal};

/// One thing that was entered.
#[derive(Debug, PartialEq)]
pub(crate) enum Line {
    /// Something to say to the model.
    Message(String),
    /// A line that begins with a slash.
    Command(String),
    /// There is nothing more.
    End,
}

/// Where lines come from.
pub(crate) struct Input {
    source: Source,
}

enum Source {
    Terminal { editor: Box<DefaultEditor>, history: Option<PathBuf> },
    Lines,
}

/// Nobody means a longer line.
const LONGEST: u64 = 16 << 20;

impl Input {
    /// Standard input; on a terminal with editing and, if wanted, a history that lasts.
    pub(crate) fn new(keep_history: bool) -> Result<Self, Failure> {
        if !io::stdin().is_terminal() {
            return Ok(Self { source: Source::Lines });
        }
        let failed = |error: ReadlineError| Failure::other(format!("cannot read from the terminal: {error}"));
        let mut editor =
            DefaultEditor::with_config(Config::builder().auto_add_history(true).build()).map_err(failed)?;
        let history = if keep_history { environment::history_file().ok() } else { None };
        if let Some(file) = &history {
            // There is none the first time.
            let _ = editor.load_history(file);
        }
        Ok(Self { source: Source::Terminal { editor: Box::new(editor), history } })
    }

    /// Whether a person types.
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self.source, Source::Terminal { .. })
    }

    /// The next message or command. Empty lines are nothing.
    pub(crate) fn next(&mut self) -> Result<Line, Failure> {
        loop {
            match read_block(|first| self.read_line(first))? {
                Some(text) if text.trim().is_empty() => {}
                Some(text) => return Ok(classify(text)),
                None => return Ok(Line::End),
            }
        }
    }

    /// A line, or nothing at the end. `first` is false where a text goes on.
    fn read_line(&mut self, first: bool) -> Result<Option<Entered>, Failure> {
        let failed =
            |error: &dyn std::fmt::Display| Failure::input(format!("cannot read standard input: {error}"));
        match &mut self.source {
            Source::Lines => {
                let mut line = String::new();
                let read =
                    io::stdin().lock().take(LONGEST).read_line(&mut line).map_err(|error| failed(&error))?;
                let line = line.strip_suffix('\n').unwrap_or(&line);
                let line = line.strip_suffix('\r').unwrap_or(line);
                Ok((read > 0).then(|| Entered::Line(line.to_owned())))
            }
            Source::Terminal { editor, .. } => match edited(editor, if first { "> " } else { "… " }) {
                Ok(line) => Ok(Some(Entered::Line(line))),
                Err(ReadlineError::Eof) => Ok(None),
                Err(ReadlineError::Interrupted) => {
                    if first {
                        terminal::say("(Ctrl-D or /quit leaves)");
                    }
                    Ok(Some(Entered::Abandoned))
                }
                Err(error) => Err(failed(&error)),
            },
        }
    }
}

fn edited(editor: &mut DefaultEditor, prompt: &str) -> Result<String, ReadlineError> {
    let _editing = terminal::Editing::start();
    editor.readline(prompt)
}

impl Drop for Input {
    fn drop(&mut self) {
        if let Source::Terminal { editor, history: Some(file) } = &mut self.source {
            let folder = file.parent().map(std::fs::create_dir_all);
            let saved = editor.save_history(file);
            if saved.is_err() || folder.is_some_and(|made| made.is_err()) {
                terminal::note(&format!("the history could not be kept in {}", file.display()));
            }
        }
    }
}

/// What came of asking for a line.
enum Entered {
    Line(String),
    /// The user gave up what was entered so far.
    Abandoned,
}

const QUOTES: &str = "\"\"\"";

/// Reads lines until a text is complete: one line, lines joined by backslashes, or a block in quotes.
fn read_block(
    mut read: impl FnMut(bool) -> Result<Option<Entered>, Failure>,
) -> Result<Option<String>, Failure> {
    let Some(first) = read(true)? else { return Ok(None) };
    let Entered::Line(first) = first else { return Ok(Some(String::new())) };
    let in_quotes = first.trim_start().strip_prefix(QUOTES).map(str::to_owned);
    let (mut text, quoted) = match in_quotes {
        Some(rest) => (rest, true),
        None => (first, false),
    };
    loop {
        let complete = if quoted {
            match text.trim_end().strip_suffix(QUOTES) {
                Some(inside) => {
                    text = inside.to_owned();
                    true
                }
                None => false,
            }
        } else {
            match text.strip_suffix('\\') {
                Some(before) => {
                    text = before.to_owned();
                    false
                }
                None => true,
            }
        };
        if complete {
            return Ok(Some(if quoted { text.trim_matches('\n').to_owned() } else { text }));
        }
        text.push('\n');
        match read(false)? {
            Some(Entered::Line(line)) => text.push_str(&line),
            Some(Entered::Abandoned) => return Ok(Some(String::new())),
            // What was opened and never closed ends with the input.
            None => return Ok(Some(text.trim_end_matches('\n').to_owned())),
        }
    }
}

fn classify(text: String) -> Line {
    match text.strip_prefix('/') {
        Some(rest) if rest.starts_with('/') => Line::Message(rest.to_owned()),
        Some(_) => Line::Command(text.trim_end().to_owned()),
        None => Line::Message(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(lines: &[&str]) -> Vec<String> {
        let mut lines = lines.iter();
        let mut blocks = Vec::new();
        let mut read = |_| Ok(lines.next().map(|line| Entered::Line((*line).to_owned())));
        while let Some(block) = read_block(&mut read).unwrap() {
            blocks.push(block);
        }
        blocks
    }

    #[test]
    fn lines_stand_alone_unless_they_go_on() {
        assert_eq!(blocks(&["one", "two"]), ["one", "two"]);
        assert_eq!(blocks(&["one\\", "two\\", "three", "four"]), ["one\ntwo\nthree", "four"]);
        assert_eq!(blocks(&["open\\"]), ["open"]);
    }

    #[test]
    fn quotes_hold_several_lines() {
        assert_eq!(blocks(&["\"\"\"", "a", "", "b\\", "\"\"\"", "c"]), ["a\n\nb\\", "c"]);
        assert_eq!(blocks(&["\"\"\"one line\"\"\"", "c"]), ["one line", "c"]);
        assert_eq!(blocks(&["\"\"\"a", "b\"\"\""]), ["a\nb"]);
        assert_eq!(blocks(&["\"\"\"never closed", "b"]), ["never closed\nb"]);
    }

    #[test]
    fn slashes_begin_commands_and_two_do_not() {
        assert_eq!(classify("/quit ".to_owned()), Line::Command("/quit".to_owned()));
        assert_eq!(classify("//etc is a folder".to_owned()), Line::Message("/etc is a folder".to_owned()));
        assert_eq!(classify("a/b".to_owned()), Line::Message("a/b".to_owned()));
    }
}
