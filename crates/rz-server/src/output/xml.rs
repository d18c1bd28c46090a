//! One call of a function in the way of Qwen3-Coder, read while it is written.

use std::sync::Arc;

use super::call::Read;
use super::splitter::partial;
use super::{Functions, Part};

pub(super) const OPEN: &str = "<function=";
const END: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";

/// Names that are longer are none.
const LONGEST_NAME: usize = 256;

/// Reads `<function=NAME>`, `<parameter=KEY>` with values up to `</parameter>`, and `</function>`; gives arguments as
/// JSON as they come. Values are texts where the function's schema says so, else what they are as JSON.
#[derive(Debug)]
pub(super) struct XmlReader {
    functions: Arc<Functions>,
    /// Whether other functions than those known are none.
    known_only: bool,
    at: At,
    /// What is not told yet.
    buffer: String,
    function: String,
    /// Whether the value that is read is a text by its schema.
    is_text: bool,
    /// Whether something of the value, or of the arguments, was told.
    value_begun: bool,
    has_parameters: bool,
    started: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    /// In `<function=NAME>`.
    Function,
    /// Before a parameter or the end.
    Between,
    Value,
}

impl XmlReader {
    pub(super) fn new(functions: Arc<Functions>, known_only: bool) -> Self {
        Self {
            functions,
            known_only,
            at: At::Function,
            buffer: String::new(),
            function: String::new(),
            is_text: false,
            value_begun: false,
            has_parameters: false,
            started: false,
        }
    }

    /// Whether the call was announced, so that it cannot be taken back.
    pub(super) fn started(&self) -> bool {
        self.started
    }

    /// Takes the next character.
    pub(super) fn push(&mut self, c: char, out: &mut Vec<Part>) -> Read {
        self.buffer.push(c);
        match self.at {
            At::Function => self.function(c, out),
            At::Between => self.between(c, out),
            At::Value => {
                if c == '>' && self.buffer.ends_with(PARAMETER_END) {
                    self.buffer.truncate(self.buffer.len() - PARAMETER_END.len());
                    self.end_value(out);
                }
                Read::More
            }
        }
    }

    /// Passes on what is known of the value that is read.
    pub(super) fn flush(&mut self, out: &mut Vec<Part>) {
        if self.at != At::Value || !self.is_text {
            return;
        }
        // What may be the end waits, and so does the line end before it.
        let known = &self.buffer[..self.buffer.len() - partial(&self.buffer, PARAMETER_END)];
        let len = known.strip_suffix('\n').unwrap_or(known).len();
        if len > 0 {
            let text: String = self.buffer.drain(..len).collect();
            self.tell_text(&text, out);
        }
    }

    /// Ends in the middle: at what cannot be, or (`cut`) with the answer. Gives what is no part of the call.
    pub(super) fn abandon(mut self, cut: bool, out: &mut Vec<Part>) -> String {
        if !self.started {
            return self.buffer;
        }
        if self.at == At::Value {
            let text = std::mem::take(&mut self.buffer);
            if !text.is_empty() {
                self.tell_text(&text, out);
            }
            return String::new();
        }
        if !cut {
            arguments("}", out);
        }
        if self.buffer.trim().is_empty() { String::new() } else { self.buffer }
    }

    fn function(&mut self, c: char, out: &mut Vec<Part>) -> Read {
        let Some(name) = self.buffer.strip_prefix(OPEN) else {
            return if OPEN.starts_with(&self.buffer) { Read::More } else { Read::Broken };
        };
        if c != '>' {
            return if is_name(name) { Read::More } else { Read::Broken };
        }
        let name = name[..name.len() - 1].trim().to_owned();
        if name.is_empty() || (self.known_only && !self.functions.has(&name)) {
            return Read::Broken;
        }
        out.push(Part::CallStart(name.clone()));
        arguments("{", out);
        (self.function, self.started, self.at) = (name, true, At::Between);
        self.buffer.clear();
        Read::More
    }

    fn between(&mut self, c: char, out: &mut Vec<Part>) -> Read {
        let text = self.buffer.trim_start();
        if text == END {
            arguments("}", out);
            return Read::End;
        }
        let Some(key) = text.strip_prefix(PARAMETER) else {
            let may_become = END.starts_with(text) || PARAMETER.starts_with(text);
            return if may_become { Read::More } else { Read::Broken };
        };
        if c != '>' {
            return if is_name(key) { Read::More } else { Read::Broken };
        }
        let key = key[..key.len() - 1].trim().to_owned();
        if key.is_empty() {
            return Read::Broken;
        }
        let comma = if self.has_parameters { ", " } else { "" };
        arguments(&format!("{comma}{}: ", serde_json::Value::from(key.as_str())), out);
        self.is_text = self.functions.is_text(&self.function, &key);
        (self.at, self.has_parameters, self.value_begun) = (At::Value, true, false);
        self.buffer.clear();
        Read::More
    }

    fn end_value(&mut self, out: &mut Vec<Part>) {
        let text = std::mem::take(&mut self.buffer);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let trimmed = text.trim();
        if !self.is_text && serde_json::from_str::<serde::de::IgnoredAny>(trimmed).is_ok() {
            arguments(trimmed, out);
        } else {
            self.tell_text(text, out);
            arguments("\"", out);
        }
        self.at = At::Between;
    }

    /// Tells a piece of a text as a piece of a JSON string.
    fn tell_text(&mut self, text: &str, out: &mut Vec<Part>) {
        let mut text = text;
        if !self.value_begun {
            arguments("\"", out);
            text = text.strip_prefix('\n').unwrap_or(text);
            self.value_begun = true;
        }
        let quoted = serde_json::Value::from(text).to_string();
        arguments(&quoted[1..quoted.len() - 1], out);
    }
}

fn arguments(text: &str, out: &mut Vec<Part>) {
    if !text.is_empty() {
        out.push(Part::CallArguments(text.to_owned()));
    }
}

fn is_name(text: &str) -> bool {
    text.len() <= LONGEST_NAME && !text.contains(['<', '\n', '>'])
}
