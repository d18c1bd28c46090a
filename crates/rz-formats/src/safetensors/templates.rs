//! The chat templates of a folder, by their names.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use super::json;
use crate::error::{FormatError, Place};

/// The name of the template that has none.
pub(super) const DEFAULT: &str = "default";

/// The most bytes of one template.
const MAX_BYTES: u64 = 1 << 20;
/// The most templates in files of their own.
const MAX_FILES: usize = 64;

pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const KEY: &str = "chat_template";

/// The templates of `folder`. Those in files of their own hide those of the other files.
pub(super) fn find(
    folder: &Path,
    tokenizer_config: Option<&Map<String, Value>>,
) -> Result<BTreeMap<String, String>, FormatError> {
    let found = files(folder)?;
    if !found.is_empty() {
        return Ok(found);
    }
    if let Some(config) = tokenizer_config {
        let found = templates(&folder.join(TOKENIZER_CONFIG), config)?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let older = folder.join("chat_template.json");
    json::find(&older)?.map_or(Ok(BTreeMap::new()), |object| templates(&older, &object))
}

/// `chat_template.jinja` and those of `additional_chat_templates`, named by their files.
fn files(folder: &Path) -> Result<BTreeMap<String, String>, FormatError> {
    let mut found = BTreeMap::new();
    let mut read = |name: &str, path: &Path| -> Result<(), FormatError> {
        if let Some(bytes) = json::read(path, MAX_BYTES)? {
            found.insert(name.to_owned(), json::utf8(path, &bytes)?.to_owned());
        }
        Ok(())
    };
    read(DEFAULT, &folder.join("chat_template.jinja"))?;
    let more = folder.join("additional_chat_templates");
    if more.is_dir() {
        let failed = |cause| FormatError::Io { file: more.clone(), action: "read", cause };
        let mut count = 0;
        for entry in fs::read_dir(&more).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jinja")) else {
                continue;
            };
            count += 1;
            if count > MAX_FILES {
                let place = Place { file: more, offset: None };
                let (found, limit) = (count as u64, MAX_FILES as u64);
                return Err(FormatError::Count { place, what: "the number of chat templates", found, limit });
            }
            read(name, &path)?;
        }
    }
    Ok(found)
}

/// What the key of an object holds: one template, several with their names, or none.
fn templates(file: &Path, object: &Map<String, Value>) -> Result<BTreeMap<String, String>, FormatError> {
    let wrong = |found: String| FormatError::WrongType {
        file: file.to_owned(),
        key: KEY.to_owned(),
        expected: "a template, or an array of objects of name and template",
        found,
    };
    let named = |item: &Value| {
        let text = |key| item.get(key).and_then(Value::as_str).map(str::to_owned);
        Some((text("name")?, text("template")?))
    };
    let mut found = BTreeMap::new();
    match object.get(KEY) {
        None | Some(Value::Null) => {}
        Some(Value::String(template)) => {
            found.insert(DEFAULT.to_owned(), template.clone());
        }
        Some(Value::Array(items)) => {
            for item in items {
                let (name, template) =
                    named(item).ok_or_else(|| wrong(format!("array that holds {}", describe(item))))?;
                if found.insert(name.clone(), template).is_some() {
                    let place = Place { file: file.to_owned(), offset: None };
                    return Err(FormatError::DuplicateKey { place, key: format!("{KEY}.{name}") });
                }
            }
        }
        Some(Value::Object(map)) => {
            for (name, template) in map {
                let text = template
                    .as_str()
                    .ok_or_else(|| wrong(format!("object that holds {}", describe(template))))?;
                found.insert(name.clone(), text.to_owned());
            }
        }
        Some(other) => return Err(wrong(describe(other).to_owned())),
    }
    Ok(found)
}

fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
