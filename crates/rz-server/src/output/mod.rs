//! What a model writes, taken apart while it comes: text, thoughts, calls of functions.

mod call;
mod splitter;
mod xml;

use std::sync::Arc;

use serde_json::Value;

pub(crate) use splitter::{CLOSE, Part, Splitter};

/// How an answer is to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Format {
    /// Thoughts stand between `<think>` and `</think>`.
    pub(crate) reasoning: bool,
    /// The prompt has begun the thoughts.
    pub(crate) thinking: bool,
    /// How functions are called, where there are some.
    pub(crate) tools: Option<ToolFormat>,
    /// The functions.
    pub(crate) functions: Option<Arc<Functions>>,
    /// The prompt has begun a call.
    pub(crate) calling: bool,
    /// Calls after the first one are left out.
    pub(crate) one_call: bool,
}

/// What is known of the functions that may be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Functions(Vec<(String, Value)>);

impl Functions {
    /// Functions by name, each with the JSON schema of its arguments.
    pub(crate) fn new(functions: impl IntoIterator<Item = (String, Value)>) -> Self {
        Self(functions.into_iter().collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// Whether an argument of a function is a text, whatever it looks like.
    fn is_text(&self, function: &str, argument: &str) -> bool {
        let Some((_, schema)) = self.0.iter().find(|(known, _)| known == function) else { return false };
        let schema = &schema["properties"][argument];
        let words = |value: &Value| value.as_array().is_some_and(|all| all.iter().all(Value::is_string));
        schema["type"] == "string"
            || schema["type"] == serde_json::json!(["string"])
            || words(&schema["enum"])
    }
}

/// How a family of models writes calls of functions: JSON with a name and arguments, between markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ToolFormat {
    /// What a call begins with; nothing: an answer that begins with `{` is a call.
    open: &'static str,
    /// What it ends with; nothing: the end of the answer.
    close: &'static str,
    /// Whether the calls are the elements of an array.
    array: bool,
    /// The key of the arguments.
    arguments: &'static str,
    /// What calls are written in, besides.
    other: Other,
}

/// Other ways to write a call than JSON between the markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    None,
    /// `<function=NAME>`, with the markers or without.
    Xml,
    /// `NAME[ARGS]` before the arguments.
    Named,
    /// JSON in a block of code.
    Fenced,
}

/// What a block of code that may be a call begins with, and what it ends with.
const FENCES: &[&str] = &["```json", "```tool_call", "```tool_code"];
const FENCE_END: &str = "```";

/// The formats, each with what gives it away in a template. The first that is found counts.
const TOOL_FORMATS: &[(&str, ToolFormat)] = &[
    (xml::OPEN, ToolFormat { other: Other::Xml, ..ToolFormat::GENERIC }),
    ("<tool_call>", ToolFormat { other: Other::None, ..ToolFormat::GENERIC }),
    (
        "[TOOL_CALLS]",
        ToolFormat {
            open: "[TOOL_CALLS]",
            close: "",
            array: true,
            arguments: "arguments",
            other: Other::Named,
        },
    ),
    (
        "<|tool_call|>",
        ToolFormat {
            open: "<|tool_call|>",
            close: "<|/tool_call|>",
            array: true,
            arguments: "arguments",
            other: Other::None,
        },
    ),
    (
        "<|python_tag|>",
        ToolFormat {
            open: "<|python_tag|>",
            close: "<|eom_id|>",
            array: false,
            arguments: "parameters",
            other: Other::None,
        },
    ),
    (
        "\"parameters\"",
        ToolFormat { open: "", close: "", array: false, arguments: "parameters", other: Other::Fenced },
    ),
];

impl ToolFormat {
    /// That of Hermes and Qwen, which other models follow best when they are told to, or write blocks of code.
    pub(crate) const GENERIC: ToolFormat = ToolFormat {
        open: "<tool_call>",
        close: "</tool_call>",
        array: false,
        arguments: "arguments",
        other: Other::Fenced,
    };

    /// The format that a template uses.
    pub(crate) fn of_template(source: &str) -> ToolFormat {
        let found = TOOL_FORMATS.iter().find(|(sign, _)| source.contains(sign));
        found.map_or(Self::GENERIC, |(_, format)| *format)
    }

    /// What an answer that is to be a call begins with.
    pub(crate) fn begin(self) -> &'static str {
        match self.open {
            "<tool_call>" => "<tool_call>\n",
            // Llama writes calls of functions that are not built in without the marker.
            "<|python_tag|>" => "",
            open => open,
        }
    }

    pub(crate) fn is_array(self) -> bool {
        self.array
    }

    pub(crate) fn arguments_key(self) -> &'static str {
        self.arguments
    }

    /// Whether an answer that begins with `{` may be a call.
    fn is_bare(self) -> bool {
        self.open.is_empty() || self.open == "<|python_tag|>"
    }

    /// The markers, which may be tokens that are not shown otherwise.
    pub(crate) fn markers(self) -> impl Iterator<Item = &'static str> + Clone {
        [self.open, self.close].into_iter().filter(|marker| !marker.is_empty())
    }

    /// All that a call may begin with, but for a bare object.
    fn openers(self) -> impl Iterator<Item = &'static str> + Clone {
        let other: &[&str] = match self.other {
            Other::Xml => &[xml::OPEN],
            Other::Fenced => FENCES,
            Other::None | Other::Named => &[],
        };
        [self.open].into_iter().filter(|open| !open.is_empty()).chain(other.iter().copied())
    }
}
