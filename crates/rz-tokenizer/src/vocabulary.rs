//! The tokens of a model: their texts and what each is for.

use rz_formats::{Array, Metadata, StringArray, Value};

use crate::error::TokenizerError;
use crate::hash::StringTable;
use crate::merge::MAX_TOKENS;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A piece of text.
    Normal,
    /// Stands for what no token can express.
    Unknown,
    /// Steers the model and is no text.
    Control,
    /// Text that is always one token, whatever stands around it.
    UserDefined,
    /// Has no use.
    Unused,
    /// One byte of a character that has no token.
    Byte,
}

/// Texts and kinds of the tokens, with the way back from text to token.
pub(crate) struct Vocabulary {
    texts: StringArray,
    kinds: Vec<Kind>,
    index: StringTable,
}

/// Two tokens of one text.
pub(crate) struct Duplicate {
    pub(crate) first: u32,
    pub(crate) second: u32,
    pub(crate) text: String,
}

pub(crate) const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";

impl Vocabulary {
    /// Reads and checks the tokens of a file.
    pub(crate) fn from_gguf(meta: &Metadata) -> Result<Self, TokenizerError> {
        let texts = meta.require_strings(TOKENS)?.clone();
        let count = texts.len();
        if count == 0 || count >= MAX_TOKENS as usize {
            return Err(TokenizerError::Count {
                file: meta.file().into(),
                found: count,
                limit: MAX_TOKENS - 1,
            });
        }
        let kinds = kinds(meta, &texts)?;
        Self::new(texts, kinds).map_err(|Duplicate { first, second, text }| TokenizerError::DuplicateToken {
            file: meta.file().into(),
            first,
            second,
            text,
        })
    }

    /// Tokens of these texts and kinds.
    pub(crate) fn new(texts: StringArray, kinds: Vec<Kind>) -> Result<Self, Duplicate> {
        let count = texts.len();
        let mut index = StringTable::with_capacity(count);
        for (token, text) in (0u32..).zip(texts.iter()) {
            // Files pad their vocabulary with empty texts; those are never looked up.
            if text.is_empty() {
                continue;
            }
            if let Some(first) = index.insert(text, token, |token| text_of(&texts, token)) {
                return Err(Duplicate { first, second: token, text: text.to_owned() });
            }
        }
        Ok(Vocabulary { texts, kinds, index })
    }

    /// Tokens of the vocabulary.
    pub(crate) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The text of a token, as the file has it.
    pub(crate) fn text(&self, token: u32) -> Option<&str> {
        self.texts.get(token as usize)
    }

    /// What a token is for.
    pub(crate) fn kind(&self, token: u32) -> Option<Kind> {
        self.kinds.get(token as usize).copied()
    }

    /// Changes what a token is for.
    pub(crate) fn set_kind(&mut self, token: u32, kind: Kind) {
        self.kinds[token as usize] = kind;
    }

    /// The token of this text.
    pub(crate) fn token(&self, text: &[u8]) -> Option<u32> {
        self.index.get(text, |token| text_of(&self.texts, token))
    }

    /// The tokens in order, with their texts and kinds.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &str, Kind)> {
        (0u32..).zip(self.texts.iter()).zip(&self.kinds).map(|((token, text), &kind)| (token, text, kind))
    }
}

/// The byte that a token such as `<0x0A>` stands for.
pub(crate) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let two = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    two.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// The scores of the tokens, one for each.
pub(crate) fn scores(meta: &Metadata, tokens: usize) -> Result<Vec<f32>, TokenizerError> {
    let scores: Vec<f32> = match meta.get(SCORES) {
        Some(Value::Array(Array::I32(scores))) => scores.iter().map(|&score| score as f32).collect(),
        _ => meta.require_f32s(SCORES)?.into_owned(),
    };
    check_length(meta, SCORES, scores.len(), tokens)?;
    Ok(scores)
}

fn kinds(meta: &Metadata, texts: &StringArray) -> Result<Vec<Kind>, TokenizerError> {
    let types = meta.i32s(TOKEN_TYPES)?;
    if let Some(types) = &types {
        check_length(meta, TOKEN_TYPES, types.len(), texts.len())?;
    }
    (0u32..)
        .zip(texts.iter())
        .map(|(token, text)| {
            let kind = match types.as_ref().map_or(1, |types| types[token as usize]) {
                0 | 1 => Kind::Normal,
                2 => Kind::Unknown,
                3 => Kind::Control,
                4 => Kind::UserDefined,
                5 => Kind::Unused,
                6 => Kind::Byte,
                found => return Err(TokenizerError::TokenType { file: meta.file().into(), token, found }),
            };
            let looks_like_byte = text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
            if (kind == Kind::Byte || looks_like_byte) && byte_of(text).is_none() {
                return Err(TokenizerError::ByteToken {
                    file: meta.file().into(),
                    token,
                    text: text.to_owned(),
                });
            }
            Ok(kind)
        })
        .collect()
}

fn check_length(
    meta: &Metadata,
    key: &'static str,
    found: usize,
    expected: usize,
) -> Result<(), TokenizerError> {
    if found == expected {
        return Ok(());
    }
    Err(TokenizerError::Length { file: meta.file().into(), key, found, expected })
}

fn text_of(texts: &StringArray, token: u32) -> &str {
    texts.get(token as usize).unwrap_or_default()
}
