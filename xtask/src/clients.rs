//! The server, asked by real clients: those of OpenAI, Anthropic and Ollama, as published for Python, that of OpenAI
//! for Node, a browser on its page, a router in front of two servers, and Schemathesis, which tries what the
//! document of its routes allows and what it forbids.

mod server;
mod tools;

use std::fs;
use std::process::Command;

use anyhow::Result;

pub(crate) use self::server::{Held, Server};
use self::tools::{Node, Python};
use crate::cargo::run;
use crate::{fixtures, workspace};

/// Builds the server, starts it, and lets the clients ask. The short form leaves out the browser and the router, tries
/// less with Schemathesis, and does without Node where it is not installed.
pub(crate) fn test(short: bool) -> Result<()> {
    fixtures::run(false)?;
    let python = Python::prepare()?;
    let node = match (Node::find(), short) {
        (Ok(node), _) => Some(node),
        (Err(missing), true) => {
            println!("clients: SKIPPED the client for Node: {missing}");
            None
        }
        (Err(missing), false) => return Err(missing),
    };
    if let Some(node) = &node {
        node.prepare()?;
    }

    let server = Server::start(None, &[])?;
    run(python.script("check.py").args([server.address(), server::NAME]))?;
    if let Some(node) = &node {
        run(node.script("check.mjs").args([server.address(), server::NAME]))?;
    }
    if let (Some(node), false) = (&node, short) {
        let browser = tools::browser()?;
        run(node.script("page.mjs").args([server.address(), server::NAME]).arg(browser))?;
    }
    server.end()?;

    // Answers are of no interest here, only whether there are any.
    let slots = workspace().join("target/clients/slots");
    fs::create_dir_all(&slots)?;
    let slots = format!("--slot-save-path={}", slots.display());
    let server =
        Server::start(None, &["--max-tokens", "4", "--request-timeout", "20", "--parallel", "32", &slots])?;
    run(&mut schemathesis(&python, server.address(), short))?;
    server.end()?;

    if !short {
        let paths = [server::built(), server::model(), python.program("smg")];
        run(python.script("router.py").args(paths))?;
    }
    Ok(())
}

/// Every check of Schemathesis, on every route that answers by itself. The numbers are drawn anew for a long run and are always the
/// same ones for a short run, which is to tell about the change at hand.
fn schemathesis(python: &Python, address: &str, short: bool) -> Command {
    let mut command = Command::new(python.program("schemathesis"));
    command.args(["--no-color", "run", &format!("{address}/openapi.json"), "--checks", "all"]);
    command.args(["--phases", "examples,coverage,fuzzing", "--generation-database", "none"]);
    command.args([
        "--workers",
        "2",
        "--request-timeout",
        "30",
        "--max-response-time",
        "25",
        "--continue-on-failure",
    ]);
    // What a schema cannot say is in a file of hooks.
    command.env("PYTHONPATH", workspace().join("clients")).env("SCHEMATHESIS_HOOKS", "document");
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    if short {
        command.args(["--max-examples", "8", "--seed", "1"]);
    } else {
        command.args(["--max-examples", "60"]);
    }
    command
}
