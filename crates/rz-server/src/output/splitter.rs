//! The whole answer: where text ends, and thoughts or calls begin.

use super::call::{CallReader, Read};
use super::{Format, ToolFormat};

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
const CLOSE: &str = "</think>";

/// Takes an answer apart while it comes. What might become a marker is held back.
#[derive(Debug)]
pub(crate) struct Splitter {
    format: Format,
    mode: Mode,
    /// Text that is not told yet.
    held: String,
    /// Whether text other than white space was told.
    said: bool,
    /// Whether a call was begun.
    called: bool,
    /// Calls that were told or left out.
    calls: usize,
    reader: CallReader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Text,
    Reasoning,
    /// Between the markers of calls. `marked`: the opening one was really there.
    Calls {
        marked: bool,
    },
}

impl Splitter {
    pub(crate) fn new(format: Format) -> Self {
        let mode = match format {
            Format { thinking: true, .. } => Mode::Reasoning,
            Format { calling: true, tools: Some(_), .. } => Mode::Calls { marked: true },
            _ => Mode::Text,
        };
        Self {
            format,
            mode,
            held: String::new(),
            said: false,
            called: false,
            calls: 0,
            reader: CallReader::default(),
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
        if self.is_plain() && self.held.is_empty() {
            tell(text.to_owned(), out);
            return;
        }
        self.held.push_str(text);
        while !self.held.is_empty() && self.advance(false, out) {}
        self.reader.flush(out);
        self.leave_out(out);
    }

    /// The answer is complete.
    pub(crate) fn finish(&mut self, out: &mut Vec<Part>) {
        while !self.held.is_empty() && self.advance(true, out) {}
        if let Mode::Calls { marked } = self.mode
            && !self.reader.is_empty()
        {
            self.reader.flush(out);
            self.give_up(marked, out);
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
            Mode::Calls { marked } => self.calls(marked, out),
        }
    }

    fn text(&mut self, last: bool, out: &mut Vec<Part>) -> bool {
        let tools = self.format.tools;
        let untouched = !self.said && !self.called;
        if untouched && tools.is_some_and(ToolFormat::is_bare) && self.held.trim_start().starts_with('{') {
            self.held.drain(..self.held.len() - self.held.trim_start().len());
            self.mode = Mode::Calls { marked: false };
            return true;
        }
        // Thoughts come first or not at all.
        let think = self.format.reasoning && untouched;
        let markers =
            [think.then_some(OPEN), tools.map(|format| format.open).filter(|open| !open.is_empty())];
        let markers = markers.into_iter().flatten();
        let found = markers.clone().filter_map(|marker| Some((self.held.find(marker)?, marker)));
        let found = found.filter(|(at, marker)| *marker != OPEN || self.held[..*at].trim().is_empty());
        if let Some((at, marker)) = found.min_by_key(|(at, _)| *at) {
            let before: String = self.held.drain(..at).collect();
            self.held.drain(..marker.len());
            let before = before.trim_end();
            self.said |= !before.trim().is_empty();
            if self.said {
                tell(before.to_owned(), out);
            }
            self.mode = if marker == OPEN { Mode::Reasoning } else { Mode::Calls { marked: true } };
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
            (self.mode, self.said) = (Mode::Text, false);
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

    fn calls(&mut self, marked: bool, out: &mut Vec<Part>) -> bool {
        let Some(format) = self.format.tools else { return false };
        if self.reader.is_empty() {
            let rest = self.held.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ',' | ';'));
            self.held.drain(..self.held.len() - rest.len());
            if format.array && (self.held.starts_with('[') || self.held.starts_with(']')) {
                self.held.remove(0);
                return true;
            }
            if self.held.is_empty() {
                return false;
            }
            if !self.held.starts_with('{') {
                return self.after_calls(format, out);
            }
        }
        let text = std::mem::take(&mut self.held);
        for (at, c) in text.char_indices() {
            match self.reader.push(c, out) {
                Read::More => {
                    self.called |= self.reader.started();
                    continue;
                }
                Read::End => {
                    self.called = true;
                    self.reader = CallReader::default();
                }
                Read::Broken => {
                    // What was already told as a call stays one; the rest is text.
                    self.held = text[at + c.len_utf8()..].to_owned();
                    self.reader.flush(out);
                    self.give_up(marked, out);
                    return true;
                }
            }
            self.held = text[at + c.len_utf8()..].to_owned();
            return true;
        }
        false
    }

    /// What comes where no call begins: the closing marker, another opening one, or text.
    fn after_calls(&mut self, format: ToolFormat, out: &mut Vec<Part>) -> bool {
        let mut markers = format.markers();
        if let Some(marker) = markers.clone().find(|marker| self.held.starts_with(marker)) {
            self.held.drain(..marker.len());
            self.mode = if marker == format.close { Mode::Text } else { Mode::Calls { marked: true } };
            return true;
        }
        if markers.any(|marker| partial(&self.held, marker) == self.held.len()) {
            return false;
        }
        // No call came after the marker, or something after the calls that is none.
        if !self.called {
            tell(format.open.to_owned(), out);
        }
        self.plain();
        true
    }

    /// Gives back as text what turned out not to be a call.
    fn give_up(&mut self, marked: bool, out: &mut Vec<Part>) {
        let started = self.reader.started();
        let raw = self.reader.take_raw();
        self.reader = CallReader::default();
        if !started {
            if let Some(format) = self.format.tools.filter(|_| marked && !self.format.calling) {
                tell(format.open.to_owned(), out);
            }
            self.said = true;
            tell(raw, out);
        }
        self.plain();
    }

    /// From here on everything is text.
    fn plain(&mut self) {
        self.mode = Mode::Text;
        self.format.tools = None;
        self.format.reasoning = false;
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
fn partial(text: &str, marker: &str) -> usize {
    let longest = marker.len().min(text.len());
    (1..=longest).rev().find(|len| text.as_bytes().ends_with(&marker.as_bytes()[..*len])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOLS: Format = Format {
        reasoning: true,
        thinking: false,
        tools: Some(ToolFormat::GENERIC),
        calling: false,
        one_call: false,
    };

    /// The parts of an answer that comes in pieces of `size` characters, neighbours of a kind joined.
    fn split(format: Format, answer: &str, size: usize) -> Vec<Part> {
        let mut splitter = Splitter::new(format);
        let mut out = Vec::new();
        let chars: Vec<char> = answer.chars().collect();
        for piece in chars.chunks(size) {
            let mut parts = Vec::new();
            splitter.push(&piece.iter().collect::<String>(), &mut parts);
            out.extend(parts);
        }
        let mut parts = Vec::new();
        splitter.finish(&mut parts);
        out.extend(parts);
        let mut joined: Vec<Part> = Vec::new();
        for part in out {
            match (joined.last_mut(), part) {
                (Some(Part::Text(text)), Part::Text(more))
                | (Some(Part::Reasoning(text)), Part::Reasoning(more))
                | (Some(Part::CallArguments(text)), Part::CallArguments(more)) => *text += &more,
                (_, part) => joined.push(part),
            }
        }
        joined
    }

    fn text(text: &str) -> Part {
        Part::Text(text.to_owned())
    }

    fn call(name: &str, arguments: &str) -> [Part; 2] {
        [Part::CallStart(name.to_owned()), Part::CallArguments(arguments.to_owned())]
    }

    /// The parts are the same however the answer is cut.
    fn check(format: Format, answer: &str, expected: &[Part]) {
        for size in 1..=answer.chars().count().max(1) {
            assert_eq!(split(format, answer, size), expected, "{answer:?} in pieces of {size}");
        }
    }

    #[test]
    fn text_stays_text() {
        check(TOOLS, "Hello, <b>world</b> {\"a\": 1}", &[text("Hello, <b>world</b> {\"a\": 1}")]);
        check(TOOLS, "a < b <thin", &[text("a < b <thin")]);
        check(Format::default(), " <think>x</think> <tool_call>", &[text(" <think>x</think> <tool_call>")]);
    }

    #[test]
    fn thoughts_come_first() {
        let thoughts = |thoughts: &str| Part::Reasoning(thoughts.to_owned());
        check(TOOLS, "<think>\nSo it\nis.\n</think>\n\nYes.", &[thoughts("So it\nis."), text("Yes.")]);
        check(TOOLS, "No <think>x</think>", &[text("No <think>x</think>")]);
        check(TOOLS, "<think>\n\n</think>\n\nYes.", &[text("Yes.")]);
        let begun = Format { thinking: true, ..TOOLS };
        check(begun, "So.\n</think>Yes </think>", &[thoughts("So."), text("Yes </think>")]);
        check(begun, "never ends </thin", &[thoughts("never ends </thin")]);
    }

    #[test]
    fn calls_are_found() {
        let one = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": \"}\\\"{\", \"y\": [1, {}]}}\n</tool_call>";
        let first = call("f", "{\"x\": \"}\\\"{\", \"y\": [1, {}]}");
        check(TOOLS, one, &first);
        check(TOOLS, &format!("Let me look.\n\n{one}\n"), &[&[text("Let me look.")], &first[..]].concat());
        let two = format!("{one}\n<tool_call>{{\"arguments\":{{}},\"name\":\"g\"}}</tool_call>");
        check(TOOLS, &two, &[first.clone(), call("g", "{}")].concat());
        // Without arguments, with them in a string, in an object of their own, and behind thoughts.
        check(TOOLS, "<tool_call>{\"name\":\"g\"}</tool_call>", &call("g", "{}"));
        check(
            TOOLS,
            "<tool_call>{\"name\":\"g\",\"arguments\":\"{\\\"a\\\":1}\"}</tool_call>",
            &call("g", "{\"a\":1}"),
        );
        let nested = "<tool_call>{\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":{\"a\":1}}}</tool_call>";
        check(TOOLS, nested, &call("g", "{\"a\":1}"));
        let thought = format!("<think>hm</think>\n{one}");
        check(TOOLS, &thought, &[&[Part::Reasoning("hm".into())], &first[..]].concat());
    }

    #[test]
    fn only_one_call_is_told_where_only_one_is_wanted() {
        let one = Format { one_call: true, ..TOOLS };
        let two = "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n\
                   <tool_call>{\"name\":\"g\",\"arguments\":{\"a\":1}}</tool_call>";
        check(one, two, &call("f", "{}"));
    }

    #[test]
    fn families_write_calls_differently() {
        let format = |source| Format { tools: Some(ToolFormat::of_template(source)), ..Format::default() };
        let mistral = "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"arguments\": {}}]";
        check(format("[TOOL_CALLS]"), mistral, &[call("f", "{\"a\": 1}"), call("g", "{}")].concat());
        let llama = "{\"name\": \"f\", \"parameters\": {\"a\": 1}}; {\"name\": \"g\", \"parameters\": {}}";
        check(format("<|python_tag|>"), llama, &[call("f", "{\"a\": 1}"), call("g", "{}")].concat());
        check(
            format("<|python_tag|>"),
            &format!("<|python_tag|>{llama}"),
            &[call("f", "{\"a\": 1}"), call("g", "{}")].concat(),
        );
        let phi = "<|tool_call|>[{\"name\": \"f\", \"arguments\": {}}]<|/tool_call|>";
        check(format("<|tool_call|>"), phi, &call("f", "{}"));
    }

    #[test]
    fn what_is_no_call_is_text() {
        for answer in [
            "<tool_call>\nnothing</tool_call>",
            "<tool_call>{\"nam\": 1}</tool_call>",
            "<tool_call>{\"name\": 1}</tool_call>",
            "<tool_call>{name: 1}",
            "<tool_call>{\"name\": \"f\"",
        ] {
            let parts = split(TOOLS, answer, 1);
            let told: String = parts
                .iter()
                .map(|part| match part {
                    Part::Text(text) => text.as_str(),
                    other => panic!("{answer}: {other:?}"),
                })
                .collect();
            let squeezed = |text: &str| text.split_whitespace().collect::<String>();
            assert_eq!(squeezed(&told), squeezed(answer));
        }
        let bare = Format { tools: Some(ToolFormat::of_template("<|python_tag|>")), ..Format::default() };
        check(bare, "{\"city\": \"Paris\"} is it", &[text("{\"city\": \"Paris\"} is it")]);
    }

    #[test]
    fn a_call_that_is_cut_off_is_told_as_far_as_it_came() {
        let cut = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"lo";
        check(TOOLS, cut, &call("f", "{\"a\": \"lo"));
        assert!(split(TOOLS, cut, 4).len() == 2);
    }

    #[test]
    fn a_call_that_the_prompt_began_is_read() {
        let begun = Format { calling: true, ..TOOLS };
        check(begun, "{\"name\": \"f\", \"arguments\": {}}", &call("f", "{}"));
        check(begun, "\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>", &call("f", "{}"));
    }
}
