//! What a model writes, taken apart while it comes: text, thoughts, calls of functions.

mod call;
mod splitter;

pub(crate) use splitter::{Part, Splitter};

/// How an answer is to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Format {
    /// Thoughts stand between `<think>` and `</think>`.
    pub(crate) reasoning: bool,
    /// The prompt has begun the thoughts.
    pub(crate) thinking: bool,
    /// How functions are called, where there are some.
    pub(crate) tools: Option<ToolFormat>,
    /// The prompt has begun a call.
    pub(crate) calling: bool,
    /// Calls after the first one are left out.
    pub(crate) one_call: bool,
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
}

/// The formats, each with what gives it away in a template. The first that is found counts.
const TOOL_FORMATS: &[(&str, ToolFormat)] = &[
    ("<tool_call>", ToolFormat::GENERIC),
    ("[TOOL_CALLS]", ToolFormat { open: "[TOOL_CALLS]", close: "", array: true, arguments: "arguments" }),
    (
        "<|tool_call|>",
        ToolFormat { open: "<|tool_call|>", close: "<|/tool_call|>", array: true, arguments: "arguments" },
    ),
    (
        "<|python_tag|>",
        ToolFormat { open: "<|python_tag|>", close: "<|eom_id|>", array: false, arguments: "parameters" },
    ),
    ("\"parameters\"", ToolFormat { open: "", close: "", array: false, arguments: "parameters" }),
];

impl ToolFormat {
    /// That of Hermes and Qwen, which other models follow best when they are told to.
    pub(crate) const GENERIC: ToolFormat =
        ToolFormat { open: "<tool_call>", close: "</tool_call>", array: false, arguments: "arguments" };

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
}
