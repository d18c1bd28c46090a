//! A model as people have it: one file, or a folder.

use std::path::Path;

use rz_formats::{FormatError, Gguf, Mapping, ModelFolder, Tensor};
use rz_model::Source;
use rz_tokenizer::{ChatTemplate, Tokenizer, TokenizerError};

/// An opened model of either kind.
#[derive(Debug)]
pub enum ModelFile {
    /// A GGUF file, or the shards of one.
    Gguf(Gguf),
    /// A folder as published on Hugging Face.
    Folder(Box<ModelFolder>),
}

impl ModelFile {
    /// Opens a GGUF file, a folder with `config.json`, or a file of such a folder.
    ///
    /// # Errors
    /// When it is neither, or what it holds is damaged or lacks something.
    pub fn open(path: impl AsRef<Path>) -> Result<ModelFile, FormatError> {
        let path = path.as_ref();
        if path.is_dir() {
            return Ok(ModelFile::Folder(Box::new(ModelFolder::open(path)?)));
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let of_folder = name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
        if of_folder || name == "config.json" {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = ModelFolder::open(folder.unwrap_or(Path::new(".")))?;
            return Ok(ModelFile::Folder(Box::new(folder)));
        }
        Ok(ModelFile::Gguf(Gguf::open(path)?))
    }

    /// The tensors.
    pub fn tensors(&self) -> Box<dyn Iterator<Item = &Tensor> + '_> {
        match self {
            ModelFile::Gguf(gguf) => Box::new(gguf.tensors()),
            ModelFile::Folder(folder) => Box::new(folder.tensors().tensors()),
        }
    }

    /// The mapped files.
    pub fn files(&self) -> Box<dyn Iterator<Item = &Mapping> + '_> {
        match self {
            ModelFile::Gguf(gguf) => Box::new(gguf.files()),
            ModelFile::Folder(folder) => Box::new(folder.tensors().files()),
        }
    }

    /// The file or folder, for messages.
    pub fn path(&self) -> &Path {
        match self {
            ModelFile::Gguf(gguf) => gguf.metadata().file(),
            ModelFile::Folder(folder) => folder.path(),
        }
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// When there is none, or it is damaged or not supported.
    pub fn tokenizer(&self) -> Result<Tokenizer, TokenizerError> {
        match self {
            ModelFile::Gguf(gguf) => Tokenizer::from_gguf(gguf.metadata()),
            ModelFile::Folder(folder) => Tokenizer::from_folder(folder),
        }
    }

    /// The chat template, if there is one.
    ///
    /// # Errors
    /// When it is not a valid template.
    pub fn chat_template(&self, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, TokenizerError> {
        match self {
            ModelFile::Gguf(gguf) => ChatTemplate::from_gguf(gguf.metadata(), tokenizer),
            ModelFile::Folder(folder) => ChatTemplate::from_folder(folder, tokenizer),
        }
    }
}

impl<'a> From<&'a ModelFile> for Source<'a> {
    fn from(file: &'a ModelFile) -> Source<'a> {
        match file {
            ModelFile::Gguf(gguf) => Source::Gguf(gguf),
            ModelFile::Folder(folder) => Source::Folder(folder),
        }
    }
}
