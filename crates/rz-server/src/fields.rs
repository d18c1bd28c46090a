//! Reading a JSON object field by field, so that each wrong or unknown one is refused by its name.

use serde_json::{Map, Value};

use crate::ApiError;
use crate::body::Room;
use crate::error::shown;

/// An object of a request. What is not taken out of it by the end is refused.
pub(crate) struct Fields {
    map: Map<String, Value>,
    /// Where the object stands in the request, for messages.
    at: String,
    /// What a large body takes of the room for them.
    // Held for its end.
    #[allow(dead_code)]
    room: Room,
}

impl Fields {
    /// The fields of a request's body, and the room that it takes.
    pub(crate) fn of_body(value: Value, room: Room) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { map, at: String::new(), room }),
            other => Err(ApiError::bad_request(format!("the body is {}: give a JSON object", kind(&other)))),
        }
    }

    /// The fields of an object inside the body.
    pub(crate) fn of(value: Value, at: impl Into<String>) -> Result<Self, ApiError> {
        let at = at.into();
        match value {
            Value::Object(map) => Ok(Self { map, at, room: None }),
            other => Err(wrong(&at, &other, "an object")),
        }
    }

    /// The name of a field as the client wrote it, with the objects around it.
    pub(crate) fn path(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) }
    }

    /// A field of any kind. Null is as good as nothing.
    pub(crate) fn value(&mut self, name: &str) -> Option<Value> {
        // Not `swap_remove`: what is left shall stay in the client's order.
        self.map.shift_remove(name).filter(|value| !value.is_null())
    }

    /// Whether there is such a field.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    pub(crate) fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(&self.path(name), &other, "a string")),
        }
    }

    pub(crate) fn required_string(&mut self, name: &str) -> Result<String, ApiError> {
        self.string(name)?.ok_or_else(|| self.missing(name))
    }

    pub(crate) fn bool(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong(&self.path(name), &other, "true or false")),
        }
    }

    pub(crate) fn number(&mut self, name: &str) -> Result<Option<f64>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(number.as_f64()),
            Some(other) => Err(wrong(&self.path(name), &other, "a number")),
        }
    }

    /// A whole number within bounds, both included.
    pub(crate) fn integer(&mut self, name: &str, least: i64, most: i64) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let expected = || format!("a whole number from {least} to {most}");
        match whole(&value) {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(wrong(&self.path(name), &value, &expected())),
        }
    }

    pub(crate) fn array(&mut self, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(wrong(&self.path(name), &other, "an array")),
        }
    }

    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Fields>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(value) => Fields::of(value, self.path(name)).map(Some),
        }
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, ApiError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let found = value.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
        found.map(|(_, meaning)| Some(*meaning)).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            wrong(&self.path(name), &value, &words.join(" or "))
        })
    }

    /// Texts: one string, or an array of them.
    pub(crate) fn strings(&mut self, name: &str) -> Result<Option<Vec<String>>, ApiError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value {
            Value::String(text) => Ok(Some(vec![text])),
            Value::Array(items) => {
                let texts = items.into_iter().enumerate().map(|(index, item)| match item {
                    Value::String(text) => Ok(text),
                    other => Err(wrong(&format!("{}[{index}]", self.path(name)), &other, "a string")),
                });
                texts.collect::<Result<_, _>>().map(Some)
            }
            other => Err(wrong(&self.path(name), &other, "a string or an array of strings")),
        }
    }

    /// Fields that change nothing about the answer, such as who asks.
    pub(crate) fn without_effect(&mut self, names: &[&str]) {
        for name in names {
            self.map.shift_remove(*name);
        }
    }

    /// A field that is supported only with the values that mean what happens anyway.
    pub(crate) fn only(&mut self, name: &str, values: &[Value]) -> Result<(), ApiError> {
        let Some(value) = self.value(name) else { return Ok(()) };
        // 1.0 is 1.
        let number = whole(&value);
        if values.iter().any(|one| *one == value || (number.is_some() && whole(one) == number)) {
            return Ok(());
        }
        let path = self.path(name);
        let values: Vec<_> = values.iter().map(Value::to_string).collect();
        let only = match &values[..] {
            [] => "leave it out".to_owned(),
            values => format!("leave it out or give {}", values.join(" or ")),
        };
        let message = format!("'{path}' is not supported with the value {}: {only}", brief(&value));
        Err(ApiError::unsupported(path, message))
    }

    /// Refuses what was not taken. The body is gone then.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        match self.map.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((name, _)) => {
                let path = shown(&self.path(name));
                let message = format!("the parameter '{path}' is not supported here: leave it out");
                Err(ApiError::unsupported(path, message))
            }
        }
    }

    /// What was not taken.
    pub(crate) fn into_rest(self) -> Map<String, Value> {
        self.map
    }

    pub(crate) fn missing(&self, name: &str) -> ApiError {
        let path = self.path(name);
        let message = format!("'{path}' is missing");
        ApiError::invalid(path, message)
    }
}

/// An error about a value of the wrong kind.
pub(crate) fn wrong(path: &str, found: &Value, expected: &str) -> ApiError {
    ApiError::invalid(path, format!("'{}' is {}: give {expected}", shown(path), brief(found)))
}

/// A whole number of 64 bits, also when it is written with a fraction of zero or an exponent.
pub(crate) fn whole(value: &Value) -> Option<i64> {
    // What floating point has for all numbers about the largest one, and so for some beyond.
    const LARGEST: f64 = i64::MAX as f64;
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        (number.fract() == 0.0 && number.abs() < LARGEST).then_some(number as i64)
    })
}

/// A value in a message: itself when it is short, else what it is.
fn brief(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) if text.len() <= 40 => format!("\"{}\"", shown(text)),
        other => kind(other).to_owned(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body(value: Value) -> Result<Fields, ApiError> {
        Fields::of_body(value, None)
    }

    #[test]
    fn each_kind_is_taken_and_the_rest_refused_by_name() {
        let mut fields = body(json!({
            "s": "x", "b": true, "n": 0.5, "i": 3.0, "a": [1], "o": {"p": 1}, "null": null, "more": 1
        }))
        .unwrap();
        assert_eq!(fields.string("s").unwrap().as_deref(), Some("x"));
        assert_eq!(fields.bool("b").unwrap(), Some(true));
        assert_eq!(fields.number("n").unwrap(), Some(0.5));
        assert_eq!(fields.integer("i", 0, 3).unwrap(), Some(3));
        assert_eq!(fields.array("a").unwrap(), Some(vec![json!(1)]));
        assert_eq!(fields.string("null").unwrap(), None);
        let inner = fields.object("o").unwrap().unwrap();
        assert!(inner.finish().unwrap_err().message().contains("'o.p'"));
        assert!(fields.finish().unwrap_err().message().contains("'more'"));
    }

    #[test]
    fn wrong_kinds_are_refused_with_what_was_found_and_expected() {
        let wrong = json!({ "x": [1, 2] });
        let fields = || body(wrong.clone()).unwrap();
        for error in [
            fields().string("x").unwrap_err(),
            fields().bool("x").unwrap_err(),
            fields().number("x").unwrap_err(),
            fields().integer("x", 0, 9).unwrap_err(),
            fields().word("x", &[("auto", ())]).unwrap_err(),
            fields().strings("x").unwrap_err(),
        ] {
            assert_eq!(error.status(), 400);
            assert!(error.message().starts_with("'x"), "{error}");
        }
        for (value, least) in
            [(json!(1e300), 0), (json!(-1), 0), (json!(0.5), 0), (json!(10), 0), (json!("1"), 0)]
        {
            let mut fields = body(json!({ "x": value })).unwrap();
            assert!(fields.integer("x", least, 9).is_err());
        }
        assert!(body(json!([])).is_err());
    }

    #[test]
    fn whole_numbers_are_those_of_64_bits_however_they_are_written() {
        for (text, number) in [
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("-9223372036854775808.0", None),
            ("9223372036854774784.0", Some(i64::MAX - 1023)),
            ("-9.3e18", None),
            ("1e16", Some(10_000_000_000_000_000)),
            ("-0.0", Some(0)),
            ("1e300", None),
            ("0.5", None),
            ("\"1\"", None),
        ] {
            assert_eq!(whole(&serde_json::from_str(text).unwrap()), number, "{text}");
        }
    }
}
