//! The binary, run as people and programs run it.
#![allow(dead_code)] // not every test file uses everything

pub(crate) mod server;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rz_testkit::fixture;
use serde_json::Value;

/// Longer than this takes nothing here, however slow the machine; it ends what hangs.
const TOO_LONG: Duration = Duration::from_secs(300);

/// The real model.
pub(crate) fn model() -> PathBuf {
    fixture("SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// The command, in an environment of its own: no network, an empty store, no input.
pub(crate) fn rz() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rz"));
    for variable in
        ["RZ_MODEL", "HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"]
    {
        command.env_remove(variable);
    }
    command.env("RZ_OFFLINE", "1").env("RZ_CACHE", empty_folder()).stdin(Stdio::null());
    command
}

/// Runs a command to its end, however that is.
pub(crate) fn output(command: Command, input: &[u8]) -> Output {
    let mut command = assert_cmd::Command::from_std(command);
    command.timeout(TOO_LONG).write_stdin(input);
    command.output().expect("rz can be started")
}

/// Runs `rz` with these arguments, which must succeed, and gives its standard output.
pub(crate) fn stdout<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> String {
    stdout_of(arguments, b"")
}

/// As [`stdout`], with input.
pub(crate) fn stdout_of<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>, input: &[u8]) -> String {
    let mut command = rz();
    command.args(arguments);
    let output = output(command, input);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// As [`stdout`], for a command that prints JSON.
pub(crate) fn json<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Value {
    let text = stdout(arguments);
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).expect("JSON")
}

/// Runs a command that must be refused, and gives its message: one line, exit code 2, and nothing else.
pub(crate) fn refusal(command: Command, input: &[u8]) -> String {
    let output = output(command, input);
    let message = String::from_utf8(output.stderr.clone()).expect("text");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(message.starts_with("error: ") && !message.contains("panicked"), "{message}");
    assert!(message.ends_with('\n') && message.lines().count() == 1, "{message}");
    assert!(output.stdout.is_empty(), "{output:?}");
    message
}

/// `--model` and the path.
pub(crate) fn with_model(path: &Path) -> [&OsStr; 2] {
    [OsStr::new("--model"), path.as_os_str()]
}

/// The ids in a JSON array.
pub(crate) fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("an array").iter();
    ids.map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn empty_folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().expect("a folder for temporary files")).path()
}
