//! Real models against recorded references.

use rz_model::{Forward, KvRoom, KvType, LoadOptions};
use rz_testkit::{committed, fixture};

use super::{load, logits};

pub(crate) const EXACT: LoadOptions = LoadOptions {
    context: 512,
    kv_room: KvRoom::Sequences(1),
    max_batch: 512,
    kv_type: KvType::F16,
    activations: None,
    exact: true,
};
pub(crate) const DEFAULT: LoadOptions = LoadOptions { exact: false, ..EXACT };

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
pub(crate) fn check_real_model(file: &str, reference: &str, options: LoadOptions, tolerance: f32) {
    let mut model = load(&fixture(file), 2, options);
    let vocabulary = model.vocabulary();
    for reference in references(reference) {
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
