//! Reading JSON that nobody vouches for.
//!
//! The visitors of this folder take from `serde_json` only what they expect, so that nothing
//! is kept that was not asked for. What they find wrong is an error of this crate, which
//! travels beside the one of `serde_json`, because that one can hold only a text.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::error::{FormatError, Place};
use crate::shown::text;

/// Where in which text the visitors are.
pub(super) struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    /// Where the text starts in the file.
    start: usize,
    /// Where in the text the last key is.
    at: usize,
    /// What is being read, for messages: the tensor of this name.
    pub(super) tensor: Option<String>,
    failure: Option<FormatError>,
}

/// Reads the one JSON value of `text`, which starts at byte `start` of `file`.
pub(super) fn read<'a, T>(
    file: &'a Path,
    text: &'a str,
    start: usize,
    work: impl FnOnce(&mut Reader<'a>, &mut Json<'a>) -> Result<T, serde_json::Error>,
) -> Result<T, FormatError> {
    let mut reader = Reader { file, text, start, at: 0, tensor: None, failure: None };
    let mut json = serde_json::Deserializer::from_str(text);
    let result = work(&mut reader, &mut json).and_then(|value| json.end().map(|()| value));
    result.map_err(|error| reader.failed(&error))
}

pub(super) type Json<'a> = serde_json::Deserializer<serde_json::de::StrRead<'a>>;

impl<'a> Reader<'a> {
    /// Notes that `key` was read.
    pub(super) fn pass(&mut self, key: &str) {
        // A key that was lent is a part of the text. One with escapes is not, and leaves
        // the place at the key before.
        let at = key.as_ptr().addr().checked_sub(self.text.as_ptr().addr());
        self.at = at.filter(|&at| at < self.text.len()).unwrap_or(self.at);
    }

    /// The place of the last key.
    pub(super) fn place(&self) -> Place {
        self.place_of(self.at)
    }

    /// Remembers `error`, and gives `serde_json` one in its place.
    pub(super) fn fail<E: de::Error>(&mut self, error: FormatError) -> E {
        self.failure = Some(error);
        E::custom("refused")
    }

    fn place_of(&self, at: usize) -> Place {
        Place { file: self.file.to_owned(), offset: Some((self.start + at) as u64) }
    }

    fn failed(self, error: &serde_json::Error) -> FormatError {
        if let Some(failure) = self.failure {
            return failure;
        }
        let (line, column) = (error.line(), error.column());
        let what = error.to_string();
        let what = what.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&what);
        let what = match &self.tensor {
            Some(name) => format!("tensor {}: {what}", text(name)),
            None => what.to_owned(),
        };
        let start: usize = self.text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
        let at = (start + column.saturating_sub(1)).min(self.text.len());
        FormatError::Json { place: self.place_of(at), what }
    }
}

/// A string, lent when it has no escapes.
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Strings)
    }
}
