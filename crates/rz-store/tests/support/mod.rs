//! A tiny HTTP server, and what tests of fetching share.
#![allow(dead_code, reason = "each test binary uses its own share")]

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{Shutdown, TcpListener, TcpStream},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rz_store::{Artifact, Config, ModelRef, Progress, Source};
use sha2::{Digest, Sha256};

/// A request as it arrived; header names in lower case.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The start of the range that is asked for.
    pub(crate) fn start(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// An answer; the connection closes after it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Send only this much of the body, then close.
    pub(crate) cut: Option<usize>,
    /// Leave out Content-Length.
    pub(crate) no_length: bool,
    /// Send what `cut` allows, then keep the connection open and silent.
    pub(crate) stall: bool,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn body(body: &[u8]) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn cut(mut self, at: usize) -> Self {
        self.cut = Some(at);
        self
    }
}

/// A server on a free port of this machine. Its thread ends with the test process.
pub(crate) struct Server {
    pub(crate) endpoint: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// `answer` gets each request and how many came before it.
    pub(crate) fn start(mut answer: impl FnMut(&Request, usize) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        thread::spawn(move || {
            let mut stalled = Vec::new();
            for connection in listener.incoming() {
                let Ok(mut connection) = connection else { continue };
                let Some(request) = read_request(&connection) else { continue };
                let before = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(request.clone());
                    seen.len() - 1
                };
                let reply = answer(&request, before);
                // A client that hung up is part of some tests.
                let _ = send(&mut connection, &reply);
                if reply.stall {
                    stalled.push(connection);
                } else {
                    let _ = connection.shutdown(Shutdown::Both);
                }
            }
        });
        Self { endpoint, requests }
    }

    /// Serves `content` under every path, honouring ranges, with this entity tag.
    pub(crate) fn file(content: Vec<u8>, etag: &'static str) -> Self {
        Self::start(move |request, _| ranged(request, &content, etag))
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

/// What a good file server answers: a part if one is asked for and the tag still fits, else the whole.
pub(crate) fn ranged(request: &Request, content: &[u8], etag: &str) -> Reply {
    let fits = request.header("if-range").is_none_or(|tag| tag == etag);
    match request.start().filter(|_| fits) {
        None => Reply::body(content).header("etag", etag),
        Some(start) if start < content.len() => {
            let range = format!("bytes {start}-{}/{}", content.len() - 1, content.len());
            let part = Reply { status: 206, ..Reply::body(&content[start..]) };
            part.header("content-range", &range).header("etag", etag)
        }
        Some(_) => Reply::status(416).header("content-range", &format!("bytes */{}", content.len())),
    }
}

fn read_request(connection: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(connection).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut headers = HashMap::new();
    for line in lines {
        let line = line.ok()?;
        match line.split_once(':') {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    Some(Request { path, headers })
}

fn send(connection: &mut TcpStream, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Something\r\nconnection: close\r\n", reply.status);
    if !reply.no_length {
        head += &format!("content-length: {}\r\n", reply.body.len());
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    connection.write_all(head.as_bytes())?;
    connection.write_all(b"\r\n")?;
    connection.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())])?;
    connection.flush()
}

/// Settings for a store in `root` that fetches from `endpoint`, with hardly any pauses.
pub(crate) fn config(root: &Path, endpoint: &str) -> Config {
    let mut config = Config::new(root);
    config.hf_endpoint = endpoint.into();
    config.attempts = 3;
    config.backoff = Duration::from_millis(1);
    config
}

/// Bytes that begin like a GGUF file and repeat nowhere.
pub(crate) fn model(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = b"GGUF".to_vec();
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An artifact with known size and digest.
pub(crate) fn artifact(content: &[u8], references: &[&str]) -> Artifact {
    let source = |text: &&str| match ModelRef::parse(text).unwrap() {
        ModelRef::Hf(file) => Source::Hf(file),
        ModelRef::Pip(member) => Source::Pip(vec![member]),
        other => panic!("{other} is no source"),
    };
    Artifact {
        name: "test model".into(),
        file: "m.gguf".into(),
        bytes: Some(content.len() as u64),
        sha256: Some(sha256(content)),
        sources: references.iter().map(source).collect(),
    }
}

/// A callback that never cancels.
pub(crate) fn go_on(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Names of all files below `folder`, relative to it.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, base: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, base, found);
            } else {
                found.push(path.strip_prefix(base).unwrap().to_string_lossy().replace('\\', "/"));
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.sort();
    found
}
