//! What cannot be run is refused in one line that names the file and what is wrong in it.
//! (How much memory that takes: `allocation.rs`.)

mod common;

use std::ops::Range;

use common::bad::{self, Expected};
use common::tiny_file;
use rz_formats::Gguf;
use rz_kernels::Runtime;
use rz_model::{Batch, CpuModel, Forward, KV_BLOCK, KvRoom, LoadOptions, ModelError, NO_BLOCK, Output, Want};
use rz_testkit::gguf::{TinyLlama, gguf_bytes};

const OPTIONS: LoadOptions = LoadOptions {
    context: 128,
    kv_room: KvRoom::Sequences(1),
    max_batch: 8,
    kv_type: rz_model::KvType::F16,
    activations: None,
    exact: false,
};

fn load(gguf: &Gguf, options: LoadOptions) -> Result<CpuModel, ModelError> {
    CpuModel::load(gguf, &Runtime::new(Some(1)).expect("threads"), options, &mut |_, _| ())
}

#[test]
fn files_that_hold_no_model_that_can_be_run() {
    assert!(load(&tiny_file(&bad::good()), OPTIONS).is_ok(), "the model that all the files were made from");
    for bad in bad::files() {
        let error = match load(&bad.gguf, OPTIONS) {
            Ok(_) => panic!("{}: accepted", bad.what),
            Err(error) => error,
        };
        let text = error.to_string();
        assert!(bad.expected.matches(&error), "{}: {error:?}, expected {:?}", bad.what, bad.expected);
        assert!(!text.contains(char::is_control), "{}: {text:?}", bad.what);
        assert!(text.len() < 600, "{}: {text}", bad.what);
        for part in [bad::FILE, bad.expected.name()] {
            assert!(text.contains(part), "{}: no {part:?} in {text:?}", bad.what);
        }
    }
}

#[test]
fn an_error_says_what_would_be_right() {
    let says = |wanted: &dyn Fn(&Expected) -> bool, parts: &[&str]| {
        let bad = bad::files().into_iter().find(|bad| wanted(&bad.expected)).expect("such a file");
        let text = load(&bad.gguf, OPTIONS).err().expect("it is refused").to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    says(&|e| matches!(e, Expected::Type(..)), &["IQ2_XXS", "Q4_K", "Q8_0", "F16"]);
    says(&|e| matches!(e, Expected::Architecture), &["supported", "llama"]);
    says(&|e| matches!(e, Expected::Shape(name) if name == "blk.0.attn_q.weight"), &["[64, 64]", "[80, 64]"]);
    says(&|e| matches!(e, Expected::Value(key) if key.ends_with("head_count_kv")), &["is 0", "from 1 to"]);
}

/// Keys that have values, but ones that mean "none", are no reason to refuse a file.
#[test]
fn values_that_change_nothing_are_taken() {
    let model = bad::good();
    let mut metadata = model.metadata();
    for key in ["expert_count", "attention.sliding_window", "attention.kv_lora_rank", "ssm.state_size"] {
        metadata.insert(format!("llama.{key}"), 0u32);
    }
    for key in ["logit_scale", "embedding_scale", "residual_scale", "rope.scaling.factor"] {
        metadata.insert(format!("llama.{key}"), 1f32);
    }
    metadata.insert("llama.attention.causal", true);
    metadata.insert("llama.use_parallel_residual", false);
    metadata.insert("llama.rope.scaling.type", "none");
    metadata.insert("llama.something.nobody.knows", 7u32);
    metadata.insert("bert.attention.causal", false);
    let gguf = Gguf::from_bytes("tiny", gguf_bytes(metadata, &model.tensors())).expect("a valid file");
    assert!(load(&gguf, OPTIONS).is_ok());
}

#[test]
fn a_cache_that_no_memory_can_hold() {
    let gguf = tiny_file(&bad::good());
    for context in [usize::MAX, usize::MAX / 2] {
        match load(&gguf, LoadOptions { context, ..OPTIONS }).err() {
            Some(error @ ModelError::Memory { .. }) => {
                assert!(error.to_string().contains("smaller context"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn heads_that_a_type_does_not_take() {
    let options = LoadOptions { kv_type: rz_model::KvType::Q8_0, ..OPTIONS };
    let tiny = TinyLlama { head_size: 80, ..bad::good() };
    let text = load(&tiny_file(&tiny), options).err().expect("it is refused").to_string();
    for part in ["q8_0", "layer 0", "80 components", "multiple of 32", "f16"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(load(&tiny_file(&TinyLlama { head_size: 64, ..tiny }), options).is_ok());
    assert!(
        load(&tiny_file(&TinyLlama { head_size: 80, ..tiny }), LoadOptions { exact: true, ..options })
            .is_ok()
    );
}

const TOKENS: u32 = 40;

/// Runs the batch, which must be refused for a reason that contains all of `parts`.
fn refused(model: &mut CpuModel, batch: &Batch<'_>, layers: Range<usize>, out: &mut Output, parts: &[&str]) {
    match model.forward(batch, layers, out) {
        Err(ModelError::Batch(why)) => {
            assert!(parts.iter().all(|part| why.contains(part)), "{why:?} for {parts:?}");
            assert!(!why.contains(char::is_control));
        }
        other => panic!("{other:?} for {parts:?}"),
    }
}

#[test]
fn batches_that_make_no_sense() {
    let tiny = TinyLlama { vocab: TOKENS, ..bad::good() };
    let mut model = load(&tiny_file(&tiny), OPTIONS).expect("a valid model");
    let good = Batch {
        tokens: &[1, 2, 3],
        positions: &[0, 1, 2],
        sequences: &[0, 0, 0],
        tables: &[&[3, 0]],
        outputs: &[Want::Logits; 3],
    };
    let mut out = Output::default();
    model.forward(&good, 0..2, &mut out).expect("a valid batch");
    let before = out.clone();

    let long = [0; 9];
    let beyond = [0, 1, 2 * KV_BLOCK as u32];
    let cases: Vec<(Batch<'_>, &[&str])> = vec![
        (
            Batch { tokens: &[], positions: &[], sequences: &[], outputs: &[], ..good },
            &["0 tokens", "1 to 8"],
        ),
        (
            Batch { tokens: &long, positions: &long, sequences: &long, outputs: &[Want::Nothing; 9], ..good },
            &["9 tokens", "1 to 8"],
        ),
        (Batch { positions: &[0, 1], ..good }, &["3 tokens", "2 positions"]),
        (Batch { sequences: &[0; 4], ..good }, &["3 tokens", "4 sequences"]),
        (Batch { outputs: &[], ..good }, &["3 tokens", "0 outputs"]),
        (Batch { tokens: &[1, TOKENS, 3], ..good }, &["token id 40", "40 tokens"]),
        (Batch { tokens: &[1, 2, u32::MAX], ..good }, &["token id 4294967295"]),
        (Batch { sequences: &[0, 1, 0], ..good }, &["sequence 1", "there are 1"]),
        (Batch { sequences: &[0, u32::MAX, 0], ..good }, &["sequence 4294967295"]),
        (Batch { tables: &[], ..good }, &["sequence 0", "there are 0"]),
        (Batch { tables: &[&[3, 4]], ..good }, &["KV block 4", "there are 4"]),
        (Batch { tables: &[&[3, 0], &[NO_BLOCK - 1]], ..good }, &["KV block 4294967294"]),
        (Batch { tables: &[&[NO_BLOCK, 0]], ..good }, &["position 0", "entry 0", "no block"]),
        (Batch { positions: &[33, 34, 35], tables: &[&[NO_BLOCK, 0]], ..good }, &["position 33", "entry 0"]),
        (Batch { tables: &[&[]], ..good }, &["position 2", "0 blocks"]),
        (Batch { positions: &beyond, ..good }, &["position 64", "2 blocks"]),
        (Batch { positions: &[0, 1, u32::MAX], ..good }, &["position 4294967295"]),
    ];
    for (batch, parts) in &cases {
        refused(&mut model, batch, 0..2, &mut out, parts);
    }
    for layers in [0..3, 3..3, Range { start: 2, end: 1 }, 0..usize::MAX] {
        refused(&mut model, &good, layers, &mut out, &["layers", "of 2"]);
    }
    refused(&mut model, &good, 1..2, &mut out, &["residual of 0", "3 x 64"]);

    // Nothing was computed, and nothing was written to the cache.
    assert_eq!((&out.logits, &out.hidden, &out.residual), (&before.logits, &before.hidden, &before.residual));
    let last = Batch { tokens: &[3], positions: &[2], sequences: &[0], outputs: &[Want::Logits], ..good };
    model.forward(&last, 0..2, &mut out).expect("a valid batch");
    assert_eq!(out.logits, before.logits[2 * TOKENS as usize..]);
}
