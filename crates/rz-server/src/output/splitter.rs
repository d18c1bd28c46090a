//! The whole answer: where text ends, and thoughts or calls begin.

use super::call::{CallReader, Read};
use super::xml::{self, XmlReader};
use super::{FENCE_END, FENCES, Format, Other, ToolFormat};

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Text for the reader.
    Text(String),
    /// Thoughts.
    Reasoning(String),
    /// A call of the function with this name begins.
    CallStart(String),
    /// More of the arguments of the call that began last.
    CallArguments(String),
}

const OPEN: &str = "<think>";
pub(crate) const CLOSE: &str = "</think>";

/// Takes an answer apart while it comes. What might become a marker is held back, and what turns out to be none is
/// told as text.
#[derive(Debug)]
pub(crate) struct Splitter {
    format: Format,
    mode: Mode,
    /// Text that is not told yet.
    held: String,
    /// Whether text other than white space was told.
    said: bool,
    /// Whether thoughts came to their end.
    thought: bool,
    /// Whether a call was begun.
    called: bool,
    /// Calls that were told or left out.
    calls: usize,
    /// The call that is read.
    reader: Option<Reader>,
    /// What was read since the last text or call: markers, white space and what stands between calls. It is text, if
    /// no call follows.
    around: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Text,
    Reasoning,
    /// Between the markers of calls.
    Calls {
        /// What begins them; nothing: an object that stands there as it is.
        open: &'static str,
        /// Whether one was read since.
        some: bool,
    },
}

/// A call that is being read.
#[derive(Debug)]
enum Reader {
    Json(CallReader),
    Xml(XmlReader),
}

impl Reader {
    fn push(&mut self, c: char, out: &mut Vec<Part>) -> Read {
        match self {
            Reader::Json(reader) => reader.push(c, out),
            Reader::Xml(reader) => reader.push(c, out),
        }
    }

    fn flush(&mut self, out: &mut Vec<Part>) {
        match self {
            Reader::Json(reader) => reader.flush(out),
            Reader::Xml(reader) => reader.flush(out),
        }
    }

    fn started(&self) -> bool {
        match self {
            Reader::Json(reader) => reader.started(),
            Reader::Xml(reader) => reader.started(),
        }
    }

    fn abandon(self, cut: bool, out: &mut Vec<Part>) -> String {
        match self {
            Reader::Json(reader) => reader.abandon(out),
            Reader::Xml(reader) => reader.abandon(cut, out),
        }
    }
}

impl Splitter {
    pub(crate) fn new(format: Format) -> Self {
        let mode = match &format {
            Format { thinking: true, .. } => Mode::Reasoning,
            Format { calling: true, tools: Some(tools), .. } => Mode::Calls { open: tools.open, some: false },
            _ => Mode::Text,
        };
        Self {
            format,
            mode,
            held: String::new(),
            said: false,
            thought: false,
            called: false,
            calls: 0,
            reader: None,
            around: String::new(),
        }
    }

    /// Whether the answer is just text, so that nothing is ever held back.
    pub(crate) fn is_plain(&self) -> bool {
        !self.format.reasoning && self.format.tools.is_none()
    }

    /// Whether thoughts are being written.
    pub(crate) fn is_reasoning(&self) -> bool {
        self.mode == Mode::Reasoning
    }

    /// Whether a function was called.
    pub(crate) fn called(&self) -> bool {
        self.called
    }

    /// Takes the next piece of an answer.
    pub(crate) fn push(&mut self, text: &str, out: &mut Vec<Part>) {
        // White space between thoughts and answer is neither.
        let begun = self.said || !self.thought;
        if self.is_plain() && self.held.is_empty() && begun {
            tell(text.to_owned(), out);
            return;
        }
        self.held.push_str(text);
        while !self.held.is_empty() && self.advance(false, out) {}
        if let Some(reader) = &mut self.reader {
            reader.flush(out);
        }
        self.leave_out(out);
    }

    /// The answer is complete.
    pub(crate) fn finish(&mut self, out: &mut Vec<Part>) {
        while !self.held.is_empty() && self.advance(true, out) {}
        if let Mode::Calls { .. } = self.mode {
            self.give_up(true, out);
        }
        let rest = std::mem::take(&mut self.held);
        match self.mode {
            Mode::Reasoning => think(rest.trim_end().to_owned(), out),
            // White space before or after calls is nothing that anybody said.
            _ if rest.trim().is_empty() && (self.called || !self.said) => {}
            _ => tell(rest, out),
        }
        self.leave_out(out);
    }

    /// Leaves out calls after the first one, where only one is wanted.
    fn leave_out(&mut self, out: &mut Vec<Part>) {
        out.retain(|part| {
            self.calls += usize::from(matches!(part, Part::CallStart(_)));
            let of_call = matches!(part, Part::CallStart(_) | Part::CallArguments(_));
            !(of_call && self.format.one_call && self.calls > 1)
        });
    }

    /// Tells what can be told of the text that is held. False: more is needed.
    fn advance(&mut self, last: bool, out: &mut Vec<Part>) -> bool {
        match self.mode {
            Mode::Text => self.text(last, out),
            Mode::Reasoning => self.reasoning(last, out),
            Mode::Calls { .. } if self.reader.is_some() => self.call(out),
            Mode::Calls { open, some } => self.between_calls(open, some, last, out),
        }
    }

    fn text(&mut self, last: bool, out: &mut Vec<Part>) -> bool {
        let tools = self.format.tools;
        let untouched = !self.said && !self.called;
        if untouched && tools.is_some_and(ToolFormat::is_bare) && self.held.trim_start().starts_with('{') {
            self.held.drain(..self.held.len() - self.held.trim_start().len());
            self.mode = Mode::Calls { open: "", some: false };
            return true;
        }
        // Thoughts come first or not at all.
        let think = self.format.reasoning && untouched;
        let markers =
            think.then_some(OPEN).into_iter().chain(tools.into_iter().flat_map(ToolFormat::openers));
        let found = markers.clone().filter_map(|marker| Some((self.held.find(marker)?, marker)));
        let found = found.filter(|(at, marker)| *marker != OPEN || self.held[..*at].trim().is_empty());
        if let Some((at, marker)) = found.min_by_key(|(at, _)| *at) {
            let before: String = self.held.drain(..at).collect();
            let text = before.trim_end();
            if marker == OPEN {
                self.held.drain(..marker.len());
                self.mode = Mode::Reasoning;
                return true;
            }
            // White space before a call is nothing that anybody said; before text, it is.
            self.around = before[text.len()..].to_owned();
            let text = if untouched { text.trim_start() } else { text };
            if text.is_empty() && untouched {
                self.around.clear();
            }
            self.said |= !text.is_empty();
            tell(text.to_owned(), out);
            if marker != xml::OPEN {
                self.around.extend(self.held.drain(..marker.len()));
            }
            self.mode = Mode::Calls { open: marker, some: false };
            return true;
        }
        if last {
            return false;
        }
        // What may become a marker waits, and so does white space before it.
        let keep = markers.map(|marker| partial(&self.held, marker)).max().unwrap_or(0);
        let told = &self.held[..self.held.len() - keep];
        let told = if tools.is_some() || untouched { told.trim_end() } else { told };
        let told: String = self.held[..told.len()].to_owned();
        self.held.drain(..told.len());
        if untouched {
            // White space at the beginning of an answer that may hold more than text is left out.
            let text = told.trim_start();
            self.said |= !text.is_empty();
            tell(text.to_owned(), out);
        } else {
            self.said |= !told.trim().is_empty();
            tell(told, out);
        }
        false
    }

    fn reasoning(&mut self, last: bool, out: &mut Vec<Part>) -> bool {
        if !out.iter().any(|part| matches!(part, Part::Reasoning(_))) && !self.said {
            // Line ends after the marker.
            let spaces = self.held.len() - self.held.trim_start().len();
            self.held.drain(..spaces);
        }
        if let Some(at) = self.held.find(CLOSE) {
            let thoughts: String = self.held.drain(..at).collect();
            self.held.drain(..CLOSE.len());
            think(thoughts.trim_end().to_owned(), out);
            (self.mode, self.said, self.thought) = (Mode::Text, false, true);
            // Nothing else is taken for thoughts.
            self.format.reasoning = false;
            return true;
        }
        if last {
            return false;
        }
        let told = &self.held[..self.held.len() - partial(&self.held, CLOSE)];
        let len = told.trim_end().len();
        let told: String = self.held.drain(..len).collect();
        // From here on white space belongs to the thoughts.
        self.said |= !told.is_empty();
        think(told, out);
        false
    }

    /// What stands where a call may begin: one, a marker, what separates calls, or text.
    fn between_calls(&mut self, open: &'static str, some: bool, last: bool, out: &mut Vec<Part>) -> bool {
        let Some(format) = self.format.tools else { return false };
        let fenced = FENCES.contains(&open);
        let rest = self.held.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ',' | ';'));
        let skipped = self.held.len() - rest.len();
        self.around.extend(self.held.drain(..skipped));
        if self.held.is_empty() {
            return false;
        }
        let (close, markers) = match fenced {
            true => (FENCE_END, [FENCE_END, FENCE_END]),
            false => (format.close, [format.open, format.close]),
        };
        let mut markers = markers.into_iter().filter(|marker| !marker.is_empty());
        if let Some(marker) = markers.clone().find(|marker| self.held.starts_with(marker)) {
            if some && marker != close {
                self.around.clear();
            }
            self.around.extend(self.held.drain(..marker.len()));
            if marker == close {
                self.end_calls(some, out);
            } else {
                self.mode = Mode::Calls { open: marker, some: false };
            }
            return true;
        }
        // Between these markers, either form may stand.
        let xml = format.open == ToolFormat::GENERIC.open && !fenced;
        let mut may_follow = markers.by_ref().chain(xml.then_some(xml::OPEN));
        if !last && may_follow.any(|marker| marker.starts_with(&self.held)) {
            return false;
        }
        if self.held.starts_with(['[', ']']) {
            self.around.push(self.held.remove(0));
            return true;
        }
        // Without a marker of its own, only what is known is a call.
        let marked = !fenced && !open.is_empty() && open != xml::OPEN;
        let functions = self.format.functions.clone();
        if self.held.starts_with('{') {
            self.reader = Some(Reader::Json(CallReader::new(functions.filter(|_| !marked))));
            return true;
        }
        if self.held.starts_with(xml::OPEN) && xml {
            let known_only = !marked && functions.is_some();
            self.reader = Some(Reader::Xml(XmlReader::new(functions.unwrap_or_default(), known_only)));
            return true;
        }
        if format.other == Other::Named {
            match named(&self.held) {
                Named::Yes(name, len) => {
                    let reader = CallReader::named(name);
                    self.around.extend(self.held.drain(..len));
                    self.reader = Some(Reader::Json(reader));
                    return true;
                }
                Named::Maybe if !last => return false,
                _ => {}
            }
        }
        self.end_calls(some, out);
        true
    }

    /// Reads on in a call.
    fn call(&mut self, out: &mut Vec<Part>) -> bool {
        let text = std::mem::take(&mut self.held);
        for (at, c) in text.char_indices() {
            let Some(reader) = &mut self.reader else { break };
            let read = reader.push(c, out);
            if reader.started() {
                self.called = true;
                self.around.clear();
            }
            if read == Read::More {
                continue;
            }
            self.held = text[at + c.len_utf8()..].to_owned();
            match (read, self.mode) {
                (Read::End, Mode::Calls { open, .. }) => {
                    self.reader = None;
                    self.mode = Mode::Calls { open, some: true };
                }
                _ => self.give_up(false, out),
            }
            return true;
        }
        false
    }

    /// No call follows. What stood around calls was no text; without any, it is.
    fn end_calls(&mut self, some: bool, out: &mut Vec<Part>) {
        let around = std::mem::take(&mut self.around);
        if !some && !around.is_empty() {
            self.said = true;
            tell(around, out);
        }
        self.mode = Mode::Text;
    }

    /// Gives back as text what turned out not to be a call. What was told as one stays one.
    fn give_up(&mut self, cut: bool, out: &mut Vec<Part>) {
        let Mode::Calls { some, .. } = self.mode else { return };
        let Some(reader) = self.reader.take() else { return self.end_calls(some, out) };
        let started = reader.started();
        // What separated it from the call before goes with it.
        self.end_calls(started, out);
        let rest = reader.abandon(cut, out);
        self.said |= !rest.is_empty();
        tell(rest, out);
    }
}

/// Whether a text begins with a name and `[ARGS]`, before the object of arguments.
enum Named<'a> {
    No,
    Maybe,
    /// The name, and how many bytes come before the object.
    Yes(&'a str, usize),
}

fn named(text: &str) -> Named<'_> {
    const LONGEST: usize = 128;
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
    let after_name = text.trim_start_matches(is_name);
    let name = &text[..text.len() - after_name.len()];
    if name.is_empty() || name.len() > LONGEST {
        return Named::No;
    }
    let mut rest = after_name;
    if let Some(id) = rest.strip_prefix("[CALL_ID]") {
        rest = id.trim_start_matches(is_name);
        if id.len() - rest.len() > LONGEST {
            return Named::No;
        }
    }
    if "[CALL_ID]".starts_with(rest) || "[ARGS]".starts_with(rest) {
        // Also when nothing follows yet.
        return Named::Maybe;
    }
    let Some(rest) = rest.strip_prefix("[ARGS]") else { return Named::No };
    let object = rest.trim_start();
    match object.chars().next() {
        Some('{') => Named::Yes(name, text.len() - object.len()),
        Some(_) => Named::No,
        None => Named::Maybe,
    }
}

fn tell(text: String, out: &mut Vec<Part>) {
    if !text.is_empty() {
        out.push(Part::Text(text));
    }
}

fn think(text: String, out: &mut Vec<Part>) {
    if !text.is_empty() {
        out.push(Part::Reasoning(text));
    }
}

/// The length of the longest end of `text` that the marker begins with.
pub(super) fn partial(text: &str, marker: &str) -> usize {
    let longest = marker.len().min(text.len());
    (1..=longest).rev().find(|len| text.as_bytes().ends_with(&marker.as_bytes()[..*len])).unwrap_or(0)
}

#[cfg(test)]
mod tests;
