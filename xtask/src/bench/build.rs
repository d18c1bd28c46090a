//! Building what is measured.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::target;
use crate::{cargo, workspace};

const NAME: &str = if cfg!(windows) { "rz.exe" } else { "rz" };

/// The `rz` of the working tree.
pub(super) fn release() -> Result<PathBuf> {
    cargo::run(cargo::cargo().args(["build", "--release", "--package", "rz-cli"]))?;
    // A copy: builds that follow do not change what is being measured.
    keep(&workspace().join("target/release").join(NAME), "this")
}

/// Another build: a path of an `rz`, or a revision, which is built once in a checkout of its own.
pub(super) fn other(base: &str) -> Result<PathBuf> {
    let path = Path::new(base);
    if path.is_file() {
        return Ok(path.canonicalize()?);
    }
    let commit = git(&["rev-parse", "--verify", "--end-of-options", &format!("{base}^{{commit}}")])
        .with_context(|| format!("'{base}' is neither a file nor a revision"))?;
    let kept = target()?.join(format!("{commit}-{NAME}"));
    if kept.exists() {
        return Ok(kept);
    }
    let checkout = target()?.join("checkout");
    let place = checkout.to_string_lossy().into_owned();
    if checkout.exists() {
        git(&["worktree", "remove", "--force", &place])?;
    }
    git(&["worktree", "add", "--detach", &place, &commit])?;
    let folder = target()?.join("build");
    let mut command = cargo::cargo();
    command.args(["build", "--release", "--package", "rz-cli", "--manifest-path"]);
    command.arg(checkout.join("Cargo.toml")).arg("--target-dir").arg(&folder);
    let built = cargo::run(&mut command);
    git(&["worktree", "remove", "--force", &place])?;
    built?;
    keep(&folder.join("release").join(NAME), &commit)
}

/// The commit of the working tree, with a `+` when something is changed.
pub(super) fn commit() -> Result<String> {
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Ok(git(&["rev-parse", "HEAD"])? + if changed { "+" } else { "" })
}

fn keep(built: &Path, name: &str) -> Result<PathBuf> {
    let kept = target()?.join(format!("{name}-{NAME}"));
    // Removed first: a program that is still running cannot be written into.
    let _ = fs::remove_file(&kept);
    fs::copy(built, &kept).with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(kept)
}

fn git(arguments: &[&str]) -> Result<String> {
    let output =
        Command::new("git").args(arguments).current_dir(workspace()).output().context("cannot run git")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "git {}: {}", arguments.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
