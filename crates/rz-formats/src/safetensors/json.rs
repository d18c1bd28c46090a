//! The JSON files beside the tensors, such as `config.json`.

use std::borrow::Cow;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::reader::{self, Reader, Text};
use crate::error::{FormatError, Place};
use crate::mapping;

// Far beyond any real file: they keep what a hostile one can take in bounds.
/// The most bytes of a file that are read.
const MAX_BYTES: u64 = 16 << 20;
/// The most values in one file, those inside others included.
const MAX_VALUES: usize = 1 << 19;
/// The most arrays and objects inside each other. Less than what `serde_json` takes.
const MAX_DEPTH: u32 = 100;

/// Reads the JSON object that `bytes` are, its keys in their order; `name` stands in for the
/// file in messages.
///
/// It is for files that nobody vouches for, such as `config.json`: a key that occurs twice,
/// of which other readers silently take the last, is refused.
///
/// # Errors
/// When the bytes are not one JSON object with unique keys, or are larger or deeper nested
/// than any file that describes a model.
pub fn json_object(name: impl AsRef<Path>, bytes: &[u8]) -> Result<Map<String, Value>, FormatError> {
    let file = name.as_ref();
    check_size(file, bytes.len() as u64, MAX_BYTES)?;
    let text = utf8(file, bytes)?;
    let whole = reader::read(file, text, 0, |reader, json| {
        json.deserialize_map(Node { reader, count: &mut 0, depth: 0 })
    })?;
    let Value::Object(map) = whole else { unreachable!("an object was asked for") };
    Ok(map)
}

/// The object that the file at `path` is; `None` when there is none.
pub(super) fn find(path: &Path) -> Result<Option<Map<String, Value>>, FormatError> {
    read(path, MAX_BYTES)?.map(|bytes| json_object(path, &bytes)).transpose()
}

/// The bytes of a regular file of at most `limit` bytes; `None` when there is none.
pub(super) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, FormatError> {
    let failed = |action, cause| FormatError::Io { file: path.to_owned(), action, cause };
    let info = match fs::metadata(path) {
        Ok(info) => info,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(failed("open", cause)),
    };
    mapping::check_kind(path, &info)?;
    check_size(path, info.len(), limit)?;
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|cause| failed("open", cause))?;
    // The file may have grown since.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|cause| failed("read", cause))?;
    check_size(path, bytes.len() as u64, limit)?;
    Ok(Some(bytes))
}

fn check_size(path: &Path, found: u64, limit: u64) -> Result<(), FormatError> {
    if found <= limit {
        return Ok(());
    }
    Err(FormatError::TooLarge { file: path.to_owned(), found, limit })
}

pub(super) fn utf8<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str, FormatError> {
    std::str::from_utf8(bytes).map_err(|error| FormatError::Utf8 {
        place: Place { file: path.to_owned(), offset: Some(error.valid_up_to() as u64) },
        what: "the text".to_owned(),
    })
}

/// Reads a value, of any type when it is inside another.
pub(super) struct Node<'r, 'a> {
    pub(super) reader: &'r mut Reader<'a>,
    /// Values of the file so far.
    pub(super) count: &'r mut usize,
    /// Arrays and objects around this value.
    pub(super) depth: u32,
}

impl<'a> Node<'_, 'a> {
    /// Reads the value of `key`, of which `map` has read the name, into `entries`.
    pub(super) fn entry<A: MapAccess<'a>>(
        &mut self,
        key: Cow<'a, str>,
        map: &mut A,
        entries: &mut Map<String, Value>,
    ) -> Result<(), A::Error> {
        self.reader.pass(&key);
        if entries.contains_key(&*key) {
            let (place, key) = (self.reader.place(), key.into_owned());
            return Err(self.reader.fail(FormatError::DuplicateKey { place, key }));
        }
        let value = map.next_value_seed(self.inner())?;
        entries.insert(key.into_owned(), value);
        Ok(())
    }

    /// The reader of a value inside this one.
    fn inner(&mut self) -> Node<'_, 'a> {
        Node { reader: self.reader, count: self.count, depth: self.depth + 1 }
    }

    fn check_depth<E: Error>(&mut self) -> Result<(), E> {
        if self.depth < MAX_DEPTH {
            return Ok(());
        }
        let place = self.reader.place();
        Err(self.reader.fail(FormatError::JsonDepth { place, limit: MAX_DEPTH }))
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_, 'de> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        *self.count += 1;
        if *self.count > MAX_VALUES {
            let (place, found, limit) = (self.reader.place(), *self.count as u64, MAX_VALUES as u64);
            let what = "the number of JSON values";
            return Err(self.reader.fail(FormatError::Count { place, what, found, limit }));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, 'de> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self.inner())? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut entries = Map::new();
        while let Some(Text(key)) = map.next_key()? {
            self.entry(key, &mut map, &mut entries)?;
        }
        Ok(Value::Object(entries))
    }
}
