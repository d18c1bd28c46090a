//! A conversation, whatever API it came in by.

use serde_json::{Map, Value, json};

use crate::ApiError;
use crate::error::shown;
use crate::fields::{Fields, wrong};

/// The most messages of a conversation, the most tools, and the most variables for its template.
pub(crate) const MESSAGES: usize = 10_000;
pub(crate) const TOOLS: usize = 256;
pub(crate) const VARIABLES: usize = 32;

/// A conversation that a model is to go on with. Messages and tools are as chat templates know them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chat {
    pub(crate) messages: Vec<Value>,
    pub(crate) tools: Vec<Tool>,
    pub(crate) choice: ToolChoice,
    /// Whether only one function may be called at a time.
    pub(crate) one_call: bool,
    /// What the answer begins with.
    pub(crate) prefill: String,
    /// Whether the model shall think first; nothing: as its template has it.
    pub(crate) thinking: Option<bool>,
    /// How much it shall think.
    pub(crate) effort: Option<String>,
    /// Variables of the template.
    pub(crate) extra: Map<String, Value>,
}

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    /// JSON schema of its arguments.
    pub(crate) parameters: Value,
}

/// Whether functions are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// As the model likes.
    #[default]
    Auto,
    /// None.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

impl Tool {
    /// The tool as templates know it.
    pub(crate) fn json(&self) -> Value {
        let mut function = Map::new();
        function.insert("name".into(), self.name.as_str().into());
        if let Some(description) = &self.description {
            function.insert("description".into(), description.as_str().into());
        }
        function.insert("parameters".into(), self.parameters.clone());
        json!({ "type": "function", "function": function })
    }

    /// A tool from its parts, checked.
    pub(crate) fn new(
        name: String,
        description: Option<String>,
        parameters: Option<Value>,
        at: &str,
    ) -> Result<Self, ApiError> {
        let good = (1..=128).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte));
        if !good {
            let message = format!(
                "'{}' cannot be the name of a function: give 1 to 128 letters, digits, '_', '-', '.' or ':'",
                shown(&name)
            );
            return Err(ApiError::invalid(format!("{at}.name"), message));
        }
        let parameters = parameters.unwrap_or_else(|| json!({ "type": "object", "properties": {} }));
        if !parameters.is_object() {
            return Err(wrong(&format!("{at}.parameters"), &parameters, "a JSON schema"));
        }
        Ok(Self { name, description, parameters })
    }
}

impl Chat {
    /// Adds a message in the way of OpenAI, which is also that of Ollama but for the arguments of calls.
    pub(crate) fn push_message(&mut self, value: Value, at: &str) -> Result<(), ApiError> {
        let mut fields = Fields::of(value, at)?;
        let role = fields.required_string("role")?;
        let content = content_text(&mut fields)?;
        let mut message = Map::new();
        let role = match role.as_str() {
            "developer" => "system",
            "system" | "user" | "assistant" | "tool" => &role,
            other => {
                let message =
                    format!("'{}' is no role: give system, developer, user, assistant or tool", shown(other));
                return Err(ApiError::invalid(format!("{at}.role"), message));
            }
        };
        message.insert("role".into(), role.into());
        let mut calls = Vec::new();
        if role == "assistant" {
            for (index, call) in fields.array("tool_calls")?.unwrap_or_default().into_iter().enumerate() {
                calls.push(tool_call(call, &format!("{at}.tool_calls[{index}]"))?);
            }
            let reasoning = fields.string("reasoning_content")?.or(fields.string("reasoning")?);
            let reasoning = reasoning.or(fields.string("thinking")?);
            if let Some(reasoning) = reasoning {
                message.insert("reasoning_content".into(), reasoning.into());
            }
            fields.only("refusal", &[])?;
            fields.only("audio", &[])?;
            fields.only("function_call", &[])?;
        }
        match content {
            Some(text) => message.insert("content".into(), text.into()),
            None if !calls.is_empty() => message.insert("content".into(), "".into()),
            None => return Err(fields.missing("content")),
        };
        if !calls.is_empty() {
            message.insert("tool_calls".into(), calls.into());
        }
        if role == "tool" {
            let name = fields.string("tool_name")?.or(fields.string("name")?);
            if let Some(id) = fields.string("tool_call_id")? {
                message.insert("tool_call_id".into(), id.into());
            }
            message.extend(name.map(|name| ("name".to_owned(), name.into())));
        } else if let Some(name) = fields.string("name")? {
            message.insert("name".into(), name.into());
        }
        fields.finish()?;
        self.push(Value::Object(message))
    }

    /// Adds a message that is as templates know it.
    pub(crate) fn push(&mut self, message: Value) -> Result<(), ApiError> {
        if self.messages.len() >= MESSAGES {
            return Err(ApiError::invalid("messages", format!("there are more than {MESSAGES} messages")));
        }
        self.messages.push(message);
        Ok(())
    }

    /// Takes `messages` of OpenAI's and Ollama's requests.
    pub(crate) fn take_messages(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        let messages = fields.array("messages")?.ok_or_else(|| fields.missing("messages"))?;
        for (index, message) in messages.into_iter().enumerate() {
            self.push_message(message, &format!("messages[{index}]"))?;
        }
        self.check()
    }

    /// Refuses a conversation in which nobody said anything.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        if self.messages.is_empty() {
            return Err(ApiError::invalid("messages", "'messages' is empty: give at least one message"));
        }
        Ok(())
    }

    /// Takes `tools` and `tool_choice` in the way of OpenAI's chat.
    pub(crate) fn take_tools(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        for (index, tool) in fields.array("tools")?.unwrap_or_default().into_iter().enumerate() {
            let at = format!("tools[{index}]");
            let mut tool = Fields::of(tool, &at)?;
            tool.word("type", &[("function", ())])?;
            let mut function = tool.object("function")?.ok_or_else(|| tool.missing("function"))?;
            self.push_tool(&mut function, &format!("{at}.function"))?;
            function.finish()?;
            tool.finish()?;
        }
        match fields.value("tool_choice") {
            None => {}
            Some(Value::String(word)) => self.choice = choice(&word)?,
            Some(value) => {
                let mut named = Fields::of(value, "tool_choice")?;
                named.word("type", &[("function", ())])?.ok_or_else(|| named.missing("type"))?;
                // OpenAI's chat has the name inside, its responses have it outside.
                let name = match named.object("function")? {
                    Some(mut function) => {
                        let name = function.required_string("name")?;
                        function.finish()?;
                        name
                    }
                    None => named.required_string("name")?,
                };
                named.finish()?;
                self.choice = ToolChoice::Named(name);
            }
        }
        self.check_tools()
    }

    /// Takes one function.
    pub(crate) fn push_tool(&mut self, function: &mut Fields, at: &str) -> Result<(), ApiError> {
        let name = function.required_string("name")?;
        let description = function.string("description")?;
        // Arguments follow the schema as far as the model does; strict ones are not promised.
        function.bool("strict")?;
        self.add_tool(Tool::new(name, description, function.value("parameters"), at)?)
    }

    /// Adds a function.
    pub(crate) fn add_tool(&mut self, tool: Tool) -> Result<(), ApiError> {
        if self.tools.len() >= TOOLS {
            return Err(ApiError::invalid("tools", format!("there are more than {TOOLS} tools")));
        }
        if self.tools.iter().any(|known| known.name == tool.name) {
            return Err(ApiError::invalid("tools", format!("two tools are called '{}'", tool.name)));
        }
        self.tools.push(tool);
        Ok(())
    }

    /// Refuses a choice among tools that are not there.
    pub(crate) fn check_tools(&self) -> Result<(), ApiError> {
        let problem = match &self.choice {
            ToolChoice::Named(name) if !self.tools.iter().any(|tool| tool.name == *name) => {
                format!("'tool_choice' names '{}', which is not among the tools", shown(name))
            }
            ToolChoice::Required if self.tools.is_empty() => {
                "'tool_choice' asks for a call, and there are no tools".to_owned()
            }
            _ => return Ok(()),
        };
        Err(ApiError::invalid("tool_choice", problem))
    }

    /// Takes variables of the template, as far as they leave its own alone.
    pub(crate) fn take_template_arguments(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        const NAME: &str = "chat_template_kwargs";
        let Some(arguments) = fields.object(NAME)? else { return Ok(()) };
        let arguments = arguments.into_rest();
        if arguments.len() > VARIABLES {
            let message = format!("there are more than {VARIABLES} variables for the template");
            return Err(ApiError::invalid(NAME, message));
        }
        for (name, value) in arguments {
            let plain = (1..=64).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                && !name.starts_with('_');
            if !plain || RESERVED.contains(&name.as_str()) {
                let path = format!("{NAME}.{}", shown(&name));
                let message = format!("'{path}' cannot be set: the template gets it from the server");
                return Err(ApiError::invalid(path, message));
            }
            self.extra.insert(name, value);
        }
        Ok(())
    }

    /// Whether the model may call functions.
    pub(crate) fn uses_tools(&self) -> bool {
        !self.tools.is_empty() && self.choice != ToolChoice::None
    }
}

/// Variables and functions of templates that no request may replace.
pub(crate) const RESERVED: &[&str] = &[
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "loop",
    "namespace",
    "range",
    "dict",
    "lipsum",
    "cycler",
    "joiner",
    "raise_exception",
    "strftime_now",
    "self",
    "caller",
];

/// A choice that is a word.
fn choice(word: &str) -> Result<ToolChoice, ApiError> {
    match word {
        "auto" => Ok(ToolChoice::Auto),
        "none" => Ok(ToolChoice::None),
        "required" => Ok(ToolChoice::Required),
        other => Err(ApiError::invalid(
            "tool_choice",
            format!(
                "'tool_choice' is \"{}\": give \"auto\", \"none\", \"required\" or a function",
                shown(other)
            ),
        )),
    }
}

/// The text of a message: a string, or parts that are text.
fn content_text(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let path = fields.path("content");
    fields.only("images", &[Value::Array(Vec::new())])?;
    match fields.value("content") {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Array(parts)) => {
            let mut text = String::new();
            for (index, part) in parts.into_iter().enumerate() {
                text +=
                    &text_part(part, &format!("{path}[{index}]"), &["text", "input_text", "output_text"])?;
            }
            Ok(Some(text))
        }
        Some(other) => Err(wrong(&path, &other, "a string or an array of parts")),
    }
}

/// The text of a part, which must be of one of these types.
pub(crate) fn text_part(part: Value, at: &str, types: &[&str]) -> Result<String, ApiError> {
    let mut part = Fields::of(part, at)?;
    let kind = part.required_string("type")?;
    if !types.contains(&kind.as_str()) {
        let message = format!("content of type '{}' is not supported: this server reads text", shown(&kind));
        return Err(ApiError::unsupported(format!("{at}.type"), message));
    }
    let text = part.required_string("text")?;
    part.without_effect(&["annotations", "logprobs", "cache_control", "citations"]);
    part.finish()?;
    Ok(text)
}

/// A call of a function that the assistant made before, as templates know it.
fn tool_call(call: Value, at: &str) -> Result<Value, ApiError> {
    let mut call = Fields::of(call, at)?;
    let id = call.string("id")?;
    call.word("type", &[("function", ())])?;
    call.without_effect(&["index"]);
    let mut function = call.object("function")?.ok_or_else(|| call.missing("function"))?;
    let name = function.required_string("name")?;
    function.without_effect(&["index"]);
    let arguments = match function.value("arguments") {
        None => json!({}),
        Some(Value::String(text)) => call_arguments(&text, &format!("{at}.function.arguments"))?,
        Some(value @ Value::Object(_)) => value,
        Some(other) => {
            return Err(wrong(&format!("{at}.function.arguments"), &other, "a JSON object as a string"));
        }
    };
    function.finish()?;
    call.finish()?;
    Ok(call_json(id, &name, arguments))
}

/// A call as templates know it.
pub(crate) fn call_json(id: Option<String>, name: &str, arguments: Value) -> Value {
    json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })
}

/// The arguments of a call: JSON inside a string.
pub(crate) fn call_arguments(text: &str, at: &str) -> Result<Value, ApiError> {
    if text.trim().is_empty() {
        return Ok(json!({}));
    }
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(ApiError::invalid(at, format!("'{at}' is not a JSON object"))),
        Err(error) => Err(ApiError::invalid(at, format!("'{at}' is not JSON: {error}"))),
    }
}
