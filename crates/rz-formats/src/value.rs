//! Values that the metadata of a model file can hold.

use std::fmt;

use crate::shown;

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of values of one type.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Strings(StringArray),
    Arrays(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// Many strings in one piece of memory.
///
/// A vocabulary has a hundred thousand entries of a few bytes: one allocation
/// each would cost more than reading the rest of a file's metadata.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StringArray {
    text: String,
    /// Entry `i` is `text[ends[i - 1]..ends[i]]`.
    ends: Vec<usize>,
}

/// The numbers by which GGUF files name the types of values.
///
/// One row per type keeps names, numbers and conversions in step.
macro_rules! types {
    ($($variant:ident, $array:ident, $id:literal, $name:literal;)*) => {
        impl Value {
            /// The type's number in a GGUF file.
            pub const fn type_id(&self) -> u32 {
                match self { $(Value::$variant(_) => $id),* }
            }

            /// The type's name, such as `u32`; of an array its elements' too.
            pub const fn type_name(&self) -> &'static str {
                match self {
                    Value::Array(array) => array.type_name(),
                    $(#[allow(unreachable_patterns)] Value::$variant(_) => $name),*
                }
            }
        }

        impl Array {
            /// The number in a GGUF file of the type of the elements.
            pub const fn element_type_id(&self) -> u32 {
                match self { $(Array::$array(_) => $id),* }
            }

            /// The type's name, such as `array of u32`.
            pub const fn type_name(&self) -> &'static str {
                match self { $(Array::$array(_) => concat!("array of ", $name)),* }
            }

            /// Elements of the array.
            pub fn len(&self) -> usize {
                match self { $(Array::$array(items) => items.len()),* }
            }
        }
    };
}

types! {
    U8, U8, 0, "u8";
    I8, I8, 1, "i8";
    U16, U16, 2, "u16";
    I16, I16, 3, "i16";
    U32, U32, 4, "u32";
    I32, I32, 5, "i32";
    F32, F32, 6, "f32";
    Bool, Bool, 7, "bool";
    String, Strings, 8, "string";
    Array, Arrays, 9, "array";
    U64, U64, 10, "u64";
    I64, I64, 11, "i64";
    F64, F64, 12, "f64";
}

impl Value {
    /// The value as an integer, when it is one of any width.
    pub fn integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }
}

impl Array {
    /// Whether the array has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as integers of type `T`: `None` when they are not integers,
    /// `Some(Err(element))` when one does not fit.
    pub fn integers<T: TryFrom<i128>>(&self) -> Option<Result<Vec<T>, i128>> {
        fn convert<S: Copy + Into<i128>, T: TryFrom<i128>>(items: &[S]) -> Result<Vec<T>, i128> {
            items.iter().map(|&item| T::try_from(item.into()).map_err(|_| item.into())).collect()
        }
        Some(match self {
            Array::U8(items) => convert(items),
            Array::I8(items) => convert(items),
            Array::U16(items) => convert(items),
            Array::I16(items) => convert(items),
            Array::U32(items) => convert(items),
            Array::I32(items) => convert(items),
            Array::U64(items) => convert(items),
            Array::I64(items) => convert(items),
            _ => return None,
        })
    }
}

impl StringArray {
    /// Strings of the array.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The string at `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.text[start..end])
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + DoubleEndedIterator + Clone {
        (0..self.len()).map(|index| self.get(index).unwrap_or_default())
    }

    /// Bytes of all strings together.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Appends a string.
    pub fn push(&mut self, string: &str) {
        self.text.push_str(string);
        self.ends.push(self.text.len());
    }

    /// Takes strings that lie one after another in `text` and end at `ends`.
    pub(crate) fn from_parts(text: Vec<u8>, ends: Vec<usize>) -> Result<Self, NotUtf8> {
        // Checking the whole at once is several times faster than piece by piece. It is
        // the same condition, given that every cut is between two characters.
        let text = match String::from_utf8(text) {
            Ok(text) if ends.iter().all(|&end| text.is_char_boundary(end)) => {
                return Ok(StringArray { text, ends });
            }
            Ok(text) => text.into_bytes(),
            Err(error) => error.into_bytes(),
        };
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let bad = starts
            .zip(&ends)
            .enumerate()
            .find(|(_, (start, end))| std::str::from_utf8(&text[*start..**end]).is_err())
            .map(|(index, (at, _))| NotUtf8 { index, at });
        Err(bad.expect("pieces that are UTF-8 join to UTF-8 with cuts between characters"))
    }
}

/// The first string of an array that is not UTF-8.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotUtf8 {
    /// Its number.
    pub(crate) index: usize,
    /// Where its text starts in the text of all.
    pub(crate) at: usize,
}

impl fmt::Debug for StringArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<S: AsRef<str>> FromIterator<S> for StringArray {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut array = StringArray::default();
        strings.into_iter().for_each(|string| array.push(string.as_ref()));
        array
    }
}

/// Shows a value on one line; of a long array the first elements and the length.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(v) => v.fmt(f),
            Value::I8(v) => v.fmt(f),
            Value::U16(v) => v.fmt(f),
            Value::I16(v) => v.fmt(f),
            Value::U32(v) => v.fmt(f),
            Value::I32(v) => v.fmt(f),
            Value::F32(v) => fmt::Debug::fmt(v, f),
            Value::Bool(v) => v.fmt(f),
            Value::String(v) => shown::text(v).fmt(f),
            Value::Array(v) => v.fmt(f),
            Value::U64(v) => v.fmt(f),
            Value::I64(v) => v.fmt(f),
            Value::F64(v) => fmt::Debug::fmt(v, f),
        }
    }
}

/// Shows the first elements, and the length when there are more.
impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: fmt::Display>(
            items: impl ExactSizeIterator<Item = T>,
            f: &mut fmt::Formatter<'_>,
        ) -> fmt::Result {
            const SHOWN: usize = 8;
            let len = items.len();
            f.write_str("[")?;
            for (i, item) in items.take(SHOWN).enumerate() {
                write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
            }
            if len > SHOWN {
                write!(f, ", … {len} in all")?;
            }
            f.write_str("]")
        }
        match self {
            Array::U8(v) => list(v.iter(), f),
            Array::I8(v) => list(v.iter(), f),
            Array::U16(v) => list(v.iter(), f),
            Array::I16(v) => list(v.iter(), f),
            Array::U32(v) => list(v.iter(), f),
            Array::I32(v) => list(v.iter(), f),
            Array::F32(v) => list(v.iter().map(|&v| Value::F32(v)), f),
            Array::Bool(v) => list(v.iter(), f),
            Array::Strings(v) => list(v.iter().map(shown::text), f),
            Array::Arrays(v) => list(v.iter(), f),
            Array::U64(v) => list(v.iter(), f),
            Array::I64(v) => list(v.iter(), f),
            Array::F64(v) => list(v.iter().map(|&v| Value::F64(v)), f),
        }
    }
}

macro_rules! from {
    ($($type:ty => $variant:ident $array:ident),* $(,)?) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Value::$variant(value)
            }
        }

        impl From<Vec<$type>> for Value {
            fn from(values: Vec<$type>) -> Self {
                Value::Array(Array::$array(values))
            }
        }
    )*};
}

from! {
    u8 => U8 U8, i8 => I8 I8, u16 => U16 U16, i16 => I16 I16, u32 => U32 U32, i32 => I32 I32,
    f32 => F32 F32, bool => Bool Bool, u64 => U64 U64, i64 => I64 I64, f64 => F64 F64,
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::String(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Value::String(value)
    }
}

impl From<StringArray> for Value {
    fn from(values: StringArray) -> Self {
        Value::Array(Array::Strings(values))
    }
}

impl From<Array> for Value {
    fn from(values: Array) -> Self {
        Value::Array(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_keep_their_borders() {
        let strings = ["", "a", "", "Ġthe", "日本", ""];
        let array: StringArray = strings.iter().collect();
        assert_eq!(array.len(), strings.len());
        assert!(array.iter().eq(strings));
        assert!(array.iter().rev().eq(strings.iter().rev().copied()));
        assert_eq!(array.get(3), Some("Ġthe"));
        assert_eq!(array.get(6), None);
        assert_eq!(array.bytes(), 12);
        assert_eq!(StringArray::default().iter().next(), None);
    }

    #[test]
    fn strings_cut_inside_a_character_are_refused() {
        // Two halves of "é": the whole is UTF-8, the pieces are not.
        assert_eq!(
            StringArray::from_parts(b"ab\xc3\xa9".to_vec(), vec![1, 3, 4]),
            Err(NotUtf8 { index: 1, at: 1 })
        );
        assert_eq!(
            StringArray::from_parts(b"ab\xff".to_vec(), vec![1, 2, 3]),
            Err(NotUtf8 { index: 2, at: 2 })
        );
        let good = StringArray::from_parts("abé".into(), vec![1, 1, 4]);
        assert_eq!(good, Ok(["a", "", "bé"].iter().collect()));
    }

    #[test]
    fn long_values_are_shown_short_and_on_one_line() {
        let long = Value::from((0..100u32).collect::<Vec<_>>());
        assert_eq!(long.to_string(), "[0, 1, 2, 3, 4, 5, 6, 7, … 100 in all]");
        let text = Value::from(["a\nb", "c"].iter().collect::<StringArray>());
        assert_eq!(text.to_string(), r#"["a\nb", "c"]"#);
        assert_eq!(text.type_name(), "array of string");
    }
}
