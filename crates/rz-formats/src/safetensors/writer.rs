//! Writes safetensors files.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::path::Path;

use super::header::{MAX_DIMENSIONS, MAX_HEADER, MAX_METADATA, MAX_NAME, MAX_TENSORS, METADATA, TENSORS};
use crate::error::FormatError;
use crate::output::{self, nowhere};
use crate::types::TensorType;

/// Collects tensors, then writes them as one file.
///
/// The same content always gives the same bytes, whatever the order in which it was added:
/// the tensors lie in the order that other writers of the format use, large elements first
/// and among equal ones by name, so that each is aligned.
///
/// ```
/// use rz_formats::{Safetensors, SafetensorsWriter};
/// use rz_quant::DType;
///
/// let mut writer = SafetensorsWriter::new();
/// writer.metadata("format", "pt");
/// // Three rows of two, [3, 2] in the file.
/// writer.tensor("weight", &[2, 3], DType::F16, vec![0; 12])?;
///
/// let model = Safetensors::from_bytes("memory", writer.to_bytes()?)?;
/// assert_eq!(model.tensor("weight").unwrap().shape(), [2, 3]);
/// # Ok::<(), rz_formats::FormatError>(())
/// ```
#[derive(Default)]
pub struct SafetensorsWriter<'a> {
    metadata: BTreeMap<String, String>,
    tensors: Vec<Entry<'a>>,
    names: HashSet<String>,
}

struct Entry<'a> {
    /// Of the type, among all.
    order: usize,
    name: String,
    /// The contiguous dimension first.
    shape: Vec<u64>,
    tensor_type: TensorType,
    data: Cow<'a, [u8]>,
}

impl<'a> SafetensorsWriter<'a> {
    /// A file without tensors yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a free text of the file, one of its `__metadata__`.
    pub fn metadata(&mut self, key: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Adds a tensor: its dimensions, **the contiguous one first** as
    /// [`Tensor::shape`](crate::Tensor::shape) gives them (the file has them the other way
    /// round), and its elements.
    ///
    /// # Errors
    /// When the name is taken, the type or the shape is not one that a file can have, or the
    /// data is not as long as shape and type want it.
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        shape: &[u64],
        tensor_type: impl Into<TensorType>,
        data: impl Into<Cow<'a, [u8]>>,
    ) -> Result<&mut Self, FormatError> {
        let (name, tensor_type, data) = (name.into(), tensor_type.into(), data.into());
        if !(1..=MAX_NAME).contains(&name.len()) {
            let (found, limit) = (name.len() as u64, MAX_NAME as u64);
            return Err(FormatError::NameLength { place: nowhere(), what: "tensor name", found, limit });
        }
        if name == METADATA {
            return Err(FormatError::ReservedName { place: nowhere(), tensor: name });
        }
        let Some(order) = tensor_type.safetensors_order() else {
            return Err(FormatError::ForeignType {
                place: nowhere(),
                tensor: name,
                found: tensor_type.name(),
                container: "safetensors",
            });
        };
        if shape.len() > MAX_DIMENSIONS {
            let (found, limit) = (shape.len() as u64, MAX_DIMENSIONS as u64);
            return Err(FormatError::Dimensions { place: nowhere(), tensor: name, found, limit });
        }
        let expected = tensor_type.bytes(shape).map_err(|bad| bad.of(nowhere(), &name, shape))?;
        let found = data.len() as u64;
        if found != expected {
            let file = nowhere().file;
            return Err(FormatError::DataLength { file, tensor: name, found, expected });
        }
        if !self.names.insert(name.clone()) {
            return Err(FormatError::DuplicateTensor { place: nowhere(), tensor: name });
        }
        self.tensors.push(Entry { order, name, shape: shape.to_owned(), tensor_type, data });
        Ok(self)
    }

    /// The file as bytes.
    ///
    /// # Errors
    /// When there is more than a file can have.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        let (header, tensors) = self.plan()?;
        let mut bytes = header;
        tensors.iter().for_each(|tensor| bytes.extend_from_slice(&tensor.data));
        Ok(bytes)
    }

    /// Writes the file at `path`. It appears there complete or not at all; a file that was
    /// there before is replaced, not written into.
    ///
    /// # Errors
    /// When there is more than a file can have, or writing fails.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), FormatError> {
        let path = path.as_ref();
        let (header, tensors) = self.plan()?;
        output::replace(path, |out| {
            let mut put = |bytes: &[u8]| out.write_all(bytes);
            let written: io::Result<()> =
                put(&header).and_then(|()| tensors.iter().try_for_each(|tensor| put(&tensor.data)));
            written.map_err(|cause| FormatError::Io { file: path.to_owned(), action: "write", cause })
        })
    }

    /// Everything before the data, and the order of the tensors.
    fn plan(&self) -> Result<(Vec<u8>, Vec<&Entry<'a>>), FormatError> {
        check_count(TENSORS, self.tensors.len(), MAX_TENSORS as u64)?;
        check_count("the number of metadata keys", self.metadata.len(), MAX_METADATA as u64)?;
        let mut tensors: Vec<&Entry<'_>> = self.tensors.iter().collect();
        tensors.sort_unstable_by(|a, b| b.order.cmp(&a.order).then(a.name.cmp(&b.name)));

        let mut header = String::from("{");
        if !self.metadata.is_empty() {
            let entry = |(key, value): (&String, &String)| format!("{}:{}", quoted(key), quoted(value));
            let entries: Vec<String> = self.metadata.iter().map(entry).collect();
            header += &format!("\"{METADATA}\":{{{}}},", entries.join(","));
        }
        let mut begin = 0;
        for tensor in &tensors {
            let end = begin + tensor.data.len() as u64;
            let shape: Vec<String> = tensor.shape.iter().rev().map(u64::to_string).collect();
            header += &format!(
                r#"{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{begin},{end}]}},"#,
                quoted(&tensor.name),
                tensor.tensor_type,
                shape.join(",")
            );
            begin = end;
        }
        if header.ends_with(',') {
            header.pop();
        }
        header.push('}');
        // The data starts at a multiple of 8.
        let len = header.len().next_multiple_of(8);
        check_count("the length of the header", len, MAX_HEADER)?;
        let mut bytes = (len as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(8 + len, b' ');
        Ok((bytes, tensors))
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn check_count(what: &'static str, found: usize, limit: u64) -> Result<(), FormatError> {
    let found = found as u64;
    if found <= limit {
        return Ok(());
    }
    Err(FormatError::Count { place: nowhere(), what, found, limit })
}
