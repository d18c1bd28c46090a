//! Saved and restored prefixes: exact, whole or not at all, and never trusted.

use std::path::PathBuf;

use rz_engine::EngineError;
use rz_engine::serve::{Engine, EngineOptions, SlotKind};
use rz_model::KvGroup;

use crate::fake::{Fake, continuation, group};
use crate::{answer, assert_empty, engine_with, greedy, request, text};

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("rz-slots-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn named(groups: &[KvGroup], identity: &str) -> Engine {
    let options = EngineOptions { identity: identity.into(), ..EngineOptions::default() };
    engine_with(Fake::new(groups, 64), options)
}

const GROUPS: &[KvGroup] = &[
    KvGroup { window: None, blocks: 20, block_bytes: 512 },
    KvGroup { window: Some(40), blocks: 8, block_bytes: 512 },
];

#[test]
fn what_was_saved_is_found_by_another_engine() {
    let folder = Folder::new("found");
    let path = folder.0.join("a.slot");
    let prompt = text(200, 0, 1);
    let mut first = named(GROUPS, "model f16");
    let expected = answer(&mut first, request(prompt.clone(), 20));
    assert_eq!(first.save(&prompt, &path).unwrap(), 192);
    assert_empty(&first);
    // Of a longer text, what is kept of it.
    assert_eq!(first.save(&[&prompt[..], &[5; 100]].concat(), &path).unwrap(), 192);

    let mut second = named(GROUPS, "model f16");
    assert_eq!(second.restore(&path).unwrap(), prompt[..192]);
    assert_empty(&second);
    let found = answer(&mut second, request(prompt.clone(), 20));
    assert_eq!(found.tokens, expected.tokens);
    assert_eq!(found.usage().cached_tokens, 192);
    // Again, although it is there already.
    assert_eq!(second.restore(&path).unwrap(), prompt[..192]);
    assert_eq!(answer(&mut second, request(prompt, 20)).tokens, expected.tokens);
    assert_empty(&second);
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1);
}

#[test]
fn what_is_not_whole_or_not_ours_changes_nothing() {
    let folder = Folder::new("broken");
    let path = folder.0.join("a.slot");
    let prompt = text(100, 0, 1);
    let mut engine = named(GROUPS, "model f16");
    answer(&mut engine, request(prompt.clone(), 2));
    engine.save(&prompt, &path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let problem = |engine: &mut Engine, bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = engine.restore(&path).unwrap_err();
        assert!(!error.to_string().contains('\n'), "{error}");
        assert_empty(engine);
        assert_eq!(engine.stats().groups[0].kept, 0, "{error}");
        error.to_string()
    };
    let mut fresh = named(GROUPS, "model f16");
    for len in (0..whole.len()).step_by(7) {
        problem(&mut fresh, &whole[..len]);
    }
    assert!(problem(&mut fresh, &[&whole[..], b"x"].concat()).contains("expected"));
    for at in (0..120).chain((120..whole.len()).step_by(61)).chain(whole.len() - 32..whole.len()) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x41;
        problem(&mut fresh, &bytes);
    }
    assert!(problem(&mut named(GROUPS, "model f32"), &whole).contains("another model"));
    assert!(problem(&mut named(&GROUPS[..1], "model f16"), &whole).contains("another model"));
    let few = [group(None, 2), group(Some(40), 8)];
    assert!(problem(&mut named(&few, "model f16"), &whole).contains("at most 64"));
    // The whole one still is.
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(fresh.restore(&path).unwrap(), prompt[..96]);
    let found = answer(&mut fresh, request(prompt.clone(), 9));
    assert_eq!(found.usage().cached_tokens, 96);
    assert_eq!(found.tokens, continuation(&prompt, &greedy(), 0, 9));
}

#[test]
fn what_cannot_be_saved_leaves_no_file() {
    let folder = Folder::new("none");
    let path = folder.0.join("a.slot");
    let prompt = text(100, 0, 1);
    let mut nameless = named(GROUPS, "");
    answer(&mut nameless, request(prompt.clone(), 2));
    assert!(matches!(nameless.save(&prompt, &path), Err(EngineError::Slot { .. })));
    let mut engine = named(GROUPS, "model");
    for tokens in [&prompt[..], &prompt[..5], &[]] {
        assert!(matches!(engine.save(tokens, &path), Err(EngineError::Slot { .. })));
    }
    answer(&mut engine, request(prompt.clone(), 2));
    let nowhere = folder.0.join("no folder").join("a.slot");
    assert!(matches!(engine.save(&prompt, &nowhere), Err(EngineError::SlotFile { .. })));
    assert!(matches!(engine.restore(&path), Err(EngineError::SlotFile { .. })));
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 0);
    // What was left by one that was killed while it wrote does not stand in the way, and can be removed; what
    // somebody still writes is let be.
    let left = folder.0.join(format!("a.slot.{}-0.part", std::process::id()));
    std::fs::write(&left, b"half").unwrap();
    engine.save(&prompt, &path).unwrap();
    assert_eq!(engine.restore(&path).unwrap().len(), 96);
    let held = std::fs::File::create_new(folder.0.join("b.slot.1-0.part")).unwrap();
    held.lock().unwrap();
    assert_eq!(SlotKind::remove_left_over(&folder.0).unwrap(), 1);
    assert!(!left.exists());
    drop(held);
    assert_eq!(SlotKind::remove_left_over(&folder.0).unwrap(), 1);
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1);
}

#[test]
fn a_slot_is_written_and_read_without_its_engine() {
    let folder = Folder::new("apart");
    let path = folder.0.join("a.slot");
    let prompt = text(100, 0, 1);
    let mut engine = named(GROUPS, "model");
    assert!(engine.capture(&prompt).is_none());
    answer(&mut engine, request(prompt.clone(), 2));
    let slot = engine.capture(&prompt).unwrap();
    assert_empty(&engine);
    let kind = engine.slot_kind();
    let bytes = kind.write(&slot, &path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
    assert_eq!(kind.read(&path).unwrap(), slot);
    // It is more than this engine holds at all.
    let few = [group(None, 2), group(Some(40), 2)];
    let mut small = named(&few, "model");
    assert!(matches!(small.install(&slot), Err(EngineError::NoRoom)));
    assert_empty(&small);
    let mut other = named(GROUPS, "model");
    other.install(&slot).unwrap();
    assert_eq!(answer(&mut other, request(prompt, 3)).usage().cached_tokens, 96);
}
