//! The tokenizer of a Hugging Face folder: `tokenizer.json` and what stands beside it.

mod added;
mod chars;
#[cfg_attr(not(feature = "hf-tokenizers"), path = "no_foreign.rs")]
mod foreign;
mod pipeline;
mod plan;
mod read;
mod settings;
mod vocabulary;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rz_formats::{FormatError, ModelFolder};
use serde_json::{Map, Value};

pub(crate) use self::foreign::{Foreign, Stream};
pub(crate) use self::pipeline::Pipeline;
use self::plan::{Plan, Unmapped};
use self::read::TokenizerJson;
use self::settings::{Settings, around};
use self::vocabulary::{Numbered, Tokens};
use crate::Tokenizer;
use crate::end::with_known;
use crate::error::TokenizerError;
use crate::tokenizer::{Model, Parts};
use crate::vocabulary::Vocabulary;

/// The files of a folder that describe a tokenizer.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizerFiles<'a> {
    /// The bytes of `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// What `tokenizer_config.json` says.
    pub tokenizer_config: Option<&'a Map<String, Value>>,
    /// What `generation_config.json` says.
    pub generation_config: Option<&'a Map<String, Value>>,
    /// What `config.json` says.
    pub config: Option<&'a Map<String, Value>>,
}

impl Tokenizer {
    /// Makes the tokenizer of a model folder.
    ///
    /// The pipelines of the families that this crate knows run on its own tokenizers and
    /// give the tokens that the `tokenizers` crate gives. Any other goes through that
    /// crate, where the feature `hf-tokenizers` is on.
    ///
    /// # Errors
    /// When there is no `tokenizer.json`, when it contradicts itself, or when it needs the
    /// `tokenizers` crate and this build is without.
    pub fn from_folder(folder: &ModelFolder) -> Result<Self, TokenizerError> {
        let Some(path) = folder.tokenizer_json() else {
            return Err(TokenizerError::NoTokenizerJson { folder: folder.path().to_owned() });
        };
        let json = read_file(path)?;
        let files = TokenizerFiles {
            tokenizer: &json,
            tokenizer_config: folder.tokenizer_config(),
            generation_config: folder.generation_config(),
            config: Some(folder.config()),
        };
        Self::from_files(folder.path(), &files)
    }

    /// Makes the tokenizer that files of a folder describe; `folder` stands for it in
    /// messages.
    ///
    /// # Errors
    /// As those of [`from_folder`](Self::from_folder).
    pub fn from_files(folder: impl AsRef<Path>, files: &TokenizerFiles<'_>) -> Result<Self, TokenizerError> {
        let folder = folder.as_ref();
        let path = folder.join("tokenizer.json");
        let found = files.tokenizer.len() as u64;
        if found > read::MAX_BYTES {
            return Err(FormatError::TooLarge { file: path, found, limit: read::MAX_BYTES }.into());
        }
        let mut json = read::read(files.tokenizer)
            .map_err(|message| TokenizerError::Json { file: path.clone(), message })?;
        let mut settings = Settings::read(folder, files)?;
        check(&path, &json)?;
        if let Some(rows) = settings.rows {
            let remains = |token: &read::Added| token.id < rows || !SURPLUS.contains(&&*token.content);
            json.added.retain(remains);
            settings.added.retain(remains);
        }
        let maker = Maker { folder, path, settings, warnings: Vec::new() };
        match Plan::of(&json) {
            Ok(plan) => maker.native(&json, plan, files.tokenizer),
            Err(unmapped) => maker.foreign(&json, unmapped, files.tokenizer),
        }
    }
}

/// Tokens that some models have in their tokenizer and not in their embedding: those of
/// Gemma 3 that take no images.
const SURPLUS: [&str; 1] = ["<image_soft_token>"];

/// Makes a tokenizer of what was read.
struct Maker<'a> {
    folder: &'a Path,
    path: PathBuf,
    settings: Settings,
    warnings: Vec<String>,
}

impl Maker<'_> {
    /// A tokenizer of this crate. When that turns out to be impossible, the other.
    fn native(mut self, json: &TokenizerJson, plan: Plan, bytes: &[u8]) -> Result<Tokenizer, TokenizerError> {
        let mut tokens = Tokens::new(&self.path, &json.model)?;
        tokens.add(&json.added, "tokenizer.json", &mut self.warnings);
        tokens.add(&self.settings.added, "tokenizer_config.json", &mut self.warnings);
        let merges = tokens.merges(&json.model)?;
        let tokens = tokens.finish(&json.model, self.settings.unknown.as_deref())?;
        match Pipeline::new(&self.path, json, plan, merges, &tokens)? {
            Ok(pipeline) => {
                self.warnings.extend(pipeline.warning());
                let unknown = model_unknown(json, &tokens.vocabulary);
                self.finish(json, tokens, Model::Json(Box::new(pipeline)), unknown)
            }
            Err(unmapped) => self.foreign(json, unmapped, bytes),
        }
    }

    /// A tokenizer of the `tokenizers` crate.
    #[cfg(feature = "hf-tokenizers")]
    fn foreign(
        mut self,
        json: &TokenizerJson,
        _: Unmapped,
        bytes: &[u8],
    ) -> Result<Tokenizer, TokenizerError> {
        // Merges that contradict the vocabulary are found here, with more to say of them.
        if json.model.merges.is_some() && !json.model.vocabulary.ids.is_empty() {
            let plain = |key| json.model.settings.get(key).is_none_or(|value| value.is_null() || value == "");
            if plain("continuing_subword_prefix") && plain("end_of_word_suffix") {
                Tokens::new(&self.path, &json.model)?.merges(&json.model)?;
            }
        }
        let foreign = Foreign::new(bytes, &self.settings.added)
            .map_err(|message| TokenizerError::Json { file: self.path.clone(), message })?;
        let model = read::Model { vocabulary: foreign.vocabulary(), ..read::Model::default() };
        let mut tokens = Tokens::new(&self.path, &model)?;
        tokens.add(&foreign.added(), "tokenizer.json", &mut self.warnings);
        let tokens = tokens.finish(&model, self.settings.unknown.as_deref())?;
        let unknown = model_unknown(json, &tokens.vocabulary);
        self.finish(json, tokens, Model::Foreign(Box::new(foreign)), unknown)
    }

    #[cfg(not(feature = "hf-tokenizers"))]
    fn foreign(self, _: &TokenizerJson, unmapped: Unmapped, _: &[u8]) -> Result<Tokenizer, TokenizerError> {
        Err(TokenizerError::Pipeline {
            file: self.path,
            part: unmapped.part,
            found: unmapped.found,
            advice: "this build is without the tokenizers crate, which could run it: build it with the feature hf-tokenizers",
        })
    }

    /// Finds the tokens that the other files name.
    fn finish(
        self,
        json: &TokenizerJson,
        tokens: Numbered,
        model: Model,
        unknown: Option<u32>,
    ) -> Result<Tokenizer, TokenizerError> {
        let Maker { folder, path, settings, mut warnings } = self;
        let Numbered { mut vocabulary, added, .. } = tokens;
        let (before, after) = around(&json.post_processor).map_err(|Unmapped { part, found }| {
            let advice = "expected tokens before and after one text: remove it from the file";
            TokenizerError::Pipeline { file: path.clone(), part, found, advice }
        })?;
        let tokens = vocabulary.len();
        let checked = |ids: Vec<u64>| -> Result<Vec<u32>, TokenizerError> {
            let id = |found: u64| match u32::try_from(found) {
                Ok(id) if (id as usize) < tokens => Ok(id),
                _ => {
                    Err(TokenizerError::TokenId { file: path.clone(), key: "post_processor", found, tokens })
                }
            };
            ids.into_iter().map(id).collect()
        };
        let (mut before, mut after) = (checked(before)?, checked(after)?);

        let mut named = |key: &str, text: &Option<String>| {
            let text = text.as_deref()?;
            let id = vocabulary.token(text.as_bytes());
            if id.is_none() {
                let text = crate::error::Quoted(text);
                warnings.push(format!("tokenizer_config.json: the {key} {text} is no token: it is ignored"));
            }
            id
        };
        let (bos, eos) = (named("bos_token", &settings.bos), named("eos_token", &settings.eos));
        let mut numbered = |key: &str, ids: &[(i64, PathBuf)]| -> Vec<u32> {
            let mut found = Vec::new();
            for (id, file) in ids {
                match u32::try_from(*id) {
                    Ok(id) if (id as usize) < tokens => found.push(id),
                    Err(_) if *id < 0 => {}
                    _ => {
                        let name = file.strip_prefix(folder).unwrap_or(file).display();
                        warnings.push(format!(
                            "{name}: the {key} {id} is beyond the {tokens} tokens of the vocabulary: it is ignored"
                        ));
                    }
                }
            }
            found
        };
        let bos_ids = numbered("bos_token_id", &settings.bos_ids);
        let eos_ids = numbered("eos_token_id", &settings.eos_ids);
        let first = before.first().copied().filter(|_| !settings.has_config);
        let last = after.last().copied().filter(|_| !settings.has_config);
        let bos = bos.or(first).or(bos_ids.first().copied());
        let eos = eos.or(last).or(eos_ids.first().copied());

        let mut adds = |adds: Option<bool>, token: Option<u32>, has: bool, name: &str| {
            if adds == Some(true) && token.is_none() && !has {
                warnings.push(format!(
                    "no {name} token is added: tokenizer_config.json asks for one, but names none"
                ));
            }
            adds.filter(|&adds| adds != has && token.is_some())
        };
        let has_bos = bos.is_some() && before.first() == bos.as_ref();
        match (adds(settings.adds_bos, bos, has_bos, "begin"), bos) {
            (Some(true), Some(bos)) => before.insert(0, bos),
            (Some(false), _) => drop(before.remove(0)),
            _ => {}
        }
        let has_eos = eos.is_some() && after.last() == eos.as_ref();
        match (adds(settings.adds_eos, eos, has_eos, "end"), eos) {
            (Some(true), Some(eos)) => after.push(eos),
            (Some(false), _) => drop(after.pop()),
            _ => {}
        }

        let ends = eos.into_iter().chain(eos_ids).collect();
        let is_added = |id| added.binary_search_by_key(&id, |(id, _)| *id).is_ok();
        let ends = with_known(ends, &mut vocabulary, is_added);
        Ok(Tokenizer::from_parts(Parts {
            vocabulary,
            model,
            bos,
            eos,
            unknown,
            before,
            after,
            ends,
            warnings,
        }))
    }
}

/// What the model takes for text that it cannot express.
fn model_unknown(json: &TokenizerJson, vocabulary: &Vocabulary) -> Option<u32> {
    let settings = &json.model.settings;
    if let Some(id) = settings.get("unk_id").and_then(Value::as_u64) {
        return u32::try_from(id).ok().filter(|&id| (id as usize) < vocabulary.len());
    }
    vocabulary.token(settings.get("unk_token")?.as_str()?.as_bytes())
}

/// What no tokenizer here can run, or should.
fn check(path: &Path, json: &TokenizerJson) -> Result<(), TokenizerError> {
    match json.model.settings.get("dropout") {
        Some(value) if !value.is_null() && value.as_f64() != Some(0.0) => Err(TokenizerError::Pipeline {
            file: path.to_owned(),
            part: "model.dropout",
            found: value.to_string(),
            advice: "expected null: it makes tokens by chance, which is for training",
        }),
        _ => Ok(()),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let failed = |action, cause| FormatError::Io { file: path.to_owned(), action, cause };
    let file = File::open(path).map_err(|cause| failed("open", cause))?;
    let mut bytes = Vec::new();
    file.take(read::MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|cause| failed("read", cause))?;
    Ok(bytes)
}
