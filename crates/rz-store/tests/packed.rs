//! Packed copies: made once, found, renewed, listed and removed with their model.

mod support;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rz_store::{ModelRef, Store, StoreError, Unpacked};
use support::{Server, config, files, go_on, model, sha256};
use tempfile::tempdir;

fn reference() -> ModelRef {
    ModelRef::parse("hf:org/repo/q4/m.gguf").unwrap()
}

fn fetched(root: &Path, content: &[u8]) -> Store {
    let server = Server::file(content.to_vec(), "\"a\"");
    let store = Store::new(config(root, &server.endpoint));
    store.fetch(&reference(), &mut go_on).unwrap();
    store
}

fn write(unpacked: Unpacked<'_>, bytes: &[u8]) -> Result<(), StoreError> {
    fs::write(unpacked.target, bytes).unwrap();
    Ok(())
}

#[test]
fn a_copy_is_made_found_listed_and_removed() {
    let root = tempdir().unwrap();
    let content = model(5000);
    let store = fetched(root.path(), &content);
    assert_eq!(store.packed(&reference(), 1).unwrap(), None);
    assert!(!store.has_packed(&reference()));
    let path = store
        .pack(&reference(), 1, false, &mut go_on, &mut |unpacked| {
            assert_eq!(fs::read(unpacked.path).unwrap(), content);
            assert_eq!(unpacked.digest, sha256(&content));
            write(unpacked, &[7; 300])
        })
        .unwrap();
    assert_eq!(store.packed(&reference(), 1).unwrap(), Some(path.clone()));
    assert_eq!(fs::read(&path).unwrap(), [7; 300]);
    let name = path.file_name().unwrap().to_str().unwrap();
    assert_eq!(name, format!("packed-1-{}.rzpack", &sha256(&content)[..16]));
    let listed = store.list().unwrap();
    assert_eq!((listed[0].bytes, listed[0].packed_bytes), (5000, 300));
    // There already: nothing is made, unless it is asked for.
    let kept =
        store.pack(&reference(), 1, false, &mut go_on, &mut |_| -> Result<(), StoreError> { panic!() });
    assert_eq!(kept.unwrap(), path);
    store.pack(&reference(), 1, true, &mut go_on, &mut |unpacked| write(unpacked, b"new")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert!(store.remove(&reference()).unwrap() > 5000);
    assert!(files(&root.path().join("models")).is_empty());
}

#[test]
fn copies_of_other_layouts_and_unfinished_ones_go() {
    let root = tempdir().unwrap();
    let store = fetched(root.path(), &model(5000));
    let old =
        store.pack(&reference(), 1, false, &mut go_on, &mut |unpacked| write(unpacked, b"old")).unwrap();
    let unfinished = old.with_file_name(".packed-2-0123.rzpack.77-0.part");
    fs::write(&unfinished, b"half").unwrap();
    assert_eq!(store.packed(&reference(), 2).unwrap(), None, "a copy of another layout is not one");
    assert!(store.has_packed(&reference()));
    let new =
        store.pack(&reference(), 2, false, &mut go_on, &mut |unpacked| write(unpacked, b"new")).unwrap();
    assert_ne!(old, new);
    assert!(!old.exists() && !unfinished.exists());
    assert_eq!(store.packed(&reference(), 1).unwrap(), None);
}

#[test]
fn a_copy_of_other_files_is_not_taken() {
    let root = tempdir().unwrap();
    let store = fetched(root.path(), &model(5000));
    let path =
        store.pack(&reference(), 1, false, &mut go_on, &mut |unpacked| write(unpacked, b"old")).unwrap();
    store.remove(&reference()).unwrap();
    let store = fetched(root.path(), &[model(5000), b"more".to_vec()].concat());
    fs::write(&path, b"old").unwrap();
    assert_eq!(store.packed(&reference(), 1).unwrap(), None);
}

#[test]
fn of_several_at_once_one_packs() {
    let root = tempdir().unwrap();
    let store = fetched(root.path(), &model(5000));
    let made = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let path = store.pack(&reference(), 1, false, &mut go_on, &mut |unpacked| {
                    made.fetch_add(1, Ordering::Relaxed);
                    write(unpacked, b"packed")
                });
                assert_eq!(fs::read(path.unwrap()).unwrap(), b"packed");
            });
        }
    });
    assert_eq!(made.into_inner(), 1);
}

#[test]
fn what_fails_leaves_nothing() {
    let root = tempdir().unwrap();
    let store = fetched(root.path(), &model(5000));
    let fail = |_: Unpacked<'_>| -> Result<(), StoreError> { Err(StoreError::Cancelled) };
    let result = store.pack(&reference(), 1, false, &mut go_on, &mut { fail });
    assert!(matches!(result, Err(StoreError::Cancelled)));
    assert_eq!(store.packed(&reference(), 1).unwrap(), None);
    let absent = ModelRef::parse("hf:org/repo/other.gguf").unwrap();
    let result = store.pack(&absent, 1, false, &mut go_on, &mut |unpacked| write(unpacked, b""));
    assert!(matches!(result, Err(StoreError::NotStored { .. })));
    assert_eq!(store.packed(&absent, 1).unwrap(), None);
}
