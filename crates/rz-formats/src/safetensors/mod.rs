//! safetensors: one file, or the files of a folder, that hold a model's tensors.
//!
//! | part | content |
//! | --- | --- |
//! | length | of the header, as u64 |
//! | header | a JSON object: per tensor its name, and `dtype`, `shape` and `data_offsets` |
//! | data | the tensors, which fill it without gaps |
//!
//! What a model is stands beside them in JSON files; see [`ModelFolder`].

mod folder;
mod header;
mod index;
mod json;
mod reader;
mod templates;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::folder::ModelFolder;
pub use self::json::json_object;
pub use self::writer::SafetensorsWriter;

use self::index::Index;
use crate::error::{FormatError, Place};
use crate::mapping::Mapping;
use crate::tensor::Tensor;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Tensors in one safetensors file or several, mapped and validated.
///
/// Everything that the files say has been checked when a value of this type exists: each
/// tensor's bytes lie inside its file and are the bytes of its shape and type, and no byte of
/// the data belongs to two tensors or to none.
///
/// A [`Tensor`] names the dimension that is contiguous in memory first, as everywhere in this
/// crate; the files name it last. So a matrix of 2 rows and 3 columns, `[2, 3]` in the file,
/// has the [`shape`](Tensor::shape) `[3, 2]`. A scalar, `[]` in the file, has the shape `[1]`.
/// The data may start at any byte.
///
/// A tensor with a dimension of 0 has no bytes, and a [`Tensor`] has at least one: such ones
/// are checked like the others and named by [`empty_tensors`](Self::empty_tensors) alone.
#[derive(Debug)]
pub struct Safetensors {
    metadata: BTreeMap<String, String>,
    tensors: Vec<Tensor>,
    /// Where each tensor is in `tensors`; `None` for one without data.
    index: HashMap<Arc<str>, Option<usize>>,
    empty: Vec<Arc<str>>,
    files: Vec<Arc<Mapping>>,
}

impl Safetensors {
    /// Opens a file, or the files of a folder as they are published on Hugging Face.
    ///
    /// In a folder that is `model.safetensors`, or when there is none the files that
    /// `model.safetensors.index.json` names. An index, recognised by its name's end
    /// (`.index.json`), can be named itself. A file that is one of several is opened alone
    /// when it is named.
    ///
    /// An index is held to what it says: each tensor must be in the file where it is listed
    /// and in no other, and these files must have no tensor that it does not list.
    ///
    /// # Errors
    /// When a file cannot be read, or anything in it is not as the format wants it.
    pub fn open(path: impl AsRef<Path>) -> Result<Safetensors, FormatError> {
        let path = path.as_ref();
        if path.is_dir() {
            let single = path.join(SINGLE);
            // Asked for the name, not for the file behind it: a link that leads nowhere is an
            // error that names it.
            if single.symlink_metadata().is_ok() {
                return Safetensors::open_file(&single);
            }
            return match Safetensors::open_index(&path.join(INDEX))? {
                Some(found) => Ok(found),
                None => Err(folder::missing(path, "model.safetensors or model.safetensors.index.json")),
            };
        }
        if path.to_string_lossy().ends_with(".index.json")
            && let Some(found) = Safetensors::open_index(path)?
        {
            return Ok(found);
        }
        Safetensors::open_file(path)
    }

    /// Reads a file that is in memory; `name` stands in for it in messages.
    ///
    /// # Errors
    /// When anything in it is not as the format wants it.
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Result<Safetensors, FormatError> {
        let mut found = Safetensors::empty();
        found.add(Mapping::from_bytes(name, bytes), |_, _| Ok(()))?;
        Ok(found)
    }

    /// Reads an index that is in memory and the files that it names, which `open` gives.
    ///
    /// # Errors
    /// As [`open`](Self::open), and what `open` returns.
    pub fn from_index(
        name: impl Into<PathBuf>,
        bytes: &[u8],
        mut open: impl FnMut(&str) -> Result<Mapping, FormatError>,
    ) -> Result<Safetensors, FormatError> {
        let file = name.into();
        let Index { shards, mut tensors } = index::parse(&file, json::utf8(&file, bytes)?)?;
        let mut found = Safetensors::empty();
        for (number, shard) in shards.iter().enumerate() {
            let mapping = open(shard).map_err(|error| missing_shard(error, number + 1, shards.len()))?;
            found.add(mapping, |name, place| match tensors.get_mut(name) {
                // No shard has this number: the tensor was found.
                Some(listed) if *listed == shards.len() => {
                    Err(FormatError::DuplicateTensor { place: place(), tensor: name.to_owned() })
                }
                Some(listed) if *listed == number => {
                    *listed = shards.len();
                    Ok(())
                }
                listed => Err(FormatError::IndexMismatch {
                    file: file.clone(),
                    tensor: name.to_owned(),
                    listed: listed.map(|listed| shards[*listed].clone()),
                    found: Some(shard.clone()),
                }),
            })?;
        }
        // The first one, so that the same files give the same message.
        match tensors.iter().filter(|(_, shard)| **shard < shards.len()).min() {
            None => Ok(found),
            Some((tensor, &shard)) => Err(FormatError::IndexMismatch {
                file: file.clone(),
                tensor: tensor.to_string(),
                listed: Some(shards[shard].clone()),
                found: None,
            }),
        }
    }

    /// The free texts of the file, its `__metadata__`; of several files, those of the first.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensors in the order of their data, the files in the order of their names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.tensors.iter()
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name)?.map(|at| &self.tensors[at])
    }

    /// The names of the tensors that have a dimension of 0, which [`tensors`](Self::tensors)
    /// leaves out.
    pub fn empty_tensors(&self) -> impl ExactSizeIterator<Item = &str> {
        self.empty.iter().map(|name| &**name)
    }

    /// The mapped files: one, or those of the index in the order of their names.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Mapping> {
        self.files.iter().map(|file| &**file)
    }

    /// Checks that the files are still those that were opened; see [`Mapping::check_unchanged`].
    ///
    /// # Errors
    /// When one was changed.
    pub fn check_unchanged(&self) -> Result<(), FormatError> {
        self.files().try_for_each(Mapping::check_unchanged)
    }

    fn open_file(path: &Path) -> Result<Safetensors, FormatError> {
        let mut found = Safetensors::empty();
        found.add(Mapping::open(path)?, |_, _| Ok(()))?;
        Ok(found)
    }

    /// Opens an index and its files, when there is one.
    fn open_index(path: &Path) -> Result<Option<Safetensors>, FormatError> {
        let Some(bytes) = json::read(path, index::MAX_BYTES)? else { return Ok(None) };
        Safetensors::from_index(path, &bytes, |shard| Mapping::open(path.with_file_name(shard))).map(Some)
    }

    fn empty() -> Safetensors {
        Safetensors {
            metadata: BTreeMap::new(),
            tensors: Vec::new(),
            index: HashMap::new(),
            empty: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Adds the tensors of a file, each after `check`.
    fn add(
        &mut self,
        mapping: Mapping,
        mut check: impl FnMut(&str, &dyn Fn() -> Place) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        let mapping = Arc::new(mapping);
        let header = header::header(mapping.file(), mapping.bytes())?;
        if self.files.is_empty() {
            self.metadata = header.metadata;
        }
        self.tensors.reserve(header.entries.len());
        self.index.reserve(header.entries.len());
        for entry in header.entries {
            let name: Arc<str> = entry.name.into();
            let mut shape = entry.shape;
            let place = || Place { file: mapping.file().to_owned(), offset: entry.at };
            check(&name, &place)?;
            let at = (!shape.contains(&0)).then_some(self.tensors.len());
            if self.index.insert(name.clone(), at).is_some() {
                return Err(FormatError::DuplicateTensor { place: place(), tensor: name.to_string() });
            }
            if at.is_none() {
                self.empty.push(name);
                continue;
            }
            shape.reverse();
            let shape = if shape.is_empty() { &[1] } else { &*shape };
            self.tensors.push(Tensor::new(name, shape, entry.tensor_type, mapping.clone(), entry.range));
        }
        self.files.push(mapping);
        Ok(())
    }
}

fn missing_shard(error: FormatError, number: usize, count: usize) -> FormatError {
    match error {
        FormatError::Io { file, cause, .. } if cause.kind() == io::ErrorKind::NotFound => {
            FormatError::MissingShard { file, number: number as u32, count: count as u32 }
        }
        other => other,
    }
}
