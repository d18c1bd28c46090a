//! `rz pack` and packed copies in the store, by the command.

mod common;

use std::ffi::OsStr;
use std::path::Path;

use common::{output, refusal, rz, with_model};
use rz_formats::Gguf;
use rz_quant::DType;
use rz_testkit::gguf::TinyLlama;

fn text(cache: &Path, arguments: &[&OsStr]) -> String {
    let mut command = rz();
    command.args(arguments).env("RZ_CACHE", cache);
    let output = output(command, b"");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn answer(cache: &Path, model: &Path, more: &[&str]) -> String {
    let fixed = ["run", "--greedy", "-n", "12", "--no-template", "--special", "--ignore-eos", "Once"];
    let arguments: Vec<&OsStr> = fixed.iter().chain(more).map(OsStr::new).chain(with_model(model)).collect();
    text(cache, &arguments)
}

fn tiny(folder: &Path) -> std::path::PathBuf {
    TinyLlama { dtype: DType::Q4_0, ..TinyLlama::default() }.write(folder)
}

#[test]
fn a_packed_file_stands_for_its_model() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let plain = tiny(folder.path());
    let made = text(&cache, &[OsStr::new("pack"), plain.as_os_str()]);
    let packed = plain.with_extension("rzpack");
    assert_eq!(made.trim_end(), packed.to_str().unwrap());
    assert!(Gguf::open(&packed).unwrap().is_packed());
    let expected = answer(&cache, &plain, &[]);
    assert!(!expected.trim().is_empty());
    for flags in [&[][..], &["--mmap"], &["--exact"], &["--mmap", "--exact"], &["-t", "1"]] {
        let same = answer(&cache, &plain, flags);
        assert_eq!(answer(&cache, &packed, flags), same, "{flags:?}");
    }
    assert_eq!(answer(&cache, &packed, &[]), expected);
    // Again, over the old one; and nowhere else.
    text(&cache, &[OsStr::new("pack"), OsStr::new("--json"), plain.as_os_str()]);
    let shown = text(&cache, &[OsStr::new("inspect"), OsStr::new("--json"), packed.as_os_str()]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["problems"], serde_json::json!([]), "{shown}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn what_cannot_be_packed_or_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let plain = tiny(folder.path());
    let packed = folder.path().join("copy");
    let pack = |from: &Path, to: &Path| {
        let mut command = rz();
        command.arg("pack").arg(from).arg("-o").arg(to);
        command
    };
    assert!(output(pack(&plain, &packed), b"").status.success());
    assert!(refusal(pack(&packed, &folder.path().join("other")), b"").contains("is packed already"));
    assert!(refusal(pack(&plain, &plain), b"").contains("no packed model"));
    assert!(refusal(pack(folder.path(), &packed), b"").contains("config.json"));
    let whole = std::fs::read(&packed).unwrap();
    let run = |bytes: &[u8]| {
        let path = folder.path().join("bad");
        std::fs::write(&path, bytes).unwrap();
        let mut command = rz();
        command.args(["run", "x"]).args(with_model(&path));
        refusal(command, b"")
    };
    for sixteenth in 1..16 {
        run(&whole[..whole.len() * sixteenth / 16]);
    }
    let mut other = whole.clone();
    let layout = other.len() - 24;
    other[layout] += 1;
    assert!(run(&other).contains("pack the model again (rz pack)"));
    // What is damaged or of another layout is written over; anything else is not.
    std::fs::write(&packed, &other).unwrap();
    assert!(output(pack(&plain, &packed), b"").status.success());
    assert!(std::fs::read(&packed).unwrap() == whole, "the same model gives the same bytes");
    std::fs::write(&packed, "notes").unwrap();
    assert!(refusal(pack(&plain, &packed), b"").contains("no packed model"));
}

#[test]
fn the_store_keeps_uses_renews_and_removes_packed_copies() {
    // The folder as the store lays it out, with a file of our own.
    let cache = tempfile::tempdir().unwrap();
    let cache = cache.path();
    let folder = cache.join("models").join("smollm2-135m");
    std::fs::create_dir_all(&folder).unwrap();
    let made = tiny(&folder);
    let plain = folder.join("m.gguf");
    std::fs::rename(made, &plain).unwrap();
    let manifest = serde_json::json!({
        "reference": "smollm2:135m",
        "licence": null,
        "files": [{
            "file": "m.gguf",
            "bytes": std::fs::metadata(&plain).unwrap().len(),
            "sha256": "0123456789abcdef".repeat(4),
            "source": "a test",
        }],
    });
    std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    let rz = |arguments: &[&str]| text(cache, &arguments.iter().map(OsStr::new).collect::<Vec<_>>());
    let list = || serde_json::from_str::<serde_json::Value>(&rz(&["list", "--json"])).unwrap();
    let run = ["run", "--greedy", "-n", "12", "--no-template", "--ignore-eos", "Once"];

    let expected = rz(&run);
    rz(&["pull", "--no-pack"]);
    assert_eq!(list()[0]["packed_bytes"], 0);
    assert_eq!(rz(&["pull"]).trim_end(), plain.to_str().unwrap());
    let packed = folder.join("packed-1-0123456789abcdef.rzpack");
    let whole = std::fs::read(&packed).unwrap();
    assert_eq!(list()[0]["packed_bytes"], whole.len());
    assert_eq!(rz(&run), expected);

    // It is what is read: the plain file may be anything of this size.
    let content = std::fs::read(&plain).unwrap();
    std::fs::write(&plain, vec![0; content.len()]).unwrap();
    assert_eq!(rz(&run), expected);
    std::fs::write(&plain, &content).unwrap();

    // Cut short, of another layout, or made of another file: renewed, and never read.
    let mut layout = whole.clone();
    let at = whole.len() - 24;
    layout[at] += 1;
    let other = {
        let folder = tempfile::tempdir().unwrap();
        let other = TinyLlama { seed: 2, ..TinyLlama::default() }.write(folder.path());
        text(cache, &[OsStr::new("pack"), other.as_os_str()]);
        std::fs::read(other.with_extension("rzpack")).unwrap()
    };
    for damaged in [&whole[..whole.len() / 2], &layout, &other] {
        std::fs::write(&packed, damaged).unwrap();
        assert_eq!(rz(&run), expected);
        assert!(std::fs::read(&packed).unwrap() == whole);
    }
    // One of another layout, by its name, with what a packer left that was ended in the middle.
    std::fs::rename(&packed, folder.join("packed-0-0123456789abcdef.rzpack")).unwrap();
    std::fs::write(folder.join(".packed-1-0123456789abcdef.rzpack.1-0.part"), b"half").unwrap();
    assert_eq!(rz(&run), expected);
    let mut names: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["m.gguf", "manifest.json", "packed-1-0123456789abcdef.rzpack"]);
    rz(&["rm", "smollm2:135m"]);
    assert!(!folder.exists());
}

#[cfg(target_os = "linux")]
#[test]
fn weights_that_cannot_be_locked_are_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let plain = tiny(folder.path());
    let shell = "ulimit -l 1 && exec \"$@\"";
    let mut command = std::process::Command::new("sh");
    let binary = rz();
    command.args(["-c", shell, "sh"]).arg(binary.get_program());
    command.args(["run", "--mlock", "-n", "1", "--no-template", "x"]).args(with_model(&plain));
    let output = output(command, b"");
    let message = String::from_utf8(output.stderr).unwrap();
    // Where the process may lock what it likes, it does.
    if output.status.code() != Some(0) {
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("ulimit -l") && message.contains("--mlock"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}
