//! Files made by other programs.

use std::io::{self, Write};

use rz_formats::{Array, FormatError, Gguf, GgufWriter, TensorType, Value};
use rz_testkit::{committed, fixture};

/// The bytes that `fixtures/gguf/make.py` gives tensor number `start`.
fn pattern(len: usize, start: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 7 + start) % 251) as u8).collect()
}

const TENSORS: [(&str, u64, usize); 8] = [
    ("F32", 1, 4),
    ("F16", 1, 2),
    ("Q4_0", 32, 18),
    ("Q8_0", 32, 34),
    ("Q6_K", 256, 210),
    ("IQ4_XS", 256, 136),
    ("MXFP4", 32, 17),
    ("I64", 1, 8),
];

fn check_tensors(model: &Gguf) {
    assert_eq!(model.tensors().len(), TENSORS.len() + 1);
    for (start, (name, elements, size)) in TENSORS.into_iter().enumerate() {
        let tensor = model.tensor(&format!("tensor.{name}")).unwrap();
        assert_eq!(tensor.tensor_type().name(), name);
        assert_eq!(tensor.shape(), [2 * elements, 2]);
        assert_eq!(tensor.elements(), 4 * elements);
        assert_eq!(tensor.bytes(), pattern(4 * size, start));
        assert_eq!(tensor.as_ref(), tensor.bytes());
    }
    let last = model.tensors().last().unwrap();
    assert_eq!((last.name(), last.shape()), ("tensor.4d", [5, 4, 3, 2].as_slice()));
    let floats: Vec<u8> = (0..120).flat_map(|i| (i as f32).to_le_bytes()).collect();
    assert_eq!(last.bytes(), floats);
    assert!(model.tensor("tensor.absent").is_none());
}

#[test]
fn files_of_the_python_package_in_versions_2_and_3() {
    for version in [2, 3] {
        let model = Gguf::open(committed(&format!("gguf/v{version}.gguf"))).unwrap();
        assert_eq!((model.version(), model.alignment()), (version, 64));
        let expected: [(&str, Value); 26] = [
            ("general.architecture", "test".into()),
            ("general.alignment", 64u32.into()),
            ("test.u8", u8::MAX.into()),
            ("test.u8s", vec![u8::MAX, 7].into()),
            ("test.i8", i8::MIN.into()),
            ("test.i8s", vec![i8::MIN, 7].into()),
            ("test.u16", u16::MAX.into()),
            ("test.u16s", vec![u16::MAX, 7].into()),
            ("test.i16", i16::MIN.into()),
            ("test.i16s", vec![i16::MIN, 7].into()),
            ("test.u32", u32::MAX.into()),
            ("test.u32s", vec![u32::MAX, 7].into()),
            ("test.i32", i32::MIN.into()),
            ("test.i32s", vec![i32::MIN, 7].into()),
            ("test.f32", 0.5f32.into()),
            ("test.f32s", vec![0.5f32, 1.5].into()),
            ("test.bool", true.into()),
            ("test.bools", vec![true, false].into()),
            ("test.string", "héllo\n".into()),
            ("test.u64", u64::MAX.into()),
            ("test.u64s", vec![u64::MAX, 7].into()),
            ("test.i64", i64::MIN.into()),
            ("test.i64s", vec![i64::MIN, 7].into()),
            ("test.f64", 1e300f64.into()),
            ("test.f64s", vec![1e300f64, -2.0].into()),
            ("test.strings", Value::Array(Array::Strings(["", "a", "Ġthe", "日本"].iter().collect()))),
        ];
        let (nested, others) = (model.metadata().get("test.nested").unwrap(), model.metadata().iter());
        assert!(others.take(26).eq(expected.iter().map(|(key, value)| (*key, value))));
        let inner =
            |lists: &[&[i32]]| Array::Arrays(lists.iter().map(|list| Array::I32(list.to_vec())).collect());
        assert_eq!(nested, &Value::Array(Array::Arrays(vec![inner(&[&[1, 2], &[3]]), inner(&[&[4]])])));
        assert_eq!(model.metadata().len(), 27);
        check_tensors(&model);
    }
}

#[test]
fn a_set_of_shards_of_the_python_package_opens_by_any_of_its_files() {
    for number in 1..=3 {
        let model = Gguf::open(committed(&format!("gguf/set-0000{number}-of-00003.gguf"))).unwrap();
        let files: Vec<_> = model.files().map(|file| file.file().file_name().unwrap().to_owned()).collect();
        assert_eq!(files, ["set-00001-of-00003.gguf", "set-00002-of-00003.gguf", "set-00003-of-00003.gguf"]);
        assert_eq!(model.metadata().require_str("general.architecture").unwrap(), "test");
        check_tensors(&model);
    }
}

#[test]
fn a_big_endian_file_of_the_python_package_is_named_as_such() {
    let error = Gguf::open(committed("gguf/big-endian.gguf")).unwrap_err();
    assert!(matches!(&error, FormatError::BigEndian { version: 3, .. }), "{error}");
}

/// What the writer makes of a file that another program wrote is that file, byte for byte.
#[test]
fn the_writer_agrees_with_the_programs_that_wrote_the_files() {
    for path in [committed("gguf/v3.gguf"), fixture("SmolLM2-135M-Instruct.Q4_1.gguf")] {
        let model = Gguf::open(path).unwrap();
        let mut writer = GgufWriter::new(model.metadata().clone());
        for tensor in model.tensors() {
            writer.tensor(tensor.name(), tensor.shape(), tensor.tensor_type(), tensor.bytes()).unwrap();
        }
        let mut rest = Same(model.files().next().unwrap().bytes());
        writer.write_to(&mut rest).unwrap();
        assert!(rest.0.is_empty());
    }
}

/// Takes only the bytes that it holds.
struct Same<'a>(&'a [u8]);

impl Write for Same<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.strip_prefix(bytes).ok_or(io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_real_model_opens() {
    let model = Gguf::open(fixture("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    assert_eq!((model.version(), model.alignment()), (3, 32));
    assert_eq!((model.metadata().len(), model.tensors().len()), (33, 272));
    let meta = model.metadata();
    assert_eq!(meta.require_str("tokenizer.ggml.pre").unwrap(), "smollm");
    assert_eq!(meta.require_u32("llama.block_count").unwrap(), 30);
    let tokens = meta.require_strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!((tokens.len(), tokens.get(2)), (49152, Some("<|im_end|>")));
    assert_eq!(meta.require_strings("tokenizer.ggml.merges").unwrap().get(0), Some("Ġ t"));
    let embedding = model.tensor("token_embd.weight").unwrap();
    assert_eq!((embedding.shape(), embedding.tensor_type().name()), ([576, 49152].as_slice(), "Q8_0"));
    assert_eq!(embedding.bytes().len(), 49152 * 576 / 32 * 34);
    // The tensors fill the data of the file, up to padding.
    let data: usize = model.tensors().map(|tensor| tensor.bytes().len().next_multiple_of(32)).sum();
    let start = model.tensors().map(|tensor| tensor.range().start).min().unwrap();
    assert_eq!(start + data, model.files().next().unwrap().bytes().len());
    model.check_unchanged().unwrap();
}

#[test]
fn vocabularies_without_tensors_open() {
    for name in ["gpt-2", "llama-spm", "qwen2", "command-r"] {
        let model = Gguf::open(fixture(&format!("ggml-vocab-{name}.gguf"))).unwrap();
        assert_eq!(model.tensors().len(), 0);
        assert!(model.metadata().require_strings("tokenizer.ggml.tokens").unwrap().len() > 30_000);
    }
}

#[test]
fn a_file_of_llama_cpp_opens() {
    let model = Gguf::open(committed("archs/llama-dense.gguf")).unwrap();
    assert_eq!((model.metadata().len(), model.tensors().len()), (150, 22));
    assert!(model.tensors().all(|tensor| Some(tensor.tensor_type()) == TensorType::from_id(0)));
}
