//! Properties of all files: what is written is read back, and no bytes make the readers panic.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use rz_formats::{FormatError, Mapping, Safetensors, SafetensorsWriter, TensorType, json_object};
use rz_testkit::committed;
use serde_json::Value;

use super::tiny;

#[derive(Clone, Debug)]
struct Made {
    shape: Vec<u64>,
    tensor_type: TensorType,
    bytes: Vec<u8>,
}

/// Tensors of every type, by their names.
fn tensors() -> impl Strategy<Value = BTreeMap<String, Made>> {
    let types = Safetensors::open(committed("safetensors/types.safetensors")).unwrap();
    let mut types: Vec<TensorType> = types.tensors().map(|tensor| tensor.tensor_type()).collect();
    types.sort_unstable();
    types.dedup();
    assert_eq!(types.len(), 20);
    let made = (select(types), 1u64..4, vec(1u64..4, 0..7), any::<u8>());
    let made = made.prop_map(|(tensor_type, blocks, others, seed)| {
        let row = blocks * tensor_type.block_elements() as u64;
        let shape: Vec<u64> = std::iter::once(row).chain(others).collect();
        let rows: u64 = shape[1..].iter().product();
        let len = (rows * tensor_type.row_bytes(row).unwrap()) as usize;
        // A prime period, so that bytes of other tensors show.
        let bytes = (0..len).map(|i| ((i + usize::from(seed)) % 251) as u8).collect();
        Made { shape, tensor_type, bytes }
    });
    let name = any::<String>().prop_filter("no tensor", |name| !name.is_empty() && name != "__metadata__");
    btree_map(name, made, 0..8)
}

/// Reads bytes that may be anything; what is accepted must be consistent.
fn open(bytes: Vec<u8>) -> Result<(), TestCaseError> {
    let len = bytes.len();
    let start = 8 + bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    match Safetensors::from_bytes("memory", bytes) {
        Err(error) => one_line(&error)?,
        Ok(model) => {
            // The tensors fill the data, one after the other.
            let mut end = start as usize;
            for tensor in model.tensors() {
                prop_assert_eq!(tensor.range().start, end);
                end = tensor.range().end;
                let rows = tensor.elements() / tensor.shape()[0];
                let row = tensor.tensor_type().row_bytes(tensor.shape()[0]).unwrap();
                prop_assert_eq!(tensor.bytes().len() as u64, rows * row);
                prop_assert_eq!(model.tensor(tensor.name()).unwrap().range(), tensor.range());
            }
            prop_assert_eq!(end, len);
            prop_assert!(model.empty_tensors().all(|name| model.tensor(name).is_none()));
        }
    }
    Ok(())
}

fn one_line(error: &FormatError) -> Result<(), TestCaseError> {
    let message = error.to_string();
    prop_assert_eq!(message.lines().count(), 1);
    prop_assert!(!message.contains(char::is_control), "{:?}", message);
    prop_assert!(message.len() < 2000, "{:?}", message);
    Ok(())
}

/// Reads an index that may be anything, of files that have one tensor each.
fn open_index(bytes: &[u8]) -> Result<(), TestCaseError> {
    let opened = Safetensors::from_index("memory", bytes, |name| {
        assert_eq!(Path::new(name).components().count(), 1);
        assert_eq!(Path::new(name).file_name().unwrap(), name);
        Ok(Mapping::from_bytes(name, tiny("t")))
    });
    match opened {
        Err(error) => one_line(&error)?,
        Ok(model) => prop_assert!(model.tensors().map(|tensor| tensor.name()).eq(["t"])),
    }
    Ok(())
}

/// Reads JSON that may be anything.
fn open_json(bytes: &[u8]) -> Result<(), TestCaseError> {
    let oracle = serde_json::from_slice::<Value>(bytes);
    match json_object("memory", bytes) {
        Err(error) => one_line(&error)?,
        Ok(object) => prop_assert_eq!(oracle.unwrap(), Value::Object(object)),
    }
    Ok(())
}

/// Puts `changes` into bytes, mostly where they keep the form of JSON.
fn change(bytes: &mut Vec<u8>, range: usize, changes: Vec<(Index, u8, Option<u8>)>) {
    const MARKS: &[u8] = b"{}[]\",:0123456789eE+-.\\untl \n";
    for (at, byte, mark) in changes {
        let at = at.index(range.min(bytes.len()));
        match mark {
            Some(mark) => bytes[at] = MARKS[usize::from(mark) % MARKS.len()],
            None if byte < 32 => drop(bytes.remove(at)),
            None => bytes.insert(at, byte),
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<(Index, u8, Option<u8>)>> {
    vec((any::<Index>(), any::<u8>(), proptest::option::weighted(0.7, any::<u8>())), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back(
        tensors in tensors(), metadata in btree_map(any::<String>(), any::<String>(), 0..4),
    ) {
        let mut writer = SafetensorsWriter::new();
        for (key, value) in &metadata {
            writer.metadata(key, value);
        }
        for (name, made) in tensors.iter().rev() {
            writer.tensor(name, &made.shape, made.tensor_type, &made.bytes).unwrap();
        }
        let bytes = writer.to_bytes().unwrap();
        let mut again = SafetensorsWriter::new();
        for (name, made) in &tensors {
            again.tensor(name, &made.shape, made.tensor_type, &made.bytes).unwrap();
        }
        for (key, value) in metadata.iter().rev() {
            again.metadata(key, value);
        }
        prop_assert!(bytes == again.to_bytes().unwrap(), "the order of adding shows");
        open(bytes.clone())?;

        let model = Safetensors::from_bytes("memory", bytes).unwrap();
        prop_assert_eq!(model.metadata(), &metadata);
        prop_assert_eq!(model.tensors().len(), tensors.len());
        for tensor in model.tensors() {
            let made = &tensors[tensor.name()];
            prop_assert_eq!(tensor.shape(), &made.shape[..]);
            prop_assert_eq!(tensor.tensor_type(), made.tensor_type);
            prop_assert!(tensor.bytes() == made.bytes);
            let (size, blocks) = (tensor.tensor_type().block_bytes(), tensor.tensor_type().block_elements());
            prop_assert!(blocks > 1 || tensor.range().start.is_multiple_of(size), "{:?}", tensor);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..300)) {
        open_index(&bytes)?;
        open_json(&bytes)?;
        open(bytes)?;
    }

    #[test]
    fn any_bytes_as_a_header_are_read_or_refused(
        text in "[{}\\[\\]\",:0-9a-z_ ]{0,100}", data in 0usize..40,
    ) {
        open(super::file(format!("{{{text}"), &vec![0; data]))?;
        open_json(format!("{{{text}").as_bytes())?;
        open_index(format!("{{\"weight_map\":{{{text}").as_bytes())?;
    }

    #[test]
    fn a_valid_file_with_changed_bytes_is_read_or_refused(
        name in select(vec!["types", "odd", "folder/model-00001-of-00002"]),
        changes in changes(),
    ) {
        let mut bytes = fs::read(committed(&format!("safetensors/{name}.safetensors"))).unwrap();
        let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        change(&mut bytes, header, changes);
        open(bytes.clone())?;
        // With the length of the header set right, so that what is in it is read.
        let moved = bytes.len() as i64 - fs::metadata(committed(&format!("safetensors/{name}.safetensors"))).unwrap().len() as i64;
        let length = (header as i64 - 8 + moved).max(0) as u64;
        if bytes.len() >= 8 {
            bytes[..8].copy_from_slice(&length.to_le_bytes());
        }
        open(bytes)?;
    }

    #[test]
    fn valid_json_with_changed_bytes_is_read_or_refused(
        name in select(vec!["config.json", "model.safetensors.index.json", "tokenizer_config.json"]),
        changes in changes(),
    ) {
        let mut bytes = fs::read(committed(&format!("safetensors/folder/{name}"))).unwrap();
        let len = bytes.len();
        change(&mut bytes, len, changes);
        open_index(&bytes)?;
        open_json(&bytes)?;
    }
}
