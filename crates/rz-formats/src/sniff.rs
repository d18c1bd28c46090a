//! Files that are something else than they should be.

/// What a file that starts like this is, when that can be told.
pub(crate) fn looks_like(bytes: &[u8]) -> Option<&'static str> {
    const STARTS: &[(&[u8], &str)] = &[
        (b"GGUF", "a GGUF file"),
        (b"FUGG", "the magic of a big-endian file"),
        (b"lmgg", "the GGML format that came before GGUF: convert the model again"),
        (b"fmgg", "the GGMF format that came before GGUF: convert the model again"),
        (b"tjgg", "the GGJT format that came before GGUF: convert the model again"),
        (b"version https://git-lfs", "a Git LFS pointer: fetch the file that it stands for"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"<!DOCTYPE", "a web page: the download failed"),
        (b"<html", "a web page: the download failed"),
    ];
    STARTS.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, what)| *what)
}
