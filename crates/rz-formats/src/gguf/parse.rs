//! From the bytes of one file to its metadata and the places of its tensors.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::seal;
use crate::cursor::Cursor;
use crate::error::FormatError;
use crate::metadata::Metadata;
use crate::shown::text;
use crate::sniff::looks_like;
use crate::types::{NoType, TensorType};
use crate::value::{Array, StringArray, Value};

pub(super) const MAGIC: &[u8; 4] = b"GGUF";
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";
pub(super) const DEFAULT_ALIGNMENT: u32 = 32;
pub(super) const MAX_DIMENSIONS: usize = 4;

pub(super) const ALIGNMENTS: Range<u64> = 8..65536 + 1;

// Limits far beyond any real model. They keep what a hostile file can make this
// reader hold in step with the size of the file.
pub(super) const MAX_NAME: u64 = 65535;
pub(super) const MAX_KEYS: u64 = 1 << 16;
pub(super) const MAX_TENSORS: u64 = 1 << 18;
pub(super) const MAX_NESTED_ARRAYS: u64 = 1 << 16;
pub(super) const MAX_DEPTH: u32 = 8;

// The fewest bytes that one entry can take: a name of one byte and the smallest value,
// and a tensor of one dimension.
const LEAST_KEY: usize = 8 + 1 + 4 + 1;
const LEAST_TENSOR: usize = 8 + 1 + 4 + 8 + 4 + 8;

/// What a file says before its data.
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) alignment: u32,
    pub(super) metadata: Metadata,
    pub(super) infos: Vec<Info>,
}

/// A tensor, checked: `range` lies inside the file and fits shape and type.
pub(super) struct Info {
    pub(super) name: Arc<str>,
    pub(super) tensor_type: TensorType,
    /// In the file.
    pub(super) range: Range<usize>,
    /// Where the tensor's entry starts.
    pub(super) at: usize,
    pub(super) dims: Dims,
    /// Of the data, from its start.
    offset: u64,
    bytes: u64,
}

/// The dimensions of a tensor, without an allocation of their own.
pub(super) struct Dims {
    all: [u64; MAX_DIMENSIONS],
    len: usize,
}

impl Dims {
    pub(super) fn as_slice(&self) -> &[u64] {
        &self.all[..self.len]
    }
}

/// Reads and checks everything before the data. Names of tensors may still occur twice.
pub(super) fn header(file: &Path, bytes: &[u8]) -> Result<Header, FormatError> {
    let sealed = seal::check(file, bytes)?;
    let bytes = &bytes[..bytes.len() - sealed.map_or(0, |_| seal::BYTES)];
    let mut cursor = Cursor::new(file, bytes);
    let version = version(&mut cursor, bytes)?;
    let tensors = cursor.count("the number of tensors", LEAST_TENSOR, MAX_TENSORS)?;
    let keys = cursor.count("the number of metadata keys", LEAST_KEY, MAX_KEYS)?;
    let metadata = metadata(&mut cursor, keys)?;
    let alignment = alignment(&metadata)?;
    let mut infos = (0..tensors).map(|_| info(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
    check_seal(&cursor, &metadata, &infos, alignment, sealed)?;
    place_data(&cursor, &mut infos, u64::from(alignment), bytes.len() as u64)?;
    Ok(Header { version, alignment, metadata, infos })
}

fn version(cursor: &mut Cursor<'_>, bytes: &[u8]) -> Result<u32, FormatError> {
    let start = &bytes[..bytes.len().min(MAGIC.len())];
    if !MAGIC.starts_with(start) {
        return Err(FormatError::Magic {
            place: cursor.place(),
            found: String::from_utf8_lossy(start).into_owned(),
            // A safetensors file starts with the length of the JSON header that follows.
            looks_like: looks_like(bytes)
                .or_else(|| (bytes.get(8) == Some(&b'{')).then_some("perhaps a safetensors file")),
        });
    }
    cursor.array::<4>("the magic number")?;
    let place = cursor.place();
    match cursor.u32("the version")? {
        version @ 2..=3 => Ok(version),
        // No version comes near 65536, so two low bytes of zero are the high bytes of
        // a number in the other order.
        other if other != 0 && other & 0xffff == 0 => {
            Err(FormatError::BigEndian { place, version: other.swap_bytes() })
        }
        found => Err(FormatError::Version { place, found }),
    }
}

fn metadata(cursor: &mut Cursor<'_>, keys: usize) -> Result<Metadata, FormatError> {
    let mut metadata = Metadata::of_file(cursor.file());
    let mut nested = MAX_NESTED_ARRAYS;
    for _ in 0..keys {
        let start = cursor.at();
        let key = cursor.name("metadata key", MAX_NAME)?;
        let value = ValueReader { key, nested: &mut nested }.value(cursor)?;
        if metadata.insert(key, value).is_some() {
            let place = cursor.place_of(start);
            return Err(FormatError::DuplicateKey { place, key: key.to_owned() });
        }
    }
    Ok(metadata)
}

/// Reads the value of one key.
struct ValueReader<'a> {
    key: &'a str,
    /// Arrays inside arrays that the file may still have.
    nested: &'a mut u64,
}

impl ValueReader<'_> {
    fn value(&mut self, cursor: &mut Cursor<'_>) -> Result<Value, FormatError> {
        const WHAT: &str = "a metadata value";
        let start = cursor.at();
        Ok(match cursor.u32("the type of a metadata value")? {
            0 => Value::U8(cursor.array::<1>(WHAT)?[0]),
            1 => Value::I8(i8::from_le_bytes(cursor.array(WHAT)?)),
            2 => Value::U16(u16::from_le_bytes(cursor.array(WHAT)?)),
            3 => Value::I16(i16::from_le_bytes(cursor.array(WHAT)?)),
            4 => Value::U32(u32::from_le_bytes(cursor.array(WHAT)?)),
            5 => Value::I32(i32::from_le_bytes(cursor.array(WHAT)?)),
            6 => Value::F32(f32::from_le_bytes(cursor.array(WHAT)?)),
            7 => Value::Bool(self.bools(cursor, 1)?[0]),
            8 => {
                let len = cursor.u64("the length of a string")?;
                let start = cursor.at();
                let bytes = cursor.take(len, "a string")?;
                match std::str::from_utf8(bytes) {
                    Ok(string) => Value::String(string.to_owned()),
                    Err(_) => {
                        return Err(FormatError::Utf8 {
                            place: cursor.place_of(start),
                            what: format!("the value of key {}", text(self.key)),
                        });
                    }
                }
            }
            9 => Value::Array(self.array(cursor, 1)?),
            10 => Value::U64(u64::from_le_bytes(cursor.array(WHAT)?)),
            11 => Value::I64(i64::from_le_bytes(cursor.array(WHAT)?)),
            12 => Value::F64(f64::from_le_bytes(cursor.array(WHAT)?)),
            found => {
                let place = cursor.place_of(start);
                return Err(FormatError::ValueType { place, key: self.key.to_owned(), found });
            }
        })
    }

    fn array(&mut self, cursor: &mut Cursor<'_>, depth: u32) -> Result<Array, FormatError> {
        let start = cursor.at();
        if depth > MAX_DEPTH {
            let place = cursor.place();
            return Err(FormatError::Nesting { place, key: self.key.to_owned(), limit: MAX_DEPTH });
        }
        Ok(match cursor.u32("the type of an array's elements")? {
            0 => Array::U8(numbers(cursor, u8::from_le_bytes)?),
            1 => Array::I8(numbers(cursor, i8::from_le_bytes)?),
            2 => Array::U16(numbers(cursor, u16::from_le_bytes)?),
            3 => Array::I16(numbers(cursor, i16::from_le_bytes)?),
            4 => Array::U32(numbers(cursor, u32::from_le_bytes)?),
            5 => Array::I32(numbers(cursor, i32::from_le_bytes)?),
            6 => Array::F32(numbers(cursor, f32::from_le_bytes)?),
            7 => {
                let len = cursor.count(LENGTH, 1, u64::MAX)?;
                Array::Bool(self.bools(cursor, len as u64)?)
            }
            8 => Array::Strings(self.strings(cursor)?),
            9 => {
                // An array's type and length are its fewest bytes.
                let len = cursor.count("the number of arrays in an array", 4 + 8, *self.nested)?;
                *self.nested -= len as u64;
                Array::Arrays((0..len).map(|_| self.array(cursor, depth + 1)).collect::<Result<_, _>>()?)
            }
            10 => Array::U64(numbers(cursor, u64::from_le_bytes)?),
            11 => Array::I64(numbers(cursor, i64::from_le_bytes)?),
            12 => Array::F64(numbers(cursor, f64::from_le_bytes)?),
            found => {
                let place = cursor.place_of(start);
                return Err(FormatError::ValueType { place, key: self.key.to_owned(), found });
            }
        })
    }

    fn bools(&self, cursor: &mut Cursor<'_>, len: u64) -> Result<Vec<bool>, FormatError> {
        let at = cursor.at();
        let bytes = cursor.take(len, "a bool")?;
        if let Some(bad) = bytes.iter().position(|&byte| byte > 1) {
            let place = cursor.place_of(at + bad);
            return Err(FormatError::Bool { place, key: self.key.to_owned(), found: bytes[bad] });
        }
        Ok(bytes.iter().map(|&byte| byte == 1).collect())
    }

    // Twice over the strings: the first time to check their lengths and to learn how
    // much memory they take, so that a false count costs none.
    fn strings(&self, cursor: &mut Cursor<'_>) -> Result<StringArray, FormatError> {
        let len = cursor.count(LENGTH, 8, u64::MAX)?;
        let start = cursor.at();
        let mut total = 0;
        let mut again = cursor.clone();
        for _ in 0..len {
            let bytes = cursor.u64("the length of a string")?;
            total += cursor.take(bytes, "a string")?.len();
        }
        let mut all = Vec::with_capacity(total);
        let mut ends = Vec::with_capacity(len);
        for _ in 0..len {
            let bytes = again.u64("the length of a string")?;
            all.extend_from_slice(again.take(bytes, "a string")?);
            ends.push(all.len());
        }
        StringArray::from_parts(all, ends).map_err(|bad| FormatError::Utf8 {
            // Before the text of string `index` are its own length and those of the ones before.
            place: cursor.place_of(start + 8 * (bad.index + 1) + bad.at),
            what: format!("string {} of key {}", bad.index, text(self.key)),
        })
    }
}

const LENGTH: &str = "the length of an array";

fn numbers<T, const N: usize>(
    cursor: &mut Cursor<'_>,
    of_bytes: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, FormatError> {
    let len = cursor.count(LENGTH, N, u64::MAX)?;
    let (numbers, _) = cursor.take((len * N) as u64, "an array")?.as_chunks();
    Ok(numbers.iter().map(|&bytes| of_bytes(bytes)).collect())
}

pub(super) fn alignment(metadata: &Metadata) -> Result<u32, FormatError> {
    match metadata.u64(ALIGNMENT_KEY)? {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(found) if found.is_power_of_two() && ALIGNMENTS.contains(&found) => Ok(found as u32),
        Some(found) => Err(FormatError::Alignment {
            file: metadata.file().to_owned(),
            found,
            min: ALIGNMENTS.start,
            max: ALIGNMENTS.end - 1,
        }),
    }
}

fn info(cursor: &mut Cursor<'_>) -> Result<Info, FormatError> {
    let at = cursor.at();
    let name = cursor.name("tensor name", MAX_NAME)?;
    let shape_at = cursor.at();
    let n_dims = cursor.u32("the number of a tensor's dimensions")?;
    if n_dims == 0 || n_dims > MAX_DIMENSIONS as u32 {
        let place = cursor.place_of(shape_at);
        return Err(FormatError::Dimensions {
            place,
            tensor: name.to_owned(),
            found: n_dims.into(),
            limit: MAX_DIMENSIONS as u64,
        });
    }
    let mut dims = Dims { all: [1; MAX_DIMENSIONS], len: n_dims as usize };
    for dim in &mut dims.all[..dims.len] {
        *dim = cursor.u64("a tensor's dimension")?;
    }
    let type_at = cursor.at();
    let id = cursor.u32("a tensor's type")?;
    let tensor_type = TensorType::look_up(id).map_err(|no_type| {
        let (place, tensor) = (cursor.place_of(type_at), name.to_owned());
        match no_type {
            NoType::Unknown => FormatError::TensorType { place, tensor, found: id },
            NoType::Removed(name) => FormatError::RemovedTensorType { place, tensor, found: id, name },
        }
    })?;
    let bytes = tensor_type
        .bytes(dims.as_slice())
        .map_err(|bad| bad.of(cursor.place_of(shape_at), name, dims.as_slice()))?;
    let offset = cursor.u64("the offset of a tensor's data")?;
    Ok(Info { name: name.into(), tensor_type, range: 0..0, at, dims, offset, bytes })
}

/// Checks that there is a seal if a tensor wants one, and that it fits.
fn check_seal(
    cursor: &Cursor<'_>,
    metadata: &Metadata,
    infos: &[Info],
    alignment: u32,
    sealed: Option<usize>,
) -> Result<(), FormatError> {
    let Some(packed) = infos.iter().find(|info| info.tensor_type.packs().is_some()) else { return Ok(()) };
    let broken = |place, what| Err(FormatError::Seal { place, what });
    match sealed {
        None => broken(cursor.place_of(packed.at), "tensors are packed, and the seal at the end is missing"),
        Some(header) if header != cursor.at() => {
            broken(cursor.place(), "the header does not end where the seal says")
        }
        Some(_) if alignment < seal::ALIGNMENT => Err(FormatError::Alignment {
            file: metadata.file().to_owned(),
            found: alignment.into(),
            min: seal::ALIGNMENT.into(),
            max: ALIGNMENTS.end - 1,
        }),
        Some(_) => Ok(()),
    }
}

/// Finds the data of each tensor, which starts after the infos, and checks that it is
/// aligned, inside the file and its own.
fn place_data(
    cursor: &Cursor<'_>,
    infos: &mut [Info],
    alignment: u64,
    file_len: u64,
) -> Result<(), FormatError> {
    let start = (cursor.at() as u64).next_multiple_of(alignment);
    let available = file_len.saturating_sub(start);
    for info in &mut *infos {
        if !info.offset.is_multiple_of(alignment) {
            return Err(FormatError::Misaligned {
                place: cursor.place_of(info.at),
                tensor: info.name.to_string(),
                found: info.offset,
                expected: alignment,
            });
        }
        match info.offset.checked_add(info.bytes) {
            // Both sums stay below the length of the mapped file.
            Some(end) if end <= available => {
                info.range = (start + info.offset) as usize..(start + end) as usize;
            }
            _ => {
                return Err(FormatError::OutOfFile {
                    place: cursor.place_of(info.at),
                    tensor: info.name.to_string(),
                    start: info.offset,
                    expected: info.bytes,
                    found: available,
                });
            }
        }
    }
    let mut order: Vec<&Info> = infos.iter().collect();
    order.sort_unstable_by_key(|info| info.range.start);
    match order.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        None => Ok(()),
        Some(pair) => Err(FormatError::Overlap {
            file: cursor.file().to_owned(),
            tensor: pair[0].name.to_string(),
            other: pair[1].name.to_string(),
        }),
    }
}
