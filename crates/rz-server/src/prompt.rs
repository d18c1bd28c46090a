//! From conversations and texts to tokens.

use std::sync::Arc;

use rz_tokenizer::{EncodeOptions, TemplateInputs, Tokenizer, TokenizerError};
use serde_json::{Map, Value, json};

use crate::ApiError;
use crate::backend::{Backend, ConstraintSpec};
use crate::chat::{Chat, Tool, ToolChoice};
use crate::output::{Format, Functions, ToolFormat};

/// What a model is to continue.
#[derive(Clone, Debug)]
pub(crate) enum Prompt {
    /// A conversation.
    Chat(Box<Chat>),
    /// A text as it is.
    Text(String),
    /// A text of which the end is left out when it is too long.
    Cut(String),
    /// Tokens.
    Tokens(Vec<u32>),
}

/// A prompt in tokens, and how the answer to it is to be read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prepared {
    pub(crate) tokens: Vec<u32>,
    pub(crate) format: Format,
    /// What calls of functions must look like, where they are asked for.
    pub(crate) constraint: Option<ConstraintSpec>,
}

/// Turns a prompt into tokens. Takes time that grows with the prompt.
pub(crate) fn prepare(
    backend: &dyn Backend,
    prompt: &Prompt,
    constrained: bool,
) -> Result<Prepared, ApiError> {
    let tokenizer = backend.tokenizer();
    let prepared = match prompt {
        Prompt::Tokens(tokens) => {
            check_ids(tokens, tokenizer, "prompt")?;
            Prepared { tokens: tokens.clone(), ..Prepared::default() }
        }
        Prompt::Text(text) => Prepared { tokens: encode(tokenizer, text), ..Prepared::default() },
        Prompt::Cut(text) => {
            let mut tokens = encode(tokenizer, text);
            tokens.truncate(backend.info().context.saturating_sub(1));
            Prepared { tokens, ..Prepared::default() }
        }
        Prompt::Chat(chat) => {
            let rendered = render(backend, chat, constrained)?;
            let tokens = encode(tokenizer, &rendered.text);
            Prepared { tokens, format: rendered.format, constraint: rendered.constraint }
        }
    };
    let context = backend.info().context;
    // Some models put a token of their own before nothing; it asks for nothing all the same.
    let empty = matches!(prompt, Prompt::Text(text) | Prompt::Cut(text) if text.is_empty());
    if prepared.tokens.is_empty() || empty {
        return Err(ApiError::invalid(
            "prompt",
            "the prompt has no tokens: give a prompt that is more than nothing",
        ));
    }
    if prepared.tokens.len() >= context {
        return Err(ApiError::context_length(prepared.tokens.len(), context));
    }
    Ok(prepared)
}

/// Refuses ids that are no tokens of the model.
pub(crate) fn check_ids(tokens: &[u32], tokenizer: &Tokenizer, param: &str) -> Result<(), ApiError> {
    match tokens.iter().find(|id| **id as usize >= tokenizer.len()) {
        None => Ok(()),
        Some(id) => Err(ApiError::invalid(
            param,
            format!("the model has no token {id}: its tokens are 0 to {}", tokenizer.len().saturating_sub(1)),
        )),
    }
}

/// The tokens of a prompt that a model is to continue.
pub(crate) fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: true });
    // Some models ask for an end token after each text. What is to be continued has not ended.
    if tokenizer.adds_eos() && ids.last() == tokenizer.eos().as_ref() {
        ids.pop();
    }
    ids
}

/// A conversation as the model's template writes it.
#[derive(Clone, Debug)]
pub(crate) struct Rendered {
    pub(crate) text: String,
    format: Format,
    constraint: Option<ConstraintSpec>,
}

/// Writes a conversation as the model was trained on it. `constrained`: something else already says what
/// the answer must be.
pub(crate) fn render(backend: &dyn Backend, chat: &Chat, constrained: bool) -> Result<Rendered, ApiError> {
    let template = backend.template().ok_or_else(|| {
        ApiError::bad_request(
            "the model has no chat template, so it cannot hold a conversation: use /v1/completions, or another model",
        )
    })?;
    let source = template.source();
    let mut format = Format::default();
    let mut extra = chat.extra.clone();
    let thinks = source.contains("<think>") || source.contains("</think>");
    if thinks {
        format.reasoning = true;
        // What must be JSON does not begin with thoughts, unless they are asked for.
        if let Some(thinking) = chat.thinking.or(constrained.then_some(false)) {
            extra.entry("enable_thinking").or_insert(thinking.into());
        }
    }
    if let Some(effort) = &chat.effort {
        extra.entry("reasoning_effort").or_insert(effort.as_str().into());
    }

    let mut messages = chat.messages.clone();
    let mut tools = Value::Null;
    let has_history =
        messages.iter().any(|message| message["role"] == "tool" || message.get("tool_calls").is_some());
    if chat.uses_tools() || has_history {
        let knows_tools = source.contains("tools");
        let tool_format = if knows_tools { ToolFormat::of_template(source) } else { ToolFormat::GENERIC };
        if knows_tools {
            if chat.uses_tools() {
                tools = chat.tools.iter().map(Tool::json).collect();
            }
        } else {
            messages = without_tools(messages, chat);
        }
        format.tools = chat.uses_tools().then_some(tool_format);
        let functions = chat.tools.iter().map(|tool| (tool.name.clone(), tool.parameters.clone()));
        format.functions = chat.uses_tools().then(|| Arc::new(Functions::new(functions)));
        format.one_call = chat.one_call;
    }

    let inputs =
        TemplateInputs { messages: messages.into(), add_generation_prompt: true, tools, extra, now: None };
    let mut text = template.render_with(&inputs).map_err(|error| match error {
        TokenizerError::TemplateRefused { message, .. } => ApiError::invalid(
            "messages",
            format!("the model's chat template refuses the conversation: {message}"),
        ),
        error => ApiError::invalid("messages", format!("the model's chat template fails: {error}")),
    })?;
    let end = text.trim_end();
    // Where the answer is begun, the thoughts are over.
    let thinking = thinks && end.ends_with("<think>");
    if thinking && !chat.prefill.is_empty() {
        text += "\n</think>\n\n";
    }
    text += &chat.prefill;
    format.thinking = thinking && chat.prefill.is_empty();
    if thinks && !thinking && constrained && chat.thinking == Some(true) && chat.prefill.is_empty() {
        // What the answer must be begins behind the thoughts, so that there must be some.
        text += "<think>\n";
        format.thinking = true;
    }

    let constraint = match (&chat.choice, format.tools) {
        (ToolChoice::Required | ToolChoice::Named(_), Some(tool_format)) => {
            if format.thinking {
                text += "\n</think>\n\n";
                format.thinking = false;
            }
            // The call is begun for the model, and must be one.
            text += tool_format.begin();
            format.calling = true;
            Some(ConstraintSpec::JsonSchema(call_schema(chat, tool_format)))
        }
        _ => None,
    };
    Ok(Rendered { text, format, constraint })
}

/// What a call must be: one of the functions with arguments of its own schema.
fn call_schema(chat: &Chat, format: ToolFormat) -> Value {
    let named = |tool: &&Tool| match &chat.choice {
        ToolChoice::Named(name) => tool.name == *name,
        _ => true,
    };
    let tools: Vec<&Tool> = chat.tools.iter().filter(named).collect();
    let several = tools.len() != 1;
    let schemas: Vec<Value> = tools
        .into_iter()
        .enumerate()
        .map(|(index, tool)| {
            let mut place = String::from(if format.is_array() { "#/items" } else { "#" });
            if several {
                place += &format!("/anyOf/{index}");
            }
            place += &format!("/properties/{}", format.arguments_key());
            let mut properties = Map::new();
            properties.insert("name".into(), json!({ "const": tool.name }));
            properties.insert(format.arguments_key().into(), moved(&tool.parameters, &place));
            json!({
                "type": "object",
                "properties": properties,
                "required": ["name", format.arguments_key()],
                "additionalProperties": false,
            })
        })
        .collect();
    let call = match schemas.len() {
        1 => schemas.into_iter().next().unwrap_or_default(),
        _ => json!({ "anyOf": schemas }),
    };
    match (format.is_array(), chat.one_call) {
        (false, _) => call,
        (true, false) => json!({ "type": "array", "items": call, "minItems": 1 }),
        (true, true) => json!({ "type": "array", "items": call, "minItems": 1, "maxItems": 1 }),
    }
}

/// A schema that becomes a part of another: what refers to a place in it refers to it where it lies then.
fn moved(schema: &Value, place: &str) -> Value {
    match schema {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| {
                let value = match (key.as_str(), value.as_str().and_then(|text| text.strip_prefix('#'))) {
                    ("$ref", Some(rest)) => format!("{place}{}", rest.trim_end_matches('/')).into(),
                    _ => moved(value, place),
                };
                (key.clone(), value)
            })
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(|item| moved(item, place)).collect(),
        other => other.clone(),
    }
}

/// A conversation in which tools are spoken of in plain text, for templates that do not know them.
fn without_tools(messages: Vec<Value>, chat: &Chat) -> Vec<Value> {
    let mut plain: Vec<Value> = messages.into_iter().map(without_calls).collect();
    if !chat.uses_tools() {
        return plain;
    }
    let mut text =
        String::from("You can call functions. These are there, each described by a line of JSON:\n");
    for tool in &chat.tools {
        text += &format!("{}\n", tool.json()["function"]);
    }
    text += "To call one, answer with nothing but this, and with several of it to call several:\n\
             <tool_call>\n{\"name\": \"NAME\", \"arguments\": {ARGUMENTS}}\n</tool_call>\n\
             The results come in the next message. Answer in plain text when no function is needed.";
    match plain.first_mut().filter(|message| message["role"] == "system") {
        Some(system) => {
            let content = system["content"].as_str().unwrap_or_default();
            system["content"] = format!("{content}\n\n{text}").into();
        }
        None => plain.insert(0, json!({ "role": "system", "content": text })),
    }
    plain
}

/// A message of a call or of a result as plain text.
fn without_calls(mut message: Value) -> Value {
    if message["role"] == "tool" {
        let content = message["content"].as_str().unwrap_or_default();
        return json!({ "role": "user", "content": format!("<tool_response>\n{content}\n</tool_response>") });
    }
    let Some(calls) = message.as_object_mut().and_then(|message| message.shift_remove("tool_calls")) else {
        return message;
    };
    let mut content = message["content"].as_str().unwrap_or_default().to_owned();
    for call in calls.as_array().into_iter().flatten() {
        let call = json!({ "name": call["function"]["name"], "arguments": call["function"]["arguments"] });
        if !content.is_empty() {
            content.push('\n');
        }
        content += &format!("<tool_call>\n{call}\n</tool_call>");
    }
    message["content"] = content.into();
    message
}
