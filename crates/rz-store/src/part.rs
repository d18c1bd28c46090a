//! The file being made: `NAME.part` beside the final name, hashed as it grows, renamed when it is right.
//!
//! A note beside it (`NAME.part.json`) says what the bytes are a part of, so that a later process can go on.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Fetched, StoreError,
    progress::{Reporter, Stage},
};

/// What is known of a file before it is there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    pub(crate) bytes: Option<u64>,
    pub(crate) sha256: Option<String>,
}

/// What a partial file is a part of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// The source, as it displays.
    pub(crate) source: String,
    /// The server's strong tag of this version of the file.
    pub(crate) etag: Option<String>,
    /// The server's date of this version of the file.
    pub(crate) modified: Option<String>,
    /// SHA-256 that the server states for the whole file.
    pub(crate) sha256: Option<String>,
    /// Size of the whole file.
    pub(crate) total: u64,
}

impl Note {
    /// What tells this version of the file from another one, for `If-Range`.
    pub(crate) fn validator(&self) -> Option<&str> {
        self.etag.as_deref().or(self.modified.as_deref())
    }
}

/// A partial file, open for appending.
#[derive(Debug)]
pub(crate) struct Part {
    target: PathBuf,
    path: PathBuf,
    file: File,
    hasher: Sha256,
    len: u64,
    note: Option<Note>,
}

impl Part {
    /// An empty part; an earlier one is dropped.
    pub(crate) fn create(target: &Path) -> Result<Self, StoreError> {
        let path = with_suffix(target, ".part");
        remove_if_there(&note_path(target))?;
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path);
        let file = file.map_err(|e| StoreError::io("create", &path, e))?;
        Ok(Self { target: target.into(), path, file, hasher: Sha256::new(), len: 0, note: None })
    }

    /// The part that an earlier download from `source` left, or an empty one.
    ///
    /// Without a validator of the server, only a file of known digest is continued.
    pub(crate) fn resume(
        target: &Path,
        source: &str,
        expected: &Expected,
        report: &mut Reporter<'_, '_>,
    ) -> Result<Self, StoreError> {
        let path = with_suffix(target, ".part");
        let Some(note) = read_note(target).filter(|note| note.source == source) else {
            return Self::create(target);
        };
        let trusted = note.validator().is_some() || note.sha256.is_some() || expected.sha256.is_some();
        let Ok(file) = File::options().read(true).write(true).open(&path) else {
            return Self::create(target);
        };
        let len = file.metadata().map_err(|e| StoreError::io("read", &path, e))?.len();
        if !trusted || len > note.total || expected.bytes.is_some_and(|bytes| bytes != note.total) {
            return Self::create(target);
        }
        let total = note.total;
        let mut part =
            Self { target: target.into(), path, file, hasher: Sha256::new(), len: 0, note: Some(note) };
        let mut buffer = vec![0; 1 << 16];
        while part.len < len {
            let n = match part.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(StoreError::io("read", part.path, e)),
            };
            part.hasher.update(&buffer[..n]);
            part.len += n as u64;
            report.report(Stage::Verifying, part.len, Some(total))?;
        }
        Ok(part)
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn note(&self) -> Option<&Note> {
        self.note.as_ref()
    }

    /// Records what the bytes that follow are a part of.
    pub(crate) fn set_note(&mut self, note: Note) -> Result<(), StoreError> {
        if self.note.as_ref() != Some(&note) {
            let path = note_path(&self.target);
            let text = serde_json::to_string_pretty(&note).expect("a note is plain text and numbers");
            fs::write(&path, text).map_err(|e| StoreError::io("write", path, e))?;
            self.note = Some(note);
        }
        Ok(())
    }

    /// Forgets what was received.
    pub(crate) fn restart(&mut self) -> Result<(), StoreError> {
        remove_if_there(&note_path(&self.target))?;
        self.note = None;
        self.hasher = Sha256::new();
        self.len = 0;
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map(|_| ()).map_err(|e| StoreError::io("truncate", &self.path, e))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(|e| StoreError::io("write", &self.path, e))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Checks the whole, makes it durable, and gives it its name. A wrong file is deleted.
    pub(crate) fn finish(
        mut self,
        expected: &Expected,
        report: &mut Reporter<'_, '_>,
    ) -> Result<Fetched, StoreError> {
        report.report(Stage::Verifying, self.len, Some(self.len))?;
        let origin = report.source().to_owned();
        let sha256 = hexadecimal(&self.hasher.finalize_reset());
        if let Err(error) = self.check(expected, &sha256, &origin) {
            drop(self.file);
            discard(&self.target)?;
            return Err(error);
        }
        self.file.sync_all().map_err(|e| StoreError::io("write", &self.path, e))?;
        drop(self.file);
        fs::rename(&self.path, &self.target).map_err(|e| StoreError::io("rename", &self.path, e))?;
        remove_if_there(&note_path(&self.target))?;
        sync_folder_of(&self.target);
        Ok(Fetched { bytes: self.len, sha256, source: origin })
    }

    fn check(&mut self, expected: &Expected, sha256: &str, origin: &str) -> Result<(), StoreError> {
        let origin = || origin.to_owned();
        if let Some(bytes) = expected.bytes.filter(|bytes| *bytes != self.len) {
            return Err(StoreError::Size { origin: origin(), expected: bytes, found: self.len });
        }
        if self.target.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            let mut magic = Vec::new();
            let start = self.file.seek(SeekFrom::Start(0));
            start
                .and_then(|_| (&self.file).take(4).read_to_end(&mut magic))
                .map_err(|e| StoreError::io("read", &self.path, e))?;
            if magic != b"GGUF" {
                let found = String::from_utf8_lossy(&magic).into_owned();
                return Err(StoreError::NotGguf { origin: origin(), found });
            }
        }
        match expected.sha256.as_deref() {
            Some(digest) if digest != sha256 => {
                Err(StoreError::Digest { origin: origin(), expected: digest.into(), found: sha256.into() })
            }
            _ => Ok(()),
        }
    }
}

/// Deletes the part of `target` and its note, if there are any.
pub(crate) fn discard(target: &Path) -> Result<(), StoreError> {
    remove_if_there(&note_path(target))?;
    remove_if_there(&with_suffix(target, ".part"))
}

/// Deletes the part of `target` if no note says what it is a part of.
pub(crate) fn discard_unless_noted(target: &Path) -> Result<(), StoreError> {
    if note_path(target).exists() { Ok(()) } else { discard(target) }
}

/// `path` with `suffix` appended to its name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Lower-case hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |d: u8| char::from(b"0123456789abcdef"[usize::from(d)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

/// Makes a rename durable where the system lets one.
pub(crate) fn sync_folder_of(path: &Path) {
    if cfg!(unix)
        && let Some(folder) = path.parent()
        && let Ok(folder) = File::open(folder)
    {
        // A file system that refuses has nothing to offer here; the file itself is safe.
        let _ = folder.sync_all();
    }
}

fn note_path(target: &Path) -> PathBuf {
    with_suffix(target, ".part.json")
}

fn read_note(target: &Path) -> Option<Note> {
    let mut text = Vec::new();
    File::open(note_path(target)).ok()?.take(1 << 16).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("delete", path, e)),
        _ => Ok(()),
    }
}
