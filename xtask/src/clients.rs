//! The server, asked by real clients: those of OpenAI, Anthropic and Ollama, as published for Python, and that of
//! OpenAI for Node.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cargo::{cargo, run};
use crate::soak::resident;
use crate::{fixtures, workspace};

/// The model that answers.
const MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// Builds the server, starts it, and lets the clients ask.
pub(crate) fn test() -> Result<()> {
    let (python, scripts) = (python()?, scripts()?);
    let server = Server::start(None)?;
    run(Command::new(&python).arg("clients/check.py").args([server.address(), "tested"]))?;
    for script in SCRIPTS {
        run(Command::new("node").arg(scripts.join(script)).args([server.address(), "tested"]))?;
    }
    server.end()?;
    let router = python.with_file_name("smg");
    let mut spread = Command::new(&python);
    run(spread.arg("clients/router.py").args([&built(), &model(), &router]))
}

/// The binary that is built for the tests.
fn built() -> PathBuf {
    workspace().join("target/debug/rz")
}

fn model() -> PathBuf {
    workspace().join("fixtures/cache").join(MODEL)
}

/// A Python with the pinned clients, made once for each list of them.
fn python() -> Result<PathBuf> {
    let folder = workspace().join("target/clients");
    let wanted = fs::read_to_string(workspace().join("clients/requirements.txt"))?;
    let python = folder.join("venv/bin/python");
    let installed = folder.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|text| text == wanted) && python.exists() {
        return Ok(python);
    }
    fs::create_dir_all(&folder)?;
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder.join("venv")))?;
    let mut install = Command::new(&python);
    run(install.args(["-m", "pip", "install", "--quiet", "--requirement", "clients/requirements.txt"]))?;
    fs::write(&installed, wanted)?;
    Ok(python)
}

/// The scripts for Node: a client, and a browser on the web page.
const SCRIPTS: [&str; 2] = ["check.mjs", "page.mjs"];

/// The folder of the scripts for Node, with the pinned packages that they use.
fn scripts() -> Result<PathBuf> {
    let folder = workspace().join("target/clients/node");
    let wanted = fs::read_to_string(workspace().join("clients/package.json"))?;
    fs::create_dir_all(&folder)?;
    let installed = folder.join("package.json");
    if !fs::read_to_string(&installed).is_ok_and(|text| text == wanted)
        || !folder.join("node_modules").exists()
    {
        fs::write(&installed, wanted)?;
        run(Command::new("npm").args(["install", "--no-audit", "--no-fund", "--prefix"]).arg(&folder))?;
    }
    for script in SCRIPTS {
        fs::copy(workspace().join("clients").join(script), folder.join(script))?;
    }
    Ok(folder)
}

/// A server, and where it listens.
pub(crate) struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts this binary, or the one that is built for it, with the model under the name `tested`.
    pub(crate) fn start(binary: Option<PathBuf>) -> Result<Self> {
        fixtures::run(false)?;
        let binary = match binary {
            Some(binary) => binary,
            None => {
                run(cargo().args(["build", "--package", "rz-cli"]))?;
                built()
            }
        };
        let model = format!("tested={}", model().display());
        let mut command = Command::new(&binary);
        command.args(["serve", &model, "--port", "0", "--log-level", "warn"]).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        let mut line = String::new();
        if let Some(out) = &mut child.stdout {
            BufReader::new(out.take(4096)).read_line(&mut line)?;
        }
        let server = Self { address: line.trim().trim_start_matches("listening on ").to_owned(), child };
        ensure!(server.address.starts_with("http://"), "the server did not start");
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Its resident memory, where the system tells.
    pub(crate) fn memory(&self) -> Option<u64> {
        resident(self.child.id())
    }

    /// Asks it to end, which it must do in good order.
    pub(crate) fn end(mut self) -> Result<()> {
        run(Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]))?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, and that was told of.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
