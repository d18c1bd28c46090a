//! Files that are wrong, each in its own way: one error of one line, which names file and place.

use std::fs;

use rz_formats::{FormatError, Safetensors};

use super::{entry, file, header, refused, tiny};

/// Where the header starts.
const START: u64 = 8;

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

/// A file of one tensor, and enough data.
fn one(dtype: &str, shape: &str, begin: u64, end: u64) -> Vec<u8> {
    file(header([entry("t", dtype, shape, begin, end)]), &[0; 32])
}

/// A file of one tensor, of which `entry` is the object.
fn raw(entry: &str) -> Vec<u8> {
    file(format!(r#"{{"t":{entry}}}"#), &[0; 4])
}

#[test]
fn the_samples_are_valid_when_nothing_is_wrong() {
    Safetensors::from_bytes("sample", one("F32", "[2,4]", 0, 32)).unwrap();
    Safetensors::from_bytes("sample", raw(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#)).unwrap();
    Safetensors::from_bytes("sample", tiny("t")).unwrap();
    Safetensors::from_bytes("sample", file("{}", &[])).unwrap();
    Safetensors::from_bytes("sample", file(r#"{"__metadata__":null}"#, &[])).unwrap();
}

#[test]
fn empty_and_shorter_than_a_length() {
    refused!([], Empty { .. });
    for len in 1..8 {
        refused!(&tiny("t")[..len], byte 0, Truncated { expected: 8, found, .. } if found == len as u64);
    }
}

#[test]
fn the_length_of_the_header() {
    let with_length = |length: u64| {
        let mut bytes = tiny("t");
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        bytes
    };
    let left = tiny("t").len() as u64 - 8;
    for length in [left + 1, 100_000_000, 1 << 32, 1 << 63, u64::MAX, u64::MAX - 7, 0, 1] {
        refused!(with_length(length), byte 0, HeaderLength { found, limit, looks_like: None }
            if (found, limit) == (length, left));
    }
    // Longer or shorter than it is.
    refused!(with_length(left), Json { what, .. } if what.contains("trailing"));
    refused!(with_length(left - 9), Json { what, .. } if what.contains("EOF"));
    // Larger than any header may be, in a file that could hold it.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.safetensors");
    fs::write(&path, with_length(100_000_001)).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(200_000_000).unwrap();
    let error = Safetensors::open(&path).unwrap_err();
    assert!(
        matches!(error, FormatError::HeaderLength { found: 100_000_001, limit: 100_000_000, .. }),
        "{error:?}"
    );
}

#[test]
fn other_kinds_of_files() {
    for (start, name) in [
        (b"GGUF\x03\0\0\0".as_slice(), "GGUF"),
        (b"PK\x03\x04........", "zip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
    ] {
        refused!(start, byte 0, HeaderLength { looks_like: Some(what), .. } if what.contains(name));
    }
    refused!("Once upon a time there was a model.\n", byte 0, HeaderLength { looks_like: None, .. });
}

#[test]
fn truncated_anywhere() {
    let whole = file(
        header([entry("a", "F32", "[2,2]", 0, 16), entry("b", "F16", "[8]", 16, 32)]),
        &(0..32).collect::<Vec<u8>>(),
    );
    Safetensors::from_bytes("whole", whole.clone()).unwrap();
    for len in 1..whole.len() {
        let error = refused(&whole[..len]);
        assert!(
            matches!(
                error,
                FormatError::Truncated { .. }
                    | FormatError::HeaderLength { .. }
                    | FormatError::OutOfFile { .. }
            ),
            "{len}: {error:?}"
        );
    }
}

#[test]
fn text_that_is_no_json() {
    refused!(file(b"{\"t\":\xff}", &[]), byte START + 5, Utf8 { what } if what == "the header");
    for (text, at) in [
        (" {}", 0),
        ("\n{}", 0),
        ("[]", 0),
        ("\"text\"", 0),
        ("\u{feff}{}", 0),
        ("{}\0", 2),
        ("{}{}", 2),
        ("{} x", 3),
        ("{\"t\"}", 4),
        ("{,}", 1),
        ("{\"a\": nope}", 6),
        ("{\"\\ud800\":1}", 8),
        ("{\"a\n\":1}", 3),
    ] {
        // The place is that of the byte, or of the one before.
        refused!(file(text, &[]), Json { place, .. } if place.offset.unwrap().abs_diff(START + at) <= 1);
    }
}

#[test]
fn json_of_the_wrong_kind() {
    for bad in [
        "null",
        "1",
        "[]",
        r#"["F32",[1],[0,4]]"#,
        "{}",
        r#"{"dtype":"F32","shape":[1]}"#,
        r#"{"dtype":"F32","data_offsets":[0,4]}"#,
        r#"{"shape":[1],"data_offsets":[0,4]}"#,
        r#"{"dtype":0,"shape":[1],"data_offsets":[0,4]}"#,
        r#"{"dtype":"F32","shape":1,"data_offsets":[0,4]}"#,
        r#"{"dtype":"F32","shape":null,"data_offsets":[0,4]}"#,
        r#"{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}"#,
        r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#,
        r#"{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}"#,
        r#"{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}"#,
        r#"{"dtype":"F32","shape":[1],"data_offsets":[0]}"#,
        r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}"#,
        r#"{"dtype":"F32","shape":[1],"data_offsets":{"begin":0,"end":4}}"#,
        r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4e0]}"#,
        r#"{"dtype":"F32","shape":[1],"data_offsets":[-0,4]}"#,
        r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4],"strides":[1]}"#,
    ] {
        refused!(raw(bad), Json { what, .. } if what.starts_with("tensor \"t\": "));
    }
    for bad in ["1", "[]", "\"text\"", r#"{"a":1}"#, r#"{"a":null}"#, r#"{"a":{"b":"c"}}"#] {
        refused!(file(format!(r#"{{"__metadata__":{bad}}}"#), &[]), Json { .. });
    }
}

#[test]
fn nested_ten_thousand_deep() {
    const DEPTH: usize = 10_000;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(DEPTH), close.repeat(DEPTH));
        for around in [
            format!(r#"{{"t":{deep}}}"#),
            format!(r#"{{"__metadata__":{deep}}}"#),
            format!(r#"{{"__metadata__":{{"a":{deep}}}}}"#),
            format!(r#"{{"t":{{"dtype":{deep}}}}}"#),
            format!(r#"{{"t":{{"shape":[{deep}]}}}}"#),
            format!(r#"{{"t":{{"other":{deep}}}}}"#),
            format!(r#"{{"t":{}"#, open.repeat(DEPTH)),
        ] {
            refused!(file(around, &[]), Json { .. });
        }
    }
}

#[test]
fn keys_that_occur_twice() {
    let twice = header([entry("t", "F32", "[1]", 0, 4), entry("t", "F32", "[1]", 4, 8)]);
    let second = START + twice.rfind("t\":").unwrap() as u64;
    refused!(file(&twice, &[0; 8]), byte second, DuplicateTensor { tensor } if tensor == "t");
    // The same bytes twice, and the same name written in another way.
    let same = header([entry("t", "F32", "[1]", 0, 4), entry("t", "F32", "[1]", 0, 4)]);
    refused!(file(same, &[0; 4]), Overlap { .. });
    let escaped = header([entry("t", "F32", "[1]", 0, 4), entry("\\u0074", "F32", "[1]", 4, 8)]);
    refused!(file(escaped, &[0; 8]), DuplicateTensor { tensor, .. } if tensor == "t");
    // Without data.
    let empty = header([entry("t", "F32", "[0]", 0, 0), entry("t", "F32", "[1]", 0, 4)]);
    refused!(file(empty, &[0; 4]), DuplicateTensor { .. });
    let empty = header([entry("t", "F32", "[0]", 0, 0), entry("t", "F32", "[0]", 0, 0)]);
    refused!(file(empty, &[]), DuplicateTensor { .. });

    for (text, name) in [
        (r#"{"__metadata__":{},"__metadata__":{}}"#, "__metadata__"),
        (r#"{"__metadata__":{"a":"b","a":"b"}}"#, "a"),
        (r#"{"t":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, "dtype"),
        (r#"{"t":{"shape":[1],"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, "shape"),
        (r#"{"t":{"shape":[1],"dtype":"F32","data_offsets":[0,4],"data_offsets":[0,4]}}"#, "data_offsets"),
    ] {
        let second = START + text.rfind(&format!("{name}\"")).unwrap() as u64;
        refused!(file(text, &[0; 4]), byte second, DuplicateKey { key } if key == name);
    }
}

#[test]
fn types_that_do_not_exist() {
    for bad in ["F33", "", "f32", "Q4_0", "float32", "F32\\u0000"] {
        refused!(one(bad, "[8]", 0, 32), byte START + 2, UnknownDtype { tensor, .. } if tensor == "t");
    }
    refused!(one(&"F".repeat(10_000), "[8]", 0, 32), UnknownDtype { found, .. } if found.len() == 100);
}

/// A type that exists and is not the one of the data.
#[test]
fn the_wrong_type_for_the_data() {
    for (dtype, size) in
        [("F64", 64), ("F16", 16), ("BF16", 16), ("I8", 8), ("BOOL", 8), ("C64", 64), ("F4", 4)]
    {
        refused!(one(dtype, "[2,4]", 0, 32), byte START + 2, DataSize { expected, found: 32, shape, dtype: name, .. }
            if expected == size && shape == [2, 4] && name == dtype);
    }
    refused!(one("F4", "[4,3]", 0, 6), PartialBlock { found: 3, expected: 2, .. });
    refused!(one("F6_E2M3", "[2]", 0, 2), PartialBlock { found: 2, expected: 4, .. });
}

#[test]
fn shapes_whose_size_overflows() {
    let max = u64::MAX;
    for shape in [
        format!("[{max}]"),
        format!("[{max},{max}]"),
        "[4294967296,4294967296]".to_owned(),
        "[4611686018427387904]".to_owned(),
        "[9223372036854775808,2]".to_owned(),
        "[65536,65536,65536,65536]".to_owned(),
        format!("[0,{max},{max}]"),
        format!("[{max},{max},0]"),
    ] {
        refused!(one("F32", &shape, 0, 32), byte START + 2, ShapeOverflow { tensor, .. } if tensor == "t");
    }
    let shape = format!("[{}]", ["1"; 9].join(","));
    refused!(one("F32", &shape, 0, 4), Dimensions { found: 9, limit: 8, .. });
    Safetensors::from_bytes("most", file(header([entry("t", "F32", "[1,1,1,1,1,1,1,1]", 0, 4)]), &[0; 4]))
        .unwrap();
    let shape = format!("[{}]", vec!["1"; 100_000].join(","));
    refused!(one("F32", &shape, 0, 4), Dimensions { found: 100_000, .. });
}

#[test]
fn offsets_that_cannot_be() {
    refused!(one("F32", "[8]", 32, 0), byte START + 2, DataOffsets { begin: 32, end: 0, .. });
    refused!(one("F32", "[0]", 1, 0), DataOffsets { .. });
    refused!(one("F32", "[8]", u64::MAX, 0), DataOffsets { .. });
    refused!(one("F32", "[8]", 0, u64::MAX), DataSize { expected: 32, .. });
    refused!(one("F32", "[8]", 0, 31), DataSize { found: 31, .. });
    refused!(one("F32", "[8]", 1, 33), OutOfFile { start: 1, expected: 32, found: 32, .. });
    refused!(one("F32", "[8]", u64::MAX - 32, u64::MAX), OutOfFile { .. });
    refused!(one("F32", "[16]", 0, 64), OutOfFile { start: 0, expected: 64, found: 32, .. });
    refused!(one("F32", "[2305843009213693951]", 0, 9223372036854775804), OutOfFile { found: 32, .. });
}

#[test]
fn data_that_two_tensors_have() {
    let overlap = |a: [u64; 2], b: [u64; 2]| {
        let float =
            |name: &str, at: [u64; 2]| entry(name, "U8", &format!("[{}]", at[1] - at[0]), at[0], at[1]);
        file(header([float("b", b), float("a", a)]), &[0; 16])
    };
    Safetensors::from_bytes("apart", overlap([0, 8], [8, 16])).unwrap();
    for (a, b) in [([0, 9], [8, 16]), ([0, 16], [0, 16]), ([0, 16], [4, 8]), ([0, 16], [15, 16])] {
        let names =
            |tensor: &str, other: &str| [tensor, other].contains(&"a") && [tensor, other].contains(&"b");
        refused!(overlap(a, b), Overlap { tensor, other, .. } if names(&tensor, &other));
    }
    // A tensor without data lies between others, not in one.
    refused!(overlap([0, 16], [4, 4]), Overlap { tensor, other, .. } if tensor == "a" && other == "b");
    refused!(overlap([0, 8], [7, 7]), Overlap { .. });
    for at in [0, 8, 16] {
        let three = header([
            entry("a", "U8", "[8]", 0, 8),
            entry("b", "U8", "[8]", 8, 16),
            entry("none", "U8", "[0]", at, at),
        ]);
        let model = Safetensors::from_bytes("between", file(three, &[0; 16])).unwrap();
        assert!(model.tensors().map(|tensor| tensor.name()).eq(["a", "b"]));
    }
}

#[test]
fn data_that_no_tensor_has() {
    let floats = |a: u64, b: u64, len: usize| {
        let text = header([entry("a", "F32", "[1]", a, a + 4), entry("b", "F32", "[1]", b, b + 4)]);
        let start = START + text.len() as u64;
        (file(text, &vec![0; len]), start)
    };
    for (a, b, len, at, found) in [
        // Before, between and behind.
        (1, 5, 9, 0, 1),
        (4, 8, 12, 0, 4),
        (0, 5, 9, 4, 1),
        (8, 0, 12, 4, 4),
        (0, 4, 9, 8, 1),
        (4, 0, 1000, 8, 992),
    ] {
        let (bytes, start) = floats(a, b, len);
        refused!(bytes, byte start + at, Unclaimed { found: bytes } if bytes == found);
    }
    let (bytes, start) = (file("{}", &[0]), START + 2);
    refused!(bytes, byte start, Unclaimed { found: 1 });
    let none = header([entry("none", "F32", "[0]", 4, 4)]);
    refused!(file(none, &[0; 4]), Unclaimed { found: 4, .. });
}

#[test]
fn names_that_are_too_short_or_too_long() {
    refused!(tiny(""), byte START + 2, NameLength { found: 0, .. });
    refused!(tiny(&"n".repeat(65536)), NameLength { found: 65536, limit: 65535, .. });
    Safetensors::from_bytes("longest", tiny(&"n".repeat(65535))).unwrap();
    // Long texts in a message are cut, and stay on its line.
    refused!(one("F32\\n\\u202e", &format!("[{}1]", "1,".repeat(5)), 0, 32), UnknownDtype { .. });
    let name = format!("a\\n\\u2028{}", "n".repeat(60_000));
    refused!(file(header([entry(&name, "F32", "[1]", 0, 0)]), &[]), DataSize { .. });
    refused!(raw(&format!(r#"{{"{name}":1}}"#)), Json { .. });
    refused!(raw(&format!(r#"{{"shape":"{name}"}}"#)), Json { .. });
}

#[test]
fn more_than_is_accepted() {
    let entries = |count: usize| {
        let entries: Vec<String> = (0..count).map(|i| entry(&i.to_string(), "F32", "[0]", 0, 0)).collect();
        file(format!("{{{}}}", entries.join(",")), &[])
    };
    assert_eq!(Safetensors::from_bytes("most", entries(1 << 18)).unwrap().empty_tensors().len(), 1 << 18);
    refused!(entries((1 << 18) + 1), Count { found: 262_145, limit: 262_144, .. });
    let texts = |count: usize| {
        let texts: Vec<String> = (0..count).map(|i| format!("\"{i}\":\"\"")).collect();
        file(format!("{{\"__metadata__\":{{{}}}}}", texts.join(",")), &[])
    };
    assert_eq!(Safetensors::from_bytes("most", texts(1 << 16)).unwrap().metadata().len(), 1 << 16);
    refused!(texts((1 << 16) + 1), Count { found: 65537, limit: 65536, .. });
}

/// Each message in full, as somebody reads it.
#[test]
fn messages() {
    for (bytes, message) in [
        (
            b"GGUF\x03\0\0\0".to_vec(),
            "m, byte 0: the length of the header is 14064895815 (a GGUF file), expected at least 2 and at most the 0 bytes that can follow: the file is damaged or no safetensors file",
        ),
        (
            raw(r#"{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}"#),
            "m, byte 39: malformed JSON: tensor \"t\": invalid type: floating point `1.5`, expected u64",
        ),
        (
            one("F16", "[2,4]", 0, 32),
            "m, byte 10: tensor \"t\" has 32 bytes of data, expected 16 for F16 of the shape [2, 4]",
        ),
        (one("F33", "[2,4]", 0, 32), "m, byte 10: tensor \"t\" has the unknown dtype \"F33\""),
        (
            one("F32", "[8]", 8, 4),
            "m, byte 10: tensor \"t\" has the data offsets [8, 4], expected the second not to be smaller",
        ),
        (
            file("{}", &[0; 3]),
            "m, byte 10: 3 bytes of the data belong to no tensor: the file is damaged, fetch it again",
        ),
    ] {
        assert_eq!(Safetensors::from_bytes("m", bytes).unwrap_err().to_string(), message);
    }
}
