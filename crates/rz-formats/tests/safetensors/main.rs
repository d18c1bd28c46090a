//! Safetensors files and the folders they lie in: read, refused, written.

mod folders;
mod golden;
mod indexes;
mod json;
mod malformed;
mod properties;
mod writer;

use std::fs;
use std::path::Path;

use rz_formats::{FormatError, Safetensors};

/// The bytes of a file of this header and this data.
fn file(header: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    let header = header.as_ref();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(data);
    bytes
}

/// The header's entry of one tensor.
fn entry(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

/// A header of these entries.
fn header<const N: usize>(entries: [String; N]) -> String {
    format!("{{{}}}", entries.join(","))
}

/// A valid file of one tensor of two floats.
fn tiny(name: &str) -> Vec<u8> {
    file(header([entry(name, "F32", "[2]", 0, 8)]), &[7; 8])
}

/// Opens a file of these bytes and gives its error, after checking that the message is as
/// it should be and that memory gives the same error as a file.
fn refused(bytes: impl AsRef<[u8]>) -> FormatError {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.safetensors");
    fs::write(&path, bytes.as_ref()).unwrap();
    let error = Safetensors::open(&path).expect_err("a malformed file was accepted");
    check_message(&error, &path);
    if !bytes.as_ref().is_empty() {
        let same = Safetensors::from_bytes(&path, bytes.as_ref().to_vec())
            .expect_err("a malformed file was accepted");
        assert_eq!(format!("{error:?}"), format!("{same:?}"));
    }
    error
}

/// Checks that the message is one line that starts with what is wrong.
fn check_message(error: &FormatError, path: &Path) {
    let message = error.to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.starts_with(path.to_str().unwrap()), "{message}");
    assert!(message.len() < path.to_str().unwrap().len() + 300, "{message}");
    assert!(!message.contains(char::is_control), "{message:?}");
}
