//! A model as it is published on Hugging Face: tensors and what describes them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Safetensors, json, templates};
use crate::error::FormatError;
use crate::mapping;

/// A folder with a model in safetensors files and the JSON files beside them, opened and
/// validated.
///
/// | file | |
/// | --- | --- |
/// | `config.json` | what the model is; must be there |
/// | `model.safetensors`, or `model.safetensors.index.json` and what it names | [`Safetensors`]; must be there |
/// | `generation_config.json` | how to sample from it |
/// | `tokenizer.json` | its tokenizer, which is not read here |
/// | `tokenizer_config.json` | its special tokens, in older folders also the chat template |
/// | `chat_template.jinja`, `additional_chat_templates/*.jinja`, `chat_template.json` | chat templates |
///
/// The files may be links to elsewhere, as they are in the cache of Hugging Face's own tools.
#[derive(Debug)]
pub struct ModelFolder {
    path: PathBuf,
    config_path: PathBuf,
    tensors: Safetensors,
    config: Map<String, Value>,
    generation_config: Option<Map<String, Value>>,
    tokenizer_config: Option<Map<String, Value>>,
    tokenizer_json: Option<PathBuf>,
    chat_templates: BTreeMap<String, String>,
}

const CONFIG: &str = "config.json";

impl ModelFolder {
    /// Opens the folder at `path`.
    ///
    /// # Errors
    /// When a file that must be there is not, or any of the files is not as it should be.
    pub fn open(path: impl AsRef<Path>) -> Result<ModelFolder, FormatError> {
        let path = path.as_ref();
        let info = fs::metadata(path);
        let info = info.map_err(|cause| FormatError::Io { file: path.to_owned(), action: "open", cause })?;
        if !info.is_dir() {
            return Err(FormatError::NotAFolder { file: path.to_owned() });
        }
        let config_path = path.join(CONFIG);
        let config = json::find(&config_path)?.ok_or_else(|| missing(path, CONFIG))?;
        let tokenizer_config = json::find(&path.join(templates::TOKENIZER_CONFIG))?;
        Ok(ModelFolder {
            path: path.to_owned(),
            config_path,
            tensors: Safetensors::open(path)?,
            generation_config: json::find(&path.join("generation_config.json"))?,
            tokenizer_json: find(path.join("tokenizer.json"))?,
            chat_templates: templates::find(path, tokenizer_config.as_ref())?,
            config,
            tokenizer_config,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors.
    pub fn tensors(&self) -> &Safetensors {
        &self.tensors
    }

    /// What `config.json` says, its keys in their order.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// The path of `config.json`, for messages.
    pub fn config_path(&self) -> &Path {
        &self.config_path
    }

    /// What `generation_config.json` says.
    pub fn generation_config(&self) -> Option<&Map<String, Value>> {
        self.generation_config.as_ref()
    }

    /// What `tokenizer_config.json` says.
    pub fn tokenizer_config(&self) -> Option<&Map<String, Value>> {
        self.tokenizer_config.as_ref()
    }

    /// The path of `tokenizer.json`.
    pub fn tokenizer_json(&self) -> Option<&Path> {
        self.tokenizer_json.as_deref()
    }

    /// The chat template that is used when no other is asked for, the one of the name `default`.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_templates.get(templates::DEFAULT).map(String::as_str)
    }

    /// All chat templates by their names, such as `default` and `tool_use`.
    ///
    /// They are those of `chat_template.jinja` and `additional_chat_templates/`; only when
    /// there are none, those of `tokenizer_config.json`; only when there are none either,
    /// those of `chat_template.json`.
    pub fn chat_templates(&self) -> &BTreeMap<String, String> {
        &self.chat_templates
    }
}

/// The error of a folder without a file, or files, that a model has.
pub(super) fn missing(folder: &Path, expected: &'static str) -> FormatError {
    const INSTEAD: [(&str, &str); 3] = [
        ("pytorch_model.bin", "it has pickled weights, which are not read: convert them to safetensors"),
        (
            "pytorch_model.bin.index.json",
            "it has pickled weights, which are not read: convert them to safetensors",
        ),
        (
            "consolidated.safetensors",
            "it has consolidated.safetensors, which has other names: take the files for transformers",
        ),
    ];
    let found = INSTEAD.iter().find(|(name, _)| folder.join(name).exists()).map(|(_, what)| *what);
    FormatError::MissingFile { folder: folder.to_owned(), expected, found }
}

/// The path, when there is a regular file.
fn find(path: PathBuf) -> Result<Option<PathBuf>, FormatError> {
    match fs::metadata(&path) {
        Ok(info) => mapping::check_kind(&path, &info).map(|()| Some(path)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(FormatError::Io { file: path, action: "open", cause }),
    }
}
