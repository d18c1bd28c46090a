//! JSON schemas, against a validator written from the specification's words.

use proptest::prelude::*;
use regex_automata::meta::Regex;
use rz_constrain::ConstraintSpec;
use serde_json::{Value, json};

use crate::walk::{Dice, accepts, compile, compile_after, walk};

/// Whether a value is what a schema describes, for the keywords that are used here.
fn is_valid(root: &Value, schema: &Value, value: &Value) -> bool {
    let Value::Object(map) = schema else { return schema == &Value::Bool(true) };
    map.iter().all(|(key, wanted)| match key.as_str() {
        "$ref" => is_valid(root, root.pointer(&wanted.as_str().unwrap()[1..]).unwrap(), value),
        "type" => {
            let is = |name: &Value| match name.as_str().unwrap() {
                "null" => value.is_null(),
                "boolean" => value.is_boolean(),
                "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
                "number" => value.is_number(),
                "string" => value.is_string(),
                "array" => value.is_array(),
                _ => value.is_object(),
            };
            wanted.as_array().map_or_else(|| is(wanted), |types| types.iter().any(is))
        }
        "enum" => wanted.as_array().unwrap().contains(value),
        "const" => wanted == value,
        "anyOf" => wanted.as_array().unwrap().iter().any(|schema| is_valid(root, schema, value)),
        "allOf" => wanted.as_array().unwrap().iter().all(|schema| is_valid(root, schema, value)),
        "properties" => value.as_object().is_none_or(|object| {
            object
                .iter()
                .all(|(name, value)| wanted.get(name).is_none_or(|schema| is_valid(root, schema, value)))
        }),
        "additionalProperties" => value.as_object().is_none_or(|object| {
            let known = |name: &String| map.get("properties").is_some_and(|known| known.get(name).is_some());
            object.iter().all(|(name, value)| known(name) || is_valid(root, wanted, value))
        }),
        "required" => value.as_object().is_none_or(|object| {
            wanted.as_array().unwrap().iter().all(|name| object.contains_key(name.as_str().unwrap()))
        }),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| is_valid(root, wanted, item))),
        "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= wanted.as_u64().unwrap()),
        "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= wanted.as_u64().unwrap()),
        "minLength" => {
            value.as_str().is_none_or(|text| text.chars().count() as u64 >= wanted.as_u64().unwrap())
        }
        "maxLength" => {
            value.as_str().is_none_or(|text| text.chars().count() as u64 <= wanted.as_u64().unwrap())
        }
        "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|number| number <= wanted.as_f64().unwrap()),
        "pattern" => {
            value.as_str().is_none_or(|text| Regex::new(wanted.as_str().unwrap()).unwrap().is_match(text))
        }
        "$defs" | "title" | "description" => true,
        other => panic!("the validator does not know {other}"),
    })
}

fn check(schema: &Value, seeds: std::ops::Range<u64>) -> usize {
    let constraint = compile(&ConstraintSpec::JsonSchema(schema.clone()))
        .unwrap_or_else(|error| panic!("{schema}: {error}"));
    let mut complete = 0;
    for seed in seeds {
        let (bytes, ended) = walk(&*constraint, &mut Dice(seed), 400);
        if !ended {
            continue;
        }
        let text = String::from_utf8(bytes).unwrap();
        // A number of hundreds of digits is JSON, and more than the reader's type holds.
        let Ok(value) = serde_json::from_str::<Value>(&text) else {
            let error = serde_json::from_str::<Value>(&text).unwrap_err();
            assert!(error.to_string().contains("out of range"), "{schema}: {text:?}: {error}");
            continue;
        };
        assert!(is_valid(schema, schema, &value), "{schema}: {text}");
        complete += 1;
    }
    complete
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "minLength": 1, "maxLength": 12 },
            "age": { "type": "integer", "minimum": 0, "maximum": 130 },
            "email": { "type": "string", "pattern": "^[a-z]+@[a-z]+$" },
            "kind": { "enum": ["a", "b c", 3, null] },
            "tags": { "type": "array", "items": { "type": "string", "maxLength": 3 }, "minItems": 1, "maxItems": 3 },
        },
        "required": ["name", "age", "email", "kind", "tags"],
        "additionalProperties": false,
    })
}

#[test]
fn texts_are_json_that_the_schema_describes() {
    let tree = json!({
        "$defs": { "node": {
            "type": "object",
            "properties": {
                "value": { "type": ["integer", "null"], "maximum": 9 },
                "next": { "anyOf": [{ "type": "null" }, { "$ref": "#/$defs/node" }] },
            },
            "required": ["value", "next"],
            "additionalProperties": false,
        } },
        "$ref": "#/$defs/node",
    });
    let both = json!({ "allOf": [
        { "type": "object", "properties": { "a": { "const": 1.5 } }, "required": ["a"] },
        { "properties": { "b": { "type": "boolean" } }, "required": ["b"], "additionalProperties": { "type": "number" } },
    ] });
    for schema in [person(), tree, both, json!({ "type": "array", "items": { "type": "number" } })] {
        assert!(check(&schema, 0..40) > 5, "{schema}");
    }
    assert!(check(&json!(true), 0..20) > 5);
}

#[test]
fn an_object_is_any_object() {
    let constraint = compile(&ConstraintSpec::JsonObject).unwrap();
    for text in ["{}", "{\"a\":1}", "{\"a\": [true, null, {\"b\": -1.5e3}]}", "{\n  \"a\": \"\\u0001é\"\n}"]
    {
        assert!(accepts(&*constraint, text), "{text}");
    }
    for text in ["", "[]", "1", " {}", "{} ", "{a:1}", "{\"a\":1,}", "{\"a\":          1}"] {
        assert!(!accepts(&*constraint, text), "{text}");
    }
}

/// What was begun can be ended: every beginning of a text is one of a text that is right.
#[test]
fn every_beginning_can_be_ended() {
    let constraint = compile(&ConstraintSpec::JsonSchema(person())).unwrap();
    for seed in 0..10 {
        let (whole, complete) = walk(&*constraint, &mut Dice(seed), 4000);
        assert!(complete);
        for cut in 0..whole.len() {
            // The same tokens up to here, then others.
            let mut fork = constraint.fork();
            for byte in &whole[..cut] {
                fork.accept(3 + u32::from(*byte)).unwrap();
            }
            let (rest, complete) = walk(&*fork, &mut Dice(seed + 100), 4000);
            assert!(complete);
            let text = String::from_utf8([&whole[..cut], &rest].concat()).unwrap();
            assert!(is_valid(&person(), &person(), &serde_json::from_str(&text).unwrap()), "{text}");
        }
    }
}

#[test]
fn a_constraint_may_begin_behind_a_marker() {
    let schema = json!({ "type": "object", "properties": { "a": { "type": "boolean" } }, "required": ["a"],
        "additionalProperties": false });
    let constraint = compile_after("</think>", &ConstraintSpec::JsonSchema(schema.clone()));
    for text in ["</think>{\"a\":true}", "so {\"b\" </thin </think>\n\n{\"a\": false}", "<</think></think>{}"]
    {
        let expected = text.rsplit("</think>").next().unwrap();
        let valid = serde_json::from_str(expected).is_ok_and(|value| is_valid(&schema, &schema, &value));
        assert_eq!(accepts(&*constraint, text), valid, "{text}");
    }
    for text in [
        "{\"a\":true}",
        "</think>x",
        "</think>",
        "</think>\n\n\n\n\n{\"a\":true}",
        "x</think >{\"a\":true}",
        "</think>\x0c{\"a\":true}",
    ] {
        assert!(!accepts(&*constraint, text), "{text}");
    }
}

/// Random schemas.
fn schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({ "type": "boolean" })),
        Just(json!({ "type": "null" })),
        (0u8..5, 0u8..5).prop_map(|(least, more)| {
            json!({ "type": "string", "minLength": least, "maxLength": least + more })
        }),
        (-50i32..50, 0i32..100).prop_map(|(least, more)| {
            json!({ "type": "integer", "minimum": least, "maximum": least + more })
        }),
        (-5i32..5, 1i32..9).prop_map(|(least, more)| {
            json!({ "type": "number", "minimum": f64::from(least) / 2.0, "maximum": f64::from(least) / 2.0 + f64::from(more) })
        }),
        prop::collection::vec("[a-c\"\\\\é]{0,3}", 1..4).prop_map(|texts| json!({ "enum": texts })),
        Just(json!({ "type": "string", "pattern": "^[a-f]{2,3}(x|y)?$" })),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), 0u8..2, 0u8..3).prop_map(|(items, least, more)| {
                json!({ "type": "array", "items": items, "minItems": least, "maxItems": least + more })
            }),
            prop::collection::vec(inner.clone(), 1..3).prop_map(|schemas| json!({ "anyOf": schemas })),
            (prop::collection::vec((inner, any::<bool>()), 0..4), any::<bool>()).prop_map(
                |(schemas, open)| {
                    let names = ["a", "b\"", "é", "long name"];
                    let named = schemas.iter().zip(names);
                    let properties: serde_json::Map<_, _> =
                        named.clone().map(|((schema, _), name)| (name.to_owned(), schema.clone())).collect();
                    let required: Vec<_> =
                        named.filter(|((_, required), _)| *required).map(|(_, name)| name).collect();
                    let others = if open { json!({ "type": "null" }) } else { json!(false) };
                    json!({ "type": "object", "properties": properties, "required": required,
                    "additionalProperties": others })
                }
            ),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn texts_are_what_random_schemas_describe(schema in schema()) {
        check(&schema, 0..4);
    }
}
