//! Properties of all files: what is written is read back, and no bytes make the reader panic.

use proptest::collection::vec;
use proptest::prelude::*;
use rz_formats::{Array, Gguf, GgufWriter, Metadata, StringArray, TensorType, Value};
use rz_testkit::gguf::{RawGguf, TinyLlama};

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        any::<u16>().prop_map(Value::from),
        any::<i16>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
    ]
}

fn array() -> impl Strategy<Value = Array> {
    let flat = prop_oneof![
        vec(any::<u8>(), 0..20).prop_map(Array::U8),
        vec(any::<i8>(), 0..20).prop_map(Array::I8),
        vec(any::<u16>(), 0..20).prop_map(Array::U16),
        vec(any::<i16>(), 0..20).prop_map(Array::I16),
        vec(any::<u32>(), 0..20).prop_map(Array::U32),
        vec(any::<i32>(), 0..20).prop_map(Array::I32),
        vec(any::<f32>(), 0..20).prop_map(Array::F32),
        vec(any::<bool>(), 0..20).prop_map(Array::Bool),
        vec(any::<String>(), 0..20)
            .prop_map(|strings| Array::Strings(strings.iter().collect::<StringArray>())),
        vec(any::<u64>(), 0..20).prop_map(Array::U64),
        vec(any::<i64>(), 0..20).prop_map(Array::I64),
        vec(any::<f64>(), 0..20).prop_map(Array::F64),
    ];
    flat.prop_recursive(7, 32, 4, |inner| vec(inner, 0..4).prop_map(Array::Arrays))
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let key = "\\PC{1,20}".prop_filter("the writer's own", |key| !key.starts_with("split."));
    let value = prop_oneof![2 => scalar(), 1 => array().prop_map(Value::from)];
    (vec((key, value), 0..20), proptest::option::of(3u32..14)).prop_map(|(entries, alignment)| {
        let mut metadata: Metadata = entries.into_iter().collect();
        metadata.remove("general.alignment");
        if let Some(power) = alignment {
            metadata.insert("general.alignment", 1u32 << power);
        }
        metadata
    })
}

#[derive(Clone, Debug)]
struct Made {
    name: String,
    shape: Vec<u64>,
    tensor_type: TensorType,
    bytes: Vec<u8>,
}

fn tensor() -> impl Strategy<Value = Made> {
    let types: Vec<TensorType> = TensorType::all().collect();
    ("\\PC{1,70}", proptest::sample::select(types), 1u64..4, vec(1u64..4, 0..4), any::<u8>()).prop_map(
        |(name, tensor_type, blocks, others, seed)| {
            let row = blocks * tensor_type.block_elements() as u64;
            let shape: Vec<u64> = std::iter::once(row).chain(others).collect();
            let rows: u64 = shape[1..].iter().product();
            let len = (rows * tensor_type.row_bytes(row).unwrap()) as usize;
            // A prime period, so that bytes of other tensors show.
            let bytes = (0..len).map(|i| ((i + usize::from(seed)) % 251) as u8).collect();
            Made { name, shape, tensor_type, bytes }
        },
    )
}

/// A valid file of some variety, for changing.
fn sample() -> Vec<u8> {
    let tiny =
        TinyLlama { dim: 32, layers: 1, head_size: 8, feed_forward: 32, vocab: 259, ..TinyLlama::default() };
    tiny.to_bytes()
}

/// Reads bytes that may be anything; what is accepted must be consistent.
fn open(bytes: Vec<u8>) -> Result<(), TestCaseError> {
    let len = bytes.len();
    match Gguf::from_bytes("memory", bytes) {
        Err(error) => prop_assert_eq!(error.to_string().lines().count(), 1),
        Ok(model) => {
            for tensor in model.tensors() {
                prop_assert!(tensor.range().end <= len);
                let rows = tensor.elements() / tensor.shape()[0];
                let row = tensor.tensor_type().row_bytes(tensor.shape()[0]).unwrap();
                prop_assert_eq!(tensor.bytes().len() as u64, rows * row);
                prop_assert_eq!(model.tensor(tensor.name()).unwrap().range(), tensor.range());
            }
            for (key, value) in model.metadata().iter() {
                prop_assert_eq!(model.metadata().get(key).is_some(), true);
                prop_assert_eq!(value.to_string().lines().count(), 1);
            }
        }
    }
    Ok(())
}

/// Equal in every bit, NaNs included.
fn same(a: &Metadata, b: &Metadata) -> bool {
    format!("{a:?}") == format!("{b:?}") || a == b
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back(metadata in metadata(), tensors in vec(tensor(), 0..8)) {
        let mut writer = GgufWriter::new(metadata.clone());
        let mut kept: Vec<Made> = Vec::new();
        for made in tensors {
            let added = writer.tensor(&made.name, &made.shape, made.tensor_type, made.bytes.clone()).is_ok();
            prop_assert_eq!(added, kept.iter().all(|other| other.name != made.name));
            if added {
                kept.push(made);
            }
        }
        let bytes = writer.to_bytes().unwrap();
        prop_assert!(bytes == writer.to_bytes().unwrap());

        let model = Gguf::from_bytes("memory", bytes).unwrap();
        let mut found = Metadata::of_file(metadata.file());
        model.metadata().iter().for_each(|(key, value)| { found.insert(key, value.clone()); });
        let mut expected = Metadata::of_file(metadata.file());
        metadata.iter().for_each(|(key, value)| { expected.insert(key, value.clone()); });
        prop_assert!(same(&found, &expected), "{found:?} {expected:?}");
        prop_assert_eq!(model.tensors().len(), kept.len());
        for (tensor, made) in model.tensors().zip(&kept) {
            prop_assert_eq!(tensor.name(), &made.name);
            prop_assert_eq!(tensor.shape(), &made.shape[..]);
            prop_assert_eq!(tensor.tensor_type(), made.tensor_type);
            prop_assert!(tensor.bytes() == made.bytes);
            prop_assert!(tensor.range().start.is_multiple_of(model.alignment() as usize));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..300)) {
        open(bytes)?;
    }

    #[test]
    fn any_bytes_after_a_header_are_read_or_refused(
        version in 2u32..4, tensors in 0u64..4, keys in 0u64..4, rest in vec(prop_oneof![0u8..14, any::<u8>()], 0..300),
    ) {
        open(RawGguf::with_version(version, tensors, keys).bytes(&rest).0)?;
    }

    #[test]
    fn a_valid_file_with_changed_bytes_is_read_or_refused(
        changes in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..10),
        numbers in vec((any::<proptest::sample::Index>(), any::<u64>(), 0u32..64), 0..3),
    ) {
        let mut bytes = sample();
        // Mostly in the header, where they matter.
        let header = 12_000.min(bytes.len());
        for (at, byte) in changes {
            bytes[at.index(header)] = byte;
        }
        // Numbers of every magnitude in the place of lengths, counts and offsets.
        for (at, number, shift) in numbers {
            let at = at.index(header - 8);
            bytes[at..at + 8].copy_from_slice(&(number >> shift).to_le_bytes());
        }
        open(bytes)?;
    }
}
