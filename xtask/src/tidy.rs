//! The rules of ARCHITECTURE.md that a script can check. Each finding is a line `path:line: what`.

mod rules;
mod source;

use std::{fs, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace;
use source::Source;

/// Files longer than this are mentioned; no rule is broken.
const SOFT_LIMIT: usize = 500;

/// Checks every file that git knows or would add.
pub(crate) fn run() -> Result<()> {
    let sources = sources()?;
    let mut findings = rules::check(&sources);
    findings.extend(rules::check_crates(&sources));
    for source in sources.iter().filter(|s| s.path.ends_with(".rs") && s.lines() > SOFT_LIMIT) {
        eprintln!("note: {}: {} lines, more than {SOFT_LIMIT}", source.path, source.lines());
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        count => bail!("tidy found {count} breaches of the rules"),
    }
}

/// The text files of the repository.
fn sources() -> Result<Vec<Source>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(workspace());
    let listed = git.output().context("tidy asks git which files there are")?;
    ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim());
    let paths = String::from_utf8(listed.stdout).context("a file name is not UTF-8")?;
    let mut sources = Vec::new();
    for path in paths.split('\0').filter(|path| !path.is_empty()) {
        let full = workspace().join(path);
        // Files that are deleted but not committed, and binary files, are left out.
        if let Ok(text) = fs::read_to_string(&full) {
            sources.push(Source::new(path, text));
        }
    }
    Ok(sources)
}
