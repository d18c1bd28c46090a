//! A real model, run through the command, against what another implementation made of the same file.

mod common;

use std::ffi::OsStr;
use std::path::Path;

use common::{ids, json, model, stdout, with_model};
use rz_testkit::committed;
use serde_json::Value;

fn references() -> Vec<Value> {
    let text = std::fs::read_to_string(committed("references/smollm2_ref.json")).expect("the references");
    let mut json: Value = serde_json::from_str(&text).expect("JSON");
    std::mem::take(json["results"].as_array_mut().expect("results"))
}

/// Where the reference's own two best logits are nearly equal, either token is right.
const CLOSE: f64 = 0.15;

fn is_close_call(step: &Value) -> bool {
    let logit = |i: usize| step["top5_logits"][i].as_f64().expect("a logit");
    logit(0) - logit(1) < CLOSE
}

fn greedy(prompt: &str, tokens: usize) -> Value {
    let count = tokens.to_string();
    let fixed = ["run", "--greedy", "--no-template", "--ignore-eos", "--json", "-n", &count];
    let model = model();
    json(fixed.iter().map(OsStr::new).chain(with_model(&model)).chain([OsStr::new(prompt)]))
}

#[test]
fn prompts_are_continued_as_the_reference_does() {
    for reference in references() {
        let prompt = reference["prompt"].as_str().expect("a prompt");
        let expected = ids(&reference["generated_ids"]);
        let steps = reference["steps"].as_array().expect("steps");
        let result = greedy(prompt, expected.len());
        assert_eq!(ids(&result["prompt_tokens"]), ids(&reference["prompt_ids"]), "{prompt}");
        assert_eq!(result["finish"], "max_tokens");
        let found = ids(&result["tokens"]);
        assert_eq!(found.len(), expected.len());
        let same = found.iter().zip(&expected).take_while(|(found, expected)| found == expected).count();
        if same == expected.len() {
            let text = ["run", "--greedy", "--no-template", "--ignore-eos", "--special", "-n", "32", prompt];
            let model = model();
            let text = stdout(text.iter().map(OsStr::new).chain(with_model(&model)));
            assert_eq!(text.trim_end(), reference["generated_text"].as_str().expect("a text").trim_end());
        } else {
            assert!(is_close_call(&steps[same]), "{prompt}: token {same} is {}", found[same]);
            assert_eq!(
                u64::from(found[same]),
                steps[same]["top5_ids"][1].as_u64().expect("an id"),
                "{prompt}"
            );
            assert!(same >= 12, "{prompt}: the texts part at {same}");
        }
    }
}

fn logits(folder: &Path, tokens: &[u32], more: &[&str]) -> Vec<u8> {
    let file = folder.join("logits.f32");
    let list = tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let model = model();
    let fixed = [OsStr::new("logits"), OsStr::new("--tokens"), OsStr::new(&list), OsStr::new("--out")];
    let arguments = fixed.into_iter().chain([file.as_os_str()]).chain(with_model(&model));
    assert_eq!(stdout(arguments.chain(more.iter().map(OsStr::new))), "");
    std::fs::read(file).expect("the logits")
}

/// Teacher-forced: the reference's own tokens are fed, and each step's five best logits compared.
fn check_logits(more: &[&str], tolerance: f64) {
    let folder = tempfile::tempdir().expect("a folder");
    for reference in references() {
        let (prompt, generated) = (ids(&reference["prompt_ids"]), ids(&reference["generated_ids"]));
        let tokens = [&prompt[..], &generated].concat();
        let bytes = logits(folder.path(), &tokens, more);
        let values: Vec<f32> =
            bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let vocabulary = values.len() / tokens.len();
        assert_eq!(vocabulary * tokens.len() * 4, bytes.len());
        for (step, expected) in reference["steps"].as_array().expect("steps").iter().enumerate() {
            let row = &values[(prompt.len() - 1 + step) * vocabulary..][..vocabulary];
            let logits = expected["top5_logits"].as_array().expect("logits").iter();
            for (id, logit) in ids(&expected["top5_ids"]).into_iter().zip(logits) {
                let (found, expected) = (f64::from(row[id as usize]), logit.as_f64().expect("a logit"));
                assert!((found - expected).abs() <= tolerance, "step {step}: {found} for {expected}");
            }
        }
    }
}

#[test]
fn logits_are_near_the_reference() {
    check_logits(&[], 0.15);
}

#[test]
fn exact_logits_are_nearer() {
    check_logits(&["--exact"], 0.01);
}

#[test]
fn logits_do_not_depend_on_chunks_and_threads() {
    let folder = tempfile::tempdir().expect("a folder");
    let tokens: Vec<u32> = (0..150u32).map(|i| (i * 7919 + 13) % 49152).collect();
    let expected = logits(folder.path(), &tokens, &["--batch", "512", "-t", "2"]);
    assert_eq!(expected.len(), 150 * 49152 * 4);
    for more in [["--batch", "1", "-t", "2"], ["--batch", "7", "-t", "1"], ["--batch", "64", "-t", "3"]] {
        assert!(logits(folder.path(), &tokens, &more) == expected, "{more:?}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("the folder").collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_seed_gives_the_same_text_whatever_the_threads_and_chunks() {
    let model = model();
    let answer = |threads: &str, batch: &str, seed: &str| {
        let fixed = ["run", "Tell me a story.", "-n", "40", "-t", threads, "--batch", batch, "--seed", seed];
        stdout(fixed.iter().map(OsStr::new).chain(with_model(&model)))
    };
    let expected = answer("2", "512", "7");
    assert!(expected.split_whitespace().count() > 10, "{expected}");
    for (threads, batch) in [("1", "512"), ("2", "1"), ("1", "7"), ("2", "64")] {
        assert_eq!(answer(threads, batch, "7"), expected, "{threads} threads, chunks of {batch}");
    }
    assert_ne!(answer("2", "512", "8"), expected);
}

/// The mean negative log-likelihood of the tokens from `first` on.
fn mean_loss(logits: &[u8], tokens: &[u32], first: usize) -> f64 {
    let values: Vec<f64> =
        logits.as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect();
    let vocabulary = values.len() / tokens.len();
    let loss = |at: usize| {
        let row = &values[(at - 1) * vocabulary..][..vocabulary];
        let best = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        best + row.iter().map(|logit| (logit - best).exp()).sum::<f64>().ln() - row[tokens[at] as usize]
    };
    (first..tokens.len()).map(loss).sum::<f64>() / (tokens.len() - first) as f64
}

#[test]
fn perplexity_is_that_of_the_definition() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = std::fs::read_to_string(committed("references/ppl.txt")).expect("the text");
    let file = folder.path().join("text.txt");
    std::fs::write(&file, &text[..700]).expect("a file");
    let model = model();
    let tokenize = ["tokenize", "--json", &text[..700]];
    let tokens = ids(&json(tokenize.iter().map(OsStr::new).chain(with_model(&model)))["ids"]);
    let measure = |more: &[&str]| {
        let fixed = [OsStr::new("perplexity"), OsStr::new("--json"), file.as_os_str()];
        json(fixed.into_iter().chain(with_model(&model)).chain(more.iter().map(OsStr::new)))
    };
    let near = |measured: &Value, expected: f64| {
        let found = measured["perplexity"].as_f64().expect("a number");
        assert!((found / expected - 1.0).abs() < 1e-5, "{found} for {expected}");
    };

    // One window of 128 tokens, of which those after the first of the second half count.
    assert!((128..256).contains(&tokens.len()), "{}", tokens.len());
    let plain = measure(&["-c", "128"]);
    near(&plain, mean_loss(&logits(folder.path(), &tokens[..128], &[]), &tokens[..128], 65).exp());
    assert_eq!((&plain["windows"], &plain["scored_tokens"]), (&1.into(), &63.into()));
    assert_eq!((&plain["ctx"], &plain["complete"]), (&128.into(), &true.into()));
    assert!(plain["error"].as_f64().expect("a number") > 0.0);
    assert_eq!(measure(&["-c", "128", "--batch", "50"])["perplexity"], plain["perplexity"]);

    // Windows of 64 + 100 / 2 tokens, of which the last 100 count.
    let strided = measure(&["-c", "64", "--stride", "100"]);
    near(&strided, mean_loss(&logits(folder.path(), &tokens[..114], &[]), &tokens[..114], 14).exp());
    assert_eq!(strided["windows"], 1);
}
