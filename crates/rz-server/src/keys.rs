//! Keys that clients show.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::ServerError;

/// The keys of clients. Only their digests are kept.
#[derive(Clone, Default)]
pub struct Keys(Vec<[u8; 32]>);

impl Keys {
    /// Reads a file with one key a line. Empty lines and those that begin with `#` do not count.
    ///
    /// # Errors
    /// When the file cannot be read, holds no key, or one that no client could send.
    pub fn read(path: &Path) -> Result<Self, ServerError> {
        let text = std::fs::read_to_string(path).map_err(|cause| ServerError::File {
            what: "keys",
            path: path.into(),
            cause,
        })?;
        let bad = |line, problem| ServerError::Keys { path: path.into(), line, problem };
        let mut keys = Self::default();
        for (number, line) in text.lines().enumerate() {
            let key = line.trim();
            if key.is_empty() || key.starts_with('#') {
                continue;
            }
            if !keys.add(key) {
                return Err(bad(Some(number + 1), "this cannot be a key"));
            }
        }
        if keys.is_empty() { Err(bad(None, "there is no key")) } else { Ok(keys) }
    }

    /// Adds a key. False, when no client could send it or anybody could guess it: keys have 8 to 512
    /// visible ASCII characters.
    pub fn add(&mut self, key: &str) -> bool {
        let good = (8..=512).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        if good {
            self.0.push(digest(key));
        }
        good
    }

    /// Whether everybody is served.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this is one of the keys. How long that takes tells nothing about them.
    pub(crate) fn accept(&self, key: &str) -> bool {
        let given = digest(key);
        let same = |kept: &[u8; 32]| {
            let difference = kept.iter().zip(&given).fold(0, |bits, (a, b)| bits | (a ^ b));
            std::hint::black_box(difference) == 0
        };
        // Looks at all of them, wherever it is found.
        self.0.iter().fold(false, |found, kept| found | same(kept))
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Keys::read(&path)
        };
        let keys = read("# of the office\nfirst-key-1\r\n\n  second-key-2  \n").unwrap();
        assert!(keys.accept("first-key-1") && keys.accept("second-key-2"));
        for wrong in ["", "first-key-", "first-key-11", "# of the office", "FIRST-KEY-1"] {
            assert!(!keys.accept(wrong), "{wrong}");
        }
        assert!(!format!("{keys:?}").contains("first"));
        assert!(read("short").unwrap_err().to_string().contains("line 1"));
        assert!(read("good-enough\nwith space").unwrap_err().to_string().contains("line 2"));
        assert!(read("# nothing\n").unwrap_err().to_string().ends_with(
            "keys': there is no key: give one key a line, 8 to 512 visible ASCII characters each"
        ));
        assert!(Keys::read(&folder.path().join("missing")).unwrap_err().to_string().contains("missing"));
        assert!(!Keys::default().accept(""));
    }
}
