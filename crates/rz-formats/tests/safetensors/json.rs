//! JSON files: read as they are, and refused when they are ambiguous.

use std::path::Path;

use rz_formats::{FormatError, json_object};
use serde_json::{Map, Value};

use super::check_message;

fn object(text: &str) -> Map<String, Value> {
    json_object("c.json", text.as_bytes()).unwrap()
}

fn refused(text: impl AsRef<[u8]>) -> FormatError {
    let error = json_object("c.json", text.as_ref()).expect_err("malformed JSON was accepted");
    check_message(&error, Path::new("c.json"));
    error
}

#[test]
fn values_are_those_of_serde_json() {
    let text = r#" {"z": [1, -2, 3.5, 1e3, 18446744073709551615, true, false, null, "a\n\u00e9\ud83e\udd80", {}, []],
        "a": {"b": {"c": [[[]]]}, "a": 0}, "": "", "é\"": 1.0} "#;
    let found = Value::Object(object(text));
    assert_eq!(found, serde_json::from_str::<Value>(text).unwrap());
    // In the order of the file.
    assert!(found.as_object().unwrap().keys().eq(["z", "a", "", "é\""]));
}

#[test]
fn what_is_not_one_object_is_refused() {
    for (text, at) in [
        ("", 0),
        ("1", 0),
        ("[]", 0),
        ("null", 3),
        ("{} {}", 3),
        ("{\"a\":NaN}", 5),
        ("{\"a\":1e999}", 9),
        ("{\n\"a\":\n x}", 8),
    ] {
        let error = refused(text);
        assert!(
            matches!(&error, FormatError::Json { place, .. } if place.offset.unwrap().abs_diff(at) <= 1),
            "{text} {error:?}"
        );
    }
    assert!(matches!(refused(b"{\"\xff\":1}"), FormatError::Utf8 { place, .. } if place.offset == Some(2)));
    assert!(matches!(refused(vec![b' '; (16 << 20) + 1]), FormatError::TooLarge { .. }));
}

#[test]
fn keys_that_occur_twice_are_refused_at_any_depth() {
    for text in ["{\"x\":1,\"x\":2}", "{\"a\":[{\"x\":{},\"b\":[],\"x\":1}]}", "{\"x\":1,\"\\u0078\":2}"] {
        let error = refused(text);
        assert!(matches!(&error, FormatError::DuplicateKey { key, .. } if key == "x"), "{error:?}");
    }
    let error = refused("{\"a\": 1,\n \"b\": 2,\n \"a\": 3}");
    assert_eq!(error.to_string(), "c.json, byte 20: the key \"a\" occurs twice");
    object("{\"x\":{\"x\":[{\"x\":1},{\"x\":1}]}}");
}

#[test]
fn depth_is_limited() {
    let nested = |depth: usize, open: &str, close: &str| {
        format!("{{\"key\":{}{}{}}}", open.repeat(depth - 1), "0", close.repeat(depth - 1))
    };
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        object(&nested(100, open, close));
        for depth in [101, 128, 129, 10_000] {
            let error = refused(nested(depth, open, close));
            assert!(matches!(&error, FormatError::JsonDepth { limit: 100, .. }), "{depth}: {error:?}");
        }
    }
    let error = refused(format!("{{\"key\":{}", "[".repeat(10_000)));
    assert_eq!(error.to_string(), "c.json, byte 2: JSON nested deeper than 100");
}

#[test]
fn the_number_of_values_is_limited() {
    let zeros = |count: usize| format!("{{\"a\":[{}]}}", vec!["0"; count - 1].join(","));
    assert_eq!(object(&zeros(1 << 19))["a"].as_array().unwrap().len(), (1 << 19) - 1);
    let error = refused(zeros((1 << 19) + 1));
    assert!(matches!(&error, FormatError::Count { found: 524_289, .. }), "{error:?}");
}
