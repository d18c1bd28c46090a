//! Reading `tokenizer.json` within bounds, whatever it holds.

use std::fmt;

use rz_formats::StringArray;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The most bytes of a file that are read; the largest real ones have some 30 MB.
pub(super) const MAX_BYTES: u64 = 128 << 20;

/// The most values outside the vocabulary, the merges and the added tokens; real files
/// have some hundred.
const MAX_VALUES: usize = 1 << 16;

/// What a `tokenizer.json` says.
#[derive(Default)]
pub(super) struct TokenizerJson {
    pub(super) added: Vec<Added>,
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) post_processor: Value,
    pub(super) decoder: Value,
    pub(super) model: Model,
}

/// A token that is looked for in a text before anything else.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Added {
    /// The id that the file gives it, which is not always the one it gets.
    pub(super) id: u64,
    pub(super) content: String,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    pub(super) normalized: bool,
    pub(super) special: bool,
}

/// What turns words into tokens.
#[derive(Default)]
pub(super) struct Model {
    /// All but the vocabulary and the merges.
    pub(super) settings: Map<String, Value>,
    pub(super) vocabulary: Vocabulary,
    pub(super) merges: Option<Merges>,
}

/// Texts and ids in the order of the file. None where they are written in another way.
#[derive(Default)]
pub(super) struct Vocabulary {
    pub(super) texts: StringArray,
    pub(super) ids: Vec<u32>,
}

/// Pairs in the order of the file.
#[derive(Default)]
pub(super) struct Merges {
    pub(super) left: StringArray,
    pub(super) right: StringArray,
    /// The first that is not two texts with a space between.
    pub(super) bad: Option<(usize, String)>,
}

/// Reads a file. The message says what is wrong, and where.
pub(super) fn read(json: &[u8]) -> Result<TokenizerJson, String> {
    let message = |error: serde_json::Error| crate::template::one_line(&error.to_string());
    let mut reader = serde_json::Deserializer::from_slice(json);
    let whole = reader.deserialize_map(File).map_err(message)?;
    reader.end().map_err(message)?;
    Ok(whole)
}

struct File;

impl<'de> Visitor<'de> for File {
    type Value = TokenizerJson;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TokenizerJson, A::Error> {
        let mut file = TokenizerJson::default();
        let mut seen = Seen::default();
        let mut budget = MAX_VALUES;
        let mut has_model = false;
        while let Some(key) = map.next_key::<String>()? {
            seen.add(&key)?;
            let field = match key.as_str() {
                "version" => {
                    let version = map.next_value_seed(Bounded(&mut budget))?;
                    if version != "1.0" {
                        return Err(A::Error::custom("the version of the file is not \"1.0\""));
                    }
                    continue;
                }
                "added_tokens" => {
                    file.added = map.next_value()?;
                    continue;
                }
                "model" => {
                    file.model = map.next_value_seed(ModelSeed(&mut budget))?;
                    has_model = true;
                    continue;
                }
                "normalizer" => &mut file.normalizer,
                "pre_tokenizer" => &mut file.pre_tokenizer,
                "post_processor" => &mut file.post_processor,
                "decoder" => &mut file.decoder,
                _ => &mut Value::Null,
            };
            *field = map.next_value_seed(Bounded(&mut budget))?;
        }
        if !has_model {
            return Err(A::Error::missing_field("model"));
        }
        Ok(file)
    }
}

/// Keys of an object. There are few, or the values run out.
#[derive(Default)]
struct Seen(Vec<String>);

impl Seen {
    const MOST: usize = 64;

    fn add<E: Error>(&mut self, key: &str) -> Result<(), E> {
        if self.0.len() == Self::MOST {
            return Err(E::custom(format_args!("more than {} keys in one object", Self::MOST)));
        }
        if self.0.iter().any(|other| other == key) {
            return Err(E::custom(format_args!("the key {key:?} occurs twice")));
        }
        self.0.push(key.to_owned());
        Ok(())
    }
}

struct ModelSeed<'b>(&'b mut usize);

impl<'de> DeserializeSeed<'de> for ModelSeed<'_> {
    type Value = Model;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Model, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ModelSeed<'_> {
    type Value = Model;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Model, A::Error> {
        let mut model = Model::default();
        let mut seen = Seen::default();
        while let Some(key) = map.next_key::<String>()? {
            seen.add(&key)?;
            match key.as_str() {
                "vocab" => model.vocabulary = map.next_value()?,
                "merges" => model.merges = Some(map.next_value()?),
                _ => {
                    let value = map.next_value_seed(Bounded(self.0))?;
                    model.settings.insert(key, value);
                }
            }
        }
        Ok(model)
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tokens;
        impl<'de> Visitor<'de> for Tokens {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from tokens to their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut vocabulary = Vocabulary::default();
                while let Some(token) = map.next_key::<String>()? {
                    vocabulary.texts.push(&token);
                    vocabulary.ids.push(map.next_value()?);
                }
                Ok(vocabulary)
            }

            // Models that are no byte-pair encoding have a list of tokens and scores.
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vocabulary, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Vocabulary::default())
            }
        }
        deserializer.deserialize_any(Tokens)
    }
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Merges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merges, A::Error> {
                let mut merges = Merges::default();
                while seq.next_element_seed(Merge(&mut merges))?.is_some() {}
                Ok(merges)
            }
        }
        deserializer.deserialize_seq(Pairs)
    }
}

/// One merge: two texts, or one text with a space between them.
struct Merge<'m>(&'m mut Merges);

impl<'de> DeserializeSeed<'de> for Merge<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Merge<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a merge: two tokens in a list, or in a string with a space between them")
    }

    fn visit_str<E>(self, merge: &str) -> Result<(), E> {
        if merge.starts_with("#version") {
            return Ok(());
        }
        match merge.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => {
                self.0.left.push(left);
                self.0.right.push(right);
            }
            _ if self.0.bad.is_none() => self.0.bad = Some((self.0.left.len(), merge.to_owned())),
            _ => {}
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        for (at, part) in [&mut self.0.left, &mut self.0.right].into_iter().enumerate() {
            let text: String =
                seq.next_element()?.ok_or_else(|| A::Error::invalid_length(at, &"two tokens"))?;
            part.push(&text);
        }
        match seq.next_element::<IgnoredAny>()? {
            None => Ok(()),
            Some(_) => Err(A::Error::custom("a merge of more than two tokens")),
        }
    }
}

/// Any value, of which there may be only so many.
struct Bounded<'b>(&'b mut usize);

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let Some(left) = self.0.checked_sub(1) else {
            return Err(D::Error::custom(format_args!(
                "more than {MAX_VALUES} values beside vocabulary, merges and added tokens"
            )));
        };
        *self.0 = left;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Bounded(self.0))? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if entries.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {key:?} occurs twice")));
            }
            let value = map.next_value_seed(Bounded(self.0))?;
            entries.insert(key, value);
        }
        Ok(Value::Object(entries))
    }
}
