//! What the writer refuses, and what it does to files.

use std::fs;

use rz_formats::{FormatError, Gguf, GgufWriter, Metadata, Safetensors, SafetensorsWriter, TensorType};
use rz_quant::DType;
use rz_testkit::committed;

#[test]
fn what_a_reader_would_refuse_is_not_written() {
    let mut writer = SafetensorsWriter::new();
    let mut refused = |name: &str, shape: &[u64], dtype: DType, len: usize| {
        let error = writer.tensor(name, shape, dtype, vec![0; len]).map(drop).unwrap_err();
        assert_eq!(error.to_string().lines().count(), 1);
        error
    };
    assert!(matches!(refused("", &[1], DType::F32, 4), FormatError::NameLength { found: 0, .. }));
    assert!(matches!(refused(&"n".repeat(65536), &[1], DType::F32, 4), FormatError::NameLength { .. }));
    assert!(matches!(refused("__metadata__", &[1], DType::F32, 4), FormatError::ReservedName { .. }));
    assert!(matches!(
        refused("t", &[32], DType::Q4_0, 18),
        FormatError::ForeignType { found: "Q4_0", container: "safetensors", .. }
    ));
    assert!(matches!(refused("t", &[1; 9], DType::F32, 4), FormatError::Dimensions { found: 9, .. }));
    assert!(matches!(refused("t", &[4, 0], DType::F32, 0), FormatError::ZeroDimension { .. }));
    assert!(matches!(refused("t", &[1 << 32, 1 << 32], DType::F32, 0), FormatError::ShapeOverflow { .. }));
    assert!(matches!(
        refused("t", &[3], DType::F32, 11),
        FormatError::DataLength { found: 11, expected: 12, .. }
    ));
    // Nothing of what was refused is in the way.
    writer.tensor("t", &[1], DType::F32, vec![0; 4]).unwrap();
    let error = writer.tensor("t", &[2], DType::F16, vec![0; 4]).map(drop).unwrap_err();
    assert!(matches!(error, FormatError::DuplicateTensor { .. }), "{error:?}");

    let mut writer = SafetensorsWriter::new();
    for i in 0..(1 << 16) + 1 {
        writer.metadata(i.to_string(), "");
    }
    assert!(matches!(writer.to_bytes(), Err(FormatError::Count { found: 65537, .. })));
}

#[test]
fn a_file_appears_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    fs::write(&path, b"what was there before").unwrap();
    let mut writer = SafetensorsWriter::new();
    writer.tensor("a", &[2, 3], DType::BF16, (0..12).collect::<Vec<u8>>()).unwrap();
    writer.write(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), writer.to_bytes().unwrap());
    let model = Safetensors::open(&path).unwrap();
    let tensor = model.tensor("a").unwrap();
    assert_eq!((tensor.shape(), tensor.range().start % 8), ([2, 3].as_slice(), 0));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing but the file was left");
    let error = writer.write(folder.path().join("absent/m.safetensors")).unwrap_err();
    assert!(matches!(error, FormatError::Io { action: "write", .. }), "{error:?}");
}

#[test]
fn nothing_at_all_is_a_file_too() {
    let bytes = SafetensorsWriter::new().to_bytes().unwrap();
    assert_eq!(bytes, b"\x08\0\0\0\0\0\0\0{}      ");
    assert_eq!(Safetensors::from_bytes("empty", bytes).unwrap().tensors().len(), 0);
    let mut writer = SafetensorsWriter::new();
    writer.metadata("b", "\"").metadata("a", "1").metadata("b", "2");
    let model = Safetensors::from_bytes("texts", writer.to_bytes().unwrap()).unwrap();
    assert!(model.metadata().iter().map(|(key, value)| (&**key, &**value)).eq([("a", "1"), ("b", "2")]));
}

/// Types that only one of the two kinds of files has go into no file of the other.
#[test]
fn types_stay_in_their_kind_of_file() {
    let model = Safetensors::open(committed("safetensors/types.safetensors")).unwrap();
    let mut writer = GgufWriter::new(Metadata::new());
    let mut kept = 0;
    for tensor in model.tensors() {
        let known = TensorType::all().any(|known| known == tensor.tensor_type());
        match writer.tensor(tensor.name(), tensor.shape(), tensor.tensor_type(), tensor.bytes()) {
            Ok(_) => {
                assert!(known, "{tensor:?}");
                kept += 1;
            }
            Err(FormatError::ForeignType { container: "GGUF", .. }) => assert!(!known, "{tensor:?}"),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(kept, 11);
    let gguf = Gguf::from_bytes("gguf", writer.to_bytes().unwrap()).unwrap();
    assert_eq!(gguf.tensor("dtype.bfloat16").unwrap().shape(), [2, 2]);
    assert!(TensorType::from_id(model.tensor("dtype.bool").unwrap().tensor_type().id()).is_none());
}
