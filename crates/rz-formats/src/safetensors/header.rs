//! From the bytes of one file to the places of its tensors.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::reader::{self, Reader, Text};
use crate::cursor::Cursor;
use crate::error::{FormatError, Place};
use crate::sniff::looks_like;
use crate::types::TensorType;

/// The key that is no tensor.
pub(super) const METADATA: &str = "__metadata__";

// Limits far beyond any real model. They keep what a hostile file can make this reader
// hold in step with the size of the file. The first is that of the format's own library.
pub(super) const MAX_HEADER: u64 = 100_000_000;
pub(super) const MAX_TENSORS: usize = 1 << 18;
pub(super) const MAX_METADATA: usize = 1 << 16;
pub(super) const MAX_NAME: usize = 65535;
pub(super) const MAX_DIMENSIONS: usize = 8;

/// What a file says before its data.
pub(super) struct Header<'a> {
    pub(super) metadata: BTreeMap<String, String>,
    /// In the order of their data, which they fill without gaps.
    pub(super) entries: Vec<Entry<'a>>,
}

/// A tensor, checked: `range` lies inside the file and fits shape and type.
pub(super) struct Entry<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) tensor_type: TensorType,
    /// As the file has it: the contiguous dimension last.
    pub(super) shape: Box<[u64]>,
    /// In the file.
    pub(super) range: Range<usize>,
    /// Where the tensor's name stands.
    pub(super) at: Option<u64>,
    /// Of the data, from its start.
    begin: u64,
    end: u64,
}

impl Entry<'_> {
    fn place(&self, file: &Path) -> Place {
        Place { file: file.to_owned(), offset: self.at }
    }
}

/// Reads and checks everything before the data. Names of tensors may still occur twice.
pub(super) fn header<'a>(file: &'a Path, bytes: &'a [u8]) -> Result<Header<'a>, FormatError> {
    let mut cursor = Cursor::new(file, bytes);
    let place = cursor.place();
    let found = cursor.u64("the length of the header")?;
    let limit = MAX_HEADER.min(cursor.left() as u64);
    if !(2..=limit).contains(&found) {
        return Err(FormatError::HeaderLength { place, found, limit, looks_like: looks_like(bytes) });
    }
    let start = cursor.at();
    let text = cursor.take(found, "the header")?;
    let text = std::str::from_utf8(text).map_err(|error| FormatError::Utf8 {
        place: cursor.place_of(start + error.valid_up_to()),
        what: "the header".to_owned(),
    })?;
    if !text.starts_with('{') {
        let (place, what) = (cursor.place_of(start), "expected `{`, with nothing before it".to_owned());
        return Err(FormatError::Json { place, what });
    }
    let mut header =
        reader::read(file, text, start, |reader, json| json.deserialize_map(Entries { reader }))?;
    place_data(&cursor, &mut header.entries, bytes.len())?;
    Ok(header)
}

/// Finds the data of each tensor and checks that all of them together are the data of the file.
fn place_data(cursor: &Cursor<'_>, entries: &mut [Entry<'_>], file_len: usize) -> Result<(), FormatError> {
    let start = cursor.at();
    let available = (file_len - start) as u64;
    for entry in &*entries {
        if entry.end > available {
            return Err(FormatError::OutOfFile {
                place: entry.place(cursor.file()),
                tensor: entry.name.to_string(),
                start: entry.begin,
                expected: entry.end - entry.begin,
                found: available,
            });
        }
    }
    let unclaimed = |from: u64, to: u64| FormatError::Unclaimed {
        place: cursor.place_of(start + from as usize),
        found: to - from,
    };
    // A tensor without data comes before the one that starts where it does. Stable, so
    // that several of them keep the order of the header.
    entries.sort_by_key(|entry| (entry.begin, entry.end));
    let mut end = 0;
    for i in 0..entries.len() {
        let entry = &entries[i];
        if entry.begin > end {
            return Err(unclaimed(end, entry.begin));
        }
        if entry.begin < end {
            return Err(FormatError::Overlap {
                file: cursor.file().to_owned(),
                tensor: entries[i - 1].name.to_string(),
                other: entry.name.to_string(),
            });
        }
        end = entry.end;
        entries[i].range = start + entry.begin as usize..start + end as usize;
    }
    if end < available {
        return Err(unclaimed(end, available));
    }
    Ok(())
}

/// The header's object: tensors by their names, and the metadata.
struct Entries<'r, 'a> {
    reader: &'r mut Reader<'a>,
}

impl<'de> Visitor<'de> for Entries<'_, 'de> {
    type Value = Header<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header<'de>, A::Error> {
        let reader = self.reader;
        let mut metadata = None;
        let mut entries = Vec::new();
        while let Some(Text(name)) = map.next_key()? {
            reader.pass(&name);
            let place = reader.place();
            if name == METADATA {
                if metadata.is_some() {
                    return Err(reader.fail(FormatError::DuplicateKey { place, key: name.into_owned() }));
                }
                metadata = Some(map.next_value_seed(Strings { reader })?);
                continue;
            }
            if !(1..=MAX_NAME).contains(&name.len()) {
                let (found, limit) = (name.len() as u64, MAX_NAME as u64);
                return Err(reader.fail(FormatError::NameLength {
                    place,
                    what: "tensor name",
                    found,
                    limit,
                }));
            }
            if entries.len() == MAX_TENSORS {
                let (found, limit) = (MAX_TENSORS as u64 + 1, MAX_TENSORS as u64);
                return Err(reader.fail(FormatError::Count { place, what: TENSORS, found, limit }));
            }
            match map.next_value_seed(Tensor { reader, name: &name, place: &place }) {
                Ok(Info { tensor_type, shape, begin, end }) => {
                    entries.push(Entry {
                        name,
                        tensor_type,
                        shape,
                        range: 0..0,
                        at: place.offset,
                        begin,
                        end,
                    });
                }
                Err(error) => {
                    reader.tensor = Some(name.into_owned());
                    return Err(error);
                }
            }
        }
        Ok(Header { metadata: metadata.unwrap_or_default(), entries })
    }
}

pub(super) const TENSORS: &str = "the number of tensors";

/// What the header says about one tensor.
struct Info {
    tensor_type: TensorType,
    shape: Box<[u64]>,
    begin: u64,
    end: u64,
}

impl Info {
    /// Checks that type, shape and offsets agree.
    fn new(
        dtype: &str,
        shape: Dimensions,
        [begin, end]: [u64; 2],
        tensor: &str,
        place: &Place,
    ) -> Result<Info, FormatError> {
        let (tensor, place) = (|| tensor.to_owned(), || place.clone());
        let tensor_type = TensorType::from_safetensors(dtype).ok_or_else(|| FormatError::UnknownDtype {
            place: place(),
            tensor: tensor(),
            found: dtype.chars().take(100).collect(),
        })?;
        let Dimensions { shape, count } = shape;
        if count > MAX_DIMENSIONS {
            let (found, limit) = (count as u64, MAX_DIMENSIONS as u64);
            return Err(FormatError::Dimensions { place: place(), tensor: tensor(), found, limit });
        }
        // A dimension of 0 makes no shape valid whose other dimensions are not.
        let fastest_first: Vec<u64> = shape.iter().rev().map(|&dim| dim.max(1)).collect();
        let bytes = tensor_type.bytes(&fastest_first).map_err(|bad| bad.of(place(), &tensor(), &shape))?;
        let expected = if shape.contains(&0) { 0 } else { bytes };
        match end.checked_sub(begin) {
            None => Err(FormatError::DataOffsets { place: place(), tensor: tensor(), begin, end }),
            Some(found) if found != expected => Err(FormatError::DataSize {
                place: place(),
                tensor: tensor(),
                dtype: tensor_type.name(),
                shape,
                found,
                expected,
            }),
            Some(_) => Ok(Info { tensor_type, shape: shape.into(), begin, end }),
        }
    }
}

/// Reads the object of one tensor.
struct Tensor<'r, 'a> {
    reader: &'r mut Reader<'a>,
    name: &'r str,
    place: &'r Place,
}

impl<'de> DeserializeSeed<'de> for Tensor<'_, 'de> {
    type Value = Info;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Info, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Tensor<'_, 'de> {
    type Value = Info;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Info, A::Error> {
        let reader = self.reader;
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(Text(key)) = map.next_key()? {
            reader.pass(&key);
            let again = match &*key {
                "dtype" => dtype.replace(map.next_value::<Text<'de>>()?.0).is_some(),
                "shape" => shape.replace(map.next_value::<Dimensions>()?).is_some(),
                "data_offsets" => offsets.replace(map.next_value::<[u64; 2]>()?).is_some(),
                _ => return Err(A::Error::unknown_field(&key, &["dtype", "shape", "data_offsets"])),
            };
            if again {
                let (place, key) = (reader.place(), key.into_owned());
                return Err(reader.fail(FormatError::DuplicateKey { place, key }));
            }
        }
        let missing = A::Error::missing_field;
        let dtype = dtype.ok_or_else(|| missing("dtype"))?;
        let shape = shape.ok_or_else(|| missing("shape"))?;
        let offsets = offsets.ok_or_else(|| missing("data_offsets"))?;
        Info::new(&dtype, shape, offsets, self.name, self.place).map_err(|error| reader.fail(error))
    }
}

/// A shape of any length, of which no more dimensions are kept than are accepted.
struct Dimensions {
    shape: Vec<u64>,
    count: usize,
}

impl<'de> Deserialize<'de> for Dimensions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;
        impl<'de> Visitor<'de> for Numbers {
            type Value = Dimensions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Dimensions, A::Error> {
                let mut found = Dimensions { shape: Vec::new(), count: 0 };
                while let Some(dim) = seq.next_element()? {
                    found.count += 1;
                    if found.count <= MAX_DIMENSIONS {
                        found.shape.push(dim);
                    }
                }
                Ok(found)
            }
        }
        deserializer.deserialize_seq(Numbers)
    }
}

/// Reads an object of strings; `null` stands for an empty one.
struct Strings<'r, 'a> {
    reader: &'r mut Reader<'a>,
}

impl<'de> DeserializeSeed<'de> for Strings<'_, 'de> {
    type Value = BTreeMap<String, String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strings<'_, 'de> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut strings = BTreeMap::new();
        while let Some(Text(key)) = map.next_key()? {
            self.reader.pass(&key);
            let place = self.reader.place();
            if strings.len() == MAX_METADATA {
                let (found, limit) = (MAX_METADATA as u64 + 1, MAX_METADATA as u64);
                let what = "the number of metadata keys";
                return Err(self.reader.fail(FormatError::Count { place, what, found, limit }));
            }
            let Text(value) = map.next_value()?;
            match strings.entry(key.into_owned()) {
                btree_map::Entry::Vacant(entry) => entry.insert(value.into_owned()),
                btree_map::Entry::Occupied(entry) => {
                    let key = entry.key().clone();
                    return Err(self.reader.fail(FormatError::DuplicateKey { place, key }));
                }
            };
        }
        Ok(strings)
    }
}
