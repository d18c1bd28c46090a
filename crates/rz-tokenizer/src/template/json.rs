//! Values of templates to JSON and back, as Python writes them.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// How Python's `json.dumps` is asked to write.
pub(crate) struct Style {
    /// Escapes all but ASCII.
    pub(crate) ascii: bool,
    /// Writes each item on a line of its own, indented by this.
    pub(crate) indent: Option<String>,
    /// What stands between items and after keys.
    pub(crate) separators: (String, String),
    /// Writes the keys of maps in their order.
    pub(crate) sort_keys: bool,
}

/// A template's value for JSON.
pub(crate) fn from_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (_, Some(integer)) => Value::from(integer),
            _ => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => items.iter().map(from_json).collect(),
        serde_json::Value::Object(map) => {
            Value::from_pairs(map.iter().map(|(key, value)| (key.as_str(), from_json(value))))
        }
    }
}

/// The JSON of a template's value.
pub(crate) fn to_json(value: &Value, style: &Style) -> Result<String, Error> {
    let mut json = String::new();
    write(value, style, 0, &mut json)?;
    Ok(json)
}

fn write(value: &Value, style: &Style, depth: usize, json: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => json.push_str("null"),
        ValueKind::Bool => json.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => match i128::try_from(value.clone()) {
            Ok(integer) if value.is_integer() => {
                let _ = write!(json, "{integer}");
            }
            _ => json.push_str(&float(f64::try_from(value.clone())?)),
        },
        ValueKind::String => string(value.as_str().unwrap_or_default(), style.ascii, json),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?;
            list(('[', ']'), items, style, depth, json, |item, json| write(&item, style, depth + 1, json))?;
        }
        ValueKind::Map => {
            let mut items = Vec::new();
            for key in value.try_iter()? {
                let item = value.get_item(&key)?;
                items.push((self::key(&key)?, item));
            }
            if style.sort_keys {
                items.sort_by(|a, b| a.0.cmp(&b.0));
            }
            list(('{', '}'), items.into_iter(), style, depth, json, |(key, item), json| {
                string(&key, style.ascii, json);
                json.push_str(&style.separators.1);
                write(&item, style, depth + 1, json)
            })?;
        }
        kind => {
            let message = format!("a value of type {kind} cannot be written as JSON");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    }
    Ok(())
}

fn list<T>(
    (open, close): (char, char),
    items: impl Iterator<Item = T>,
    style: &Style,
    depth: usize,
    json: &mut String,
    mut item: impl FnMut(T, &mut String) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = |depth: usize, json: &mut String| {
        if let Some(indent) = &style.indent {
            json.push('\n');
            (0..depth).for_each(|_| json.push_str(indent));
        }
    };
    json.push(open);
    let mut empty = true;
    for next in items {
        if !empty {
            json.push_str(&style.separators.0);
        }
        empty = false;
        line(depth + 1, json);
        item(next, json)?;
    }
    if !empty {
        line(depth, json);
    }
    json.push(close);
    Ok(())
}

/// The text of a key: Python writes numbers and constants as strings.
fn key(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
        ValueKind::Number if key.is_integer() => key.to_string(),
        ValueKind::Number => float(f64::try_from(key.clone())?),
        kind => {
            let message = format!("a key of type {kind} cannot be written as JSON");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    })
}

fn string(text: &str, ascii: bool, json: &mut String) {
    json.push('"');
    for letter in text.chars() {
        match letter {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            letter if letter < ' ' || (ascii && !letter.is_ascii()) => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    let _ = write!(json, "\\u{unit:04x}");
                }
            }
            letter => json.push(letter),
        }
    }
    json.push('"');
}

/// A number with a fraction, in the shortest form that reads back as it.
pub(crate) fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..16).contains(&exponent) || value == 0.0 {
        return format!("{value:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style(indent: Option<&str>, sort_keys: bool, ascii: bool) -> Style {
        let separators = if indent.is_some() { (",", ": ") } else { (", ", ": ") };
        Style {
            ascii,
            indent: indent.map(str::to_owned),
            separators: (separators.0.to_owned(), separators.1.to_owned()),
            sort_keys,
        }
    }

    /// Expected texts come from Python's `json.dumps`.
    #[test]
    fn json_is_that_of_python() {
        let value = from_json(&serde_json::json!({
            "b": [1, -2, 1.0, 1e16, 1.5e-7, 0.0001, 123456789012345680.0f64, true, null],
            "a": {"é\"\\\n\u{1}\u{7f}🙂": [], "x": {}},
        }));
        let plain = to_json(&value, &style(None, false, false)).unwrap();
        assert_eq!(
            plain,
            r#"{"b": [1, -2, 1.0, 1e+16, 1.5e-07, 0.0001, 1.2345678901234568e+17, true, null], "a": {"é\"\\\n\u0001"#
                .to_owned()
                + "\u{7f}🙂\": [], \"x\": {}}}"
        );
        let pretty = to_json(&value, &style(Some("  "), true, true)).unwrap();
        let expected = r#"{
  "a": {
    "x": {},
    "\u00e9\"\\\n\u0001\u007f\ud83d\ude42": []
  },
  "b": [
    1,
    -2,
    1.0,
    1e+16,
    1.5e-07,
    0.0001,
    1.2345678901234568e+17,
    true,
    null
  ]
}"#;
        assert_eq!(pretty, expected.replace("\\u007f", "\u{7f}"));
        assert!(to_json(&Value::UNDEFINED, &style(None, false, false)).is_err());
    }

    #[test]
    fn floats_are_those_of_python() {
        for (value, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (5e-324, "5e-324"),
            (1e15, "1000000000000000.0"),
            (0.1, "0.1"),
            (1e-5, "1e-05"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::INFINITY, "Infinity"),
        ] {
            assert_eq!(float(value), expected);
        }
    }
}
