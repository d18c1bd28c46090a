//! The store as a whole: finding, fetching, sharing, listing and removing models.

mod support;

use std::{
    fs,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use rz_store::{ModelRef, Stage, Store, StoreError};
use support::{Reply, Server, artifact, config, files, go_on, model, sha256};
use tempfile::tempdir;

const REFERENCE: &str = "hf:org/repo/q4/m.gguf";

fn reference() -> ModelRef {
    ModelRef::parse(REFERENCE).unwrap()
}

#[test]
fn a_model_is_fetched_once_found_listed_and_removed() {
    let root = tempdir().unwrap();
    let content = model(300_000);
    let server = Server::file(content.clone(), "\"a\"");
    let store = Store::new(config(root.path(), &server.endpoint));
    assert_eq!(store.resolve(&reference()).unwrap(), None);
    assert!(store.list().unwrap().is_empty());

    let mut stages = Vec::new();
    let path = store
        .fetch(&reference(), &mut |progress| {
            assert_eq!((progress.source, progress.file), (REFERENCE, "m.gguf"));
            if progress.stage == Stage::Downloading {
                assert_eq!(progress.total, Some(300_000));
            }
            stages.push(progress.stage);
            ControlFlow::Continue(())
        })
        .unwrap();
    stages.dedup();
    assert_eq!(stages, [Stage::Connecting, Stage::Downloading, Stage::Verifying]);
    assert_eq!(fs::read(&path).unwrap(), content);
    assert_eq!(server.requests().len(), 1);
    assert_eq!(server.requests()[0].path, "/org/repo/resolve/main/q4/m.gguf");

    assert_eq!(store.fetch(&reference(), &mut go_on).unwrap(), path);
    assert_eq!(store.resolve(&reference()).unwrap(), Some(path.clone()));
    assert_eq!(server.requests().len(), 1, "the second fetch needs no network");
    let listed = store.list().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].reference.as_str(), listed[0].bytes), (REFERENCE, 300_000));
    assert_eq!((&listed[0].path, &listed[0].sha256), (&path, &sha256(&content)));

    assert!(store.remove(&reference()).unwrap() >= 300_000);
    assert_eq!(store.resolve(&reference()).unwrap(), None);
    assert!(files(&root.path().join("models")).is_empty());
    assert!(matches!(store.remove(&reference()), Err(StoreError::NotStored { .. })));
}

#[test]
fn a_file_that_shrank_is_fetched_again() {
    let root = tempdir().unwrap();
    let content = model(5000);
    let server = Server::file(content.clone(), "\"a\"");
    let store = Store::new(config(root.path(), &server.endpoint));
    let path = store.fetch(&reference(), &mut go_on).unwrap();
    fs::write(&path, &content[..100]).unwrap();
    assert_eq!(store.resolve(&reference()).unwrap(), None);
    fs::write(path.with_file_name("manifest.json"), "{").unwrap();
    let path = store.fetch(&reference(), &mut go_on).unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
}

#[test]
fn of_two_at_once_one_downloads() {
    let root = tempdir().unwrap();
    let content = model(3_000_000);
    let server = Server::file(content.clone(), "\"a\"");
    let config = config(root.path(), &server.endpoint);
    let waited = Arc::new(AtomicUsize::new(0));
    let fetchers: Vec<_> = (0..4)
        .map(|_| {
            let (store, waited) = (Store::new(config.clone()), waited.clone());
            thread::spawn(move || {
                store.fetch(&reference(), &mut |progress| {
                    waited.fetch_add(usize::from(progress.stage == Stage::Waiting), Ordering::Relaxed);
                    ControlFlow::Continue(())
                })
            })
        })
        .collect();
    for fetcher in fetchers {
        let path = fetcher.join().unwrap().unwrap();
        assert!(fs::read(path).unwrap() == content);
    }
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn who_waits_can_be_cancelled_and_who_removes_is_told() {
    let root = tempdir().unwrap();
    let server = Server::start(move |_, _| Reply { stall: true, ..Reply::body(&model(1000)).cut(0) });
    let store = Store::new(config(root.path(), &server.endpoint));
    let mut inner = None;
    let outer = store.fetch(&reference(), &mut |progress| {
        if progress.stage != Stage::Downloading {
            return ControlFlow::Continue(());
        }
        // The first fetch is under way and holds the lock.
        let busy = store.remove(&reference());
        assert!(matches!(busy, Err(StoreError::Busy { .. })), "{busy:?}");
        inner = Some(store.fetch(&reference(), &mut |progress| {
            assert_eq!(progress.stage, Stage::Waiting);
            ControlFlow::Break(())
        }));
        ControlFlow::Break(())
    });
    assert!(matches!(outer, Err(StoreError::Cancelled)));
    assert!(matches!(inner, Some(Err(StoreError::Cancelled))));
}

#[test]
fn sources_are_tried_in_order_and_all_explained() {
    let root = tempdir().unwrap();
    let content = model(9000);
    let served = content.clone();
    let server = Server::start(move |request, _| match request.path.contains("/good/") {
        true => Reply::body(&served),
        false => Reply::status(404),
    });
    let store = Store::new(config(root.path(), &server.endpoint));
    let target = root.path().join("m.gguf");
    let fetched = store
        .fetch_to(&artifact(&content, &["hf:a/bad/m.gguf", "hf:a/good/m.gguf"]), &target, &mut go_on)
        .unwrap();
    assert_eq!(fetched.source, "hf:a/good/m.gguf");
    assert_eq!(fs::read(&target).unwrap(), content);

    let error = store
        .fetch_to(&artifact(&content, &["hf:a/bad/m.gguf", "hf:b/bad/m.gguf"]), &target, &mut go_on)
        .unwrap_err();
    let text = error.to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[1].starts_with("  hf:a/bad/m.gguf: the server answered 404"), "{text}");
    assert!(lines[2].starts_with("  hf:b/bad/m.gguf: "), "{text}");
}

#[test]
fn all_shards_are_fetched_and_whole_ones_kept() {
    let root = tempdir().unwrap();
    let fail_once = Arc::new(AtomicUsize::new(0));
    let failures = fail_once.clone();
    let shard = |index: usize| {
        let mut bytes = model(1000 * index);
        bytes[5] = index as u8;
        bytes
    };
    let server = Server::start(move |request, _| {
        let index: usize = request.path.split('-').nth(1).unwrap().parse().unwrap();
        match index == 2 && failures.fetch_add(1, Ordering::Relaxed) == 0 {
            true => Reply::status(404),
            false => Reply::body(&shard(index)),
        }
    });
    let store = Store::new(config(root.path(), &server.endpoint));
    let model = ModelRef::parse("hf:o/r/sub/m-00002-of-00003.gguf").unwrap();
    store.fetch(&model, &mut go_on).unwrap_err();
    assert_eq!(store.resolve(&model).unwrap(), None);
    let first = store.fetch(&model, &mut go_on).unwrap();
    assert!(first.ends_with("m-00001-of-00003.gguf"));
    for index in 1..=3 {
        let path = first.with_file_name(format!("m-0000{index}-of-00003.gguf"));
        assert_eq!(fs::read(path).unwrap(), shard(index));
    }
    let asked: Vec<_> =
        server.requests().iter().map(|r| r.path.replace("/o/r/resolve/main/sub/m-0000", "")).collect();
    let expected = [1, 2, 2, 3].map(|index| format!("{index}-of-00003.gguf"));
    assert_eq!(asked, expected, "the first shard is not fetched twice");
    assert_eq!(store.list().unwrap()[0].bytes, 6000);
}

#[test]
fn offline_and_unreachable() {
    let root = tempdir().unwrap();
    let server = Server::file(model(1000), "\"a\"");
    let mut settings = config(root.path(), &server.endpoint);
    settings.offline = true;
    let error = Store::new(settings.clone()).fetch(&reference(), &mut go_on).unwrap_err();
    assert!(matches!(error, StoreError::Offline { .. }), "{error}");
    assert!(server.requests().is_empty());
    settings.offline = false;
    Store::new(settings.clone()).fetch(&reference(), &mut go_on).unwrap();
    settings.offline = true;
    Store::new(settings.clone()).fetch(&reference(), &mut go_on).unwrap();

    settings.offline = false;
    settings.root = root.path().join("other");
    // A port that was free a moment ago.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    settings.hf_endpoint = format!("http://{closed}");
    let error = Store::new(settings.clone()).fetch(&reference(), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("refuses connections"), "{error}");
    settings.hf_endpoint = "no address".into();
    let error = Store::new(settings.clone()).fetch(&reference(), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("HF_ENDPOINT"), "{error}");
}

#[test]
fn paths_are_used_where_they_lie() {
    let root = tempdir().unwrap();
    let store = Store::new(config(root.path(), "http://127.0.0.1:1"));
    let path = root.path().join("x.gguf");
    let model = ModelRef::Path(path.clone());
    assert!(matches!(store.fetch(&model, &mut go_on), Err(StoreError::NoSuchFile { .. })));
    fs::write(&path, "GGUF").unwrap();
    assert_eq!(store.fetch(&model, &mut go_on).unwrap(), path);
    assert!(matches!(store.remove(&model), Err(StoreError::NotManaged { .. })));
    assert!(path.exists());
}
