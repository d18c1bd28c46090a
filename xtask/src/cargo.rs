//! Chores that run cargo.

use std::{env, process::Command};

use anyhow::{Context, Result, bail};

use crate::{fixtures, workspace};

/// Fixtures, then `cargo test`; with `models`, also the tests on further models.
pub(crate) fn test(models: bool, arguments: &[String]) -> Result<()> {
    fixtures::run(models)?;
    let mut command = cargo();
    command.arg("test").arg("--no-fail-fast");
    if models {
        command.args(["--features", "rz-model/all-fixtures"]);
    }
    if !names_a_package(arguments) {
        command.arg("--workspace");
    }
    run(command.args(arguments))
}

/// What continuous integration does.
pub(crate) fn ci() -> Result<()> {
    run(Command::new("bash").arg(".ci/run"))
}

/// The models of loom, in a target folder of their own: every crate is compiled otherwise.
pub(crate) fn loom() -> Result<()> {
    for (package, models) in
        [("rz-kernels", "pool::regions::models"), ("rz-engine", "serve::mailbox::models")]
    {
        let mut command = cargo();
        command.env("RUSTFLAGS", "--cfg loom").args(["test", "--target-dir", "target/loom"]);
        run(command.args(["--package", package, "--lib", models]))?;
    }
    Ok(())
}

/// Line coverage of the tests.
pub(crate) fn coverage(arguments: &[String]) -> Result<()> {
    if !has_subcommand("llvm-cov") {
        bail!(
            "cargo-llvm-cov is not installed: run `cargo install cargo-llvm-cov` and `rustup component add llvm-tools`"
        );
    }
    fixtures::run(false)?;
    let mut command = cargo();
    command.arg("llvm-cov");
    if !names_a_package(arguments) {
        command.arg("--workspace");
    }
    run(command.args(arguments))
}

/// A cargo command that starts in the workspace.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Whether `cargo NAME` is installed.
pub(crate) fn has_subcommand(name: &str) -> bool {
    cargo().args([name, "--version"]).output().is_ok_and(|output| output.status.success())
}

/// Runs the command in the workspace and fails if it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status =
        command.current_dir(workspace()).status().with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("{program} ended with {status}");
    }
    Ok(())
}

/// Whether the arguments before `--` choose packages.
fn names_a_package(arguments: &[String]) -> bool {
    let mut before = arguments.iter().take_while(|argument| *argument != "--");
    before
        .any(|a| a == "--workspace" || a == "--package" || a.starts_with("--package=") || a.starts_with("-p"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_noticed() {
        let names = |text: &str| names_a_package(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(names("-p rz-store"));
        assert!(names("-prz-store"));
        assert!(names("--release --package=x"));
        assert!(!names("--release some_test"));
        assert!(!names("-- -p"));
    }
}
