//! What the writer refuses, and what it does to files.

use std::fs;
use std::io;

use rz_formats::{Array, FormatError, Gguf, GgufWriter, Metadata, Value};
use rz_quant::DType;

fn with(key: &str, value: impl Into<Value>) -> Result<Vec<u8>, FormatError> {
    let mut metadata = Metadata::new();
    metadata.insert(key, value);
    GgufWriter::new(metadata).to_bytes()
}

#[test]
fn what_a_reader_would_refuse_is_not_written() {
    let mut writer = GgufWriter::new(Metadata::new());
    let mut refused = |name: &str, shape: &[u64], dtype: DType, len: usize| {
        let error = writer.tensor(name, shape, dtype, vec![0; len]).map(drop).unwrap_err();
        assert_eq!(error.to_string().lines().count(), 1);
        error
    };
    assert!(matches!(refused("", &[1], DType::F32, 4), FormatError::NameLength { found: 0, .. }));
    assert!(matches!(refused("t", &[], DType::F32, 4), FormatError::Dimensions { found: 0, .. }));
    assert!(matches!(refused("t", &[1; 5], DType::F32, 4), FormatError::Dimensions { found: 5, .. }));
    assert!(matches!(refused("t", &[4, 0], DType::F32, 0), FormatError::ZeroDimension { .. }));
    assert!(matches!(refused("t", &[1 << 32, 1 << 32], DType::F32, 0), FormatError::ShapeOverflow { .. }));
    assert!(matches!(refused("t", &[31], DType::Q4_0, 18), FormatError::PartialBlock { found: 31, .. }));
    assert!(matches!(
        refused("t", &[32, 2], DType::Q4_0, 18),
        FormatError::DataLength { found: 18, expected: 36, .. }
    ));
    // Nothing of what was refused is in the way.
    writer.tensor("t", &[1], DType::F32, vec![0; 4]).unwrap();
    let error = writer.tensor("t", &[2], DType::F32, vec![0; 8]).map(drop).unwrap_err();
    assert!(matches!(error, FormatError::DuplicateTensor { .. }), "{error:?}");

    let error = with("", 1u32).unwrap_err();
    assert!(matches!(error, FormatError::NameLength { what: "metadata key", .. }), "{error:?}");
    assert!(with(&"k".repeat(65535), 1u32).is_ok());
    assert!(matches!(with(&"k".repeat(65536), 1u32), Err(FormatError::NameLength { found: 65536, .. })));
    assert!(matches!(with("general.alignment", 3u32), Err(FormatError::Alignment { found: 3, .. })));
    let nested = |depth| (1..depth).fold(Array::U8(vec![1]), |inner, _| Array::Arrays(vec![inner]));
    assert!(with("k", nested(8)).is_ok());
    assert!(matches!(with("k", nested(9)), Err(FormatError::Nesting { .. })));
    assert!(matches!(
        with("k", Array::Arrays(vec![Array::U8(vec![]); 65537])),
        Err(FormatError::Count { found: 65537, .. })
    ));
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::write(&path, b"what was there before").unwrap();

    let mut failing = GgufWriter::new(Metadata::new());
    failing
        .tensor_from("t", &[2], DType::F32, |out| {
            out.write_all(&[0; 4])?;
            Err(io::Error::other("the source failed"))
        })
        .unwrap();
    let error = failing.write(&path).unwrap_err();
    assert!(matches!(&error, FormatError::Io { file, action: "write", .. } if *file == path), "{error:?}");
    assert!(error.to_string().contains("the source failed"));
    assert_eq!(fs::read(&path).unwrap(), b"what was there before");

    for len in [4, 12] {
        let mut wrong = GgufWriter::new(Metadata::new());
        wrong.tensor_from("t", &[2], DType::F32, move |out| out.write_all(&vec![0; len])).unwrap();
        let error = wrong.write(&path).unwrap_err();
        assert!(
            matches!(error, FormatError::DataLength { found, expected: 8, .. } if found == len as u64),
            "{error:?}"
        );
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file stays");

    let mut good = GgufWriter::new(Metadata::new());
    good.tensor_from("t", &[2], DType::F32, |out| {
        (1u32..=2).try_for_each(|i| out.write_all(&(i as f32).to_le_bytes()))
    })
    .unwrap();
    good.write(&path).unwrap();
    let model = Gguf::open(&path).unwrap();
    assert_eq!(model.tensor("t").unwrap().bytes(), [0, 0, 128, 63, 0, 0, 0, 64]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

// Windows keeps the name of a mapped file.
#[cfg(unix)]
#[test]
fn a_mapped_file_may_be_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let write = |byte: u8| {
        let mut writer = GgufWriter::new(Metadata::new());
        writer.tensor("t", &[1024], DType::F32, vec![byte; 4096]).unwrap();
        writer.write(&path)
    };
    write(1).unwrap();
    let before = Gguf::open(&path).unwrap();
    write(2).unwrap();
    let after = Gguf::open(&path).unwrap();
    assert!(before.tensor("t").unwrap().bytes().iter().all(|&byte| byte == 1));
    assert!(after.tensor("t").unwrap().bytes().iter().all(|&byte| byte == 2));
}
