//! One process at a time works on a file: an advisory lock on a file of its own.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
    thread,
};

use crate::{
    StoreError,
    progress::{Reporter, Stage},
};

/// Held until dropped. The lock's file stays: deleting it would let two holders in.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Option<File>,
}

impl Lock {
    /// Waits, reporting, until nobody else holds the lock.
    pub(crate) fn acquire(path: &Path, report: &mut Reporter<'_, '_>) -> Result<Self, StoreError> {
        loop {
            if let Some(lock) = Self::attempt(path)? {
                return Ok(lock);
            }
            report.report(Stage::Waiting, 0, None)?;
            thread::sleep(crate::TICK);
        }
    }

    /// The lock, or nothing when somebody else holds it.
    pub(crate) fn attempt(path: &Path) -> Result<Option<Self>, StoreError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| StoreError::io("create", folder, e))?;
        }
        let file = File::options().create(true).truncate(false).write(true).open(path);
        let file = file.map_err(|e| StoreError::io("open", path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: Some(file) })),
            Err(TryLockError::WouldBlock) => Ok(None),
            // Some network file systems have no locks; the digest still guards the result.
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {
                Ok(Some(Self { _file: None }))
            }
            Err(TryLockError::Error(e)) => Err(StoreError::io("lock", path, e)),
        }
    }
}
