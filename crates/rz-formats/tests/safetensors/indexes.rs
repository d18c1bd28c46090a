//! Indexes of several files: what they list must be so.

use std::fs;
use std::path::{Path, PathBuf};

use rz_formats::{FormatError, Mapping, Safetensors};

use super::{check_message, entry, file, header, tiny};

const INDEX: &str = "model.safetensors.index.json";

/// An index that lists these tensors in these files.
fn index(weights: &[(&str, &str)]) -> String {
    let weights: Vec<String> =
        weights.iter().map(|(tensor, file)| format!("\"{tensor}\":\"{file}\"")).collect();
    format!(r#"{{"metadata":{{"total_size":16}},"weight_map":{{{}}}}}"#, weights.join(","))
}

/// A folder of two files that belong together, of which `change` may make something else.
fn pair(change: impl FnOnce(&Path)) -> Result<Safetensors, FormatError> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.safetensors"), tiny("ta")).unwrap();
    fs::write(folder.path().join("b.safetensors"), tiny("tb")).unwrap();
    fs::write(folder.path().join(INDEX), index(&[("tb", "b.safetensors"), ("ta", "a.safetensors")])).unwrap();
    change(folder.path());
    let result = Safetensors::open(folder.path());
    if let Err(error) = &result {
        check_message(error, folder.path());
    }
    result
}

/// The error of a pair with this index.
fn with_index(text: impl AsRef<[u8]>) -> FormatError {
    pair(|folder| fs::write(folder.join(INDEX), text).unwrap()).expect_err("a malformed index was accepted")
}

#[test]
fn a_pair_opens() {
    let model = pair(|_| {}).unwrap();
    assert!(model.tensors().map(|tensor| tensor.name()).eq(["ta", "tb"]));
    assert_eq!(model.files().len(), 2);
}

#[test]
fn a_missing_file_is_named() {
    let error = pair(|folder| fs::remove_file(folder.join("b.safetensors")).unwrap()).unwrap_err();
    assert!(
        matches!(&error, FormatError::MissingShard { file, number: 2, count: 2 } if file.ends_with("b.safetensors")),
        "{error:?}"
    );
    let error = with_index(index(&[("ta", "a.safetensors"), ("tb", "c.safetensors")]));
    assert!(
        matches!(&error, FormatError::MissingShard { file, .. } if file.ends_with("c.safetensors")),
        "{error:?}"
    );
}

#[test]
fn a_broken_file_is_named() {
    let error = pair(|folder| fs::write(folder.join("b.safetensors"), b"not a model").unwrap()).unwrap_err();
    assert!(
        matches!(&error, FormatError::HeaderLength { place, .. } if place.file.ends_with("b.safetensors")),
        "{error:?}"
    );
}

#[test]
fn only_files_of_the_folder_are_opened() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), tiny("tb")).unwrap();
    let absolute = outside.path().to_str().unwrap();
    let sibling = format!("../{}", outside.path().file_name().unwrap().to_str().unwrap());
    for bad in [
        "../b.safetensors",
        absolute,
        &sibling,
        "/etc/passwd",
        "./b.safetensors",
        "sub/b.safetensors",
        "b.safetensors/",
        "..",
        ".",
        "",
        "..\\\\b.safetensors",
        "C:b.safetensors",
        "b.safetensors::$DATA",
        "b.safetensors\\u0000",
        "b\\nc.safetensors",
        &"n".repeat(256),
    ] {
        let error = with_index(index(&[("ta", "a.safetensors"), ("tb", bad)]));
        assert!(
            matches!(&error, FormatError::ShardPath { tensor, place, .. }
                if tensor == "tb" && place.offset.is_some() && place.file.ends_with(INDEX)),
            "{bad}: {error:?}"
        );
    }
    // Nothing was opened, nor looked for, before the whole index had been read.
    let opened = Safetensors::from_index("i", index(&[("ta", "a"), ("tb", "../b")]).as_bytes(), |name| {
        panic!("{name} was opened")
    });
    assert!(matches!(opened, Err(FormatError::ShardPath { .. })));
}

#[test]
fn what_is_listed_must_be_there_and_nothing_else() {
    let mismatch = |error: FormatError| match error {
        FormatError::IndexMismatch { file, tensor, listed, found } => {
            assert!(file.ends_with(INDEX));
            (tensor, listed.unwrap_or_default(), found.unwrap_or_default())
        }
        other => panic!("{other:?}"),
    };
    let is =
        |tensor: &str, listed: &str, found: &str| (tensor.to_owned(), listed.to_owned(), found.to_owned());
    let (a, b) = ("a.safetensors", "b.safetensors");
    // In the other file.
    let error = with_index(index(&[("ta", b), ("tb", b)]));
    assert_eq!(mismatch(error), is("tb", b, "").min(is("ta", b, "")));
    let error = with_index(index(&[("ta", b), ("tb", a)]));
    assert_eq!(mismatch(error), is("ta", b, a));
    // In no file.
    let error = with_index(index(&[("ta", a), ("tb", b), ("tc", b), ("td", a)]));
    assert_eq!(mismatch(error), is("tc", b, ""));
    // Not listed.
    let error = with_index(index(&[("tx", a), ("tb", b)]));
    assert_eq!(mismatch(error), is("ta", "", a));
    let error = pair(|folder| {
        let two = header([entry("tb", "F32", "[1]", 0, 4), entry("tz", "F32", "[1]", 4, 8)]);
        fs::write(folder.join(b), file(two, &[0; 8])).unwrap();
    });
    assert_eq!(mismatch(error.unwrap_err()), is("tz", "", b));
    // Listed once, in two files.
    let two = |names: [&str; 2], at: &str| {
        let two = header(names.map(|name| entry(name, "U8", "[0]", 0, 0)));
        pair(|folder| fs::write(folder.join(at), file(two, &[])).unwrap()).unwrap_err()
    };
    let error = two(["ta", "tb"], b);
    assert!(
        matches!(&error, FormatError::DuplicateTensor { place, tensor } if tensor == "ta" && place.file.ends_with(b)),
        "{error:?}"
    );
    assert_eq!(mismatch(two(["ta", "tb"], a)), is("tb", b, a));
}

#[test]
fn tensors_without_data_count_as_there() {
    let model = pair(|folder| {
        let empty = file(header([entry("tb", "F32", "[0,4]", 0, 0)]), &[]);
        fs::write(folder.join("b.safetensors"), empty).unwrap();
    });
    let model = model.unwrap();
    assert!(model.empty_tensors().eq(["tb"]));
    assert_eq!((model.tensors().len(), model.files().len()), (1, 2));
}

#[test]
fn indexes_that_are_malformed() {
    let place = |error: FormatError| match error {
        FormatError::Json { place, .. } => place.offset.unwrap(),
        other => panic!("{other:?}"),
    };
    for (text, at) in [
        ("", 0),
        ("[]", 0),
        ("{\n  \"weight_map\": []\n}", 18),
        ("{\"weight_map\": {}}", 16),
        ("{\"weight_map\": {\"ta\": 1}}", 22),
        ("{\"weight_map\": {\"ta\": null}}", 25),
        ("{\"weight_map\": {\"ta\": \"a.safetensors\"}} x", 40),
        ("{\"weight_map\": {\"ta\": \"a.safetensors\"}", 37),
    ] {
        // The place is that of the byte, or of the one before.
        let found = place(with_index(text));
        assert!(found.abs_diff(at) <= 1, "{text}: {found}");
    }
    let error = with_index("{}");
    assert!(matches!(&error, FormatError::MissingKey { key, .. } if key == "weight_map"), "{error:?}");
    let error = with_index(b"{\"weight_map\":\xff}");
    assert!(matches!(&error, FormatError::Utf8 { place, .. } if place.offset == Some(14)), "{error:?}");

    for (text, name) in [
        (index(&[("ta", "a.safetensors"), ("ta", "a.safetensors")]), "ta"),
        (format!("{{\"weight_map\":{{\"t\":\"a\"}},{}", &index(&[("ta", "a")])[1..]), "weight_map"),
        ("{\"metadata\":1,\"metadata\":1}".to_owned(), "metadata"),
        ("{\"metadata\":{\"x\":1,\"x\":1}}".to_owned(), "x"),
    ] {
        let error = with_index(&text);
        let at = text.rfind(&format!("{name}\"")).unwrap() as u64;
        assert!(
            matches!(&error, FormatError::DuplicateKey { key, place } if key == name && place.offset == Some(at)),
            "{error:?}"
        );
    }

    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    for text in [format!("{{\"metadata\":{deep}}}"), format!("{{\"x\":{deep}}}")] {
        let error = with_index(&text);
        assert!(matches!(&error, FormatError::JsonDepth { limit: 100, .. }), "{error:?}");
    }
    let error = with_index(format!("{{\"weight_map\":{deep}}}"));
    assert!(matches!(&error, FormatError::Json { what, .. } if what.contains("file names")), "{error:?}");
}

#[test]
fn more_than_is_accepted() {
    let many = |count: usize| {
        let weights: Vec<String> = (0..count).map(|i| format!("\"t{i}\":\"f{i}\"")).collect();
        format!("{{\"weight_map\":{{{}}}}}", weights.join(","))
    };
    let none = |name: &str| Err(FormatError::Empty { file: name.into() });
    let error = Safetensors::from_index("i", many(4096).as_bytes(), none).unwrap_err();
    assert!(matches!(&error, FormatError::Empty { file } if file == Path::new("f0")), "{error:?}");
    let error = Safetensors::from_index("i", many(4097).as_bytes(), none).unwrap_err();
    assert!(matches!(error, FormatError::Count { found: 4097, limit: 4096, .. }), "{error:?}");
    let weights: Vec<String> = (0..(1 << 18) + 1).map(|i| format!("\"t{i}\":\"f\"")).collect();
    let text = format!("{{\"weight_map\":{{{}}}}}", weights.join(","));
    let error = Safetensors::from_index("i", text.as_bytes(), none).unwrap_err();
    assert!(matches!(error, FormatError::Count { found: 262_145, .. }), "{error:?}");
    // An index of more bytes than are read.
    let error = pair(|folder| {
        let index = fs::OpenOptions::new().write(true).open(folder.join(INDEX)).unwrap();
        index.set_len((64 << 20) + 1).unwrap();
    });
    assert!(matches!(error, Err(FormatError::TooLarge { limit: 67_108_864, .. })));
}

#[test]
fn an_index_in_memory() {
    let mut names = Vec::new();
    let text = index(&[("z", "1.safetensors"), ("a", "2.safetensors")]);
    let model = Safetensors::from_index("i", text.as_bytes(), |name| {
        names.push(name.to_owned());
        Ok(Mapping::from_bytes(PathBuf::from(name), tiny(if name.starts_with('1') { "z" } else { "a" })))
    });
    let model = model.unwrap();
    assert!(model.tensors().map(|tensor| tensor.name()).eq(["z", "a"]));
    drop(model);
    assert_eq!(names, ["1.safetensors", "2.safetensors"]);
}

/// As the cache of Hugging Face's own tools lays a folder out.
#[cfg(unix)]
#[test]
fn links_are_followed() {
    use std::os::unix::fs::symlink;
    let blobs = tempfile::tempdir().unwrap();
    for name in ["a.safetensors", "b.safetensors", INDEX] {
        fs::write(blobs.path().join(format!("blob-{name}")), []).unwrap();
    }
    let model = pair(|folder| {
        for name in ["a.safetensors", "b.safetensors", INDEX] {
            let blob = blobs.path().join(format!("blob-{name}"));
            fs::rename(folder.join(name), &blob).unwrap();
            symlink(&blob, folder.join(name)).unwrap();
        }
    });
    assert_eq!(model.unwrap().tensors().len(), 2);
    // One that leads nowhere.
    let error = pair(|folder| {
        fs::remove_file(folder.join("a.safetensors")).unwrap();
        symlink("nowhere", folder.join("a.safetensors")).unwrap();
    });
    assert!(matches!(error, Err(FormatError::MissingShard { number: 1, .. })));
    let error = pair(|folder| symlink("nowhere", folder.join("model.safetensors")).unwrap()).unwrap_err();
    assert!(
        matches!(&error, FormatError::Io { file, .. } if file.ends_with("model.safetensors")),
        "{error:?}"
    );
}
