//! Tiny models of every kind against the forward pass by its definition, in `f64`.

mod common;

use common::{every_runtime, logits, tiny_parts};
use rz_formats::{Gguf, Metadata};
use rz_model::arch::describe;
use rz_model::{CpuModel, Forward, KvType, LoadOptions};
use rz_quant::DType;
use rz_testkit::gguf::{Random, TinyLlama, TinyTensor, gguf_bytes};
use rz_testkit::reference::Reference;
use rz_testkit::{committed, nmse};

/// `f32` throughout.
const EXACT: f64 = 1e-9;
/// Keys and values in half precision, activations in 16 bits.
const DEFAULT: f64 = 1e-5;
/// Keys and values in bytes.
const BYTES: f64 = 2e-4;

/// Runs the file on every instruction set, exactly and not, and compares.
fn check(what: &str, metadata: Metadata, tensors: &[TinyTensor]) {
    let gguf = Gguf::from_bytes(what, gguf_bytes(metadata, tensors)).expect("a valid file");
    let mut random = Random::new(4);
    let reference = Reference::llama(&gguf);
    let vocabulary = reference.embedding.rows() as u64;
    let tokens: Vec<u32> = (0..45).map(|_| random.below(vocabulary) as u32).collect();
    let expected = reference.logits(&tokens);
    let layers = describe(&gguf).expect("a supported model").spec.layers;
    let whole_groups = layers.iter().all(|layer| layer.attention.key_size.is_multiple_of(32));
    for runtime in every_runtime(2) {
        for (exact, kv_type, limit) in [
            (true, KvType::F16, EXACT),
            (false, KvType::F32, DEFAULT),
            (false, KvType::F16, DEFAULT),
            (false, KvType::Q8_0, BYTES),
        ] {
            if kv_type == KvType::Q8_0 && !whole_groups {
                continue;
            }
            let options =
                LoadOptions { context: 64, max_batch: 64, kv_type, exact, ..LoadOptions::default() };
            let mut model =
                CpuModel::load(&gguf, &runtime, options, &mut |_, _| ()).expect("a supported model");
            assert_eq!(model.vocabulary() as u64, vocabulary);
            let error = nmse(&logits(&mut model, &tokens, 20), &expected);
            assert!(error <= limit, "{what}, {runtime:?}, {options:?}: NMSE {error}");
        }
    }
}

fn check_tiny(tiny: &TinyLlama) {
    let (metadata, tensors) = tiny_parts(tiny);
    check(&format!("{tiny:?}"), metadata, &tensors);
}

fn small() -> TinyLlama {
    TinyLlama { vocab: 70, tokenizer: false, seed: 21, ..TinyLlama::default() }
}

/// The oracle itself, against logits that llama.cpp gave.
#[test]
fn the_reference_agrees_with_another_implementation() {
    let gguf = Gguf::open(committed("archs/llama-dense.gguf")).expect("the model");
    let tokens: Vec<u32> = (0..64).map(|i| (i * 37 + 11 * (i % 5) + 3) % 128).collect();
    let bytes = std::fs::read(committed("archs/llama-dense.logits.f32")).expect("the logits");
    let other: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let error = nmse(&other, &Reference::llama(&gguf).logits(&tokens));
    assert!(error <= EXACT, "NMSE {error}");
}

#[test]
fn every_type() {
    for &dtype in DType::ALL {
        let tied = dtype.id() % 2 == 0;
        check_tiny(&TinyLlama { dim: 256, feed_forward: 256, layers: 1, dtype, tied, ..small() });
    }
}

#[test]
fn heads_of_many_shapes() {
    for (heads, kv_heads, head_size) in
        [(6, 2, 6), (6, 2, 34), (6, 2, 80), (4, 4, 16), (5, 1, 2), (9, 3, 64), (1, 1, 512)]
    {
        check_tiny(&TinyLlama { heads, kv_heads, head_size, layers: 1, ..small() });
    }
}

#[test]
fn widths_that_fill_no_vector() {
    check_tiny(&TinyLlama { dim: 37, feed_forward: 51, vocab: 67, ..small() });
    check_tiny(&TinyLlama { dim: 1, feed_forward: 1, vocab: 1, heads: 1, kv_heads: 1, ..small() });
}

#[test]
fn several_layers_in_quantized_types() {
    for dtype in [DType::Q4_0, DType::Q4_1, DType::Q8_0] {
        check_tiny(&TinyLlama { layers: 4, tied: false, dtype, ..small() });
    }
}

#[test]
fn positions() {
    let with = |keys: &[(&str, f32)]| {
        let (mut metadata, tensors) = tiny_parts(&TinyLlama { rope_factors: false, ..small() });
        for &(key, value) in keys {
            metadata.insert(format!("llama.{key}"), value);
        }
        check(&format!("{keys:?}"), metadata, &tensors);
    };
    with(&[("rope.freq_base", 500_000.0)]);
    with(&[("rope.scaling.factor", 4.0)]);
    with(&[("rope.scale_linear", 2.5)]);
    with(&[("rope.scaling.factor", 0.0)]);
    check_tiny(&TinyLlama { rope_factors: true, ..small() });
    for turning in [2u32, 8, 14] {
        let (mut metadata, tensors) = tiny_parts(&small());
        metadata.insert("llama.rope.dimension_count", turning);
        check(&format!("{turning} components turn"), metadata, &tensors);
    }
}

#[test]
fn keys_that_may_be_left_out() {
    let tiny = TinyLlama { heads: 4, kv_heads: 4, head_size: 16, ..small() };
    let (mut metadata, tensors) = tiny_parts(&tiny);
    for key in [
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "rope.dimension_count",
        "rope.freq_base",
        "vocab_size",
    ] {
        assert!(metadata.remove(&format!("llama.{key}")).is_some());
    }
    check("only the keys that every file has", metadata, &tensors);
}

#[test]
fn biases() {
    let mut random = Random::new(8);
    for dtype in [DType::F32, DType::Q4_1] {
        let (metadata, mut tensors) = tiny_parts(&TinyLlama { dtype, ..small() });
        let rows: Vec<(String, u64)> = tensors
            .iter()
            .filter(|tensor| ["attn_q.", "attn_k.", "attn_v."].iter().any(|part| tensor.name.contains(part)))
            .map(|tensor| (tensor.name.replace(".weight", ".bias"), tensor.shape[1]))
            .collect();
        assert_eq!(rows.len(), 6);
        for (name, len) in rows {
            let values = (0..len).map(|_| random.normal()).collect();
            tensors.push(TinyTensor { name, shape: vec![len], dtype: DType::F32, values });
        }
        check(&format!("biases, {dtype}"), metadata, &tensors);
    }
}

/// Values of another size than keys.
#[test]
fn values_of_their_own_size() {
    let mut random = Random::new(9);
    let tiny = small();
    for size in [6u64, 24] {
        let (mut metadata, mut tensors) = tiny_parts(&tiny);
        metadata.insert("llama.attention.value_length", size);
        for tensor in &mut tensors {
            if tensor.name.contains("attn_v.") {
                tensor.shape[1] = size * u64::from(tiny.kv_heads);
            } else if tensor.name.contains("attn_output.") {
                tensor.shape[0] = size * u64::from(tiny.heads);
            } else {
                continue;
            }
            let elements = tensor.shape.iter().product::<u64>();
            tensor.values = (0..elements).map(|_| random.normal() / 8.0).collect();
        }
        check(&format!("values of {size}"), metadata, &tensors);
    }
}
