//! A server as a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use super::rz;

/// A server, and where it listens. It is killed at the latest when the test ends.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: String,
    pub(crate) out: BufReader<ChildStdout>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Starts a server on a free port.
pub(crate) fn start(arguments: &[&str]) -> Server {
    start_by(rz(), arguments)
}

/// The same by a command with an environment of its own.
pub(crate) fn start_by(mut command: Command, arguments: &[&str]) -> Server {
    command.args(["serve", "--port", "0", "--log-level", "error"]).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("rz can be started");
    let mut out = BufReader::new(child.stdout.take().expect("its output"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| {
        let mut error = String::new();
        child.stderr.take().expect("its messages").read_to_string(&mut error).expect("text");
        panic!("{line:?} {error}")
    });
    Server { address: address.to_owned(), child, out }
}

impl Server {
    /// Sends a request and gives the status and the body of the answer.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).expect("a connection");
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{headers}", self.address);
        write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).expect("the request is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    /// The JSON of a good answer.
    pub(crate) fn ask(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.send("POST", path, "", &body.to_string());
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).expect("JSON")
    }
}
