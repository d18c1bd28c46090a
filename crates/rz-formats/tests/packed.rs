//! Files of packed matrices: what is written is read, and what is wrong is refused in one line.

use rz_formats::{FormatError, Gguf, GgufWriter, Metadata, TensorType};
use rz_quant::DType;

const SEAL: usize = 32;

fn packed(dtype: DType) -> TensorType {
    TensorType::packed(dtype).unwrap()
}

fn metadata(alignment: u32) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert("general.alignment", alignment);
    metadata.insert("text", "some");
    metadata
}

/// Two packed matrices with odd numbers of rows, and a vector.
fn sample() -> Vec<u8> {
    let bytes = |len: usize, seed: usize| (0..len).map(|i| (i * 7 + seed) as u8).collect::<Vec<u8>>();
    let mut writer = GgufWriter::new(metadata(4096));
    writer.tensor("a", &[256, 17], packed(DType::Q4_0), bytes(2 * 8 * 288, 1)).unwrap();
    writer.tensor("norm", &[3], DType::F32, bytes(12, 2)).unwrap();
    writer.tensor("b", &[256, 3], packed(DType::Q4_K), bytes(2368, 3)).unwrap();
    writer.to_bytes().unwrap()
}

/// The same bytes with a seal that fits them again, whatever was done to the header.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.len() - SEAL;
    let header = u64::from_le_bytes(bytes[end + 16..end + 24].try_into().unwrap()) as usize;
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    for chunk in bytes[..header].chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        sum = (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x100_0000_01b3);
    }
    bytes[end + 24..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Replaces the first occurrence of `old`.
fn replaced(old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut bytes = sample();
    let at = bytes.windows(old.len()).position(|window| window == old).expect("what is to be replaced");
    bytes[at..at + new.len()].copy_from_slice(new);
    resealed(bytes)
}

fn refused(bytes: Vec<u8>) -> FormatError {
    let error = Gguf::from_bytes("m.rzpack", bytes).expect_err("a malformed file was accepted");
    let message = error.to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.starts_with("m.rzpack"), "{message}");
    error
}

/// The entry of a tensor: name, shape, type, offset.
fn entry(name: &str, shape: [u64; 2], id: u32, offset: u64) -> Vec<u8> {
    let mut bytes = (name.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(&2u32.to_le_bytes());
    shape.iter().for_each(|dim| bytes.extend_from_slice(&dim.to_le_bytes()));
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(&offset.to_le_bytes());
    bytes
}

#[test]
fn what_is_written_is_read() {
    let bytes = sample();
    let model = Gguf::from_bytes("m.rzpack", bytes.clone()).unwrap();
    assert!(model.is_packed());
    let [a, norm, b] = ["a", "norm", "b"].map(|name| model.tensor(name).unwrap());
    assert_eq!((a.shape(), a.tensor_type().name(), a.dtype()), ([256, 17].as_slice(), "packed Q4_0", None));
    assert_eq!((a.bytes().len(), b.bytes().len(), norm.bytes().len()), (2 * 8 * 288, 2368, 12));
    assert!(a.bytes().iter().enumerate().all(|(i, &byte)| byte == (i * 7 + 1) as u8));
    assert!([a, norm, b].iter().all(|tensor| tensor.range().start.is_multiple_of(4096)));
    assert_eq!(resealed(bytes.clone()), bytes, "the checksum is the documented one");
    // Through a file, whose name does not matter.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("any.name");
    std::fs::write(&path, &bytes).unwrap();
    assert!(Gguf::open(&path).unwrap().tensor("b").unwrap().bytes() == b.bytes());
}

#[test]
fn plain_files_have_no_seal() {
    let mut writer = GgufWriter::new(metadata(32));
    writer.tensor("norm", &[3], DType::F32, vec![0; 12]).unwrap();
    let bytes = writer.to_bytes().unwrap();
    assert!(!Gguf::from_bytes("m", bytes.clone()).unwrap().is_packed());
    assert!(!bytes.windows(8).any(|window| window == b"rzpacked"));
}

#[test]
fn cut_short_anywhere() {
    let whole = sample();
    for len in (1..whole.len()).step_by(53).chain((1..16).map(|i| i * whole.len() / 16)) {
        let error = refused(whole[..len].to_vec());
        assert!(
            matches!(
                error,
                FormatError::Truncated { .. } | FormatError::Count { .. } | FormatError::Seal { .. }
            ),
            "{len}: {error:?}"
        );
    }
}

#[test]
fn another_layout() {
    let mut bytes = sample();
    let at = bytes.len() - SEAL + 8;
    bytes[at] += 1;
    // Whatever else such a file holds is not looked at.
    bytes[40] ^= 0xff;
    let error = refused(bytes);
    assert!(matches!(error, FormatError::PackedLayout { .. }), "{error:?}");
    assert!(error.to_string().ends_with("pack the model again (rz pack)"), "{error}");
}

#[test]
fn flipped_bits_in_the_header() {
    let whole = sample();
    let header = u64::from_le_bytes(whole[whole.len() - 16..whole.len() - 8].try_into().unwrap()) as usize;
    for at in 0..header {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        assert!(matches!(refused(bytes), FormatError::Seal { .. }), "byte {at}");
    }
}

#[test]
fn a_seal_that_does_not_fit() {
    let seal = |at: usize, value: u64| {
        let mut bytes = sample();
        let end = bytes.len();
        bytes[end - SEAL + at..end - SEAL + at + 8].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    for value in [0, 1, u64::MAX, 1 << 40] {
        assert!(matches!(refused(seal(16, value)), FormatError::Seal { .. }));
    }
    // A checksum that is right for a part of the header.
    assert!(matches!(refused(resealed(seal(16, 64))), FormatError::Seal { .. }));
    // The magic gone: packed tensors without a seal.
    assert!(matches!(refused(seal(0, 0)), FormatError::Seal { .. }));
}

#[test]
fn types_places_and_sizes() {
    let q4 = packed(DType::Q4_0).id();
    let a = entry("a", [256, 17], q4, 0);
    let unknown = |id| replaced(&a, &entry("a", [256, 17], id, 0));
    assert!(matches!(refused(unknown(q4 + 2000)), FormatError::TensorType { .. }));
    assert!(matches!(refused(unknown(u32::MAX)), FormatError::TensorType { .. }));
    // Another packed type takes other bytes: more than there are before the next tensor.
    assert!(matches!(
        refused(unknown(packed(DType::F32).id())),
        FormatError::OutOfFile { .. } | FormatError::Overlap { .. }
    ));
    let placed = |offset| replaced(&a, &entry("a", [256, 17], q4, offset));
    assert!(matches!(refused(placed(64)), FormatError::Misaligned { .. }));
    assert!(matches!(refused(placed(8192)), FormatError::Overlap { .. }));
    for offset in [1 << 20, 1 << 62, !4095u64] {
        assert!(matches!(refused(placed(offset)), FormatError::OutOfFile { .. }));
    }
    let shaped = |shape| replaced(&a, &entry("a", shape, q4, 0));
    assert!(matches!(refused(shaped([255, 17])), FormatError::PartialBlock { .. }));
    assert!(matches!(refused(shaped([256, 0])), FormatError::ZeroDimension { .. }));
    assert!(matches!(refused(shaped([1 << 40, 1 << 40])), FormatError::ShapeOverflow { .. }));
    assert!(matches!(refused(shaped([256, 1 << 50])), FormatError::OutOfFile { .. }));
    assert!(matches!(refused(shaped([256, 100])), FormatError::Overlap { .. }));
    // The last tensor may not reach into the seal.
    let b = entry("b", [256, 3], packed(DType::Q4_K).id(), 12288);
    let error = refused(replaced(&b, &entry("b", [256, 17], packed(DType::Q4_K).id(), 12288)));
    assert!(matches!(error, FormatError::OutOfFile { .. }), "{error:?}");
    let key = [b"general.alignment".as_slice(), &4u32.to_le_bytes()].concat();
    let small =
        replaced(&[&key[..], &4096u32.to_le_bytes()].concat(), &[&key[..], &32u32.to_le_bytes()].concat());
    assert!(matches!(refused(small), FormatError::Alignment { min: 64, .. }));
}

#[test]
fn what_no_reader_takes_is_not_written() {
    let mut writer = GgufWriter::new(metadata(32));
    writer.tensor("a", &[32, 1], packed(DType::Q4_0), vec![0; 288]).unwrap();
    assert!(matches!(writer.to_bytes(), Err(FormatError::Alignment { min: 64, .. })));
    let mut writer = GgufWriter::new(metadata(64));
    assert!(matches!(
        writer.tensor("a", &[32, 17], packed(DType::Q4_0), vec![0; 288]),
        Err(FormatError::DataLength { expected: 576, .. })
    ));
}
