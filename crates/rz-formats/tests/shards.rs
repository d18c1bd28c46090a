//! Sets of shards, whole and wrong.

use std::fs;
use std::path::{Path, PathBuf};

use rz_formats::{FormatError, Gguf, GgufWriter, Metadata, Split};
use rz_quant::DType;
use rz_testkit::gguf::RawGguf;

const U16: u32 = 2;
const I32: u32 = 5;

fn writer(tensors: u8) -> GgufWriter<'static> {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "test");
    metadata.insert("general.alignment", 64u32);
    let mut writer = GgufWriter::new(metadata);
    for i in 0..tensors {
        let data = vec![i; 40 + 4 * usize::from(i)];
        writer.tensor(format!("t{i}"), &[10 + u64::from(i)], DType::F32, data).unwrap();
    }
    writer
}

/// The bytes of shard `no` of `count`, with one tensor.
fn shard(no: u16, count: u16, tensors: i32, name: &str) -> Vec<u8> {
    RawGguf::new(1, 3)
        .key("split.no", U16)
        .bytes(&no.to_le_bytes())
        .key("split.count", U16)
        .bytes(&count.to_le_bytes())
        .key("split.tensors.count", I32)
        .bytes(&tensors.to_le_bytes())
        .tensor(name, &[8], 0, 0)
        .data(32, 32)
        .0
}

/// Two files that belong together, of which `change` may make something else.
fn pair(change: impl FnOnce(&Path, &Path)) -> Result<Gguf, FormatError> {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = [1, 2].map(|i| folder.path().join(format!("m-0000{i}-of-00002.gguf")));
    fs::write(&a, shard(0, 2, 2, "a")).unwrap();
    fs::write(&b, shard(1, 2, 2, "b")).unwrap();
    change(&a, &b);
    let result = Gguf::open(&a);
    if let Err(error) = &result {
        let message = error.to_string();
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(message.starts_with(folder.path().to_str().unwrap()), "{message}");
    }
    result
}

#[test]
fn what_is_written_in_shards_is_read_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let writer = writer(10);
    let whole = Gguf::from_bytes("whole", writer.to_bytes().unwrap()).unwrap();
    for (split, sizes) in [
        (Split::default(), vec![10]),
        (Split { max_tensors: 4, ..Split::default() }, vec![4, 4, 2]),
        (Split { max_tensors: 1, ..Split::default() }, vec![1; 10]),
        (Split { max_tensors: 0, ..Split::default() }, vec![1; 10]),
        // Tensors 0 to 6 take 64 bytes with their padding, the others 128.
        (Split { max_bytes: 256, ..Split::default() }, vec![4, 3, 2, 1]),
        (Split { max_bytes: 1, ..Split::default() }, vec![1; 10]),
    ] {
        let files = writer.write_shards(folder.path().join("m.gguf"), split).unwrap();
        let count = sizes.len();
        let expected: Vec<PathBuf> =
            (1..=count).map(|i| folder.path().join(format!("m-{i:05}-of-{count:05}.gguf"))).collect();
        assert_eq!(files, expected);
        // Any of the files opens the set.
        for file in [&files[0], &files[count / 2], &files[count - 1]] {
            let model = Gguf::open(file).unwrap();
            assert_eq!(model.files().len(), count);
            assert_eq!(model.metadata().require_u32("split.count").unwrap() as usize, count);
            assert_eq!(model.metadata().require_str("general.architecture").unwrap(), "test");
            assert_eq!(model.tensors().len(), 10);
            for (tensor, same) in model.tensors().zip(whole.tensors()) {
                assert_eq!(tensor.name(), same.name());
                assert_eq!(tensor.shape(), same.shape());
                assert_eq!(tensor.bytes(), same.bytes());
                assert!(tensor.range().start.is_multiple_of(64));
            }
            for (i, (file, size)) in model.files().zip(&sizes).enumerate() {
                let here = model.tensors().filter(|tensor| tensor.mapping().file() == file.file()).count();
                assert_eq!(here, *size, "shard {i}");
            }
        }
        // A set becomes one file again.
        let model = Gguf::open(&files[0]).unwrap();
        let mut one = GgufWriter::new(model.metadata().clone());
        for tensor in model.tensors() {
            one.tensor(tensor.name(), tensor.shape(), tensor.tensor_type(), tensor.bytes()).unwrap();
        }
        assert!(one.to_bytes().unwrap() == writer.to_bytes().unwrap());
        drop(one);
        drop(model);
        files.iter().for_each(|file| fs::remove_file(file).unwrap());
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing but the shards was left");
}

#[test]
fn a_pair_opens() {
    let model = pair(|_, _| {}).unwrap();
    assert!(model.tensors().map(|tensor| tensor.name()).eq(["a", "b"]));
}

#[test]
fn a_missing_shard_is_named() {
    let error = pair(|_, b| fs::remove_file(b).unwrap()).unwrap_err();
    assert!(
        matches!(&error, FormatError::MissingShard { file, number: 2, count: 2 } if file.ends_with("m-00002-of-00002.gguf")),
        "{error:?}"
    );
}

#[test]
fn the_first_shard_may_be_the_missing_one() {
    let folder = tempfile::tempdir().unwrap();
    let second = folder.path().join("m-00002-of-00002.gguf");
    fs::write(&second, shard(1, 2, 2, "b")).unwrap();
    let error = Gguf::open(second).unwrap_err();
    assert!(matches!(&error, FormatError::MissingShard { number: 1, .. }), "{error:?}");
}

#[test]
fn shards_that_contradict_each_other_are_refused() {
    for (bytes, key, found, expected) in [
        (shard(1, 3, 2, "b"), "split.count", 3, 2),
        (shard(1, 1, 2, "b"), "split.count", 1, 2),
        (shard(0, 2, 2, "b"), "split.no", 0, 1),
        (shard(7, 2, 2, "b"), "split.no", 7, 1),
        (shard(1, 2, 3, "b"), "split.tensors.count", 3, 2),
    ] {
        let error = pair(|_, b| fs::write(b, &bytes).unwrap()).unwrap_err();
        match &error {
            FormatError::ShardMismatch { file, key: k, found: f, expected: e } => {
                assert!(file.ends_with("m-00002-of-00002.gguf"));
                assert_eq!((*k, *f, *e), (key, found, expected));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let error = pair(|_, b| fs::write(b, shard(1, 2, 2, "a")).unwrap()).unwrap_err();
    assert!(
        matches!(&error, FormatError::DuplicateTensor { place, tensor } if tensor == "a" && place.file.ends_with("m-00002-of-00002.gguf")),
        "{error:?}"
    );
}

#[test]
fn a_broken_shard_is_named() {
    let error = pair(|_, b| fs::write(b, b"not a model").unwrap()).unwrap_err();
    assert!(
        matches!(&error, FormatError::Magic { place, .. } if place.file.ends_with("m-00002-of-00002.gguf")),
        "{error:?}"
    );
}

#[test]
fn names_and_metadata_must_agree() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str, bytes: Vec<u8>| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        Gguf::open(path)
    };
    // A shard under a name that does not lead to the others.
    let error = open("renamed.gguf", shard(0, 2, 2, "a")).unwrap_err();
    assert!(matches!(&error, FormatError::ShardName { count: 2, .. }), "{error:?}");
    // A file that is named like a shard and is none.
    let plain = RawGguf::new(0, 0).0;
    let error = open("m-00001-of-00002.gguf", plain).unwrap_err();
    assert!(matches!(&error, FormatError::MissingKey { key, .. } if key == "split.count"), "{error:?}");
    // A set whose files say that there are more of them.
    let error = open("m-00001-of-00002.gguf", shard(0, 3, 2, "a")).unwrap_err();
    assert!(matches!(&error, FormatError::ShardMismatch { found: 3, expected: 2, .. }), "{error:?}");
    // A set of one is a file like any other.
    open("m-00001-of-00001.gguf", shard(0, 1, 1, "a")).unwrap();
    open("single.gguf", shard(0, 1, 1, "a")).unwrap();
    // In memory there are no other files.
    let error = Gguf::from_bytes("memory", shard(0, 2, 2, "a")).unwrap_err();
    assert!(matches!(&error, FormatError::ShardName { .. }), "{error:?}");
    // The wrong type.
    let bytes = RawGguf::new(0, 1).key("split.count", 8).string("2").0;
    let error = open("m.gguf", bytes).unwrap_err();
    assert!(matches!(&error, FormatError::WrongType { .. }), "{error:?}");
}
