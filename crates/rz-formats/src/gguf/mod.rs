//! GGUF: one file, or a set of shards, that holds a model's metadata and tensors.
//!
//! | part | content |
//! | --- | --- |
//! | header | `GGUF`, version, number of tensors, number of keys |
//! | metadata | per key: name, type, value |
//! | tensor infos | per tensor: name, dimensions, type, offset of its data |
//! | padding | to a multiple of `general.alignment`, 32 when that is absent |
//! | data | each tensor at its offset, a multiple of the alignment |
//!
//! All numbers are little-endian; a string is its length as u64 and its bytes.
//!
//! Files of packed matrices have types of their own and end with a seal; see `seal`.

mod parse;
mod seal;
mod shards;
mod writer;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::writer::{GgufWriter, Split};

use self::parse::{Header, Info};
use crate::error::{FormatError, Place};
use crate::mapping::Mapping;
use crate::metadata::Metadata;
use crate::tensor::Tensor;

/// A model in one GGUF file or several, mapped and validated.
///
/// Everything that the file says has been checked when a value of this type exists:
/// each tensor's bytes lie inside its file and are the bytes of its shape and type.
#[derive(Debug)]
pub struct Gguf {
    version: u32,
    alignment: u32,
    metadata: Metadata,
    tensors: Vec<Tensor>,
    index: HashMap<Arc<str>, usize>,
    files: Vec<Arc<Mapping>>,
}

impl Gguf {
    /// Opens the file at `path`.
    ///
    /// A shard, named like `model-00002-of-00003.gguf`, opens its whole set, whichever of
    /// its files is named; the metadata is that of the first.
    ///
    /// # Errors
    /// When a file cannot be read, or anything in it is not as the format wants it.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, FormatError> {
        let path = path.as_ref();
        let given = Part::of(Mapping::open(path)?)?;
        match shards::names(path, &given.header.metadata)? {
            None => Gguf::of_parts(vec![given]),
            Some(names) => Gguf::of_parts(shards::open(&names, given)?),
        }
    }

    /// Reads a model of one file that is in memory; `name` stands in for the file in messages.
    ///
    /// # Errors
    /// When anything in it is not as the format wants it, or it is one of several shards.
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Result<Gguf, FormatError> {
        let part = Part::of(Mapping::from_bytes(name, bytes))?;
        shards::refuse(&part.header.metadata)?;
        Gguf::of_parts(vec![part])
    }

    /// Keys and values; of a set of shards, those of the first.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors in the order of the file, or of the files.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.tensors.iter()
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|&at| &self.tensors[at])
    }

    /// The version of the format, 2 or 3; of a set of shards, that of the first.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What the offsets of tensors are multiples of; of a set of shards, in the first.
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// Whether its matrices are packed already: whether it was written for this purpose.
    pub fn is_packed(&self) -> bool {
        self.tensors.iter().any(|tensor| tensor.tensor_type().packs().is_some())
    }

    /// The mapped files: one, or the shards in order.
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

    fn of_parts(parts: Vec<Part>) -> Result<Gguf, FormatError> {
        let mut parts = parts.into_iter();
        let first = parts.next().expect("a model has at least one file");
        let mut model = Gguf {
            version: first.header.version,
            alignment: first.header.alignment,
            metadata: first.header.metadata,
            tensors: Vec::new(),
            index: HashMap::new(),
            files: Vec::new(),
        };
        model.add(first.mapping, first.header.infos)?;
        parts.try_for_each(|part| model.add(part.mapping, part.header.infos))?;
        Ok(model)
    }

    fn add(&mut self, mapping: Mapping, infos: Vec<Info>) -> Result<(), FormatError> {
        let mapping = Arc::new(mapping);
        self.files.push(mapping.clone());
        self.tensors.reserve(infos.len());
        self.index.reserve(infos.len());
        for info in infos {
            match self.index.entry(info.name.clone()) {
                Entry::Vacant(entry) => entry.insert(self.tensors.len()),
                Entry::Occupied(_) => {
                    return Err(FormatError::DuplicateTensor {
                        place: Place { file: mapping.file().to_owned(), offset: Some(info.at as u64) },
                        tensor: info.name.to_string(),
                    });
                }
            };
            let Info { dims, tensor_type, range, .. } = info;
            self.tensors.push(Tensor::new(info.name, dims.as_slice(), tensor_type, mapping.clone(), range));
        }
        Ok(())
    }
}

/// One file with what its header says.
struct Part {
    mapping: Mapping,
    header: Header,
}

impl Part {
    fn of(mapping: Mapping) -> Result<Part, FormatError> {
        let header = parse::header(mapping.file(), mapping.bytes())?;
        Ok(Part { mapping, header })
    }
}
