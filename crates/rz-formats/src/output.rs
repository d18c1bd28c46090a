//! Writing files so that they appear whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{FormatError, Place};

/// Tells the files apart that one process writes at a time.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// Writes the file at `path` with `write`. A file that was there is replaced, not written
/// into, and stays when `write` fails.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let failed = |cause| FormatError::Io { file: path.to_owned(), action: "write", cause };
    // Beside the final place, so that the rename stays inside one file system.
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?);
    name.push(format!(".{}-{}.part", std::process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed)));
    let part = path.with_file_name(name);
    let written = File::create(&part).map_err(failed).and_then(|file| {
        let mut out = BufWriter::with_capacity(1 << 18, file);
        write(&mut out)?;
        let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
        // Before it gets its name: after a crash, what has the name is whole.
        file.sync_all().map_err(failed)?;
        fs::rename(&part, path).map_err(failed)
    });
    if written.is_err() {
        // The error that is returned matters more than one of cleaning up.
        let _ = fs::remove_file(&part);
    }
    written
}

/// The place of what is wrong in a file that does not exist yet.
pub(crate) fn nowhere() -> Place {
    Place { file: PathBuf::from("(new file)"), offset: None }
}
