//! A server to ask.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cargo::{cargo, run};
use crate::workspace;

/// The file of the model that answers.
const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// The name that clients know it by.
pub(super) const NAME: &str = "tested";

/// The binary that is built for the tests.
pub(super) fn built() -> PathBuf {
    workspace().join("target/debug/rz").with_extension(std::env::consts::EXE_EXTENSION)
}

pub(super) fn model() -> PathBuf {
    workspace().join("fixtures/cache").join(FILE)
}

/// A server, and where it listens.
pub(crate) struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts this binary, or the one that is built for it, with these flags.
    pub(crate) fn start(binary: Option<PathBuf>, flags: &[&str]) -> Result<Self> {
        let binary = match binary {
            Some(binary) => binary,
            None => {
                run(cargo().args(["build", "--quiet", "--package", "rz-cli"]))?;
                built()
            }
        };
        let mut command = Command::new(&binary);
        command.arg("serve").arg(format!("{NAME}={}", model().display())).args(flags);
        command.args(["--port", "0", "--log-level", "error"]).stdout(Stdio::piped());
        let child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        // From here on, it ends with this value, whatever happens.
        let mut server = Self { child, address: String::new() };
        let mut line = String::new();
        if let Some(out) = &mut server.child.stdout {
            BufReader::new(out.take(4096)).read_line(&mut line)?;
        }
        line.trim().trim_start_matches("listening on ").clone_into(&mut server.address);
        ensure!(server.address.starts_with("http://"), "the server did not start");
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What it holds of the system, where that tells.
    pub(crate) fn held(&self) -> Option<Held> {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = fs::read_to_string(process.join("status")).ok()?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok()
        };
        Some(Held {
            memory: number("VmRSS:")? * 1024,
            threads: number("Threads:")?,
            files: fs::read_dir(process.join("fd")).ok()?.count() as u64,
        })
    }

    /// Asks it to end, which it must do in good order.
    pub(crate) fn end(mut self) -> Result<()> {
        run(Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]))?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }
}

/// What a process holds of the system.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    /// Resident bytes.
    pub(crate) memory: u64,
    pub(crate) threads: u64,
    /// Open files, sockets among them.
    pub(crate) files: u64,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, and that was told of.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
