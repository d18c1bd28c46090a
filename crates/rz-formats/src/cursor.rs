//! Reading forward through bytes of a file that nobody vouches for.

use std::path::Path;

use crate::error::{FormatError, Place};

/// A position in the bytes of a file. Whatever reaches past the end is an error
/// that names the file, the place, what was wanted and what is there.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(file: &'a Path, bytes: &'a [u8]) -> Self {
        Cursor { file, bytes, at: 0 }
    }

    pub(crate) fn file(&self) -> &'a Path {
        self.file
    }

    /// Bytes from the start of the file.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn place(&self) -> Place {
        self.place_of(self.at)
    }

    pub(crate) fn place_of(&self, at: usize) -> Place {
        Place { file: self.file.to_owned(), offset: Some(at as u64) }
    }

    /// Bytes that are left.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `len` bytes, for `what`.
    pub(crate) fn take(&mut self, len: u64, what: &'static str) -> Result<&'a [u8], FormatError> {
        match usize::try_from(len) {
            Ok(len) if len <= self.left() => {
                let taken = &self.bytes[self.at..self.at + len];
                self.at += len;
                Ok(taken)
            }
            _ => Err(FormatError::Truncated {
                place: self.place(),
                what,
                expected: len,
                found: self.left() as u64,
            }),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, FormatError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, FormatError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of things of which each takes at least `least` bytes of what follows,
    /// and of which more than `most` are not accepted.
    pub(crate) fn count(
        &mut self,
        what: &'static str,
        least: usize,
        most: u64,
    ) -> Result<usize, FormatError> {
        let at = self.at;
        let found = self.u64(what)?;
        let limit = most.min((self.left() / least) as u64);
        if found > limit {
            let place = self.place_of(at);
            return Err(FormatError::Count { place, what, found, limit });
        }
        Ok(found as usize)
    }

    /// A string that is a name: its length, then its bytes.
    pub(crate) fn name(&mut self, what: &'static str, limit: u64) -> Result<&'a str, FormatError> {
        let start = self.at;
        let found = self.u64(what)?;
        if !(1..=limit).contains(&found) {
            let place = self.place_of(start);
            return Err(FormatError::NameLength { place, what, found, limit });
        }
        let start = self.at;
        let bytes = self.take(found, what)?;
        std::str::from_utf8(bytes)
            .map_err(|_| FormatError::Utf8 { place: self.place_of(start), what: what.to_owned() })
    }
}
