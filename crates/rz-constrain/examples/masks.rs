//! How long constraints take: `cargo run --release -p rz-constrain --example masks -- model.gguf`
//!
//! Prints what setting up and compiling take, and the time of each token's mask over texts that follow the constraint.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rz_constrain::{Compiler, ConstraintSpec};
use rz_engine::{Constraint, TokenMask};
use rz_formats::Gguf;
use rz_tokenizer::{EncodeOptions, Tokenizer};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("expected the path of a GGUF file")?;
    let tokenizer = Arc::new(Tokenizer::from_gguf(Gguf::open(path)?.metadata())?);
    let compiler = Compiler::new(tokenizer.clone());
    println!("{} tokens", tokenizer.len());
    let start = Instant::now();
    compiler.compile(&ConstraintSpec::Choice(vec!["a".into()]))?;
    println!("setting up                 {:?}", start.elapsed());

    let string = json!({ "type": "string" });
    let schema = json!({
        "type": "object",
        "properties": {
            "name": string, "age": { "type": "integer", "minimum": 0 }, "email": string,
            "address": { "type": "object", "properties": { "street": string, "city": string },
                "required": ["street", "city"], "additionalProperties": false },
            "tags": { "type": "array", "items": string },
        },
        "required": ["name", "age", "email", "address", "tags"],
        "additionalProperties": false,
    });
    let text = r#"{"name": "Ada \"the first\" Lovelace", "age": 36, "email": "ada@example.org", "address": {"street": "12 St James's Square, first floor", "city": "London"}, "tags": ["mathematician", "writer", "she wrote the first program, for a machine that was never built"]}"#;
    let grammar = "root ::= value\nvalue ::= object | array | string | number | \"true\" | \"false\" | \"null\"\n\
        object ::= \"{\" ws (string ws \":\" ws value (\",\" ws string ws \":\" ws value)*)? \"}\" ws\n\
        array ::= \"[\" ws (value (\",\" ws value)*)? \"]\" ws\n\
        string ::= \"\\\"\" ([^\"\\\\\\x00-\\x1f] | \"\\\\\" [\"\\\\/bfnrt])* \"\\\"\" ws\n\
        number ::= \"-\"? [0-9]+ (\".\" [0-9]+)? ws\nws ::= \" \"?";
    for (name, spec) in [
        ("JSON schema", ConstraintSpec::JsonSchema(schema)),
        ("JSON object", ConstraintSpec::JsonObject),
        ("JSON as a grammar", ConstraintSpec::Gbnf(grammar.into())),
        ("regular expression", ConstraintSpec::Regex(r#"\{.{1,400}\}"#.into())),
    ] {
        let start = Instant::now();
        let constraint = compiler.compile(&spec)?;
        let compiled = start.elapsed();
        println!("{name}: compiled in {compiled:?}");
        let ids = tokenizer.encode(text, EncodeOptions::default());
        // The first text meets everything for the first time; for the others it is known, as it is for the answers
        // that share a constraint.
        for (round, texts) in [("first", 1), ("again", 10)] {
            let mut times: Vec<Duration> = Vec::new();
            for _ in 0..texts {
                follow(constraint.fork(), &ids, &mut times)?;
            }
            times.sort_unstable();
            let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
            let mean = times.iter().sum::<Duration>() / times.len() as u32;
            println!(
                "  {round}: a token: median {:?}, mean {mean:?}, 99% {:?}, most {:?}",
                at(0.5),
                at(0.99),
                at(1.0)
            );
        }
    }
    Ok(())
}

/// Lets a text pass, and notes what each token of it took.
fn follow(
    mut state: Box<dyn Constraint>,
    ids: &[u32],
    times: &mut Vec<Duration>,
) -> Result<(), Box<dyn Error>> {
    let mut mask = TokenMask::new(ids.iter().max().map_or(0, |id| *id as usize + 1));
    for token in ids {
        mask.clear();
        let start = Instant::now();
        state.allow(&mut mask)?;
        if !mask.is_allowed(*token) {
            return Err(format!("token {token} cannot come").into());
        }
        state.accept(*token)?;
        times.push(start.elapsed());
    }
    Ok(())
}
