//! `model.safetensors.index.json`: which file of a folder has which tensor.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map;
use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde_json::Map;

use super::header::{MAX_TENSORS, TENSORS};
use super::json::Node;
use super::reader::{self, Reader, Text};
use crate::error::{FormatError, Place};

/// The most bytes of an index that are read.
pub(super) const MAX_BYTES: u64 = 64 << 20;
/// The most files that an index may name.
pub(super) const MAX_SHARDS: usize = 4096;
/// The longest name of a file that systems have.
const MAX_FILE_NAME: usize = 255;

/// An index, checked: what it names are files of its own folder.
pub(super) struct Index<'a> {
    /// The files, in the order of their names.
    pub(super) shards: Vec<String>,
    /// For each tensor the number of its file in `shards`.
    pub(super) tensors: HashMap<Cow<'a, str>, usize>,
}

/// Reads an index.
pub(super) fn parse<'a>(file: &'a Path, text: &'a str) -> Result<Index<'a>, FormatError> {
    let found = reader::read(file, text, 0, |reader, json| json.deserialize_map(Top { reader }))?;
    let Some(WeightMap { shards, mut tensors }) = found else {
        return Err(FormatError::MissingKey { file: file.to_owned(), key: WEIGHT_MAP.to_owned() });
    };
    let mut sorted: Vec<_> = shards.into_iter().collect();
    sorted.sort_unstable();
    let mut numbers = vec![0; sorted.len()];
    sorted.iter().enumerate().for_each(|(number, (_, seen))| numbers[*seen] = number);
    tensors.values_mut().for_each(|shard| *shard = numbers[*shard]);
    Ok(Index { shards: sorted.into_iter().map(|(name, _)| name.into_owned()).collect(), tensors })
}

const WEIGHT_MAP: &str = "weight_map";

struct WeightMap<'a> {
    /// The files, numbered as they were seen.
    shards: HashMap<Cow<'a, str>, usize>,
    tensors: HashMap<Cow<'a, str>, usize>,
}

/// Reads the whole index.
struct Top<'r, 'a> {
    reader: &'r mut Reader<'a>,
}

impl<'de> Visitor<'de> for Top<'_, 'de> {
    type Value = Option<WeightMap<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        // Of the other keys only the form matters.
        let mut others = Map::new();
        let mut node = Node { reader: self.reader, count: &mut 0, depth: 0 };
        while let Some(Text(key)) = map.next_key()? {
            if key != WEIGHT_MAP {
                node.entry(key, &mut map, &mut others)?;
                continue;
            }
            node.reader.pass(&key);
            if found.is_some() {
                let (place, key) = (node.reader.place(), key.into_owned());
                return Err(node.reader.fail(FormatError::DuplicateKey { place, key }));
            }
            found = Some(map.next_value_seed(Files { reader: node.reader })?);
        }
        Ok(found)
    }
}

/// Reads the object that gives each tensor its file.
struct Files<'r, 'a> {
    reader: &'r mut Reader<'a>,
}

impl<'de> DeserializeSeed<'de> for Files<'_, 'de> {
    type Value = WeightMap<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<WeightMap<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Files<'_, 'de> {
    type Value = WeightMap<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of file names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap<'de>, A::Error> {
        let reader = self.reader;
        let mut found = WeightMap { shards: HashMap::new(), tensors: HashMap::new() };
        while let Some(Text(name)) = map.next_key()? {
            reader.pass(&name);
            let Text(shard) = map.next_value()?;
            let shard = found.number(shard, &name, reader.place()).map_err(|error| reader.fail(error))?;
            if found.tensors.len() == MAX_TENSORS {
                let (found, limit) = (MAX_TENSORS as u64 + 1, MAX_TENSORS as u64);
                let place = reader.place();
                return Err(reader.fail(FormatError::Count { place, what: TENSORS, found, limit }));
            }
            match found.tensors.entry(name) {
                hash_map::Entry::Vacant(entry) => entry.insert(shard),
                hash_map::Entry::Occupied(entry) => {
                    let (place, key) = (reader.place(), entry.key().to_string());
                    return Err(reader.fail(FormatError::DuplicateKey { place, key }));
                }
            };
        }
        if found.tensors.is_empty() {
            return Err(A::Error::custom("expected at least one tensor in weight_map"));
        }
        Ok(found)
    }
}

impl<'a> WeightMap<'a> {
    /// The number of a file, which is new or known.
    fn number(&mut self, shard: Cow<'a, str>, tensor: &str, place: Place) -> Result<usize, FormatError> {
        if let Some(&number) = self.shards.get(&shard) {
            return Ok(number);
        }
        if !is_file_name(&shard) {
            let (tensor, found) = (tensor.to_owned(), shard.chars().take(100).collect());
            return Err(FormatError::ShardPath { place, tensor, found });
        }
        let number = self.shards.len();
        if number == MAX_SHARDS {
            let (found, limit) = (MAX_SHARDS as u64 + 1, MAX_SHARDS as u64);
            return Err(FormatError::Count { place, what: "the number of shards", found, limit });
        }
        self.shards.insert(shard, number);
        Ok(number)
    }
}

/// Whether this is the name of a file in the same folder, on every system: no path, and no
/// drive or stream.
fn is_file_name(name: &str) -> bool {
    let strange = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    !matches!(name, "" | "." | "..") && name.len() <= MAX_FILE_NAME && !name.contains(strange)
}
