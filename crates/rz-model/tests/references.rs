//! Logits against those that other implementations give for the same files.

mod common;

use common::recorded::{DEFAULT, EXACT, check_real_model};
use common::{load, logits};
use rz_testkit::{committed, nmse};

/// Tiny models of every family; references by llama.cpp, which looks GELU up in a table
/// of half-precision values.
#[test]
fn tiny_models_of_every_family() {
    let tokens: Vec<u32> = (0..64).map(|i| (i * 37 + 11 * (i % 5) + 3) % 128).collect();
    let plain = ["llama", "qwen2", "qwen3"].map(|family| (family, 1e-9));
    let gelu = ["phi2", "gemma3", "gpt2"].map(|family| (family, 1e-5));
    for (family, tolerance) in plain.into_iter().chain(gelu) {
        let bytes =
            std::fs::read(committed(&format!("archs/{family}-dense.logits.f32"))).expect("the reference");
        let reference: Vec<f32> =
            bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let mut exact = load(&committed(&format!("archs/{family}-dense.gguf")), 2, EXACT);
        let got = logits(&mut exact, &tokens, 64);
        let error = nmse(&got, &reference);
        assert!(error <= tolerance, "{family}: NMSE {error}");
        for chunk in [1, 7] {
            assert_eq!(logits(&mut exact, &tokens, chunk), got, "{family}");
        }
    }
}

const SMOLLM2: [&str; 2] = ["SmolLM2-135M-Instruct.Q4_1.gguf", "references/smollm2_ref.json"];

#[test]
fn smollm2_exact() {
    check_real_model(SMOLLM2[0], SMOLLM2[1], EXACT, 0.01);
}

#[test]
fn smollm2() {
    check_real_model(SMOLLM2[0], SMOLLM2[1], DEFAULT, 0.15);
}
