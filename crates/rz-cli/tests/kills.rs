//! Servers that are killed in the middle of something, and what the next one makes of what they left.
#![cfg(all(unix, feature = "serve"))]

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::server::{Server, start, start_by};
use common::{model, output, rz};
use rz_quant::DType;
use rz_testkit::gguf::TinyLlama;
use serde_json::{Value, json};

/// A hub with one file at every path.
struct Hub {
    endpoint: String,
    /// How many bytes it gives before it falls silent.
    gives: Arc<AtomicUsize>,
    /// From which byte on each request asked.
    asked: Arc<Mutex<Vec<usize>>>,
}

impl Hub {
    fn start(content: Vec<u8>) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let (gives, asked) = (Arc::new(AtomicUsize::new(usize::MAX)), Arc::new(Mutex::new(Vec::new())));
        let hub = Hub { endpoint, gives: gives.clone(), asked: asked.clone() };
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming().filter_map(Result::ok) {
                let from = asked_from(&stream).unwrap_or(0);
                asked.lock().expect("a lock").push(from);
                let given = gives.load(Ordering::SeqCst);
                // Who asks may be killed meanwhile.
                let _ = answer(&stream, &content, from, given);
                if given < content.len() - from {
                    silent.push(stream);
                }
            }
        });
        hub
    }

    /// The command, with a store of its own that fetches from here.
    fn rz(&self, store: &Path) -> Command {
        let mut command = rz();
        command.env_remove("RZ_OFFLINE").env("HF_ENDPOINT", &self.endpoint).env("RZ_CACHE", store);
        command
    }
}

/// Reads the head of a request, and from which byte on it wants the file.
fn asked_from(stream: &TcpStream) -> Option<usize> {
    let lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let headers: HashMap<_, _> = lines
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
        .collect();
    headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

fn answer(mut stream: &TcpStream, content: &[u8], from: usize, most: usize) -> std::io::Result<()> {
    let (len, rest) = (content.len(), &content[from.min(content.len())..]);
    let status = if from == 0 { "200 OK" } else { "206 Partial Content" };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nconnection: close\r\netag: \"one\"\r\ncontent-length: {}\r\n\
         content-range: bytes {from}-{}/{len}\r\n\r\n",
        rest.len(),
        len - 1
    )?;
    stream.write_all(&rest[..most.min(rest.len())])?;
    stream.flush()
}

/// Waits for something that another process does.
fn until<T>(mut found: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = found() {
            return found;
        }
        std::thread::yield_now();
    }
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let below = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    entries.flat_map(|entry| below(entry.path())).collect()
}

fn find(folder: &Path, like: impl Fn(&str) -> bool) -> Option<PathBuf> {
    files(folder).into_iter().find(|path| like(&path.file_name().unwrap_or_default().to_string_lossy()))
}

/// Ends a server as nothing else does: with SIGKILL.
fn kill(mut server: Server) {
    server.child.kill().expect("a signal");
    server.child.wait().expect("an end");
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path")
}

#[test]
fn in_the_middle_of_saving_a_slot() {
    let folder = tempfile::tempdir().expect("a folder");
    let slots = folder.path().join("slots");
    let file = model();
    let arguments = ["-m", path(&file), "-c", "2048", "--parallel", "2", "--slot-save-path", path(&slots)];
    let server = start(&arguments);
    let text: String = (0..110).map(|number| format!("{number} is followed by {}. ", number + 1)).collect();
    let body = json!({ "prompt": text, "n_predict": 8, "temperature": 0, "id_slot": 1 });
    let expected = server.ask("/completion", &body);
    let saved = server.ask("/slots/1?action=save", &json!({ "filename": "whole" }));
    assert!(saved["n_saved"].as_u64().expect("a number") > 500, "{saved}");
    assert_eq!(saved["n_written"], std::fs::metadata(slots.join("whole")).expect("a file").len());

    // Known to be in the middle: something of the file is there.
    let address = server.address.clone();
    let body_of_save = r#"{"filename": "half"}"#;
    let mut stream = TcpStream::connect(&address).expect("a connection");
    write!(
        stream,
        "POST /slots/1?action=save HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n{body_of_save}",
        body_of_save.len()
    )
    .expect("a request");
    until(|| find(&slots, |name| name.starts_with("half")));
    kill(server);
    let left = files(&slots).len();
    assert_eq!(left, 2, "the slot that was saved, and the other one or a part of it");

    let server = start(&arguments);
    assert!(find(&slots, |name| name.ends_with(".part")).is_none());
    let restored = server.ask("/slots/0?action=restore", &json!({ "filename": "whole" }));
    assert_eq!((&restored["n_restored"], &restored["n_read"]), (&saved["n_saved"], &saved["n_written"]));
    let mut again = body.clone();
    again["id_slot"] = json!(0);
    let again = server.ask("/completion", &again);
    assert_eq!(again["content"], expected["content"]);
    assert!(again["tokens_cached"].as_u64().expect("a number") > 500, "{again}");
    // The other one is there as a whole or not at all, and can be saved now.
    let (status, answer) = server.send("POST", "/slots/0?action=restore", "", body_of_save);
    assert!(matches!(status, 200 | 404), "{answer}");
    assert_eq!(
        server.ask("/slots/0?action=save", &json!({ "filename": "half" }))["n_written"],
        saved["n_written"]
    );
    // What is damaged is refused.
    let whole = std::fs::read(slots.join("whole")).expect("a file");
    std::fs::write(slots.join("whole"), &whole[..whole.len() - 7]).expect("a file");
    let (status, answer) = server.send("POST", "/slots/0?action=restore", "", r#"{"filename": "whole"}"#);
    assert!(status == 409 && !answer.contains(path(&slots)), "{status} {answer}");
}

#[test]
fn in_the_middle_of_a_pull() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    let tiny = TinyLlama { vocab: 2000, dtype: DType::Q4_0, ..TinyLlama::default() }.write(folder.path());
    let content = std::fs::read(&tiny).expect("a file");
    let hub = Hub::start(content.clone());
    hub.gives.store(content.len() / 2, Ordering::SeqCst);
    let name = "hf:org/repo/tiny.gguf";
    let file = model();
    let main = format!("main={}", path(&file));
    let arguments = [main.as_str(), "--lazy", "--allow-pull"];
    let server = start_by(hub.rz(&store), &arguments);
    let address = server.address.clone();
    let pull = json!({ "model": name }).to_string();
    let mut stream = TcpStream::connect(&address).expect("a connection");
    write!(
        stream,
        "POST /api/pull HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n{pull}",
        pull.len()
    )
    .expect("a request");
    until(|| {
        let part = find(&store, |name| name == "tiny.gguf.part")?;
        std::fs::metadata(part).ok().filter(|meta| meta.len() > 0)
    });
    kill(server);

    hub.gives.store(usize::MAX, Ordering::SeqCst);
    let server = start_by(hub.rz(&store), &arguments);
    let names = |route: &str, list: &str, name: &str| {
        let (status, body) = server.send("GET", route, "", "");
        assert_eq!(status, 200, "{body}");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        let entries = body[list].as_array().expect("a list").iter();
        entries.map(|entry| entry[name].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    let ask = json!({ "model": name, "prompt": "Once", "max_tokens": 3, "temperature": 0 });
    assert_eq!(names("/api/tags", "models", "name"), ["main"]);
    assert_eq!(server.send("POST", "/v1/completions", "", &ask.to_string()).0, 404);
    let before = hub.asked.lock().expect("a lock").len();
    let pulled = server.ask("/api/pull", &json!({ "model": name, "stream": false }));
    assert_eq!(pulled["status"], "success");
    let asked = hub.asked.lock().expect("a lock")[before..].to_vec();
    assert!(asked.iter().any(|from| *from > 0), "what was there is not fetched again: {asked:?}");
    assert!(find(&store, |name| name.ends_with(".part")).is_none());

    // What is pulled is served at once, packed, and like the file itself.
    assert!(find(&store, |name| name.ends_with(".rzpack")).is_some());
    assert_eq!(names("/api/tags", "models", "name"), ["main", name]);
    assert_eq!(names("/v1/models", "data", "id"), ["main", name]);
    let answer = server.ask("/v1/completions", &ask);
    let plain = start(&["-m", path(&tiny)]);
    let mut same = ask.clone();
    same.as_object_mut().expect("an object").remove("model");
    assert_eq!(plain.ask("/v1/completions", &same)["choices"], answer["choices"]);
    let shown = server.ask("/api/show", &json!({ "model": name }));
    assert_eq!(shown["details"]["quantization_level"], "Q4_0", "{shown}");

    // Also by a server that finds it, until it is deleted.
    drop(server);
    let server = start_by(hub.rz(&store), &arguments);
    assert_eq!(server.ask("/v1/completions", &ask)["choices"], answer["choices"]);
    let name_of = json!({ "model": name }).to_string();
    assert_eq!(server.send("DELETE", "/api/delete", "", &name_of).0, 200);
    assert_eq!(server.send("POST", "/v1/completions", "", &ask.to_string()).0, 404);
    assert!(find(&store, |name| name.starts_with("tiny")).is_none());
    assert_eq!(server.send("DELETE", "/api/delete", "", r#"{"model": "main"}"#).0, 400);
}

#[test]
fn in_the_middle_of_loading() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    let hub = Hub::start(std::fs::read(model()).expect("a file"));
    let name = "hf:org/repo/model.gguf";
    let mut fetch = hub.rz(&store);
    fetch.args(["pull", "--no-pack", name]);
    let fetched = output(fetch, b"");
    assert!(fetched.status.success(), "{fetched:?}");
    let file = find(&store, |name| name == "model.gguf").expect("the model");
    // A copy of a layout that is no more has to be made anew before it is loaded.
    std::fs::write(file.with_file_name("packed-0-0000000000000000.rzpack"), b"old").expect("a file");

    let mut packing = hub.rz(&store);
    packing.args(["serve", "--port", "0", "-m", name]).stdout(std::process::Stdio::null());
    let mut child = packing.stderr(std::process::Stdio::null()).spawn().expect("rz can be started");
    until(|| find(&store, |name| name.starts_with(".packed-")));
    child.kill().expect("a signal");
    child.wait().expect("an end");

    // The next one, killed as soon as it says that it is loading.
    let server = start_by(hub.rz(&store), &["-m", name]);
    until(|| Some(server.send("GET", "/health", "", "")).filter(|(status, _)| matches!(status, 200 | 503)));
    kill(server);

    let server = start_by(hub.rz(&store), &["-m", name]);
    let ask = json!({ "prompt": "One, two,", "max_tokens": 4, "temperature": 0 });
    let answer = server.ask("/v1/completions", &ask);
    let file = model();
    let plain = start(&["-m", path(&file)]);
    assert_eq!(plain.ask("/v1/completions", &ask)["choices"], answer["choices"]);
    let copies: Vec<_> =
        files(&store).into_iter().filter(|path| path.to_string_lossy().contains("packed-")).collect();
    assert_eq!(copies.len(), 1, "{copies:?}");
}
