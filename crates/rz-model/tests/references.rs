//! Logits against those that other implementations give for the same files.

mod common;

use common::{load, logits};
use rz_model::{Forward, KvType, LoadOptions};
use rz_testkit::{committed, fixture, nmse};

const EXACT: LoadOptions = LoadOptions { context: 512, max_batch: 512, kv_type: KvType::F16, exact: true };
const DEFAULT: LoadOptions = LoadOptions { exact: false, ..EXACT };

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

struct Reference {
    prompt: Vec<u32>,
    generated: Vec<u32>,
    top: Vec<Vec<(u32, f32)>>,
}

fn references(file: &str) -> Vec<Reference> {
    let text = std::fs::read_to_string(committed(file)).expect("the reference");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let ids = |value: &serde_json::Value| -> Vec<u32> {
        value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
    };
    let results = json["results"].as_array().expect("results");
    results
        .iter()
        .map(|result| Reference {
            prompt: ids(&result["prompt_ids"]),
            generated: ids(&result["generated_ids"]),
            top: result["steps"]
                .as_array()
                .expect("steps")
                .iter()
                .map(|step| {
                    let logits = step["top5_logits"].as_array().expect("logits").iter();
                    let logits = logits.map(|logit| logit.as_f64().expect("a number") as f32);
                    ids(&step["top5_ids"]).into_iter().zip(logits).collect()
                })
                .collect(),
        })
        .collect()
}

/// Teacher-forced: the reference's own tokens are fed, and each step's five best logits
/// compared. Where its two best differ by less than 0.15, either is the right one.
fn check_smollm2(options: LoadOptions, tolerance: f32) {
    let mut model = load(&fixture("SmolLM2-135M-Instruct.Q4_1.gguf"), 2, options);
    let vocabulary = model.vocabulary();
    for reference in references("references/smollm2_ref.json") {
        let tokens = [&reference.prompt[..], &reference.generated].concat();
        let all = logits(&mut model, &tokens, 512);
        let first = reference.prompt.len() - 1;
        for (step, (&token, top)) in reference.generated.iter().zip(&reference.top).enumerate() {
            let row = &all[(first + step) * vocabulary..][..vocabulary];
            for &(id, logit) in top {
                let got = row[id as usize];
                assert!((got - logit).abs() <= tolerance, "step {step}, token {id}: {got} for {logit}");
            }
            let best = (0..vocabulary as u32).max_by(|&a, &b| row[a as usize].total_cmp(&row[b as usize]));
            let best = best.expect("a token");
            let close = top[0].1 - top[1].1 < 0.15 && [top[0].0, top[1].0].contains(&best);
            assert!(best == token || close, "step {step}: {best} for {token}");
        }
    }
}

#[test]
fn smollm2_exact() {
    check_smollm2(EXACT, 0.01);
}

#[test]
fn smollm2() {
    check_smollm2(DEFAULT, 0.15);
}
