//! Files that are wrong, each in its own way: one error of one line, which names file and place.

use std::fs;
use std::path::Path;

use rz_formats::{FormatError, Gguf};
use rz_testkit::fixture;
use rz_testkit::gguf::{RawGguf, TinyLlama};

const F32: u32 = 0;
const Q4_0: u32 = 2;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// The header's length: magic, version, two counts.
const HEADER: u64 = 24;

/// Opens a file of these bytes and gives its error, after checking that the message is as
/// it should be and that memory gives the same error as a file.
fn refused(bytes: impl AsRef<[u8]>) -> FormatError {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.gguf");
    fs::write(&path, bytes.as_ref()).unwrap();
    let error = Gguf::open(&path).expect_err("a malformed file was accepted");
    check_message(&error, &path);
    if !bytes.as_ref().is_empty() {
        let same =
            Gguf::from_bytes(&path, bytes.as_ref().to_vec()).expect_err("a malformed file was accepted");
        assert_eq!(format!("{error:?}"), format!("{same:?}"));
    }
    error
}

fn check_message(error: &FormatError, path: &Path) {
    let message = error.to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.starts_with(path.to_str().unwrap()), "{message}");
    assert!(message.len() < path.to_str().unwrap().len() + 300, "{message}");
}

/// Checks the error of a file, and where in the file it is said to be.
macro_rules! refused {
    ($bytes:expr, byte $offset:expr, $variant:ident { $($fields:tt)* } $(if $condition:expr)?) => {
        match refused($bytes) {
            FormatError::$variant { place, $($fields)* } $(if $condition)? => {
                assert_eq!(place.offset, Some($offset));
            }
            other => panic!("{other:?}"),
        }
    };
    ($bytes:expr, $variant:ident { $($fields:tt)* } $(if $condition:expr)?) => {
        match refused($bytes) {
            FormatError::$variant { $($fields)* } $(if $condition)? => {}
            other => panic!("{other:?}"),
        }
    };
}

/// A file of one tensor of eight floats. The entry of the tensor is at [`HEADER`].
fn one_tensor(shape: &[u64], type_id: u32, offset: u64) -> Vec<u8> {
    RawGguf::new(1, 0).tensor("t", shape, type_id, offset).data(32, 32).0
}

/// A file of one key, whose type and value follow.
fn one_key(type_id: u32) -> RawGguf {
    RawGguf::new(0, 1).key("k", type_id)
}

/// Where the value of [`one_key`] starts.
const VALUE: u64 = HEADER + 8 + 1 + 4;

#[test]
fn the_samples_are_valid_when_nothing_is_wrong() {
    Gguf::from_bytes("sample", one_tensor(&[8], F32, 0)).unwrap();
    Gguf::from_bytes("sample", one_key(4).u32(1).0).unwrap();
    Gguf::from_bytes("sample", RawGguf::new(0, 0).0).unwrap();
}

#[test]
fn empty() {
    refused!([], Empty { .. });
}

#[test]
fn text() {
    refused!("Once upon a time there was a model.\n", byte 0, Magic { found, looks_like: None } if found == "Once");
    refused!("G", byte 0, Truncated { expected: 4, found: 1, .. });
    refused!("H", byte 0, Magic { found, .. } if found == "H");
    refused!([0xff, 0xfe, b'\n', 0], byte 0, Magic { .. });
}

#[test]
fn other_containers() {
    for (start, name) in [
        (b"PK\x03\x04....".as_slice(), "zip"),
        (b"lmgg\x01\0\0\0", "GGML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x40\x00\0\0\0\0\0\0{\"__metadata__\"", "safetensors"),
        (b"FUGG\0\0\0\x03", "big-endian"),
    ] {
        refused!(start, byte 0, Magic { looks_like: Some(what), .. } if what.contains(name));
    }
}

#[test]
fn truncated_at_every_sixteenth() {
    let real = fs::read(fixture("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.gguf");
    fs::write(&path, &real).unwrap();
    for sixteenth in (1..16).rev() {
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(real.len() as u64 * sixteenth / 16).unwrap();
        let error = Gguf::open(&path).expect_err("a truncated file was accepted");
        check_message(&error, &path);
        assert!(matches!(error, FormatError::OutOfFile { .. } | FormatError::Truncated { .. }), "{error:?}");
    }
}

#[test]
fn truncated_at_every_byte() {
    let tiny =
        TinyLlama { dim: 32, layers: 1, head_size: 8, feed_forward: 32, vocab: 259, ..TinyLlama::default() };
    let whole = tiny.to_bytes();
    let data = Gguf::from_bytes("tiny", whole.clone()).unwrap().tensors().next().unwrap().range().start;
    // Every place in the header, and some in the data.
    for len in (1..data).chain((data..whole.len()).step_by(1009)) {
        let error =
            Gguf::from_bytes("tiny", whole[..len].to_vec()).expect_err("a truncated file was accepted");
        assert!(
            matches!(
                error,
                FormatError::Truncated { .. } | FormatError::Count { .. } | FormatError::OutOfFile { .. }
            ),
            "{len}: {error:?}"
        );
    }
}

#[test]
fn bad_magic() {
    let mut bytes = one_tensor(&[8], F32, 0);
    bytes[3] = b'G';
    refused!(bytes, byte 0, Magic { found, .. } if found == "GGUG");
}

#[test]
fn versions_1_and_99_and_0() {
    for version in [0, 1, 4, 99, 0xffff, u32::MAX] {
        let bytes = RawGguf::with_version(version, 0, 0).0;
        refused!(bytes, byte 4, Version { found } if found == version);
    }
}

#[test]
fn big_endian() {
    for version in [1u32, 2, 3] {
        let bytes = RawGguf::with_version(version.swap_bytes(), 0, 0).0;
        refused!(bytes, byte 4, BigEndian { version: found } if found == version);
    }
}

#[test]
fn tensor_counts_beyond_the_file() {
    for count in [1, 1 << 32, 1 << 63, u64::MAX] {
        refused!(RawGguf::new(count, 0).0, byte 8, Count { what, found, limit: 0 }
            if what == "the number of tensors" && found == count);
    }
    // Enough bytes for ten tensors, but not for eleven.
    let bytes = RawGguf::new(11, 0).data(32, 330).0;
    refused!(bytes, byte 8, Count { found: 11, limit: 10, .. });
}

#[test]
fn key_counts_beyond_the_file() {
    for count in [1, 1 << 32, 1 << 63, u64::MAX] {
        refused!(RawGguf::new(0, count).0, byte 16, Count { what, found, limit: 0 }
            if what == "the number of metadata keys" && found == count);
    }
}

#[test]
fn counts_that_no_model_needs() {
    let many = RawGguf::new(0, 1 << 17).data(32, 14 << 17).0;
    refused!(many, byte 16, Count { limit: 65536, .. });
    let many = RawGguf::new(1 << 19, 0).data(32, 33 << 19).0;
    refused!(many, byte 8, Count { limit: 262_144, .. });
}

#[test]
fn string_lengths_beyond_the_file() {
    for len in [5, 1 << 32, 1 << 62, u64::MAX - 44, u64::MAX] {
        let bytes = one_key(STRING).u64(len).bytes(b"abcd").0;
        refused!(bytes, byte VALUE + 8, Truncated { what: "a string", expected, found: 4 } if expected == len);
        // The same inside an array.
        let bytes = one_key(ARRAY).u32(STRING).u64(2).string("ab").u64(len).bytes(b"abcd").0;
        refused!(bytes, byte VALUE + 12 + 10 + 8, Truncated { expected, found: 4, .. } if expected == len);
    }
}

#[test]
fn key_lengths() {
    for len in [0, 65536, 1 << 62, u64::MAX] {
        let bytes = RawGguf::new(0, 1).u64(len).data(32, 70_000).0;
        refused!(bytes, byte HEADER, NameLength { what: "metadata key", found, limit: 65535 } if found == len);
    }
    let bytes = RawGguf::new(0, 1).u64(100).bytes(b"too short").0;
    refused!(bytes, byte HEADER + 8, Truncated { expected: 100, found: 9, .. });
}

#[test]
fn tensor_name_lengths() {
    for len in [0, 65536, 1 << 62, u64::MAX] {
        let bytes = RawGguf::new(1, 0).u64(len).data(32, 70_000).0;
        refused!(bytes, byte HEADER, NameLength { what: "tensor name", found, .. } if found == len);
    }
}

#[test]
fn array_lengths_beyond_the_file() {
    // Of every type of element; the product with its size may wrap around to something small.
    for (element, size) in [(0, 1), (3, 2), (4, 4), (6, 4), (7, 1), (8, 8), (9, 12), (10, 8), (12, 8)] {
        for len in [24 / size + 1, 1 << 61, 1 << 62, 1 << 63, u64::MAX] {
            let bytes = one_key(ARRAY).u32(element).u64(len).bytes(&[0; 24]).0;
            refused!(bytes, byte VALUE + 4, Count { found, limit, .. } if found == len && limit == 24 / size);
        }
    }
}

#[test]
fn arrays_nested_too_deep() {
    let nested = |depth| {
        let raw = one_key(ARRAY);
        (1..depth).fold(raw, |raw, _| raw.u32(ARRAY).u64(1)).u32(4).u64(1).u32(7).0
    };
    Gguf::from_bytes("nested", nested(8)).unwrap();
    for depth in [9, 1000, 100_000] {
        refused!(nested(depth), byte VALUE + 8 * 12, Nesting { key, limit: 8 } if key == "k");
    }
}

#[test]
fn nested_arrays_beyond_what_any_model_needs() {
    let raw = one_key(ARRAY).u32(ARRAY).u64(100_000);
    let bytes = (0..100_000).fold(raw, |raw, _| raw.u32(4).u64(0)).0;
    refused!(bytes, byte VALUE + 4, Count { found: 100_000, limit: 65536, .. });
}

#[test]
fn value_types_that_do_not_exist() {
    for id in [13, 255, u32::MAX] {
        refused!(one_key(id).u64(0).0, byte VALUE - 4, ValueType { found, .. } if found == id);
        let bytes = one_key(ARRAY).u32(id).u64(0).0;
        refused!(bytes, byte VALUE, ValueType { key, found } if found == id && key == "k");
    }
}

#[test]
fn bools_other_than_0_and_1() {
    refused!(one_key(7).bytes(&[2]).0, byte VALUE, Bool { found: 2, .. });
    let bytes = one_key(ARRAY).u32(7).u64(3).bytes(&[0, 1, 255]).0;
    refused!(bytes, byte VALUE + 14, Bool { found: 255, .. });
}

#[test]
fn text_that_is_not_utf_8() {
    let bytes = RawGguf::new(0, 1).u64(2).bytes(b"k\xff").u32(4).u32(1).0;
    refused!(bytes, byte HEADER + 8, Utf8 { what } if what == "metadata key");
    let bytes = one_key(STRING).u64(2).bytes(b"\xc3\x28").0;
    refused!(bytes, byte VALUE + 8, Utf8 { what } if what == "the value of key \"k\"");
    // A character cut in two by the border of two strings.
    let bytes = one_key(ARRAY).u32(STRING).u64(3).string("ab").u64(1).bytes(b"\xc3").u64(1).bytes(b"\xa9").0;
    refused!(bytes, byte VALUE + 12 + 10 + 8, Utf8 { what } if what == "string 1 of key \"k\"");
    let bytes = RawGguf::new(1, 0).u64(1).bytes(b"\x80").data(32, 64).0;
    refused!(bytes, byte HEADER + 8, Utf8 { what } if what == "tensor name");
}

#[test]
fn strings_with_nul_and_control_characters_are_kept() {
    let model = Gguf::from_bytes("nul", one_key(STRING).string("a\0b\n").0).unwrap();
    assert_eq!(model.metadata().require_str("k").unwrap(), "a\0b\n");
}

#[test]
fn names_with_line_breaks_stay_on_one_line() {
    let bytes = RawGguf::new(1, 0).tensor("a\nb\r\u{2028}c", &[8], 99, 0).data(32, 32).0;
    refused!(bytes, TensorType { tensor, .. } if tensor.starts_with("a\nb"));
    let bytes = RawGguf::new(1, 0).tensor(&"x".repeat(60_000), &[8], 99, 0).data(32, 32).0;
    refused!(bytes, TensorType { tensor, .. } if tensor.len() == 60_000);
}

#[test]
fn duplicate_keys() {
    let bytes = RawGguf::new(0, 2).key_u32("k", 1).key_u32("k", 1).0;
    refused!(bytes, byte HEADER + 17, DuplicateKey { key } if key == "k");
}

#[test]
fn duplicate_tensors() {
    let bytes = RawGguf::new(2, 0).tensor("t", &[8], F32, 0).tensor("t", &[8], F32, 32).data(32, 64).0;
    refused!(bytes, byte HEADER + 33, DuplicateTensor { tensor } if tensor == "t");
}

#[test]
fn dimension_counts() {
    for n in [0, 5, 9, 1 << 31, u32::MAX] {
        let bytes = RawGguf::new(1, 0).string("t").u32(n).data(32, 128).0;
        refused!(bytes, byte HEADER + 9, Dimensions { found, .. } if found == u64::from(n));
    }
}

#[test]
fn zero_dimensions() {
    for shape in [[0, 8], [8, 0], [0, 0], [u64::MAX, 0]] {
        refused!(one_tensor(&shape, F32, 0), byte HEADER + 9, ZeroDimension { shape: found, .. } if found == shape);
    }
}

#[test]
fn sizes_that_overflow() {
    for shape in [
        vec![1 << 62], // bytes overflow, elements do not
        vec![u64::MAX],
        vec![1 << 63, 2],                         // the product wraps to 0
        vec![1 << 32, 1 << 32],                   // as well
        vec![(1 << 32) + 1, (1 << 32) - 1],       // to just below 2^64
        vec![1 << 16, 1 << 16, 1 << 16, 1 << 16], // to 0
        vec![8, u64::MAX / 8 + 2],                // to 8: the bytes that are there
        vec![3, 0x5555_5555_5555_5555 + 3, 1],    // to 8 as well
    ] {
        refused!(one_tensor(&shape, F32, 0), byte HEADER + 9, ShapeOverflow { shape: found, .. } if found == shape);
    }
}

#[test]
fn rows_that_do_not_fill_blocks() {
    for row in [1, 31, 33, (1 << 40) + 1] {
        refused!(one_tensor(&[row, 2], Q4_0, 0), byte HEADER + 9,
            PartialBlock { found, expected: 32, .. } if found == row);
    }
    // As many elements as four blocks, in rows that are none.
    refused!(one_tensor(&[16, 8], Q4_0, 0), PartialBlock { found: 16, .. });
}

#[test]
fn tensor_types_that_do_not_exist() {
    for id in [43, 99, 1 << 31, u32::MAX] {
        refused!(one_tensor(&[8], id, 0), byte HEADER + 21, TensorType { found, .. } if found == id);
    }
}

#[test]
fn tensor_types_that_were_removed() {
    for (id, expected) in [(4, "Q4_2"), (5, "Q4_3"), (31, "Q4_0_4_4"), (33, "Q4_0_8_8"), (36, "IQ4_NL_4_4")] {
        refused!(one_tensor(&[256], id, 0), byte HEADER + 21,
            RemovedTensorType { found, name, .. } if found == id && name == expected);
    }
}

#[test]
fn data_outside_of_the_file() {
    // The last ones wrap around when added to the size, or to the start of the data.
    for offset in [32, 64, 1 << 32, 1 << 62, 1 << 63, u64::MAX - 31, u64::MAX - 63, u64::MAX - 127] {
        refused!(one_tensor(&[8], F32, offset), byte HEADER,
            OutOfFile { start, expected: 32, found: 32, .. } if start == offset);
    }
    refused!(one_tensor(&[9], F32, 0), OutOfFile { expected: 36, found: 32, .. });
    refused!(one_tensor(&[1 << 40], F32, 0), OutOfFile { expected, .. } if expected == 1 << 42);
    // The file ends before its data starts.
    let bytes = RawGguf::new(1, 0).tensor("t", &[8], F32, 0).0;
    refused!(bytes, OutOfFile { found: 0, .. });
}

#[test]
fn misaligned_data() {
    for offset in [1, 4, 31, 33, u64::MAX] {
        refused!(one_tensor(&[1], F32, offset), byte HEADER, Misaligned { found, expected: 32, .. } if found == offset);
    }
    // Aligned for 32, but the file says 64.
    let bytes = RawGguf::new(1, 1).key_u32("general.alignment", 64).tensor("t", &[8], F32, 32).data(64, 96).0;
    refused!(bytes, Misaligned { found: 32, expected: 64, .. });
}

#[test]
fn overlapping_data() {
    for shapes in [[8u64, 8], [16, 8], [1, 1]] {
        let [a, b] = shapes;
        let bytes = RawGguf::new(2, 0).tensor("a", &[a], F32, 0).tensor("b", &[b], F32, 0).data(32, 64).0;
        refused!(bytes, Overlap { .. });
    }
    // In the other order, and only the last byte.
    let bytes = RawGguf::new(2, 0).tensor("a", &[8], F32, 32).tensor("b", &[9], F32, 0).data(32, 64).0;
    refused!(bytes, Overlap { tensor, other, .. } if tensor == "b" && other == "a");
}

#[test]
fn gaps_between_tensors_are_accepted() {
    let bytes = RawGguf::new(2, 0).tensor("a", &[8], F32, 128).tensor("b", &[3], F32, 32).data(32, 160).0;
    let model = Gguf::from_bytes("gaps", bytes).unwrap();
    let start = model.tensor("b").unwrap().range().start;
    assert_eq!(model.tensor("a").unwrap().range(), start + 96..start + 128);
}

#[test]
fn alignments() {
    let of_u32 = |value| RawGguf::new(0, 1).key_u32("general.alignment", value).0;
    for value in [0, 1, 3, 4, 24, 33, 1 << 17, 1 << 31, u32::MAX] {
        refused!(of_u32(value), Alignment { found, .. } if found == u64::from(value));
    }
    for value in [8, 16, 32, 64, 4096, 65536] {
        assert_eq!(Gguf::from_bytes("aligned", of_u32(value)).unwrap().alignment(), value);
    }
    let of_u64 = |value| RawGguf::new(0, 1).key("general.alignment", 10).u64(value).0;
    for value in [0, 3, 1 << 40, 1 << 63, u64::MAX] {
        refused!(of_u64(value), Alignment { found, .. } if found == value);
    }
    let of_i32 = |value: i32| RawGguf::new(0, 1).key("general.alignment", 5).bytes(&value.to_le_bytes()).0;
    refused!(of_i32(-32), WrongType { key, .. } if key == "general.alignment");
    let of_string = RawGguf::new(0, 1).key("general.alignment", STRING).string("32").0;
    refused!(of_string, WrongType { found, .. } if found == "string");
    let of_f32 = RawGguf::new(0, 1).key("general.alignment", 6).bytes(&32f32.to_le_bytes()).0;
    refused!(of_f32, WrongType { .. });
}

#[test]
fn what_is_not_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let error = Gguf::open(folder.path()).unwrap_err();
    assert!(matches!(error, FormatError::NotAFile { .. }));
    check_message(&error, folder.path());
    let absent = folder.path().join("absent.gguf");
    let error = Gguf::open(&absent).unwrap_err();
    assert!(matches!(error, FormatError::Io { .. }));
    check_message(&error, &absent);
}
