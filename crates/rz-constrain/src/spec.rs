//! What a text must be, as data.

use serde_json::Value;

use crate::ConstrainError;

/// The most bytes of a schema, or of all choices.
const LONGEST_SCHEMA: usize = 256 << 10;
/// The most bytes of an expression or a grammar.
const LONGEST_TEXT: usize = 64 << 10;
/// How deep a schema or the brackets of an expression or a grammar may nest.
const DEEPEST: usize = 64;

/// What a text must be.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ConstraintSpec {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema describes.
    JsonSchema(Value),
    /// Text that a regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// What a grammar in Lark's notation describes.
    Lark(String),
    /// What a grammar in llama.cpp's notation describes.
    Gbnf(String),
}

impl ConstraintSpec {
    /// What it is called in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::JsonObject | Self::JsonSchema(_) => "the JSON schema",
            Self::Regex(_) => "the regular expression",
            Self::Choice(_) => "the list of choices",
            Self::Lark(_) | Self::Gbnf(_) => "the grammar",
        }
    }

    /// Refuses what is too large to be looked at. Takes time that grows with the size, and little of it.
    ///
    /// # Errors
    /// When it is too long, nests too deep, or has no choices.
    pub fn check(&self) -> Result<(), ConstrainError> {
        let what = self.name();
        let (found, limit) = match self {
            Self::JsonObject => (0, LONGEST_SCHEMA),
            Self::JsonSchema(schema) => {
                // Before anything that goes through all levels.
                if !schema_depth_is_within(schema, DEEPEST) {
                    return Err(ConstrainError::TooDeep { what, limit: DEEPEST });
                }
                (schema.to_string().len(), LONGEST_SCHEMA)
            }
            Self::Choice(choices) => (choices.iter().map(String::len).sum(), LONGEST_SCHEMA),
            Self::Regex(text) | Self::Lark(text) | Self::Gbnf(text) => (text.len(), LONGEST_TEXT),
        };
        if found > limit {
            return Err(ConstrainError::TooLong { what, found, limit });
        }
        let invalid = |message: &str| Err(ConstrainError::Invalid { what, message: message.into() });
        match self {
            Self::Choice(choices) if choices.is_empty() => invalid("it has none: give at least one"),
            Self::Choice(choices) if choices.iter().any(String::is_empty) => {
                invalid("a choice is empty: leave it out")
            }
            Self::JsonSchema(schema) if !schema.is_object() && !schema.is_boolean() => {
                invalid("a schema is an object, true or false")
            }
            Self::JsonSchema(schema) if schema.get("x-guidance").is_some() => {
                invalid("'x-guidance' is no keyword of JSON schema: leave it out")
            }
            Self::Lark(text) if lark_depth(text) > DEEPEST => {
                Err(ConstrainError::TooDeep { what, limit: DEEPEST })
            }
            _ => Ok(()),
        }
    }
}

fn schema_depth_is_within(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(_) | Value::Object(_) if levels == 0 => false,
        Value::Array(items) => items.iter().all(|item| schema_depth_is_within(item, levels - 1)),
        Value::Object(map) => map.values().all(|item| schema_depth_is_within(item, levels - 1)),
        _ => true,
    }
}

/// How deep the brackets of a grammar in Lark's notation nest, outside of texts, expressions and comments.
fn lark_depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => while chars.next().is_some_and(|c| c != '\n') {},
            '#' => while chars.next().is_some_and(|c| c != '\n') {},
            quote @ ('"' | '/') => {
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => drop(chars.next()),
                        // Neither goes over the end of a line.
                        '\n' => break,
                        c if c == quote => break,
                        _ => {}
                    }
                }
            }
            '(' | '[' | '{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_too_large_is_refused_before_it_is_looked_at() {
        let nested = |levels| (0..levels).fold(json!(true), |inner, _| json!({ "items": inner }));
        assert_eq!(ConstraintSpec::JsonSchema(nested(64)).check(), Ok(()));
        assert!(matches!(
            ConstraintSpec::JsonSchema(nested(65)).check(),
            Err(ConstrainError::TooDeep { limit: 64, .. })
        ));
        let long = "x".repeat(LONGEST_TEXT + 1);
        for spec in [
            ConstraintSpec::Regex(long.clone()),
            ConstraintSpec::Lark(long.clone()),
            ConstraintSpec::Gbnf(long.clone()),
            ConstraintSpec::Choice(vec![long.clone(); 5]),
            ConstraintSpec::JsonSchema(json!({ "description": long.repeat(5) })),
        ] {
            assert!(matches!(spec.check(), Err(ConstrainError::TooLong { .. })));
        }
        for spec in [
            ConstraintSpec::Choice(vec![]),
            ConstraintSpec::Choice(vec!["a".into(), String::new()]),
            ConstraintSpec::JsonSchema(json!([])),
            ConstraintSpec::JsonSchema(json!({ "x-guidance": {} })),
        ] {
            assert!(matches!(spec.check(), Err(ConstrainError::Invalid { .. })), "{spec:?}");
        }
    }

    #[test]
    fn brackets_count_only_where_they_group() {
        assert_eq!(lark_depth("start: (\"a\" [b (c)]) | d{2}"), 3);
        assert_eq!(lark_depth(r#"start: "((((\"((" /[(](\/(/ // (((("#), 0);
        assert_eq!(lark_depth(&"(".repeat(1000)), 1000);
    }
}
