//! Fetching over HTTP from a server in this process: resuming, failing, redirecting, cancelling.

mod support;

use std::{fs, ops::ControlFlow, time::Duration};

use rz_store::{ModelRef, Store, StoreError};
use support::{Reply, Server, artifact, config, files, go_on, model, ranged, sha256};
use tempfile::tempdir;

const REFERENCE: &str = "hf:org/repo/q4/m.gguf";

fn reference() -> ModelRef {
    ModelRef::parse(REFERENCE).unwrap()
}

#[test]
fn a_connection_that_breaks_off_is_resumed() {
    let root = tempdir().unwrap();
    let content = model(400_000);
    let served = content.clone();
    let server = Server::start(move |request, before| {
        let reply = ranged(request, &served, "\"a\"");
        if before < 2 { reply.cut(150_000) } else { reply }
    });
    let store = Store::new(config(root.path(), &server.endpoint));
    let path = store.fetch(&reference(), &mut go_on).unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
    let starts: Vec<_> = server.requests().iter().map(|request| request.start()).collect();
    assert_eq!(starts, [None, Some(150_000), Some(300_000)]);
    assert_eq!(server.requests()[1].header("if-range"), Some("\"a\""));
}

#[test]
fn a_later_process_resumes_what_an_earlier_one_left() {
    let root = tempdir().unwrap();
    let content = model(400_000);
    let server = Server::file(content.clone(), "\"a\"");
    let store = Store::new(config(root.path(), &server.endpoint));
    let cancelled = store.fetch(&reference(), &mut |progress| match progress.bytes {
        0..100_000 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    });
    assert!(matches!(cancelled, Err(StoreError::Cancelled)));
    let left = files(&root.path().join("models"));
    assert_eq!(left.len(), 2, "the part and its note: {left:?}");
    assert!(store.list().unwrap().is_empty());

    let path = Store::new(store.config().clone()).fetch(&reference(), &mut go_on).unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
    let start = server.requests()[1].start().expect("a range is asked for");
    assert!((100_000..400_000).contains(&start), "{start}");
    assert_eq!(files(&root.path().join("models")).len(), 2, "the model and its manifest");
}

#[test]
fn a_changed_file_is_not_mixed_with_the_old_one() {
    // A server that honours If-Range, one that does not, and one whose file is now shorter than the part.
    for (honest, len) in [(true, 400_000), (false, 400_000), (true, 50_000), (false, 50_000)] {
        let root = tempdir().unwrap();
        let old = model(400_000);
        let mut new = model(len);
        new[10] ^= 1;
        let served = new.clone();
        let server = Server::start(move |request, before| match (before, honest) {
            (0, _) => ranged(request, &old, "\"old\"").cut(200_000),
            (_, true) => ranged(request, &served, "\"new\""),
            (_, false) => {
                let mut request = request.clone();
                request.headers.remove("if-range");
                ranged(&request, &served, "\"new\"")
            }
        });
        let store = Store::new(config(root.path(), &server.endpoint));
        let path = store.fetch(&reference(), &mut go_on).unwrap();
        assert!(fs::read(path).unwrap() == new, "honest {honest}, {len} bytes");
    }
}

#[test]
fn a_server_without_ranges_starts_over_and_without_progress_gives_up() {
    let root = tempdir().unwrap();
    let content = model(300_000);
    let served = content.clone();
    let server = Server::start(move |_, before| {
        let reply = Reply::body(&served);
        if before == 0 { reply.cut(100_000) } else { reply }
    });
    let store = Store::new(config(root.path(), &server.endpoint));
    let path = store.fetch_to(&artifact(&content, &[REFERENCE]), &root.path().join("m.gguf"), &mut go_on);
    path.unwrap();
    assert_eq!(fs::read(root.path().join("m.gguf")).unwrap(), content);

    let always_broken = Server::start(move |_, _| Reply::body(&content).cut(100_000));
    let store = Store::new(config(root.path(), &always_broken.endpoint));
    let error = store.fetch(&reference(), &mut go_on).unwrap_err();
    assert!(matches!(error, StoreError::Network { .. }), "{error}");
    assert!(error.to_string().contains("run it again to resume"), "{error}");
    assert!(always_broken.requests().len() <= 4);
}

#[test]
fn a_damaged_part_is_noticed_and_fetched_anew() {
    let root = tempdir().unwrap();
    let content = model(300_000);
    let server = Server::file(content.clone(), "\"a\"");
    let store = Store::new(config(root.path(), &server.endpoint));
    let target = root.path().join("m.gguf");
    let stopped = store.fetch_to(&artifact(&content, &[REFERENCE]), &target, &mut |progress| {
        if progress.bytes > 50_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(StoreError::Cancelled)));
    let part = root.path().join("m.gguf.part");
    let mut bytes = fs::read(&part).unwrap();
    bytes[1000] ^= 1;
    fs::write(&part, bytes).unwrap();
    let fetched = store.fetch_to(&artifact(&content, &[REFERENCE]), &target, &mut go_on).unwrap();
    assert_eq!(fetched.sha256, sha256(&content));
    assert_eq!(fs::read(&target).unwrap(), content);
    assert!(!part.exists());
}

#[test]
fn wrong_bytes_are_refused_and_deleted() {
    let root = tempdir().unwrap();
    let content = model(20_000);
    let mut wrong = content.clone();
    wrong[15_000] ^= 4;
    let target = root.path().join("m.gguf");
    let wanted = artifact(&content, &[REFERENCE]);

    let server = Server::file(wrong, "\"a\"");
    let error = Store::new(config(root.path(), &server.endpoint)).fetch_to(&wanted, &target, &mut go_on);
    assert!(matches!(error, Err(StoreError::Digest { .. })), "{error:?}");

    let server = Server::file(model(19_999), "\"a\"");
    let error = Store::new(config(root.path(), &server.endpoint)).fetch_to(&wanted, &target, &mut go_on);
    assert!(matches!(error, Err(StoreError::Size { expected: 20_000, found: 19_999, .. })), "{error:?}");

    let server = Server::start(|_, _| Reply::body(b"<!DOCTYPE html><p>Log in"));
    let error =
        Store::new(config(root.path(), &server.endpoint)).fetch(&reference(), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("not a GGUF file"), "{error}");

    let stated = sha256(b"something else");
    let server =
        Server::start(move |_, _| Reply::body(&content).header("x-linked-etag", &format!("\"{stated}\"")));
    let error =
        Store::new(config(root.path(), &server.endpoint)).fetch(&reference(), &mut go_on).unwrap_err();
    assert!(matches!(error, StoreError::Digest { .. }), "{error}");

    let left: Vec<_> = files(root.path()).into_iter().filter(|name| !name.ends_with(".lock")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn answers_that_are_final_are_explained_and_not_repeated() {
    let answers: [(u16, Option<&str>, &[&str]); 7] = [
        (404, None, &["no such file", "upper and lower case"]),
        (401, None, &["private or gated", "HF_TOKEN"]),
        (401, Some("hf_x"), &["was not accepted"]),
        (403, Some("hf_x"), &["accept the terms of org/repo"]),
        (407, None, &["proxy"]),
        (418, None, &["HF_ENDPOINT"]),
        (206, None, &["without saying which"]),
    ];
    for (status, token, words) in answers {
        let root = tempdir().unwrap();
        let server = Server::start(move |_, _| Reply::status(status).header("x-error-message", "a\tb"));
        let mut config = config(root.path(), &server.endpoint);
        config.hf_token = token.map(str::to_owned);
        let error = Store::new(config).fetch(&reference(), &mut go_on).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(error.starts_with("hf:org/repo/q4/m.gguf: ") && !error.contains('\n'), "{error}");
        if status != 206 {
            assert_eq!(server.requests().len(), 1);
        }
    }
}

#[test]
fn passing_faults_are_repeated() {
    let root = tempdir().unwrap();
    let content = model(1000);
    let served = content.clone();
    let server = Server::start(move |_, before| match before {
        0 => Reply::status(500),
        1 => Reply::status(429).header("retry-after", "0"),
        _ => Reply::body(&served),
    });
    let path = Store::new(config(root.path(), &server.endpoint)).fetch(&reference(), &mut go_on).unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
    assert_eq!(server.requests().len(), 3);

    let server = Server::start(|_, _| Reply::status(503));
    let error = Store::new(config(&root.path().join("b"), &server.endpoint)).fetch(&reference(), &mut go_on);
    assert!(matches!(error, Err(StoreError::Http { status: 503, .. })), "{error:?}");
    assert_eq!(server.requests().len(), 3, "as many attempts as the settings say");

    let server = Server::start(|_, _| Reply::status(429).header("retry-after", "3600"));
    let error = Store::new(config(&root.path().join("c"), &server.endpoint)).fetch(&reference(), &mut go_on);
    assert!(matches!(error, Err(StoreError::Http { status: 429, .. })), "{error:?}");
    assert_eq!(server.requests().len(), 1, "an hour is not waited for");
}

#[test]
fn the_token_stays_with_its_host() {
    let root = tempdir().unwrap();
    let content = model(1000);
    let other = Server::file(content.clone(), "\"a\"");
    let elsewhere = format!("{}/cdn/m?sig=1", other.endpoint);
    let digest = sha256(&content);
    let server = Server::start(move |request, _| match request.path.as_str() {
        "/org/repo/resolve/main/q4/m.gguf" => Reply::status(307).header("location", "/moved/m.gguf"),
        _ => Reply::status(302).header("location", &elsewhere).header("x-linked-etag", &digest),
    });
    let mut config = config(root.path(), &server.endpoint);
    config.hf_token = Some("hf_secret".into());
    let path = Store::new(config).fetch(&reference(), &mut go_on).unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
    let home = server.requests();
    assert_eq!(home.len(), 2);
    assert!(home.iter().all(|request| request.header("authorization") == Some("Bearer hf_secret")));
    assert_eq!(other.requests()[0].path, "/cdn/m?sig=1");
    assert_eq!(other.requests()[0].header("authorization"), None);
}

#[test]
fn redirects_end() {
    let root = tempdir().unwrap();
    for (location, word) in [("/again", "more than 10"), ("ftp://x/", "no address"), ("", "no address")] {
        let server = Server::start(move |_, _| Reply::status(302).header("location", location));
        let error =
            Store::new(config(root.path(), &server.endpoint)).fetch(&reference(), &mut go_on).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn a_body_of_unknown_length_needs_a_known_size() {
    let root = tempdir().unwrap();
    let content = model(1000);
    let served = content.clone();
    let server = Server::start(move |_, _| Reply { no_length: true, ..Reply::body(&served) });
    let store = Store::new(config(root.path(), &server.endpoint));
    let error = store.fetch(&reference(), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("how long the file is"), "{error}");
    let target = root.path().join("m.gguf");
    store.fetch_to(&artifact(&content, &[REFERENCE]), &target, &mut go_on).unwrap();
    assert_eq!(fs::read(target).unwrap(), content);

    // More bytes than the file may have are not stored.
    let endless = Server::start(|_, _| Reply { no_length: true, ..Reply::body(&model(500_000)) });
    let store = Store::new(config(root.path(), &endless.endpoint));
    let error = store.fetch_to(&artifact(&content, &[REFERENCE]), &root.path().join("n.gguf"), &mut go_on);
    assert!(matches!(error, Err(StoreError::Size { .. })), "{error:?}");
}

#[test]
fn a_silent_server_can_be_left() {
    let root = tempdir().unwrap();
    for cut in [0, 500] {
        let server = Server::start(move |_, _| Reply { stall: true, ..Reply::body(&model(1000)).cut(cut) });
        let store = Store::new(config(root.path(), &server.endpoint));
        let mut reports = 0;
        let result = store.fetch(&reference(), &mut |_| {
            reports += 1;
            if reports > 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(result, Err(StoreError::Cancelled)), "{result:?}");
    }
    let server = Server::start(move |_, _| Reply { stall: true, ..Reply::body(&model(1000)).cut(10) });
    let mut config = config(root.path(), &server.endpoint);
    config.read_timeout = Duration::from_millis(50);
    let error = Store::new(config).fetch(&reference(), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("fell silent"), "{error}");
}

#[test]
fn a_proxy_is_used_where_it_should_be() {
    let root = tempdir().unwrap();
    let server = Server::file(model(1000), "\"a\"");
    let proxy = Server::start(|_, _| Reply::status(418));
    let mut settings = config(root.path(), &server.endpoint);
    settings.proxy = Some(proxy.endpoint.replace("http://", "http://name:word@"));
    Store::new(settings.clone()).fetch(&reference(), &mut go_on).unwrap_err();
    assert!(server.requests().is_empty() && !proxy.requests().is_empty());

    let asked = proxy.requests().len();
    settings.no_proxy = Some("example.org, 127.0.0.1".into());
    Store::new(settings.clone()).fetch(&reference(), &mut go_on).unwrap();
    assert_eq!((server.requests().len(), proxy.requests().len()), (1, asked));

    settings.root = root.path().join("other");
    settings.proxy = Some("no proxy".into());
    let error = Store::new(settings).fetch(&reference(), &mut go_on).unwrap_err();
    assert!(matches!(error, StoreError::Setting { setting: "proxy", .. }), "{error}");
}

#[test]
fn a_certificate_file_must_hold_certificates() {
    let root = tempdir().unwrap();
    let pem = root.path().join("ca.pem");
    fs::write(&pem, "nothing of the kind").unwrap();
    let mut settings = config(root.path(), "https://127.0.0.1:1");
    settings.ca_file = Some(pem);
    let error = Store::new(settings.clone()).fetch(&reference(), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("holds no PEM certificate"), "{error}");
    settings.ca_file = Some(root.path().join("missing.pem"));
    let error = Store::new(settings).fetch(&reference(), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("cannot be read"), "{error}");
}
