//! The programs that the clients need: found, or installed below `target/clients`, in the versions that
//! `clients/` pins.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::run;
use crate::workspace;

/// Where everything is installed that the clients need.
fn folder() -> PathBuf {
    workspace().join("target/clients")
}

fn clients(name: &str) -> PathBuf {
    workspace().join("clients").join(name)
}

/// A Python with the pinned clients in an environment of its own.
pub(super) struct Python(PathBuf);

impl Python {
    /// Makes the environment, once for each list of packages.
    pub(super) fn prepare() -> Result<Self> {
        let home = folder().join("venv");
        let programs = home.join(if cfg!(windows) { "Scripts" } else { "bin" });
        let python = Self(programs);
        let list = clients("requirements.txt");
        once(&list, &folder().join("requirements.txt"), &python.program("python"), || {
            // What is there without pip can be made everywhere; pip comes from outside.
            let outside = || {
                let mut command = Command::new(if cfg!(windows) { "python" } else { "python3" });
                command.arg("-m");
                command
            };
            const NEEDED: &str = "Python 3.11 or newer with pip is needed";
            run(outside().args(["venv", "--clear", "--without-pip"]).arg(&home)).context(NEEDED)?;
            let mut install = outside();
            install.args(["pip", "--python"]).arg(python.program("python"));
            install.args([
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--root-user-action",
                "ignore",
            ]);
            // Nothing is built, and nothing is taken that is not the file it was.
            install.args(["--only-binary", ":all:", "--require-hashes", "--requirement"]);
            run(install.arg(&list)).context(NEEDED)
        })?;
        Ok(python)
    }

    /// A program that a package brings.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.0.join(name).with_extension(env::consts::EXE_EXTENSION)
    }

    /// A script of `clients/`.
    pub(super) fn script(&self, name: &str) -> Command {
        let mut command = Command::new(self.program("python"));
        command.arg(clients(name));
        command
    }
}

/// Node with the pinned packages.
pub(super) struct Node {
    npm: &'static str,
}

impl Node {
    /// Node and npm, where they are installed and recent enough.
    pub(super) fn find() -> Result<Self> {
        // On Windows it is a script, which must be named in full.
        let npm = if cfg!(windows) { "npm.cmd" } else { "npm" };
        for program in ["node", npm] {
            let mut command = Command::new(program);
            let found = command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            ensure!(found.is_ok_and(|status| status.success()), "{program} is not installed");
        }
        Ok(Self { npm })
    }

    /// Installs the packages, once for each list of them, and puts the scripts beside them, where Node looks.
    pub(super) fn prepare(&self) -> Result<()> {
        let home = Self::home();
        fs::create_dir_all(&home)?;
        once(
            &clients("package-lock.json"),
            &home.join("installed.json"),
            &home.join("node_modules"),
            || {
                for list in ["package.json", "package-lock.json"] {
                    fs::copy(clients(list), home.join(list))?;
                }
                let mut install = Command::new(self.npm);
                install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]);
                run(install.arg(&home))
            },
        )?;
        for script in ["check.mjs", "page.mjs"] {
            fs::copy(clients(script), home.join(script))?;
        }
        Ok(())
    }

    fn home() -> PathBuf {
        folder().join("node")
    }

    /// A script of `clients/`.
    pub(super) fn script(&self, name: &str) -> Command {
        let mut command = Command::new("node");
        command.arg(Self::home().join(name));
        command
    }
}

/// Chromium or a relative, which root on Debian gets installed.
pub(super) fn browser() -> Result<PathBuf> {
    if let Some(found) = installed_browser() {
        return Ok(found);
    }
    let needed = "a browser is needed: install Chromium (on Debian: apt-get install chromium)";
    let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout.trim_ascii() == b"0");
    if !root || on_path("apt-get").is_none() {
        bail!("{needed}");
    }
    run(Command::new("apt-get").args(["update", "--quiet"])).context(needed)?;
    let mut install = Command::new("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive");
    run(install.args(["install", "--yes", "--quiet", "--no-install-recommends", "chromium"]))
        .context(needed)?;
    installed_browser().context(needed)
}

fn installed_browser() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let mac = Path::new("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome");
    names.into_iter().find_map(on_path).or_else(|| mac.exists().then(|| mac.to_owned()))
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Installs unless what `list` names was installed before: then `copy` has its content, and `there` exists.
fn once(list: &Path, copy: &Path, there: &Path, install: impl FnOnce() -> Result<()>) -> Result<()> {
    let wanted = fs::read(list).with_context(|| format!("cannot read {}", list.display()))?;
    if there.exists() && fs::read(copy).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    fs::create_dir_all(folder())?;
    install()?;
    fs::write(copy, wanted)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_is_installed_is_not_installed_again() {
        let folder = tempfile::tempdir().unwrap();
        let (list, copy) = (folder.path().join("list"), folder.path().join("copy"));
        let there = folder.path().join("there");
        let installs = Cell::new(0);
        let install = || {
            installs.set(installs.get() + 1);
            Ok(fs::write(&there, "")?)
        };
        fs::write(&list, "one").unwrap();
        once(&list, &copy, &there, install).unwrap();
        once(&list, &copy, &there, install).unwrap();
        assert_eq!(installs.get(), 1);
        fs::write(&list, "two").unwrap();
        once(&list, &copy, &there, install).unwrap();
        assert_eq!(installs.get(), 2);
        fs::remove_file(&there).unwrap();
        assert!(once(&list, &copy, &there, || bail!("no")).is_err());
        once(&list, &copy, &there, install).unwrap();
        assert_eq!(installs.get(), 3);
    }
}
