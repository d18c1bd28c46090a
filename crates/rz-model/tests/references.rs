//! Logits against those that other implementations give for the same files.

mod common;

use common::recorded::{DEFAULT, EXACT, check_real_model};
use common::{load, logits};
use rz_model::Activation;
use rz_model::arch::ARCHS;
use rz_testkit::{committed, nmse};

/// A tiny model of every family; references by llama.cpp, which looks GELU up in a table
/// of half-precision values.
#[test]
fn tiny_models_of_every_family() {
    let tokens: Vec<u32> = (0..64).map(|i| (i * 37 + 11 * (i % 5) + 3) % 128).collect();
    for arch in ARCHS {
        let family = arch.name;
        let bytes =
            std::fs::read(committed(&format!("archs/{family}-dense.logits.f32"))).expect("the reference");
        let reference: Vec<f32> =
            bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let path = committed(&format!("archs/{family}-dense.gguf"));
        let mut exact = load(&path, 2, EXACT);
        let tolerance = match exact.spec().layers[0].feed_forward.activation {
            Activation::Silu => 1e-9,
            Activation::GeluTanh => 1e-5,
        };
        let got = logits(&mut exact, &tokens, 64);
        let error = nmse(&got, &reference);
        assert!(error <= tolerance, "{family}: NMSE {error}");
        let mut default = load(&path, 2, DEFAULT);
        let rounded = logits(&mut default, &tokens, 64);
        let error = nmse(&rounded, &reference);
        assert!(error <= 1e-5, "{family}: NMSE {error}");
        for chunk in [1, 7] {
            assert_eq!(logits(&mut exact, &tokens, chunk), got, "{family}");
            assert_eq!(logits(&mut default, &tokens, chunk), rounded, "{family}");
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
