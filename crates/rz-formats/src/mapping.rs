//! Files mapped into memory: the one module of this crate that needs `unsafe`.
//!
//! A mapping shows the file's own pages: nothing is read until it is touched, and
//! pages can be given back and read again later. The price is that the bytes are
//! the file's. **When another program cuts the file short while it is mapped,
//! touching the lost pages ends this process (SIGBUS on Unix); when one writes
//! into the file, the bytes change.** No program can rule this out for files that
//! others may write. So that it stays an accident and not a habit: nothing in this
//! crate writes into an existing file (writers make a new file and rename it),
//! sizes are checked against the file after it is mapped, and
//! [`Mapping::check_unchanged`] tells, before a long use, whether the file is still
//! the one that was validated.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::{Mmap, MmapOptions};

use crate::error::FormatError;

/// The bytes of a file, mapped read-only.
#[derive(Debug)]
pub struct Mapping {
    file: PathBuf,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Mapped { map: Mmap, handle: File, modified: Option<SystemTime> },
    Owned(Vec<u8>),
}

/// How a range of bytes is about to be used. Advice never changes what is read,
/// and a system that does not understand it ignores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Advice {
    /// From front to back, once.
    Sequential,
    /// Soon: start to read in the background.
    WillNeed,
    /// Now: return when the pages are there.
    Populate,
}

/// A size that every page size in use divides, so that ranges can be rounded to
/// whole pages without asking the system.
const PAGE: usize = if cfg!(target_arch = "x86_64") { 4096 } else { 65536 };

impl Mapping {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// When it cannot be opened, is empty, or is not a regular file.
    pub fn open(path: impl AsRef<Path>) -> Result<Mapping, FormatError> {
        let path = path.as_ref();
        let failed = |action, cause| FormatError::Io { file: path.to_owned(), action, cause };
        // Asked before opening, because opening a pipe waits for its other end.
        check_kind(path, &fs::metadata(path).map_err(|cause| failed("open", cause))?)?;
        let handle = File::open(path).map_err(|cause| failed("open", cause))?;
        let info = handle.metadata().map_err(|cause| failed("read", cause))?;
        check_kind(path, &info)?;
        if info.len() == 0 {
            return Err(FormatError::Empty { file: path.to_owned() });
        }
        let len = usize::try_from(info.len()).map_err(|_| {
            failed("map", io::Error::new(io::ErrorKind::FileTooLarge, "too large for this system"))
        })?;
        // SAFETY: the mapping is read-only and private to this value. Changes by others
        // to the file are outside of what a program can exclude; see the module's text.
        let map =
            unsafe { MmapOptions::new().len(len).map(&handle) }.map_err(|cause| failed("map", cause))?;
        let mapping = Mapping {
            file: path.to_owned(),
            content: Content::Mapped { map, handle, modified: info.modified().ok() },
        };
        mapping.check_unchanged()?;
        Ok(mapping)
    }

    /// Takes bytes that are in memory already; `name` stands in for the file in messages.
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Mapping {
        Mapping { file: name.into(), content: Content::Owned(bytes) }
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// All bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Mapped { map, .. } => map,
            Content::Owned(bytes) => bytes,
        }
    }

    /// Checks that the file has the size and time of change that it had when it was mapped.
    ///
    /// # Errors
    /// When it has not, or cannot be asked.
    pub fn check_unchanged(&self) -> Result<(), FormatError> {
        let Content::Mapped { map, handle, modified } = &self.content else { return Ok(()) };
        let changed = |change| FormatError::Changed { file: self.file.clone(), change };
        let info = handle.metadata().map_err(|cause| FormatError::Io {
            file: self.file.clone(),
            action: "read",
            cause,
        })?;
        if info.len() != map.len() as u64 {
            return Err(changed(format!("it had {} bytes and now has {}", map.len(), info.len())));
        }
        if info.modified().ok() != *modified {
            return Err(changed("it was written to".to_owned()));
        }
        Ok(())
    }

    /// Tells the system how `range` is about to be used.
    ///
    /// # Panics
    /// When `range` is not inside the file.
    pub fn advise(&self, range: Range<usize>, advice: Advice) {
        let len = self.bytes()[range.clone()].len();
        if let Content::Mapped { map, .. } = &self.content
            && len > 0
        {
            advise(map, range.start, len, advice);
        }
    }

    /// Reads the whole file, and keeps the system from ever dropping its pages.
    ///
    /// # Errors
    /// When the system refuses, mostly because a process may only have so much of such memory.
    pub fn lock(&self) -> io::Result<()> {
        match &self.content {
            #[cfg(unix)]
            Content::Mapped { map, .. } => map.lock(),
            #[cfg(not(unix))]
            Content::Mapped { .. } => Err(io::ErrorKind::Unsupported.into()),
            Content::Owned(_) => Ok(()),
        }
    }

    /// Gives the memory of the pages that lie wholly inside `range` back to the system.
    /// The bytes stay readable: touching them reads the file again.
    ///
    /// # Panics
    /// When `range` is not inside the file.
    pub fn release(&self, range: Range<usize>) {
        let _ = &self.bytes()[range.clone()];
        let pages = range.start.next_multiple_of(PAGE)..range.end / PAGE * PAGE;
        if let Content::Mapped { map, .. } = &self.content
            && !pages.is_empty()
        {
            release(map, pages);
        }
    }
}

pub(crate) fn check_kind(path: &Path, info: &fs::Metadata) -> Result<(), FormatError> {
    let found = match info.file_type() {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a folder",
        _ => "a pipe, socket or device",
    };
    Err(FormatError::NotAFile { file: path.to_owned(), found })
}

// Failures of advice are ignored: an old kernel answers EINVAL to what it does not know.
#[cfg(unix)]
fn advise(map: &Mmap, start: usize, len: usize, advice: Advice) {
    let _ = match advice {
        Advice::Sequential => map.advise_range(memmap2::Advice::Sequential, start, len),
        Advice::WillNeed => map.advise_range(memmap2::Advice::WillNeed, start, len),
        #[cfg(target_os = "linux")]
        Advice::Populate => map
            .advise_range(memmap2::Advice::PopulateRead, start, len)
            .or_else(|_| map.advise_range(memmap2::Advice::WillNeed, start, len)),
        #[cfg(not(target_os = "linux"))]
        Advice::Populate => map.advise_range(memmap2::Advice::WillNeed, start, len),
    };
}

#[cfg(not(unix))]
fn advise(_: &Mmap, _: usize, _: usize, _: Advice) {}

#[cfg(unix)]
fn release(map: &Mmap, pages: Range<usize>) {
    // SAFETY: the pages belong to a read-only mapping of a file. Dropping them loses
    // nothing that was written; the next access finds the file's bytes again.
    let _ =
        unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, pages.start, pages.len()) };
}

#[cfg(not(unix))]
fn release(_: &Mmap, _: Range<usize>) {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn what_is_not_a_file_with_bytes_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = Mapping::open(folder.path()).unwrap_err();
        assert!(matches!(error, FormatError::NotAFile { found: "a folder", .. }), "{error}");
        let error = Mapping::open(folder.path().join("absent")).unwrap_err();
        assert!(
            matches!(&error, FormatError::Io { action: "open", cause, .. } if cause.kind() == io::ErrorKind::NotFound),
            "{error}"
        );
        let empty = file_of(b"");
        let error = Mapping::open(empty.path()).unwrap_err();
        assert!(matches!(error, FormatError::Empty { .. }), "{error}");
        #[cfg(unix)]
        {
            let socket = folder.path().join("socket");
            let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
            let error = Mapping::open(&socket).unwrap_err();
            assert!(
                matches!(error, FormatError::NotAFile { found: "a pipe, socket or device", .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn a_change_of_the_file_is_noticed() {
        let mut file = file_of(b"some bytes");
        let mapping = Mapping::open(file.path()).unwrap();
        mapping.check_unchanged().unwrap();
        file.write_all(b" and more").unwrap();
        let error = mapping.check_unchanged().unwrap_err();
        assert!(matches!(&error, FormatError::Changed { .. }), "{error}");
        assert!(error.to_string().contains("it had 10 bytes and now has 19"), "{error}");
        assert_eq!(mapping.bytes(), b"some bytes");
    }

    #[test]
    fn advice_and_release_keep_the_bytes() {
        let bytes: Vec<u8> = (0..10 * PAGE + 123).map(|i| (i % 251) as u8).collect();
        let file = file_of(&bytes);
        for mapping in [Mapping::open(file.path()).unwrap(), Mapping::from_bytes("memory", bytes.clone())] {
            let len = bytes.len();
            for range in [0..len, 0..0, len..len, 1..2, PAGE - 1..PAGE + 1, PAGE..3 * PAGE, 5..len - 1] {
                for advice in [Advice::Sequential, Advice::WillNeed, Advice::Populate] {
                    mapping.advise(range.clone(), advice);
                }
                mapping.release(range);
                assert!(mapping.bytes() == bytes);
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn released_pages_leave_the_resident_memory() {
        let file = file_of(&vec![7; 64 * PAGE]);
        let mapping = Mapping::open(file.path()).unwrap();
        let resident = || {
            let maps = fs::read_to_string("/proc/self/smaps").unwrap();
            let own = maps.split_once(file.path().to_str().unwrap()).unwrap().1;
            let line = own.lines().find(|line| line.starts_with("Rss:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
        };
        mapping.advise(0..64 * PAGE, Advice::Populate);
        assert_eq!(mapping.bytes().iter().map(|&byte| usize::from(byte)).sum::<usize>(), 7 * 64 * PAGE);
        assert_eq!(resident(), 64 * PAGE);
        // Pages 0 and 9 are only partly inside, and stay.
        mapping.release(1..9 * PAGE + 1);
        assert_eq!(resident(), (64 - 8) * PAGE);
        assert_eq!(mapping.bytes()[3 * PAGE], 7);
    }
}
