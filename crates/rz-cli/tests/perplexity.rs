//! A whole text, against the figure that llama.cpp gives for the same file, text and window.

mod common;

use std::ffi::OsStr;

use common::{json, model, with_model};
use rz_testkit::committed;

#[test]
fn perplexity_is_within_one_percent_of_llama_cpp() {
    const RECORDED: f64 = 23.5554;
    let text = committed("references/ppl.txt");
    let model = model();
    let fixed = [OsStr::new("perplexity"), OsStr::new("--json"), text.as_os_str()];
    let result = json(fixed.into_iter().chain(with_model(&model)));
    assert_eq!((&result["windows"], &result["complete"]), (&74.into(), &true.into()));
    let found = result["perplexity"].as_f64().expect("a number");
    assert!((found / RECORDED - 1.0).abs() < 0.01, "{found}");
    // llama.cpp gives 0.48 as the standard error.
    let error = result["error"].as_f64().expect("a number");
    assert!((0.475..0.49).contains(&error), "{error}");
}
