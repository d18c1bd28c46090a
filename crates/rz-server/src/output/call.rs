//! One call of a function as JSON, read while it is written.

use std::sync::Arc;

use serde_json::Value;

use super::{Functions, Part};

/// Reads the JSON object of a call, and gives its name and arguments as soon as they are known.
///
/// Arguments that are an object are passed on as they come; those in a string, as some models write
/// them, at their end.
#[derive(Debug, Default)]
pub(super) struct CallReader {
    raw: String,
    at: At,
    /// Nesting of the value that is read.
    depth: usize,
    in_string: bool,
    escaped: bool,
    key: String,
    name: Option<String>,
    /// Where the arguments begin and, once known, end.
    arguments: Option<(usize, Option<usize>)>,
    /// How much of `raw` was passed on as arguments.
    sent: usize,
    started: bool,
    /// Whether the call was told as a whole.
    told: bool,
    /// Whether the arguments are all that is to come.
    named: bool,
    /// Other functions than these are none.
    only: Option<Arc<Functions>>,
}

/// Where in the object the reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum At {
    /// Before the object.
    #[default]
    Outside,
    /// Before a key or the object's end.
    Before,
    /// In a key that began here.
    Key(usize),
    /// Before the colon.
    Colon,
    /// Before a value.
    BeforeValue,
    /// In a value that began here.
    Value(usize),
}

/// What a character led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    More,
    /// The call is complete.
    End,
    /// This is no call.
    Broken,
}

impl CallReader {
    /// Reads a call, of one of these functions only where some are given.
    pub(super) fn new(only: Option<Arc<Functions>>) -> Self {
        Self { only, ..Self::default() }
    }

    /// Reads the arguments, an object, of a call whose name stood before them.
    pub(super) fn named(name: &str) -> Self {
        let mut reader = Self::default();
        let begin = format!("{{\"name\": {}, \"arguments\": ", Value::from(name));
        for c in begin.chars() {
            reader.push(c, &mut Vec::new());
        }
        reader.named = true;
        reader
    }

    /// Whether the call was announced, so that it cannot be taken back.
    pub(super) fn started(&self) -> bool {
        self.started
    }

    /// Takes the next character.
    pub(super) fn push(&mut self, c: char, out: &mut Vec<Part>) -> Read {
        let here = self.raw.len();
        self.raw.push(c);
        match self.at {
            At::Outside if c == '{' => self.at = At::Before,
            At::Outside => return Read::Broken,
            At::Before => match c {
                '"' => {
                    self.at = At::Key(here);
                    (self.in_string, self.escaped) = (true, false);
                }
                '}' => return self.end(out),
                ',' => {}
                c if c.is_whitespace() => {}
                _ => return Read::Broken,
            },
            At::Key(start) => {
                if self.string_ends(c) {
                    let Ok(key) = serde_json::from_str(&self.raw[start..]) else { return Read::Broken };
                    (self.key, self.at) = (key, At::Colon);
                }
            }
            At::Colon => match c {
                ':' => self.at = At::BeforeValue,
                c if c.is_whitespace() => {}
                _ => return Read::Broken,
            },
            At::BeforeValue if c.is_whitespace() => {}
            At::BeforeValue => return self.begin_value(c, here, out),
            At::Value(start) => {
                let read = self.value(c, start, here, out);
                let whole = self.named && read == Read::More && self.at == At::Before;
                return if whole { self.end(out) } else { read };
            }
        }
        Read::More
    }

    /// Passes on what is known of the arguments. To be called when no more text is there for now.
    pub(super) fn flush(&mut self, out: &mut Vec<Part>) {
        let Some((start, end)) = self.arguments else { return };
        if !self.started || self.told || !self.raw[start..].starts_with('{') {
            return;
        }
        let known = &self.raw[self.sent.max(start)..end.unwrap_or(self.raw.len())];
        if !known.is_empty() {
            out.push(Part::CallArguments(known.to_owned()));
            self.sent = self.sent.max(start) + known.len();
        }
    }

    /// Ends in the middle: at what cannot be, or with the answer. Gives what is no part of the call.
    pub(super) fn abandon(mut self, out: &mut Vec<Part>) -> String {
        if !self.started {
            return self.raw;
        }
        if self.told {
            return String::new();
        }
        self.flush(out);
        let Some((start, end)) = self.arguments else { return String::new() };
        let text = &self.raw[start..end.unwrap_or(self.raw.len())];
        if !text.is_empty() && !text.starts_with('{') {
            out.push(Part::CallArguments(arguments_text(text)));
        }
        let rest = end.map_or("", |end| &self.raw[end..]);
        let says_nothing = rest.chars().all(|c| c.is_whitespace() || matches!(c, ',' | '"' | '}' | ']'));
        if says_nothing { String::new() } else { rest.to_owned() }
    }

    fn string_ends(&mut self, c: char) -> bool {
        match c {
            _ if self.escaped => self.escaped = false,
            '\\' => self.escaped = true,
            '"' => {
                self.in_string = false;
                return true;
            }
            _ => {}
        }
        false
    }

    fn begin_value(&mut self, c: char, here: usize, out: &mut Vec<Part>) -> Read {
        if matches!(c, ',' | '}' | ']' | ':') {
            return Read::Broken;
        }
        self.at = At::Value(here);
        (self.depth, self.in_string, self.escaped) = (0, false, false);
        match c {
            '"' => self.in_string = true,
            '{' | '[' => self.depth = 1,
            _ => {}
        }
        if matches!(self.key.as_str(), "arguments" | "parameters") && self.arguments.is_none() {
            self.arguments = Some((here, None));
            self.start(out);
        }
        Read::More
    }

    fn value(&mut self, c: char, start: usize, here: usize, out: &mut Vec<Part>) -> Read {
        if self.in_string {
            if self.string_ends(c) && self.depth == 0 {
                return self.end_value(start, here + 1, out);
            }
            return Read::More;
        }
        match c {
            '"' => (self.in_string, self.escaped) = (true, false),
            '{' | '[' => self.depth += 1,
            '}' | ']' if self.depth > 0 => {
                self.depth -= 1;
                if self.depth == 0 {
                    return self.end_value(start, here + 1, out);
                }
            }
            // A number or a word ends with what follows it.
            ',' if self.depth == 0 => return self.end_value(start, here, out),
            '}' if self.depth == 0 => {
                return match self.end_value(start, here, out) {
                    Read::More => self.end(out),
                    other => other,
                };
            }
            ']' => return Read::Broken,
            _ => {}
        }
        Read::More
    }

    fn end_value(&mut self, start: usize, end: usize, out: &mut Vec<Part>) -> Read {
        self.at = At::Before;
        let text = &self.raw[start..end];
        match self.key.as_str() {
            "name" => match serde_json::from_str::<String>(text) {
                Ok(name) if self.name.is_none() && self.may_be(&name) => {
                    self.name = Some(name);
                    self.start(out);
                }
                _ => return Read::Broken,
            },
            "arguments" | "parameters" => {
                match &mut self.arguments {
                    Some((first, known)) if *first == start => *known = Some(end),
                    // Of two, neither is less true than the other.
                    _ => return Read::Broken,
                }
                self.start(out);
            }
            // As OpenAI has it: the name and the arguments in an object of their own.
            "function" if text.starts_with('{') => {
                if self.started {
                    return Read::Broken;
                }
                let Ok(inner) = serde_json::from_str::<Value>(text) else { return Read::Broken };
                let Some(name) = inner["name"].as_str().filter(|name| self.may_be(name)) else {
                    return Read::Broken;
                };
                out.push(Part::CallStart(name.to_owned()));
                out.push(Part::CallArguments(match &inner["arguments"] {
                    Value::String(text) => text.clone(),
                    Value::Null => "{}".to_owned(),
                    other => other.to_string(),
                }));
                (self.started, self.told) = (true, true);
            }
            _ => {}
        }
        Read::More
    }

    fn may_be(&self, name: &str) -> bool {
        !name.is_empty() && self.only.as_ref().is_none_or(|functions| functions.has(name))
    }

    /// Announces the call once its name is known and its arguments have begun.
    fn start(&mut self, out: &mut Vec<Part>) {
        if let Some(name) = &self.name
            && self.arguments.is_some()
            && !self.started
        {
            self.started = true;
            out.push(Part::CallStart(name.clone()));
        }
    }

    fn end(&mut self, out: &mut Vec<Part>) -> Read {
        if self.told {
            return Read::End;
        }
        let Some(name) = &self.name else { return Read::Broken };
        match self.arguments {
            None => {
                out.push(Part::CallStart(name.clone()));
                out.push(Part::CallArguments("{}".to_owned()));
                self.started = true;
            }
            Some((start, end)) => {
                let text = &self.raw[start..end.unwrap_or(start)];
                if text.starts_with('{') {
                    self.flush(out);
                } else {
                    out.push(Part::CallArguments(arguments_text(text)));
                }
            }
        }
        Read::End
    }
}

/// Arguments that are no object as text of JSON, whichever way a model wrote them.
fn arguments_text(text: &str) -> String {
    match serde_json::from_str(text) {
        Ok(Value::String(text)) => text,
        Ok(Value::Null) => "{}".to_owned(),
        _ => text.to_owned(),
    }
}
