//! A real model, whose vocabulary is one of bytes in disguise.

use std::sync::Arc;

use rz_constrain::{Compiler, ConstraintSpec};
use rz_engine::{Event, Finish, Request, Session};
use rz_formats::Gguf;
use rz_kernels::Runtime;
use rz_model::sampler::{Chain, Settings};
use rz_model::{CpuModel, LoadOptions};
use rz_testkit::fixture;
use rz_tokenizer::{EncodeOptions, Tokenizer};
use serde_json::{Value, json};

#[test]
fn a_real_model_answers_in_json() {
    let gguf = Gguf::open(fixture("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_gguf(gguf.metadata()).unwrap());
    let options = LoadOptions { context: 512, max_batch: 64, ..LoadOptions::default() };
    let forward = CpuModel::load(&gguf, &Runtime::new(Some(2)).unwrap(), options, &mut |_, _| {}).unwrap();
    let mut session = Session::new(forward);
    let schema = json!({
        "type": "object",
        "properties": {
            "city": { "type": "string", "maxLength": 30 },
            "country": { "enum": ["France", "Spain", "Italy"] },
            "sights": { "type": "array", "items": { "type": "string", "maxLength": 30 }, "maxItems": 3 },
        },
        "required": ["city", "country", "sights"],
        "additionalProperties": false,
    });
    let compiler = Compiler::new(tokenizer.clone());
    let prompt = "<|im_start|>user\nDescribe Paris as JSON with city, country and sights.<|im_end|>\n<|im_start|>assistant\n";
    let prompt = tokenizer.encode(prompt, EncodeOptions { add_special: true, parse_special: true });
    for seed in 0..3 {
        let mut request = Request::new(&prompt, Chain::new(&Settings::new()).unwrap());
        (request.seed, request.max_tokens) = (seed, Some(200));
        request.constraint = Some(compiler.compile(&ConstraintSpec::JsonSchema(schema.clone())).unwrap());
        let (mut text, mut end) = (String::new(), None);
        for event in session.generate(&tokenizer, request).unwrap() {
            match event.unwrap() {
                Event::Token { text: more, .. } | Event::Text(more) => text += &more,
                Event::Finished { reason, .. } => end = Some(reason),
            }
        }
        assert_eq!(end, Some(Finish::ConstraintEnd), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(value["city"].is_string() && value["sights"].as_array().unwrap().len() <= 3, "{text}");
        assert!(["France", "Spain", "Italy"].contains(&value["country"].as_str().unwrap()), "{text}");
    }
}
