//! Packed files, and weights that get ready while the model is in use: the same bits as ever.

mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::logits;
use rz_formats::{FormatError, Gguf, GgufWriter, TensorType};
use rz_kernels::{Kernels, Pool, Runtime};
use rz_model::{CpuModel, LoadOptions, ModelError, PACKED_SOURCE, Placement, arch::ARCHS, write_packed};
use rz_quant::DType;
use rz_testkit::committed;
use rz_testkit::gguf::TinyLlama;

const TOKENS: [u32; 12] = [5, 1, 30, 7, 7, 2, 19, 28, 3, 11, 4, 6];

const IN_PLACE: Placement = Placement { in_place: true, locked: false };

fn runtime() -> Runtime {
    Runtime { kernels: Kernels::detect(), pool: Arc::new(Pool::new(2).unwrap()) }
}

fn options(exact: bool) -> LoadOptions {
    LoadOptions { context: 64, max_batch: 16, exact, ..LoadOptions::default() }
}

fn packed(gguf: &Gguf, folder: &Path) -> PathBuf {
    let path = folder.join("model.rzpack");
    write_packed(gguf, &runtime(), &path, Some("a digest"), &mut |_, _| ControlFlow::Continue(())).unwrap();
    path
}

fn loaded(gguf: &Gguf, exact: bool) -> Vec<f32> {
    let mut model = CpuModel::load(gguf, &runtime(), options(exact), &mut |_, _| {}).unwrap();
    assert!(model.loader().is_none(), "everything is ready after a load");
    logits(&mut model, &TOKENS, 5)
}

fn started(gguf: &Gguf, exact: bool, placement: Placement) -> Vec<f32> {
    let mut model = CpuModel::start(gguf, &runtime(), options(exact), placement).unwrap();
    let found = logits(&mut model, &TOKENS, 5);
    assert!(model.loader().is_none(), "everything is ready after a pass");
    found
}

/// Every way to load a file and its packed copy gives these logits.
fn check(gguf: &Gguf, what: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = packed(gguf, folder.path());
    let copy = Gguf::open(&path).unwrap();
    // In memory, at an address that panels cannot be read from.
    let bytes = std::fs::read(&path).unwrap();
    let in_memory = Gguf::from_bytes("memory", bytes).unwrap();
    for exact in [false, true] {
        let expected = loaded(gguf, exact);
        assert_eq!(started(gguf, exact, Placement::default()), expected, "{what}: started");
        assert_eq!(loaded(&copy, exact), expected, "{what}: packed");
        assert_eq!(started(&copy, exact, IN_PLACE), expected, "{what}: in place");
        for placement in [Placement::default(), IN_PLACE] {
            assert_eq!(started(&in_memory, exact, placement), expected, "{what}: in memory");
        }
    }
}

#[test]
fn every_format_with_odd_numbers_of_rows() {
    for &dtype in DType::ALL {
        let wide = dtype.block_elements() == 256;
        let (dim, feed_forward) = if wide { (256, 512) } else { (64, 96) };
        for tied in [false, true] {
            let tiny = TinyLlama {
                dim,
                feed_forward,
                vocab: 37,
                heads: 4,
                kv_heads: 2,
                head_size: if wide { 64 } else { 16 },
                tokenizer: false,
                dtype,
                tied,
                ..TinyLlama::default()
            };
            let gguf = Gguf::from_bytes("tiny", tiny.to_bytes()).unwrap();
            check(&gguf, &format!("{dtype}, {}", if tied { "tied" } else { "untied" }));
        }
    }
}

#[test]
fn every_family() {
    for arch in ARCHS {
        let gguf = Gguf::open(committed(&format!("archs/{}-dense.gguf", arch.name))).unwrap();
        check(&gguf, arch.name);
    }
}

#[test]
fn a_packed_file_holds_the_same_model() {
    let tiny = TinyLlama { dtype: DType::Q4_0, tied: false, ..TinyLlama::default() };
    let gguf = Gguf::from_bytes("tiny", tiny.to_bytes()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let copy = Gguf::open(packed(&gguf, folder.path())).unwrap();
    assert!(copy.is_packed() && !gguf.is_packed());
    for (key, value) in gguf.metadata().iter().filter(|(key, _)| *key != "general.alignment") {
        assert_eq!(copy.metadata().get(key), Some(value), "{key}");
    }
    assert_eq!(copy.metadata().str(PACKED_SOURCE).unwrap(), Some("a digest"));
    for tensor in gguf.tensors() {
        let other = copy.tensor(tensor.name()).unwrap();
        assert_eq!(other.shape(), tensor.shape());
        // Rows of an untied embedding are only looked up.
        let stays = tensor.shape().len() == 1 || tensor.name() == "token_embd.weight";
        match stays {
            true => assert!(other.bytes() == tensor.bytes() && other.dtype() == tensor.dtype(), "{tensor:?}"),
            false => assert_eq!(other.tensor_type(), TensorType::packed(DType::Q4_0).unwrap(), "{tensor:?}"),
        }
    }
}

#[test]
fn the_background_and_the_pass_share_the_work() {
    let gguf = Gguf::from_bytes("tiny", TinyLlama { layers: 6, ..TinyLlama::default() }.to_bytes()).unwrap();
    let expected = loaded(&gguf, false);
    let mut model = CpuModel::start(&gguf, &runtime(), options(false), Placement::default()).unwrap();
    let loader = model.loader().unwrap();
    let (before, total) = loader.progress();
    assert_eq!(before, 0);
    // Whenever the pass takes over, before, in the middle or after.
    let thread = std::thread::spawn(move || {
        let mut seen = Vec::new();
        loader.run(&mut |ready, total| seen.push((ready, total)));
        (seen, loader)
    });
    assert_eq!(logits(&mut model, &TOKENS, 5), expected);
    let (seen, loader) = thread.join().unwrap();
    assert!(seen.is_sorted() && seen.iter().all(|&(ready, of)| ready <= total && of == total), "{seen:?}");
    assert_eq!(loader.progress(), (total, total));
    loader.run(&mut |_, _| {});
    assert_eq!(logits(&mut model, &TOKENS, 5), expected);
    // All of it in the background.
    let mut model = CpuModel::start(&gguf, &runtime(), options(false), Placement::default()).unwrap();
    let loader = model.loader().unwrap();
    loader.run(&mut |_, _| {});
    assert_eq!(loader.progress(), (total, total));
    assert_eq!(logits(&mut model, &TOKENS, 5), expected);
}

#[test]
fn packing_ends_when_asked_and_leaves_nothing() {
    let gguf = Gguf::from_bytes("tiny", TinyLlama::default().to_bytes()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut calls = 0;
    let result = write_packed(&gguf, &runtime(), &folder.path().join("m"), None, &mut |done, total| {
        calls += 1;
        assert!(done <= total);
        if calls < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let error = result.unwrap_err();
    assert!(
        matches!(&error, ModelError::Format(FormatError::Io { cause, .. }) if cause.kind() == std::io::ErrorKind::Interrupted),
        "{error:?}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Packed tensors where a model cannot have them.
#[test]
fn packed_tensors_in_wrong_places_are_refused() {
    let tiny = TinyLlama { dtype: DType::F32, ..TinyLlama::default() };
    let gguf = Gguf::from_bytes("tiny", tiny.to_bytes()).unwrap();
    let mut metadata = gguf.metadata().clone();
    metadata.insert("general.alignment", 64u32);
    let mut writer = GgufWriter::new(metadata);
    for tensor in gguf.tensors() {
        // A norm is a vector, read as values and not as a matrix.
        match tensor.name() == "blk.0.attn_norm.weight" {
            true => writer.tensor(
                tensor.name(),
                tensor.shape(),
                TensorType::packed(DType::F32).unwrap(),
                vec![0; 16 * tensor.bytes().len()],
            ),
            false => writer.tensor(tensor.name(), tensor.shape(), tensor.tensor_type(), tensor.bytes()),
        }
        .unwrap();
    }
    let wrong = Gguf::from_bytes("wrong", writer.to_bytes().unwrap()).unwrap();
    let error = CpuModel::load(&wrong, &runtime(), options(false), &mut |_, _| {}).err().unwrap();
    assert!(matches!(&error, ModelError::TensorType { found, .. } if found == "packed F32"), "{error:?}");
    assert_eq!(error.to_string().lines().count(), 1);
}

/// A tensor that three matrices share, whose parts start within panels.
#[test]
fn parts_that_start_within_a_panel_are_refused() {
    let gguf = Gguf::open(committed("archs/phi2-dense.gguf")).unwrap();
    let fused = "blk.0.attn_qkv.weight";
    let mut metadata = gguf.metadata().clone();
    metadata.insert("general.alignment", 64u32);
    let width = gguf.metadata().u64("phi2.embedding_length").unwrap().unwrap();
    // One matrix for all three, cut within panels.
    metadata.insert("phi2.attention.head_count", 1u32);
    metadata.insert("phi2.attention.head_count_kv", 1u32);
    metadata.insert("phi2.attention.key_length", (width - 8) as u32);
    metadata.insert("phi2.attention.value_length", (width + 16) as u32);
    let mut writer = GgufWriter::new(metadata);
    let separate = ["attn_q.", "attn_k.", "attn_v."];
    for tensor in gguf.tensors().filter(|tensor| !separate.iter().any(|part| tensor.name().contains(part))) {
        writer.tensor(tensor.name(), tensor.shape(), tensor.tensor_type(), tensor.bytes()).unwrap();
    }
    let packed = TensorType::packed(DType::F32).unwrap();
    for layer in 0..gguf.metadata().u64("phi2.block_count").unwrap().unwrap() {
        let name = |part: &str| format!("blk.{layer}.attn_qkv.{part}");
        let bytes = |rows: u64| vec![0; (rows * packed.row_bytes(width).unwrap()) as usize];
        let weights = bytes((3 * width).next_multiple_of(16));
        writer.tensor(name("weight"), &[width, 3 * width], packed, weights).unwrap();
        let bias = vec![0; 3 * width as usize * 4];
        writer.tensor(name("bias"), &[3 * width], TensorType::from(DType::F32), bias).unwrap();
    }
    let wrong = Gguf::from_bytes("wrong", writer.to_bytes().unwrap()).unwrap();
    let error = CpuModel::load(&wrong, &runtime(), options(false), &mut |_, _| {}).err().unwrap();
    assert!(matches!(&error, ModelError::PackedParts { tensor, .. } if tensor == fused), "{error:?}");
    assert_eq!(error.to_string().lines().count(), 1);
}
