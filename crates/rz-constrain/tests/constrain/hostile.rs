//! Descriptions that are made to take time or memory, or to break what reads them.

use std::time::{Duration, Instant};

use rz_constrain::{ConstrainError, ConstraintSpec};
use rz_engine::{Constraint, TokenMask};
use serde_json::{Value, json};

use crate::walk::{Dice, TOKENIZER, compile};

fn nested(levels: usize, schema: impl Fn(Value) -> Value) -> Value {
    (0..levels).fold(json!({ "type": "boolean" }), |inner, _| schema(inner))
}

/// Schemas that refer to one another in a long line.
fn line_of_references(length: usize) -> Value {
    let mut definitions = serde_json::Map::new();
    for index in 0..length {
        definitions.insert(format!("d{index}"), json!({ "$ref": format!("#/$defs/d{}", index + 1) }));
    }
    definitions.insert(format!("d{length}"), json!({ "type": "null" }));
    json!({ "$defs": definitions, "$ref": "#/$defs/d0" })
}

fn hostile() -> Vec<(&'static str, ConstraintSpec)> {
    let schema = |value| ConstraintSpec::JsonSchema(value);
    let regex = |text: &str| ConstraintSpec::Regex(text.to_owned());
    let lark = |text: String| ConstraintSpec::Lark(text);
    let gbnf = |text: String| ConstraintSpec::Gbnf(text);
    let alternatives: Vec<Value> =
        (0..40).map(|n| json!({ "properties": { format!("p{n}"): { "const": n } } })).collect();
    let all_of_any: Vec<Value> = (0..20).map(|_| json!({ "anyOf": alternatives })).collect();
    let optional: serde_json::Map<_, _> =
        (0..3000).map(|n| (format!("p{n}"), json!({ "type": "string" }))).collect();
    vec![
        ("blown up by counts", regex("((((a{1,100}){1,100}){1,100}){1,100}){1,100}")),
        ("a count of a count", schema(json!({ "type": "string", "pattern": "^(x{1000}){1000}$" }))),
        ("states that double", regex(&format!("(a|b)*a(a|b){{{}}}", 64))),
        (
            "states that double, in a schema",
            schema(json!({ "type": "string", "pattern": "^.*a.{40}b.{40}c$" })),
        ),
        (
            "a long count",
            schema(json!({ "type": "string", "maxLength": 4_000_000_000u64, "minLength": 1_000_000 })),
        ),
        ("many items", schema(json!({ "type": "array", "minItems": 100_000_000, "items": {} }))),
        ("many properties", schema(json!({ "type": "object", "minProperties": 1_000_000 }))),
        ("deep", schema(nested(120, |inner| json!({ "items": inner })))),
        (
            "deep choices",
            schema(nested(
                30,
                |inner| json!({ "anyOf": [inner, { "type": "array" }, { "type": "string" }] }),
            )),
        ),
        ("a product of choices", schema(json!({ "allOf": all_of_any }))),
        ("many optional properties", schema(json!({ "type": "object", "properties": optional }))),
        (
            "references in a circle",
            schema(
                json!({ "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } }, "$ref": "#/$defs/a" }),
            ),
        ),
        ("a reference to itself", schema(json!({ "$ref": "#" }))),
        (
            "a reference with a sibling to itself",
            schema(json!({ "$ref": "#", "type": "object", "allOf": [{ "$ref": "#" }] })),
        ),
        ("a long line of references", schema(line_of_references(4000))),
        ("references to nothing", schema(json!({ "$ref": "#/$defs/none" }))),
        ("references elsewhere", schema(json!({ "$ref": "http://localhost/schema.json" }))),
        ("an invalid expression", regex("(")),
        ("an expression that looks back", regex("(?<=a)b")),
        ("a back reference", regex(r"(a)\1")),
        ("an invalid pattern", schema(json!({ "type": "string", "pattern": "[" }))),
        ("an impossible number", schema(json!({ "type": "integer", "minimum": 5, "maximum": 4 }))),
        ("a small divisor", schema(json!({ "type": "number", "multipleOf": 1e-300 }))),
        (
            "divisors without a common multiple",
            schema(
                json!({ "allOf": [{ "type": "integer", "multipleOf": 999_983 }, { "multipleOf": 999_979 }] }),
            ),
        ),
        ("a divisor of zero", schema(json!({ "type": "number", "multipleOf": 0 }))),
        ("huge limits", schema(json!({ "type": "number", "minimum": -1.7e308, "maximum": 1.7e308 }))),
        ("a schema of nothing", schema(json!(false))),
        (
            "keywords of wrong types",
            schema(json!({ "type": 5, "properties": [], "required": "é".repeat(200) })),
        ),
        ("a long wrong constant", schema(json!({ "type": "number", "minimum": "é".repeat(200) }))),
        ("unknown keywords", schema(json!({ "type": "object", "unevaluatedProperties": false, "if": {} }))),
        ("an unknown format", schema(json!({ "type": "string", "format": "é" }))),
        ("no JSON schema", schema(json!("text"))),
        ("many alternatives", ConstraintSpec::Choice((0..20_000).map(|n| format!("choice {n}")).collect())),
        ("one long choice", ConstraintSpec::Choice(vec!["x".repeat(250_000)])),
        ("lark: deep parentheses", lark(format!("start: {}\"a\"{}", "(".repeat(30_000), ")".repeat(30_000)))),
        (
            "lark: parentheses in an expression",
            lark(format!("start: /{}a{}/", "(".repeat(30_000), ")".repeat(30_000))),
        ),
        ("regex: deep parentheses", regex(&format!("{}a{}", "(".repeat(30_000), ")".repeat(30_000)))),
        ("regex: a long line of signs", regex(&format!("a{}", "?".repeat(60_000)))),
        ("regex: many classes", regex(&r"\p{L}\p{Greek}*".repeat(4000))),
        (
            "lark: a long line of words",
            lark(
                (0..5000).fold("start: W0\n".to_owned(), |text, n| format!("{text}W{n}: W{}\n", n + 1))
                    + "W5000: \"a\"",
            ),
        ),
        (
            "lark: a long line of rules",
            lark(
                (0..5000).fold("start: r0\n".to_owned(), |text, n| format!("{text}r{n}: r{}\n", n + 1))
                    + "r5000: \"a\"",
            ),
        ),
        ("lark: a word of itself", lark("start: A\nA: A \"a\"".to_owned())),
        ("lark: nothing ends", lark("start: start \"a\"".to_owned())),
        ("lark: ambiguous", lark("start: start start | \"a\" | start start start".to_owned())),
        (
            "lark: doubling words",
            lark(
                (0..40).fold("start: W0\n".to_owned(), |text, n| format!("{text}W{n}: W{0} W{0}\n", n + 1))
                    + "W40: \"a\"",
            ),
        ),
        (
            "lark: doubling rules",
            lark(
                (0..40).fold("start: r0\n".to_owned(), |text, n| format!("{text}r{n}: r{0} r{0}\n", n + 1))
                    + "r40: \"a\"",
            ),
        ),
        ("lark: repeated repetitions", lark("start: ((\"a\"{1000}){1000}){1000}".to_owned())),
        ("lark: another grammar", lark("start: @other".to_owned())),
        ("lark: a file", lark("%import /etc/passwd\nstart: \"a\"".to_owned())),
        ("lark: a token that is not there", lark("start: <|none|>".to_owned())),
        ("lark: a token beyond the vocabulary", lark("start: <[99999999]>".to_owned())),
        ("lark: options", lark("%llguidance { \"no_such\": 1 }\nstart: \"a\"".to_owned())),
        ("lark: garbage", lark("\u{0}\u{ff}{{{{".to_owned())),
        ("lark: nothing", lark(String::new())),
        (
            "gbnf: deep parentheses",
            gbnf(format!("root ::= {}\"a\"{}", "(".repeat(30_000), ")".repeat(30_000))),
        ),
        (
            "gbnf: doubling rules",
            gbnf(
                (0..40)
                    .fold("root ::= r0\n".to_owned(), |text, n| format!("{text}r{n} ::= r{0} r{0}\n", n + 1))
                    + "r40 ::= \"a\"",
            ),
        ),
        (
            "gbnf: doubling rules that recur",
            gbnf(
                (0..40).fold("root ::= r0 root?\n".to_owned(), |text, n| {
                    format!("{text}r{n} ::= r{0} r{0}\n", n + 1)
                }) + "r40 ::= \"a\"",
            ),
        ),
        (
            "gbnf: a long line of rules",
            gbnf(
                (0..900).fold("root ::= r0\n".to_owned(), |text, n| {
                    format!("{text}r{n} ::= \"x\" r{} root?\n", n + 1)
                }) + "r900 ::= \"a\"",
            ),
        ),
        ("gbnf: counts of counts", gbnf("root ::= ((\"a\"{2000}){2000}){2000} root?".to_owned())),
        (
            "gbnf: many texts",
            gbnf(format!(
                "root ::= ({}) root?",
                (0..3000).map(|n| format!("\"{n}a{}\"", n * 7919)).collect::<Vec<_>>().join(" | ")
            )),
        ),
        ("gbnf: signs", gbnf(format!("root ::= \"a\"{}", "*".repeat(60_000)))),
    ]
}

/// Follows a constraint for some tokens. Gives the longest time that one took.
fn follow(mut constraint: Box<dyn Constraint>, dice: &mut Dice) -> Duration {
    let mut mask = TokenMask::new(TOKENIZER.len());
    let mut longest = Duration::ZERO;
    for _ in 0..60 {
        if constraint.is_complete() {
            break;
        }
        mask.clear();
        let start = Instant::now();
        let result = constraint.allow(&mut mask);
        let allowed: Vec<u32> = (3..TOKENIZER.len() as u32).filter(|token| mask.is_allowed(*token)).collect();
        if result.is_err() || allowed.is_empty() {
            break;
        }
        let result = constraint.accept(allowed[dice.below(allowed.len())]);
        longest = longest.max(start.elapsed());
        if let Err(message) = result {
            assert!(!message.contains('\n'), "{message}");
            break;
        }
    }
    longest
}

/// Each gives a constraint or an error of one line that says what is wrong, and none takes long. The time is far
/// above what each takes, and far below what those took that were not bounded.
#[test]
fn hostile_descriptions_end_soon_and_say_why() {
    let mut refused = 0;
    for (name, spec) in hostile() {
        let start = Instant::now();
        let result = compile(&spec);
        let took = start.elapsed();
        let message = result.as_ref().err().map(ToString::to_string);
        let token =
            result.as_ref().map_or(Duration::ZERO, |constraint| follow(constraint.fork(), &mut Dice(1)));
        eprintln!("{name}: {took:.3?}: {}, {token:.3?} a token", message.as_deref().unwrap_or("taken"));
        assert!(token < Duration::from_secs(1), "{name} took {token:?} for a token");
        assert!(took < Duration::from_secs(30), "{name} took {took:?}");
        if let Some(message) = message {
            assert!(!message.contains('\n') && message.len() < 600, "{name}: {message}");
            assert!(!matches!(result, Err(ConstrainError::TooSlow { .. } | ConstrainError::Busy)), "{name}");
            refused += 1;
        }
    }
    assert!(refused > 30, "{refused}");
}
