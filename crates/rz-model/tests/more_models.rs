//! Real models of other families against recorded references. They are large and not
//! everywhere to be had: `cargo xtask test --models` fetches them and runs this.

mod common;

use common::recorded::{DEFAULT, EXACT, check_real_model};

const QWEN: [&str; 2] = ["qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", "references/qwen05_ref.json"];
const GEMMA: [&str; 2] = ["gemma-3-270m-q4_k_m.gguf", "references/gemma3_270m_ref.json"];

#[test]
fn qwen2() {
    check_real_model(QWEN[0], QWEN[1], DEFAULT, 0.15);
}

#[test]
fn qwen2_exact() {
    check_real_model(QWEN[0], QWEN[1], EXACT, 0.01);
}

#[test]
fn gemma3() {
    check_real_model(GEMMA[0], GEMMA[1], DEFAULT, 0.15);
}

#[test]
fn gemma3_exact() {
    check_real_model(GEMMA[0], GEMMA[1], EXACT, 0.01);
}
