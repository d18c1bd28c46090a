//! The other processors: the crates that know instruction sets are compiled for them, and
//! their tests run under an emulator.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::{
    cargo::{cargo, run},
    workspace,
};

const ARM: &str = "aarch64-unknown-linux-musl";
const WASM: &str = "wasm32-wasip1";

/// Crates whose code depends on the processor.
const TESTED: [&str; 4] = ["--package", "rz-kernels", "--package", "rz-quant"];

/// Runs the tests for NEON with and without dot products, then those for WebAssembly.
pub(crate) fn run_tests() -> Result<()> {
    for target in [ARM, WASM] {
        need_target(target)?;
    }
    need_program("qemu-aarch64", "apt-get install qemu-user")?;
    need_program("node", "see https://nodejs.org")?;

    // A static program and Rust's own linker: no tool chain of the other system is needed.
    let arm = |command: &mut Command| {
        command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");
        command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUNNER", "qemu-aarch64");
    };
    run(&mut with(&arm, tests(ARM)))?;
    // A processor without dot products must not be taken for one that has them.
    run(with(&arm, tests(ARM)).env("QEMU_CPU", "cortex-a53").args(["arch::"]))?;
    run(&mut with(&arm, check(ARM)))?;

    let wasi = workspace().join("xtask/src/cross/wasi.mjs");
    let wasm = |command: &mut Command| {
        command.env("CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS", "-C target-feature=+simd128");
        command.env("CARGO_TARGET_WASM32_WASIP1_RUNNER", format!("node --no-warnings {}", wasi.display()));
    };
    // There are neither threads nor unwinding, which is what the tests of the pool are about,
    // and no temporary folder for those of processors.
    run(with(&wasm, tests(WASM)).args(["--", "--skip", "pool::", "--skip", "processors::"]))?;
    run(&mut with(&wasm, check(WASM)))
}

fn with(settings: &dyn Fn(&mut Command), mut command: Command) -> Command {
    settings(&mut command);
    command
}

fn tests(target: &str) -> Command {
    let mut command = for_target("test", target);
    command.args(TESTED).args(["--lib", "--tests"]);
    command
}

/// Everything up to the forward pass compiles.
fn check(target: &str) -> Command {
    let mut command = for_target("check", target);
    command.args(["--package", "rz-model"]);
    command
}

fn for_target(what: &str, target: &str) -> Command {
    let mut command = cargo();
    command.args([what, "--target", target, "--target-dir", "target/cross"]);
    command
}

/// Fails where the target's standard library is missing, and says how to get it.
fn need_target(target: &str) -> Result<()> {
    let found = Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output();
    let folder = found.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    if !Path::new(folder.trim()).is_dir() {
        bail!("no standard library for {target}: run `rustup target add {target}`");
    }
    Ok(())
}

fn need_program(name: &str, how: &str) -> Result<()> {
    let started = Command::new(name).arg("--version").stdout(Stdio::null()).status();
    if !started.is_ok_and(|status| status.success()) {
        bail!("{name} is not installed: {how}");
    }
    Ok(())
}
