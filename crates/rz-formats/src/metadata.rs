//! Keys and values of a model file, with readers that check types.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::FormatError;
use crate::value::{Array, StringArray, Value};

/// The metadata of a model file: unique keys with their values, in the order of the file.
///
/// Readers such as [`u32`](Self::u32) give `Ok(None)` for a key that is absent and
/// an error that names key, expected and found type for one of another type.
/// Integers of any width and sign are taken as long as the value fits.
#[derive(Clone, Debug)]
pub struct Metadata {
    file: PathBuf,
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    /// No keys yet, and no file.
    pub fn new() -> Self {
        Self::of_file("(no file)")
    }

    /// No keys yet; messages will name `file`.
    pub fn of_file(file: impl Into<PathBuf>) -> Self {
        Metadata { file: file.into(), entries: Vec::new(), index: HashMap::new() }
    }

    /// The file that messages name.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&at| &self.entries[at].1)
    }

    /// Whether `key` is there.
    pub fn contains(&self, key: &str) -> bool {
        self.index.contains_key(key)
    }

    /// Sets `key`, at the end when it is new. The value it had comes back.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        let key = key.into();
        if let Some(&at) = self.index.get(&key) {
            return Some(std::mem::replace(&mut self.entries[at].1, value.into()));
        }
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push((key, value.into()));
        None
    }

    /// Removes `key`; the others keep their order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.index.remove(key)?;
        self.index.values_mut().filter(|other| **other > at).for_each(|other| *other -= 1);
        Some(self.entries.remove(at).1)
    }

    fn missing(&self, key: &str) -> FormatError {
        FormatError::MissingKey { file: self.file.clone(), key: key.to_owned() }
    }

    fn wrong_type(&self, key: &str, expected: &'static str, found: impl Into<String>) -> FormatError {
        FormatError::WrongType { file: self.file.clone(), key: key.to_owned(), expected, found: found.into() }
    }

    fn wrong<T>(&self, key: &str, expected: &'static str, found: &Value) -> Result<Option<T>, FormatError> {
        Err(self.wrong_type(key, expected, found.type_name()))
    }

    fn integer<T: TryFrom<i128>>(&self, key: &str, expected: &'static str) -> Result<Option<T>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Some(integer) = value.integer() else { return self.wrong(key, expected, value) };
        match T::try_from(integer) {
            Ok(integer) => Ok(Some(integer)),
            Err(_) => Err(self.wrong_type(key, expected, format!("{} {integer}", value.type_name()))),
        }
    }

    /// An array of integers, lent when the file has it in this very type.
    fn integers<'a, T: TryFrom<i128> + Clone>(
        &'a self,
        key: &str,
        expected: &'static str,
        same: impl FnOnce(&'a Array) -> Option<&'a [T]>,
    ) -> Result<Option<Cow<'a, [T]>>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Value::Array(array) = value else { return self.wrong(key, expected, value) };
        if let Some(items) = same(array) {
            return Ok(Some(Cow::Borrowed(items)));
        }
        match array.integers() {
            Some(Ok(items)) => Ok(Some(Cow::Owned(items))),
            Some(Err(item)) => {
                Err(self.wrong_type(key, expected, format!("{} that holds {item}", array.type_name())))
            }
            None => self.wrong(key, expected, value),
        }
    }
}

impl Default for Metadata {
    fn default() -> Self {
        Self::new()
    }
}

/// Equal when the keys, their order and their values are.
impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut metadata = Metadata::new();
        for (key, value) in entries {
            metadata.insert(key, value);
        }
        metadata
    }
}

/// Makes a pair of readers: one for an optional key, one for a required one.
macro_rules! readers {
    ($($(#[$doc:meta])* $get:ident, $require:ident -> $type:ty, |$self:ident, $key:ident| $body:expr;)*) => {
        impl Metadata {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// When the value is of another type or does not fit.
            pub fn $get(&self, key: &str) -> Result<Option<$type>, FormatError> {
                let ($self, $key) = (self, key);
                $body
            }

            #[doc = concat!("As [`", stringify!($get), "`](Self::", stringify!($get), "), for a key that must be there.")]
            ///
            /// # Errors
            /// When the key is absent, or its value is of another type or does not fit.
            pub fn $require(&self, key: &str) -> Result<$type, FormatError> {
                self.$get(key)?.ok_or_else(|| self.missing(key))
            }
        )*}
    };
}

readers! {
    /// An integer.
    u32, require_u32 -> u32, |meta, key| meta.integer(key, "u32");
    /// An integer.
    i32, require_i32 -> i32, |meta, key| meta.integer(key, "i32");
    /// An integer.
    u64, require_u64 -> u64, |meta, key| meta.integer(key, "u64");
    /// An integer.
    i64, require_i64 -> i64, |meta, key| meta.integer(key, "i64");
    /// A number; one of double precision is rounded.
    f32, require_f32 -> f32, |meta, key| match meta.get(key) {
        None => Ok(None),
        Some(Value::F32(value)) => Ok(Some(*value)),
        Some(Value::F64(value)) => Ok(Some(*value as f32)),
        Some(other) => meta.wrong(key, "f32", other),
    };
    /// A truth value.
    bool, require_bool -> bool, |meta, key| match meta.get(key) {
        None => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(other) => meta.wrong(key, "bool", other),
    };
    /// A string.
    str, require_str -> &str, |meta, key| match meta.get(key) {
        None => Ok(None),
        Some(Value::String(value)) => Ok(Some(value)),
        Some(other) => meta.wrong(key, "string", other),
    };
    /// An array of strings.
    strings, require_strings -> &StringArray, |meta, key| match meta.get(key) {
        None => Ok(None),
        Some(Value::Array(Array::Strings(values))) => Ok(Some(values)),
        Some(other) => meta.wrong(key, "array of string", other),
    };
    /// An array of truth values.
    bools, require_bools -> &[bool], |meta, key| match meta.get(key) {
        None => Ok(None),
        Some(Value::Array(Array::Bool(values))) => Ok(Some(values)),
        Some(other) => meta.wrong(key, "array of bool", other),
    };
    /// An array of integers.
    u32s, require_u32s -> Cow<'_, [u32]>, |meta, key| meta.integers(key, "array of u32", |array| match array {
        Array::U32(items) => Some(items),
        _ => None,
    });
    /// An array of integers.
    i32s, require_i32s -> Cow<'_, [i32]>, |meta, key| meta.integers(key, "array of i32", |array| match array {
        Array::I32(items) => Some(items),
        _ => None,
    });
    /// An array of numbers; those of double precision are rounded.
    f32s, require_f32s -> Cow<'_, [f32]>, |meta, key| match meta.get(key) {
        None => Ok(None),
        Some(Value::Array(Array::F32(values))) => Ok(Some(Cow::Borrowed(values))),
        Some(Value::Array(Array::F64(values))) => {
            Ok(Some(values.iter().map(|&value| value as f32).collect()))
        }
        Some(other) => meta.wrong(key, "array of f32", other),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metadata {
        let mut meta = Metadata::of_file("m.gguf");
        meta.insert("u8", 7u8);
        meta.insert("i64", -1i64);
        meta.insert("u64", u64::MAX);
        meta.insert("f32", 0.5f32);
        meta.insert("f64", 0.25f64);
        meta.insert("bool", true);
        meta.insert("str", "text");
        meta.insert("i32s", vec![1i32, -1]);
        meta.insert("u16s", vec![1u16, 2]);
        meta.insert("f64s", vec![1.0f64, 2.0]);
        meta.insert("strings", ["a", "b"].iter().collect::<StringArray>());
        meta
    }

    #[test]
    fn integers_convert_when_they_fit() {
        let meta = sample();
        assert_eq!(meta.u32("u8").unwrap(), Some(7));
        assert_eq!(meta.i64("u8").unwrap(), Some(7));
        assert_eq!(meta.i32("i64").unwrap(), Some(-1));
        assert_eq!(meta.u64("u64").unwrap(), Some(u64::MAX));
        assert_eq!(meta.u32s("u16s").unwrap().unwrap().as_ref(), [1, 2]);
        assert!(matches!(meta.i32s("i32s").unwrap().unwrap(), Cow::Borrowed([1, -1])));
        assert_eq!(meta.f32("f64").unwrap(), Some(0.25));
        assert_eq!(meta.f32s("f64s").unwrap().unwrap().as_ref(), [1.0, 2.0]);
        for (error, message) in [
            (meta.u32("i64").unwrap_err(), r#"m.gguf: the key "i64" is i64 -1, expected u32"#),
            (
                meta.i64("u64").unwrap_err(),
                r#"m.gguf: the key "u64" is u64 18446744073709551615, expected i64"#,
            ),
            (
                meta.u32s("i32s").unwrap_err(),
                r#"m.gguf: the key "i32s" is array of i32 that holds -1, expected array of u32"#,
            ),
        ] {
            assert!(matches!(error, FormatError::WrongType { .. }));
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn other_types_are_refused_and_absent_keys_are_not() {
        let meta = sample();
        assert_eq!(meta.u32("none").unwrap(), None);
        assert!(meta.strings("none").unwrap().is_none());
        let error = meta.require_u32("none").unwrap_err();
        assert!(matches!(&error, FormatError::MissingKey { key, .. } if key == "none"));
        assert_eq!(error.to_string(), r#"m.gguf: the key "none" is missing"#);
        let error = meta.require_f32("str").unwrap_err();
        assert_eq!(error.to_string(), r#"m.gguf: the key "str" is string, expected f32"#);
        assert!(meta.u32("f32").is_err());
        assert!(meta.u32("bool").is_err());
        assert!(meta.bool("u8").is_err());
        assert!(meta.f32("u8").is_err());
        assert!(meta.str("strings").is_err());
        assert!(meta.strings("i32s").is_err());
        assert!(meta.i32s("u8").is_err());
        assert!(meta.f32s("i32s").is_err());
        assert_eq!(meta.require_str("str").unwrap(), "text");
        assert_eq!(meta.require_strings("strings").unwrap().get(1), Some("b"));
    }

    #[test]
    fn keys_stay_unique_and_ordered() {
        let mut meta: Metadata = [("b", 1u32), ("a", 2), ("c", 3)].into_iter().collect();
        assert_eq!(meta.insert("a", 5u32), Some(Value::U32(2)));
        assert!(meta.iter().map(|(key, _)| key).eq(["b", "a", "c"]));
        assert_eq!(meta.remove("b"), Some(Value::U32(1)));
        assert_eq!(meta.remove("b"), None);
        assert_eq!(meta.get("c"), Some(&Value::U32(3)));
        assert_eq!((meta.u32("a").unwrap(), meta.len()), (Some(5), 2));
    }
}
