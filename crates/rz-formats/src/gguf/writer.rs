//! Writes GGUF files, version 3.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{parse, seal, shards};
use crate::error::{FormatError, Place};
use crate::metadata::Metadata;
use crate::output::{self, nowhere};
use crate::types::TensorType;
use crate::value::{Array, Value};

/// Collects metadata and tensors, then writes them as one file or as shards.
///
/// The same content always gives the same bytes. `general.alignment` is taken from the
/// metadata; the keys that tie shards together (`split.…`) are the writer's own: those
/// of the metadata are left out. A file with tensors of packed types gets the seal that
/// readers of such files ask for.
///
/// ```
/// use rz_formats::{Gguf, GgufWriter, Metadata};
/// use rz_quant::DType;
///
/// let mut metadata = Metadata::new();
/// metadata.insert("general.architecture", "llama");
/// let mut writer = GgufWriter::new(metadata);
/// writer.tensor("norm", &[2], DType::F32, [1f32.to_le_bytes(), 2f32.to_le_bytes()].concat())?;
///
/// let model = Gguf::from_bytes("memory", writer.to_bytes()?)?;
/// assert_eq!(model.tensor("norm").unwrap().shape(), [2]);
/// # Ok::<(), rz_formats::FormatError>(())
/// ```
pub struct GgufWriter<'a> {
    metadata: Metadata,
    tensors: Vec<Entry<'a>>,
    names: HashSet<String>,
}

/// When to start the next shard. A shard holds at least one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Most tensors of a shard.
    pub max_tensors: usize,
    /// Most bytes of the data of a shard.
    pub max_bytes: u64,
}

struct Entry<'a> {
    name: String,
    shape: Vec<u64>,
    tensor_type: TensorType,
    bytes: u64,
    data: Data<'a>,
}

enum Data<'a> {
    Bytes(Cow<'a, [u8]>),
    Stream(Box<Stream<'a>>),
}

type Stream<'a> = dyn Fn(&mut dyn Write) -> io::Result<()> + 'a;

impl Default for Split {
    /// No limits.
    fn default() -> Self {
        Split { max_tensors: usize::MAX, max_bytes: u64::MAX }
    }
}

impl<'a> GgufWriter<'a> {
    /// A file of this metadata, without tensors yet.
    pub fn new(metadata: Metadata) -> Self {
        GgufWriter { metadata, tensors: Vec::new(), names: HashSet::new() }
    }

    /// Adds a tensor: its dimensions, the contiguous one first, and its blocks.
    ///
    /// # Errors
    /// When the name is taken, the shape is not one that a file can have, or the data is not
    /// as long as shape and type want it.
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        shape: &[u64],
        tensor_type: impl Into<TensorType>,
        data: impl Into<Cow<'a, [u8]>>,
    ) -> Result<&mut Self, FormatError> {
        let (name, data) = (name.into(), data.into());
        let found = data.len() as u64;
        self.add(name, shape, tensor_type.into(), Data::Bytes(data), Some(found))
    }

    /// Adds a tensor whose blocks `stream` writes when the file is written, so that the
    /// tensors of a large model need not be in memory together.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor); a stream that writes too much or too little fails the writing.
    pub fn tensor_from(
        &mut self,
        name: impl Into<String>,
        shape: &[u64],
        tensor_type: impl Into<TensorType>,
        stream: impl Fn(&mut dyn Write) -> io::Result<()> + 'a,
    ) -> Result<&mut Self, FormatError> {
        self.add(name.into(), shape, tensor_type.into(), Data::Stream(Box::new(stream)), None)
    }

    fn add(
        &mut self,
        name: String,
        shape: &[u64],
        tensor_type: TensorType,
        data: Data<'a>,
        found: Option<u64>,
    ) -> Result<&mut Self, FormatError> {
        check_name("tensor name", &name)?;
        if TensorType::from_id(tensor_type.id()).is_none() {
            return Err(FormatError::ForeignType {
                place: nowhere(),
                tensor: name,
                found: tensor_type.name(),
                container: "GGUF",
            });
        }
        if shape.is_empty() || shape.len() > parse::MAX_DIMENSIONS {
            let (found, limit) = (shape.len() as u64, parse::MAX_DIMENSIONS as u64);
            return Err(FormatError::Dimensions { place: nowhere(), tensor: name, found, limit });
        }
        let bytes = tensor_type.bytes(shape).map_err(|bad| bad.of(nowhere(), &name, shape))?;
        if let Some(found) = found.filter(|&found| found != bytes) {
            return Err(FormatError::DataLength {
                file: nowhere().file,
                tensor: name,
                found,
                expected: bytes,
            });
        }
        if !self.names.insert(name.clone()) {
            return Err(FormatError::DuplicateTensor { place: nowhere(), tensor: name });
        }
        self.tensors.push(Entry { name, shape: shape.to_owned(), tensor_type, bytes, data });
        Ok(self)
    }

    /// The file as bytes.
    ///
    /// # Errors
    /// When the metadata holds what a file cannot, or a stream fails.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes the file to `out`.
    ///
    /// # Errors
    /// When the metadata holds what a file cannot, or writing fails.
    pub fn write_to(&self, out: &mut impl Write) -> Result<(), FormatError> {
        let file = nowhere().file;
        let shard = self.plan(0..self.tensors.len(), Metadata::new())?;
        self.emit(&shard, &mut Out { file: &file, out, written: 0 })
    }

    /// Writes the file at `path`. It appears there complete or not at all; a file that was
    /// there before is replaced, not written into.
    ///
    /// # Errors
    /// When the metadata holds what a file cannot, or writing fails.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), FormatError> {
        self.write_file(&self.plan(0..self.tensors.len(), Metadata::new())?, path.as_ref())
    }

    /// Writes a set of shards: for a `path` of `dir/model.gguf` the files are
    /// `dir/model-00001-of-00003.gguf` and so on. The first has the metadata.
    /// The files' paths come back.
    ///
    /// # Errors
    /// When the metadata holds what a file cannot, or writing fails. Shards that were
    /// written before stay.
    pub fn write_shards(&self, path: impl AsRef<Path>, split: Split) -> Result<Vec<PathBuf>, FormatError> {
        let path = path.as_ref();
        let alignment = u64::from(parse::alignment(&self.metadata)?);
        let ranges = self.ranges(split, alignment);
        let count = u16::try_from(ranges.len()).map_err(|_| FormatError::Count {
            place: Place { file: path.to_owned(), offset: None },
            what: "the number of shards",
            found: ranges.len() as u64,
            limit: u16::MAX.into(),
        })?;
        let stem = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = stem.strip_suffix(".gguf").unwrap_or(&stem);
        let mut files = Vec::new();
        for (number, range) in (0..count).zip(ranges) {
            let mut tie = Metadata::new();
            tie.insert(shards::NUMBER_KEY, number);
            tie.insert(shards::COUNT_KEY, count);
            tie.insert(shards::TENSORS_KEY, self.tensors.len() as i32);
            let file = path.with_file_name(shards::name(stem, u32::from(number) + 1, count.into()));
            self.write_file(&self.plan(range, tie)?, &file)?;
            files.push(file);
        }
        Ok(files)
    }

    /// The tensors of each shard.
    fn ranges(&self, split: Split, alignment: u64) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        let (mut start, mut bytes) = (0, 0u64);
        for (i, tensor) in self.tensors.iter().enumerate() {
            let size = tensor.bytes.next_multiple_of(alignment);
            if i > start && (i - start >= split.max_tensors || bytes.saturating_add(size) > split.max_bytes) {
                ranges.push(start..i);
                (start, bytes) = (i, 0);
            }
            bytes = bytes.saturating_add(size);
        }
        ranges.push(start..self.tensors.len());
        ranges
    }

    /// Checks the metadata and lays out a file of the tensors of `range`. `tie` are keys of its own.
    fn plan(&self, range: Range<usize>, tie: Metadata) -> Result<Shard, FormatError> {
        let alignment = parse::alignment(&self.metadata)?;
        let sealed = self.tensors[range.clone()].iter().any(|tensor| tensor.tensor_type.packs().is_some());
        if sealed && alignment < seal::ALIGNMENT {
            return Err(FormatError::Alignment {
                file: self.metadata.file().to_owned(),
                found: alignment.into(),
                min: seal::ALIGNMENT.into(),
                max: parse::ALIGNMENTS.end - 1,
            });
        }
        let first = range.start == 0;
        let own = |key: &str| [shards::NUMBER_KEY, shards::COUNT_KEY, shards::TENSORS_KEY].contains(&key);
        let entries: Vec<_> = self
            .metadata
            .iter()
            .filter(|(key, _)| !own(key) && (first || *key == parse::ALIGNMENT_KEY))
            .chain(tie.iter())
            .collect();
        check_count("the number of metadata keys", entries.len(), parse::MAX_KEYS)?;
        check_count("the number of tensors", self.tensors.len(), parse::MAX_TENSORS)?;

        let mut header = Vec::new();
        header.extend_from_slice(parse::MAGIC);
        header.extend_from_slice(&3u32.to_le_bytes());
        header.extend_from_slice(&(range.len() as u64).to_le_bytes());
        header.extend_from_slice(&(entries.len() as u64).to_le_bytes());
        let mut nested = 0;
        for (key, value) in entries {
            check_name("metadata key", key)?;
            put_string(&mut header, key);
            put_value(&mut header, value);
            if let Value::Array(array) = value {
                check_array(key, array, 1, &mut nested)?;
            }
        }
        check_count("the number of arrays in arrays", nested, parse::MAX_NESTED_ARRAYS)?;
        let mut offset = 0u64;
        for tensor in &self.tensors[range.clone()] {
            put_string(&mut header, &tensor.name);
            header.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().for_each(|dim| header.extend_from_slice(&dim.to_le_bytes()));
            header.extend_from_slice(&tensor.tensor_type.id().to_le_bytes());
            header.extend_from_slice(&offset.to_le_bytes());
            offset = offset
                .checked_add(tensor.bytes)
                .and_then(|end| end.checked_next_multiple_of(alignment.into()))
                .ok_or_else(|| FormatError::ShapeOverflow {
                    place: nowhere(),
                    tensor: tensor.name.clone(),
                    shape: tensor.shape.clone(),
                })?;
        }
        Ok(Shard { header, range, alignment: alignment.into(), sealed })
    }

    fn write_file(&self, shard: &Shard, path: &Path) -> Result<(), FormatError> {
        output::replace(path, |out| self.emit(shard, &mut Out { file: path, out, written: 0 }))
    }

    fn emit(&self, shard: &Shard, out: &mut Out<'_>) -> Result<(), FormatError> {
        out.check(|out| out.write_all(&shard.header))?;
        out.pad(shard.alignment)?;
        for tensor in &self.tensors[shard.range.clone()] {
            let start = out.written;
            out.check(|out| match &tensor.data {
                Data::Bytes(bytes) => out.write_all(bytes),
                Data::Stream(stream) => stream(out),
            })?;
            let found = out.written - start;
            if found != tensor.bytes {
                return Err(FormatError::DataLength {
                    file: out.file.to_owned(),
                    tensor: tensor.name.clone(),
                    found,
                    expected: tensor.bytes,
                });
            }
            out.pad(shard.alignment)?;
        }
        if shard.sealed {
            out.check(|out| out.write_all(&seal::of(&shard.header)))?;
        }
        Ok(())
    }
}

/// A file, laid out.
struct Shard {
    /// Everything before the data, without padding.
    header: Vec<u8>,
    range: Range<usize>,
    alignment: u64,
    /// Whether it holds panels.
    sealed: bool,
}

/// Counts what is written.
struct Out<'a> {
    file: &'a Path,
    out: &'a mut dyn Write,
    written: u64,
}

impl Out<'_> {
    fn check(&mut self, write: impl FnOnce(&mut Self) -> io::Result<()>) -> Result<(), FormatError> {
        let result = write(self);
        result.map_err(|cause| FormatError::Io { file: self.file.to_owned(), action: "write", cause })
    }

    fn pad(&mut self, alignment: u64) -> Result<(), FormatError> {
        let len = self.written.next_multiple_of(alignment) - self.written;
        self.check(|out| io::copy(&mut io::Read::take(io::repeat(0), len), out).map(drop))
    }
}

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn check_name(what: &'static str, name: &str) -> Result<(), FormatError> {
    let (found, limit) = (name.len() as u64, parse::MAX_NAME);
    if (1..=limit).contains(&found) {
        return Ok(());
    }
    Err(FormatError::NameLength { place: nowhere(), what, found, limit })
}

fn check_count(what: &'static str, found: usize, limit: u64) -> Result<(), FormatError> {
    let found = found as u64;
    if found <= limit {
        return Ok(());
    }
    Err(FormatError::Count { place: nowhere(), what, found, limit })
}

/// Checks the depth of nested arrays, and counts those inside others.
fn check_array(key: &str, array: &Array, depth: u32, nested: &mut usize) -> Result<(), FormatError> {
    if depth > parse::MAX_DEPTH {
        return Err(FormatError::Nesting { place: nowhere(), key: key.to_owned(), limit: parse::MAX_DEPTH });
    }
    let Array::Arrays(arrays) = array else { return Ok(()) };
    *nested += arrays.len();
    arrays.iter().try_for_each(|array| check_array(key, array, depth + 1, nested))
}

fn put_string(out: &mut Vec<u8>, string: &str) {
    out.extend_from_slice(&(string.len() as u64).to_le_bytes());
    out.extend_from_slice(string.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    out.extend_from_slice(&value.type_id().to_le_bytes());
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => out.push((*v).into()),
        Value::String(v) => put_string(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend_from_slice(&array.element_type_id().to_le_bytes());
    out.extend_from_slice(&(array.len() as u64).to_le_bytes());
    match array {
        Array::U8(items) => out.extend_from_slice(items),
        Array::I8(items) => items.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        Array::U16(items) => items.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        Array::I16(items) => items.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        Array::U32(items) => items.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        Array::I32(items) => items.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        Array::F32(items) => items.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        Array::Bool(items) => items.iter().for_each(|v| out.push((*v).into())),
        Array::Strings(items) => items.iter().for_each(|v| put_string(out, v)),
        Array::Arrays(items) => items.iter().for_each(|v| put_array(out, v)),
        Array::U64(items) => items.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        Array::I64(items) => items.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        Array::F64(items) => items.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
    }
}
