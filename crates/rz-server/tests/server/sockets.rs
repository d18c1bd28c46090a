//! Real sockets: connections, limits, an orderly end.

use std::time::Duration;

use rz_server::{Address, Config, Listener, ServeOptions, serve};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::chat::until;
use crate::fake::{Script, Server, TEMPLATE, server_with};

struct Running {
    server: Server,
    address: String,
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
}

async fn run(script: Script, address: Address, set: impl FnOnce(&mut ServeOptions)) -> Running {
    run_with(Config::default(), script, address, set).await
}

async fn run_with(
    config: Config,
    script: Script,
    address: Address,
    set: impl FnOnce(&mut ServeOptions),
) -> Running {
    let server = server_with(TEMPLATE, script, config);
    let listener = Listener::bind(&address).await.unwrap();
    let address = match listener.socket_address() {
        Some(address) => address.to_string(),
        None => listener.address().trim_start_matches("unix:").to_owned(),
    };
    let (stop, stopped) = oneshot::channel();
    let mut options = ServeOptions::default();
    set(&mut options);
    let app = server.app.clone();
    let serving = tokio::spawn(async move {
        serve(app, listener, options, async { stopped.await.unwrap_or_default() }).await.unwrap();
    });
    Running { server, address, stop, serving }
}

fn local() -> Address {
    Address::Tcp("127.0.0.1".into(), 0)
}

fn hello(stream: bool) -> String {
    let body = json!({ "stream": stream, "messages": [{ "role": "user", "content": "Hi" }] }).to_string();
    format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Sends a request on a connection of its own and gives all that comes back until that is closed.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is reset after its answer is closed, too.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn requests_are_answered_until_the_server_ends() {
    let running = run(Script::Say(vec!["x"]), local(), |_| {}).await;
    let request = "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = exchange(TcpStream::connect(&running.address).await.unwrap(), request).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("{\"status\":\"ok\"}"), "{answer}");
    let refused = Listener::bind(&Address::Tcp(
        "127.0.0.1".into(),
        running.address.rsplit(':').next().unwrap().parse().unwrap(),
    ))
    .await;
    assert!(refused.unwrap_err().to_string().starts_with("cannot listen on 127.0.0.1:"));
    running.stop.send(()).unwrap();
    running.serving.await.unwrap();
    assert!(TcpStream::connect(&running.address).await.is_err());
}

#[cfg(unix)]
#[tokio::test]
async fn a_socket_in_the_file_system_is_made_and_removed() {
    use tokio::net::UnixStream;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rz.sock");
    // What an earlier server left behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let running = run(Script::Say(vec!["x"]), Address::Unix(path.clone()), |_| {}).await;
    let request = "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = exchange(UnixStream::connect(&running.address).await.unwrap(), request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(Listener::bind(&Address::Unix(path.clone())).await.is_err(), "it is in use");
    running.stop.send(()).unwrap();
    running.serving.await.unwrap();
    assert!(!path.exists());
    std::fs::write(&path, "somebody's file").unwrap();
    assert!(Listener::bind(&Address::Unix(path.clone())).await.is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "somebody's file");
}

#[tokio::test]
async fn a_server_that_ends_answers_what_it_took_and_takes_no_more() {
    let running =
        run(Script::Hang(vec!["Hel"]), local(), |options| options.drain_time = Duration::from_secs(60)).await;
    let mut stream = TcpStream::connect(&running.address).await.unwrap();
    stream.write_all(hello(true).as_bytes()).await.unwrap();
    let server = &running.server;
    until(|| server.app.busy() == 1).await;
    running.stop.send(()).unwrap();
    until(|| server.app.is_draining()).await;
    // Probes and others are still answered, but not with a model.
    let health = "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = exchange(TcpStream::connect(&running.address).await.unwrap(), health).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("draining"), "{answer}");
    let close = hello(false).replace("host: x", "host: x\r\nconnection: close");
    let answer = exchange(TcpStream::connect(&running.address).await.unwrap(), &close).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after"), "{answer}");
    assert!(!running.serving.is_finished());
    // The last client leaves.
    drop(stream);
    running.serving.await.unwrap();
    assert!(running.server.model.all_cancelled());
}

#[tokio::test]
async fn a_server_does_not_wait_for_ever_for_its_end() {
    let running =
        run(Script::Hang(vec![]), local(), |options| options.drain_time = Duration::from_millis(20)).await;
    let mut stream = TcpStream::connect(&running.address).await.unwrap();
    stream.write_all(hello(true).as_bytes()).await.unwrap();
    until(|| running.server.app.busy() == 1).await;
    running.stop.send(()).unwrap();
    running.serving.await.unwrap();
}

/// The whole of an answer with an error object.
fn assert_refused(answer: &str, status: u16) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["error"]["type"], "invalid_request_error", "{body}");
    assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()));
}

#[tokio::test]
async fn a_body_of_a_gigabyte_is_refused_before_it_is_there() {
    let running = run(Script::Say(vec!["x"]), local(), |_| {}).await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n";
    let stream = TcpStream::connect(&running.address).await.unwrap();
    // Nothing of it is sent.
    assert_refused(&exchange(stream, &format!("{head}content-length: 1073741824\r\n\r\n")).await, 413);

    // In pieces, without a word about how many.
    let (mut reading, mut writing) = TcpStream::connect(&running.address).await.unwrap().into_split();
    let sending = tokio::spawn(async move {
        writing.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes()).await.unwrap();
        let piece = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
        let mut sent = 0;
        while sent < 1024 && writing.write_all(&piece).await.is_ok() {
            sent += 1;
        }
        sent
    });
    let mut answer = [0; 4096];
    let len = reading.read(&mut answer).await.unwrap();
    assert_refused(&String::from_utf8_lossy(&answer[..len]), 413);
    drop(reading);
    assert!(sending.await.unwrap() < 1024, "all of it was read");
    assert!(running.server.model.jobs.lock().unwrap().is_empty());
}

#[tokio::test]
async fn heads_are_bounded_in_size_and_time() {
    let running =
        run(Script::Say(vec!["x"]), local(), |options| options.head_time = Duration::from_millis(50)).await;
    let connect = async || TcpStream::connect(&running.address).await.unwrap();
    let large = format!("GET /health HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "x".repeat(10 << 20));
    let mut stream = connect().await;
    stream.write_all(large.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_refused(&String::from_utf8_lossy(&answer), 431);
    // A head that never ends: the connection is closed.
    exchange(connect().await, "GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ").await;
    for wrong in ["\x16\x03\x01\x02\x00\x01\x00\x01|\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"] {
        assert_refused(&exchange(connect().await, wrong).await, 400);
    }
    let good =
        exchange(connect().await, "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(good.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn clients_that_leave_in_the_middle_leave_nothing_behind() {
    let running = run(Script::Hang(vec!["Hel"]), local(), |_| {}).await;
    for stream in [true, false] {
        for _ in 0..10 {
            let mut connection = TcpStream::connect(&running.address).await.unwrap();
            connection.write_all(hello(stream).as_bytes()).await.unwrap();
            until(|| running.server.app.busy() == 1).await;
            drop(connection);
            until(|| running.server.app.busy() == 0).await;
        }
    }
    assert!(running.server.model.all_cancelled());
}

/// With room for one connection, the next client is answered only when the one that takes nothing is gone.
#[tokio::test]
async fn who_takes_nothing_of_an_answer_is_cut_off() {
    // More than the buffers of both sides hold.
    let piece: &'static str = Box::leak("x".repeat(1 << 20).into_boxed_str());
    for stream in [true, false] {
        let mut config = Config::default();
        config.write_time = Duration::from_millis(50);
        let running =
            run_with(config, Script::Say(vec![piece; 24]), local(), |options| options.max_connections = 1);
        let running = running.await;
        let mut first = TcpStream::connect(&running.address).await.unwrap();
        first.write_all(hello(stream).as_bytes()).await.unwrap();
        first.readable().await.unwrap();
        let request = "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let answer = exchange(TcpStream::connect(&running.address).await.unwrap(), request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // What was sent to the first one is not all of it, and does not end as if it were.
        let mut taken = Vec::new();
        let _ = first.read_to_end(&mut taken).await;
        assert!(taken.len() < 24 << 20 && !taken.ends_with(b"\r\n0\r\n\r\n"), "{}", taken.len());
    }
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn https_is_spoken_with_a_certificate() {
    use std::path::Path;

    use rz_server::Certificate;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::crypto::ring::default_provider;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/server/tls");
    let (chain, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    assert!(Certificate::read(&key, &chain).unwrap_err().to_string().contains("key.pem"));
    assert!(Certificate::read(&folder.join("none.pem"), &key).is_err());
    assert!(Certificate::read(&chain, &chain).unwrap_err().to_string().contains("no private key"));
    let certificate = Certificate::read(&chain, &key).unwrap();
    let running = run(Script::Say(vec!["x"]), local(), |options| options.tls = Some(certificate)).await;

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&chain).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(std::sync::Arc::new(default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(std::sync::Arc::new(config));
    let stream = TcpStream::connect(&running.address).await.unwrap();
    let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    let answer = exchange(stream, "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Without it, nothing is said.
    let plain = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let answer = exchange(TcpStream::connect(&running.address).await.unwrap(), plain).await;
    assert!(!answer.contains("200 OK"), "{answer}");
}
