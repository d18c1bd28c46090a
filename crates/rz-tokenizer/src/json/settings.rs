//! What the files beside `tokenizer.json` say about its tokens.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::TokenizerFiles;
use super::plan::{Unmapped, kind, steps, unmapped};
use super::read::Added;
use crate::error::TokenizerError;

/// What `tokenizer_config.json`, `generation_config.json` and `config.json` say.
#[derive(Default)]
pub(super) struct Settings {
    /// Whether there is a `tokenizer_config.json`.
    pub(super) has_config: bool,
    pub(super) bos: Option<String>,
    pub(super) eos: Option<String>,
    pub(super) unknown: Option<String>,
    pub(super) adds_bos: Option<bool>,
    pub(super) adds_eos: Option<bool>,
    /// Tokens that are looked for in texts, in the order of their ids.
    pub(super) added: Vec<Added>,
    /// Ids of begin and end tokens, the most telling first, and where they stand.
    pub(super) bos_ids: Vec<(i64, PathBuf)>,
    pub(super) eos_ids: Vec<(i64, PathBuf)>,
    /// Rows of the embedding.
    pub(super) rows: Option<u64>,
}

impl Settings {
    /// Reads what the files of a folder say.
    pub(super) fn read(folder: &Path, files: &TokenizerFiles<'_>) -> Result<Self, TokenizerError> {
        let mut settings = Settings::default();
        if let Some(config) = files.tokenizer_config {
            let object = Object { file: folder.join("tokenizer_config.json"), map: config };
            settings.has_config = true;
            settings.bos = object.token("bos_token")?;
            settings.eos = object.token("eos_token")?;
            settings.unknown = object.token("unk_token")?;
            settings.adds_bos = object.bool("add_bos_token")?;
            settings.adds_eos = object.bool("add_eos_token")?;
            settings.added = object.added()?;
        }
        let nested = files.config.and_then(|config| config.get("text_config")?.as_object());
        for (map, name) in [
            (files.generation_config, "generation_config.json"),
            (files.config, "config.json"),
            (nested, "config.json"),
        ] {
            let Some(map) = map else { continue };
            let object = Object { file: folder.join(name), map };
            object.ids("bos_token_id", &mut settings.bos_ids)?;
            object.ids("eos_token_id", &mut settings.eos_ids)?;
            settings.rows = map.get("vocab_size").and_then(Value::as_u64).or(settings.rows);
        }
        Ok(settings)
    }
}

/// An object of a file.
struct Object<'a> {
    file: PathBuf,
    map: &'a Map<String, Value>,
}

impl Object<'_> {
    /// A token, which is written as a string or as an object.
    fn token(&self, key: &'static str) -> Result<Option<String>, TokenizerError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(value) => match value.get("content").and_then(Value::as_str) {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(self.wrong(key, value, "a token")),
            },
        }
    }

    fn bool(&self, key: &'static str) -> Result<Option<bool>, TokenizerError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(value) => Err(self.wrong(key, value, "true or false")),
        }
    }

    /// An id or a list of ids. Some files write -1 for none.
    fn ids(&self, key: &'static str, ids: &mut Vec<(i64, PathBuf)>) -> Result<(), TokenizerError> {
        const EXPECTED: &str = "a token id or a list of them";
        let Some(value) = self.map.get(key) else { return Ok(()) };
        let list = match value {
            Value::Null => &[],
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        for id in list {
            let id = id.as_i64().ok_or_else(|| self.wrong(key, id, EXPECTED))?;
            ids.push((id, self.file.clone()));
        }
        Ok(())
    }

    fn added(&self) -> Result<Vec<Added>, TokenizerError> {
        const KEY: &str = "added_tokens_decoder";
        let mut added = Vec::new();
        let tokens = match self.map.get(KEY) {
            None | Some(Value::Null) => return Ok(added),
            Some(Value::Object(tokens)) => tokens,
            Some(value) => return Err(self.wrong(KEY, value, "an object from ids to tokens")),
        };
        for (id, token) in tokens {
            let flag = |name: &str| token.get(name).and_then(Value::as_bool);
            let content = token.get("content").and_then(Value::as_str);
            let (Ok(id), Some(content)) = (id.parse::<u32>(), content) else {
                return Err(self.wrong(KEY, token, "tokens by their ids"));
            };
            let special = flag("special").unwrap_or(false);
            added.push(Added {
                id: id.into(),
                content: content.to_owned(),
                single_word: flag("single_word").unwrap_or(false),
                lstrip: flag("lstrip").unwrap_or(false),
                rstrip: flag("rstrip").unwrap_or(false),
                normalized: flag("normalized").unwrap_or(!special),
                special,
            });
        }
        added.sort_by_key(|token| token.id);
        Ok(added)
    }

    fn wrong(&self, key: &'static str, found: &Value, expected: &'static str) -> TokenizerError {
        TokenizerError::Setting { file: self.file.clone(), key, found: found.to_string(), expected }
    }
}

/// The tokens that a post-processor puts before and after a text.
pub(super) fn around(post_processor: &Value) -> Result<(Vec<u64>, Vec<u64>), Unmapped> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for step in steps(post_processor, "processors") {
        let refused = || unmapped("post_processor", step);
        match kind(step) {
            "ByteLevel" => {}
            "TemplateProcessing" => {
                let pieces = step["single"].as_array().ok_or_else(refused)?;
                let (mut first, mut last) = (Vec::new(), None::<Vec<u64>>);
                for piece in pieces {
                    if let Some(name) = piece["SpecialToken"]["id"].as_str() {
                        let ids = step["special_tokens"][name]["ids"].as_array().ok_or_else(refused)?;
                        for id in ids {
                            let id = id.as_u64().ok_or_else(refused)?;
                            last.as_mut().unwrap_or(&mut first).push(id);
                        }
                    } else if piece["Sequence"]["id"] == "A" && last.is_none() {
                        last = Some(Vec::new());
                    } else {
                        return Err(refused());
                    }
                }
                first.append(&mut before);
                before = first;
                after.extend(last.ok_or_else(refused)?);
            }
            "BertProcessing" | "RobertaProcessing" => {
                before.insert(0, step["cls"][1].as_u64().ok_or_else(refused)?);
                after.push(step["sep"][1].as_u64().ok_or_else(refused)?);
            }
            _ => return Err(refused()),
        }
    }
    Ok((before, after))
}
