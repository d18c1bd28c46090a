//! What a request for a response asks for.

use serde_json::{Map, Value, json};

use super::super::chat_completions::take_effort;
use super::super::wire;
use crate::backend::ConstraintSpec;
use crate::chat::{Chat, call_arguments, call_json, text_part};
use crate::error::shown;
use crate::fields::{Fields, wrong};
use crate::sampling::Sampling;
use crate::{ApiError, App};

/// What a request asks for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) model: Option<String>,
    pub(super) chat: Chat,
    pub(super) sampling: Sampling,
    pub(super) streams: bool,
    pub(super) store: bool,
    /// The conversation without the instructions, which hold for one response only.
    pub(super) history: Vec<Value>,
    /// Fields of the response that say what was asked for.
    pub(super) echoed: Map<String, Value>,
}

/// Reads a request.
pub(super) fn take(app: &App, mut fields: Fields) -> Result<Asked, ApiError> {
    let mut echoed = Map::new();
    let mut echo = |name: &str, value: Value| echoed.insert(name.to_owned(), value);
    let model = fields.string("model")?;
    let mut chat = Chat::default();

    let previous = fields.string("previous_response_id")?;
    if let Some(id) = &previous {
        let entry = app.kept.get(id).ok_or_else(|| super::no_such(id))?;
        chat.messages.extend(entry.messages.iter().cloned());
    }
    echo("previous_response_id", json!(previous));
    match fields.value("input").ok_or_else(|| fields.missing("input"))? {
        Value::String(text) if text.is_empty() => {
            return Err(ApiError::invalid("input", "'input' is empty: give a text or items"));
        }
        Value::String(text) => chat.push(json!({ "role": "user", "content": text }))?,
        Value::Array(items) => {
            for (index, item) in items.into_iter().enumerate() {
                push_item(&mut chat, item, &format!("input[{index}]"))?;
            }
        }
        other => return Err(wrong("input", &other, "a text or an array of items")),
    }
    chat.check().map_err(|_| ApiError::invalid("input", "'input' is empty: give a text or items"))?;
    let history = chat.messages.clone();
    let instructions = fields.string("instructions")?;
    if let Some(text) = &instructions {
        chat.messages.insert(0, json!({ "role": "system", "content": text }));
    }
    echo("instructions", json!(instructions));

    let tools = fields.array("tools")?.unwrap_or_default();
    echo("tools", json!(tools));
    for (index, tool) in tools.into_iter().enumerate() {
        let at = format!("tools[{index}]");
        let mut tool = Fields::of(tool, &at)?;
        let kind = tool.required_string("type")?;
        if kind != "function" {
            let message = format!("tools of type '{}' are not supported: give functions", shown(&kind));
            return Err(ApiError::unsupported(format!("{at}.type"), message));
        }
        chat.push_tool(&mut tool, &at)?;
        tool.finish()?;
    }
    let choice = fields.value("tool_choice").unwrap_or_else(|| "auto".into());
    echo("tool_choice", choice.clone());
    let mut only_choice = Fields::of(json!({ "tool_choice": choice }), "")?;
    chat.take_tools(&mut only_choice)?;
    let parallel = fields.bool("parallel_tool_calls")?.unwrap_or(true);
    chat.one_call = !parallel;
    echo("parallel_tool_calls", parallel.into());
    chat.take_template_arguments(&mut fields)?;

    let mut effort = None;
    if let Some(mut reasoning) = fields.object("reasoning")? {
        effort = reasoning.string("effort")?;
        take_effort(&mut chat, effort.clone(), "reasoning.effort")?;
        reasoning.only("summary", &["auto".into()])?;
        reasoning.only("generate_summary", &["auto".into()])?;
        reasoning.finish()?;
    }
    echo("reasoning", json!({ "effort": effort, "summary": null }));

    let mut sampling = Sampling::new(&app.config);
    for (name, default) in [("temperature", 1.0), ("top_p", 1.0)] {
        // Shown as the client gave it; without that, the field says what the API promises.
        let value = fields.number(name)?;
        echo(name, json!(value.unwrap_or(default)));
        if let Some(value) = value {
            sampling.take_settings(&mut Fields::of(json!({ name: value }), "")?)?;
        }
    }
    sampling.take_settings(&mut fields)?;
    sampling.take_seed(&mut fields, None)?;
    sampling.take_max_tokens(&mut fields, "max_output_tokens", 1)?;
    echo("max_output_tokens", json!(sampling.max_tokens));
    take_text(&mut sampling, &mut fields, &mut echo)?;

    let store = fields.bool("store")?.unwrap_or(true);
    echo("store", store.into());
    let metadata = fields.value("metadata").unwrap_or_else(|| json!({}));
    if !metadata.is_object() {
        return Err(wrong("metadata", &metadata, "an object"));
    }
    echo("metadata", metadata);
    echo("truncation", "disabled".into());
    echo("background", false.into());
    let streams = wire::take_streaming(&mut fields)?.on;
    fields.only("truncation", &["disabled".into()])?;
    fields.only("background", &[false.into()])?;
    fields.only("include", &[json!([])])?;
    fields.only("top_logprobs", &[0.into()])?;
    fields.only("service_tier", &["auto".into(), "default".into()])?;
    fields.without_effect(wire::WITHOUT_EFFECT);
    fields.finish()?;
    Ok(Asked { model, chat, sampling, streams, store, history, echoed })
}

/// What the text of the answer must be.
fn take_text(
    sampling: &mut Sampling,
    fields: &mut Fields,
    echo: &mut impl FnMut(&str, Value) -> Option<Value>,
) -> Result<(), ApiError> {
    let mut shown = json!({ "type": "text" });
    if let Some(mut text) = fields.object("text")? {
        if let Some(value) = text.value("format") {
            shown = value.clone();
            let mut format = Fields::of(value, "text.format")?;
            match format.word("type", &[("text", 0), ("json_object", 1), ("json_schema", 2)])? {
                None => return Err(format.missing("type")),
                Some(0) => {}
                Some(1) => sampling.constrain(ConstraintSpec::JsonObject, "text.format")?,
                Some(_) => sampling.take_schema(&mut format)?,
            }
            format.finish()?;
        }
        text.only("verbosity", &["medium".into()])?;
        text.finish()?;
    }
    echo("text", json!({ "format": shown }));
    Ok(())
}

/// Adds an item of the input to the conversation.
fn push_item(chat: &mut Chat, item: Value, at: &str) -> Result<(), ApiError> {
    let kind = item.get("type").map_or("message", |kind| kind.as_str().unwrap_or_default()).to_owned();
    let mut item = Fields::of(item, at)?;
    item.without_effect(&["type", "id", "status"]);
    match kind.as_str() {
        "message" => {
            let mut message = item.into_rest();
            // Items of an earlier answer say more than a message does.
            if let Some(Value::Array(parts)) = message.get_mut("content") {
                for part in parts.iter_mut().filter_map(Value::as_object_mut) {
                    part.shift_remove("annotations");
                    part.shift_remove("logprobs");
                }
            }
            message.shift_remove("phase");
            chat.push_message(Value::Object(message), at)
        }
        "function_call" => {
            let id = item.string("call_id")?;
            let name = item.required_string("name")?;
            let arguments = item.string("arguments")?.unwrap_or_default();
            let arguments = call_arguments(&arguments, &item.path("arguments"))?;
            item.finish()?;
            let call = call_json(id, &name, arguments);
            // Calls of one turn stand in one message.
            if let Some(last) = chat.messages.last_mut().filter(|last| last["role"] == "assistant") {
                match last["tool_calls"].as_array_mut() {
                    Some(calls) => calls.push(call),
                    None => last["tool_calls"] = json!([call]),
                }
                return Ok(());
            }
            chat.push(json!({ "role": "assistant", "content": "", "tool_calls": [call] }))
        }
        "function_call_output" => {
            let id = item.string("call_id")?;
            let output = match item.value("output") {
                Some(Value::String(text)) => text,
                Some(Value::Array(parts)) => {
                    let parts = parts.into_iter().enumerate();
                    let text = |(index, part)| {
                        text_part(
                            part,
                            &format!("{at}.output[{index}]"),
                            &["input_text", "output_text", "text"],
                        )
                    };
                    parts.map(text).collect::<Result<String, _>>()?
                }
                Some(other) => return Err(wrong(&item.path("output"), &other, "a text")),
                None => return Err(item.missing("output")),
            };
            item.finish()?;
            chat.push(json!({ "role": "tool", "tool_call_id": id, "content": output }))
        }
        // Thoughts of earlier turns; templates leave them out, too.
        "reasoning" => Ok(()),
        other => {
            let message = format!("items of type '{}' are not supported", shown(other));
            Err(ApiError::unsupported(format!("{at}.type"), message))
        }
    }
}
