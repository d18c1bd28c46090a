//! Models in several files, named `NAME-00001-of-00003.gguf` and so on.

use std::io;
use std::path::{Path, PathBuf};

use super::Part;
use crate::error::FormatError;
use crate::mapping::Mapping;
use crate::metadata::Metadata;

pub(super) const NUMBER_KEY: &str = "split.no";
pub(super) const COUNT_KEY: &str = "split.count";
pub(super) const TENSORS_KEY: &str = "split.tensors.count";

/// The name of one shard of a set; `number` counts from 1.
pub(super) fn name(stem: &str, number: u32, count: u32) -> String {
    format!("{stem}-{number:05}-of-{count:05}.gguf")
}

/// The files of a set.
pub(super) struct Names {
    folder: PathBuf,
    stem: String,
    /// Of the file that was opened, from 1.
    number: u32,
    count: u32,
}

impl Names {
    fn of(path: &Path) -> Option<Names> {
        let rest = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = rest.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let (number, count) = (five_digits(number)?, five_digits(count)?);
        (1..=count).contains(&number).then(|| Names {
            folder: path.parent().unwrap_or(Path::new("")).to_owned(),
            stem: stem.to_owned(),
            number,
            count,
        })
    }

    fn path(&self, number: u32) -> PathBuf {
        self.folder.join(name(&self.stem, number, self.count))
    }
}

fn five_digits(text: &str) -> Option<u32> {
    (text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// The files that belong to `path`, if it is one of several. Its name and its
/// metadata must say the same.
pub(super) fn names(path: &Path, metadata: &Metadata) -> Result<Option<Names>, FormatError> {
    match Names::of(path) {
        Some(names) if names.count > 1 => {
            metadata.require_u64(COUNT_KEY)?;
            Ok(Some(names))
        }
        _ => refuse(metadata).map(|()| None),
    }
}

/// Refuses a shard whose other files cannot be found.
pub(super) fn refuse(metadata: &Metadata) -> Result<(), FormatError> {
    match metadata.u64(COUNT_KEY)? {
        Some(count) if count > 1 => Err(FormatError::ShardName { file: metadata.file().to_owned(), count }),
        _ => Ok(()),
    }
}

/// Opens all files of the set to which `given` belongs.
pub(super) fn open(names: &Names, given: Part) -> Result<Vec<Part>, FormatError> {
    let mut given = Some(given);
    let mut parts = Vec::new();
    for number in 1..=names.count {
        let part = match given.take_if(|_| number == names.number) {
            Some(part) => part,
            None => Part::of(map(names, number)?)?,
        };
        expect(&part, NUMBER_KEY, part.header.metadata.require_u64(NUMBER_KEY)?, u64::from(number) - 1)?;
        expect(&part, COUNT_KEY, part.header.metadata.require_u64(COUNT_KEY)?, names.count.into())?;
        parts.push(part);
    }
    let tensors = parts.iter().map(|part| part.header.infos.len() as u64).sum();
    for part in &parts {
        if let Some(said) = part.header.metadata.u64(TENSORS_KEY)? {
            expect(part, TENSORS_KEY, said, tensors)?;
        }
    }
    Ok(parts)
}

fn map(names: &Names, number: u32) -> Result<Mapping, FormatError> {
    Mapping::open(names.path(number)).map_err(|error| match error {
        FormatError::Io { file, cause, .. } if cause.kind() == io::ErrorKind::NotFound => {
            FormatError::MissingShard { file, number, count: names.count }
        }
        other => other,
    })
}

fn expect(part: &Part, key: &'static str, found: u64, expected: u64) -> Result<(), FormatError> {
    if found == expected {
        return Ok(());
    }
    Err(FormatError::ShardMismatch { file: part.mapping.file().to_owned(), key, found, expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_shards_are_recognised() {
        let names = Names::of(Path::new("dir/a-b-00002-of-00012.gguf")).unwrap();
        assert_eq!((names.stem.as_str(), names.number, names.count), ("a-b", 2, 12));
        assert_eq!(names.path(12), Path::new("dir/a-b-00012-of-00012.gguf"));
        for other in [
            "m.gguf",
            "m-00000-of-00002.gguf",
            "m-00003-of-00002.gguf",
            "m-1-of-2.gguf",
            "m-+0001-of-00002.gguf",
            "m-00001-of-00002.bin",
            "-of-.gguf",
        ] {
            assert!(Names::of(Path::new(other)).is_none(), "{other}");
        }
    }
}
