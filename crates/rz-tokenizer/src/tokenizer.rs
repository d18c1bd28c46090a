//! The tokenizer of a model file.

use rz_formats::Metadata;

use crate::bpe::{self, Bpe};
use crate::decoder::{DecodeOptions, Decoder};
use crate::end::{end_of_generation, token_id};
use crate::error::TokenizerError;
use crate::json::{Foreign, Pipeline};
use crate::merge::Merger;
use crate::pretokenizer::{self, Pretokenizer, ROWS, Row};
use crate::special::{self, Part, SpecialTokens};
use crate::spm::{SPACE, Spm};
use crate::vocabulary::{Kind, Vocabulary, byte_of};

/// Turns text into the tokens of one model and back.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    model: Model,
    special: SpecialTokens,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    /// The tokens that are added before and after a text.
    before: Vec<u32>,
    after: Vec<u32>,
    ends: Vec<u32>,
    warnings: Vec<String>,
}

/// A tokenizer made elsewhere.
pub(crate) struct Parts {
    pub(crate) vocabulary: Vocabulary,
    pub(crate) model: Model,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) unknown: Option<u32>,
    pub(crate) before: Vec<u32>,
    pub(crate) after: Vec<u32>,
    pub(crate) ends: Vec<u32>,
    pub(crate) warnings: Vec<String>,
}

/// How text becomes tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Adds the begin and end tokens that the file asks for. With `parse_special`, not
    /// where the text has them already.
    pub add_special: bool,
    /// Recognises tokens that steer the model, such as `<|im_start|>`, in the text.
    /// Leave it off for text of unknown origin. What the file types as defined by the
    /// user is always recognised.
    pub parse_special: bool,
}

/// What differs between the kinds of tokenizer.
pub(crate) enum Model {
    Bpe(Bpe),
    Spm(Spm),
    /// A pipeline of a `tokenizer.json`.
    Json(Box<Pipeline>),
    /// One that runs on the `tokenizers` crate.
    #[cfg_attr(not(feature = "hf-tokenizers"), allow(dead_code))]
    Foreign(Box<Foreign>),
}

/// The supported values of `tokenizer.ggml.model`.
const MODELS: &str = "gpt2, llama";

/// Longer texts are encoded in parts, so that positions fit 32 bits.
pub(crate) const LONGEST_PART: usize = 1 << 30;

impl Tokenizer {
    /// Makes the tokenizer that the metadata of a file describes.
    ///
    /// # Errors
    /// When the kind of tokenizer or its pre-tokenizer is not supported, or the
    /// description contradicts itself. The rest of the file may still be of use.
    pub fn from_gguf(meta: &Metadata) -> Result<Self, TokenizerError> {
        let name = meta.require_str("tokenizer.ggml.model")?;
        if !MODELS.split(", ").any(|model| model == name) {
            return Err(TokenizerError::Model {
                file: meta.file().into(),
                found: name.to_owned(),
                expected: MODELS.to_owned(),
            });
        }
        let mut warnings = Vec::new();
        let mut vocabulary = Vocabulary::from_gguf(meta)?;
        // The format gives ids to the special tokens of SentencePiece files.
        let is_spm = name == "llama";
        let default = |id: u32| Some(id).filter(|_| is_spm && (id as usize) < vocabulary.len());
        let unknown = token_id(meta, &vocabulary, "tokenizer.ggml.unknown_token_id")?.or(default(0));
        let bos = token_id(meta, &vocabulary, "tokenizer.ggml.bos_token_id")?.or(default(1));
        let eos = token_id(meta, &vocabulary, "tokenizer.ggml.eos_token_id")?.or(default(2));
        let ends = end_of_generation(meta, &mut vocabulary, eos)?;

        let (model, adds_bos) = if is_spm {
            (Model::Spm(Spm::from_gguf(meta, &vocabulary, unknown)?), true)
        } else {
            let found = pretokenizer(meta, &mut warnings)?;
            (Model::Bpe(Bpe::from_gguf(meta, &vocabulary, found)?), found.0.add_bos)
        };
        let missing = match &model {
            Model::Bpe(bpe) => bpe.missing_bytes(),
            Model::Spm(spm) => spm.missing_bytes(),
            Model::Json(_) | Model::Foreign(_) => Vec::new(),
        };
        warnings.extend(warning_of_missing(&missing));
        let mut adds = |key, default, token: Option<u32>, name| -> Result<bool, TokenizerError> {
            let adds = meta.bool(key)?.unwrap_or(default);
            if adds && token.is_none() {
                warnings.push(format!("no {name} token is added: the file asks for one, but names none"));
            }
            Ok(adds && token.is_some())
        };
        let adds_bos = adds("tokenizer.ggml.add_bos_token", adds_bos, bos, "begin")?;
        let adds_eos = adds("tokenizer.ggml.add_eos_token", false, eos, "end")?;

        let special = SpecialTokens::new(&vocabulary, strips(meta)?).map_err(|found| {
            TokenizerError::SpecialTokens { file: meta.file().into(), found, limit: special::MAX_BYTES }
        })?;
        let before = bos.into_iter().filter(|_| adds_bos).collect();
        let after = eos.into_iter().filter(|_| adds_eos).collect();
        Ok(Tokenizer { vocabulary, model, special, bos, eos, unknown, before, after, ends, warnings })
    }

    /// A tokenizer whose model finds the special tokens itself.
    pub(crate) fn from_parts(parts: Parts) -> Self {
        let Parts { vocabulary, model, bos, eos, unknown, before, after, ends, warnings } = parts;
        let special = SpecialTokens::default();
        Tokenizer { vocabulary, model, special, bos, eos, unknown, before, after, ends, warnings }
    }

    /// The tokens of `text`.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        match &self.model {
            Model::Json(pipeline) => {
                pipeline.encode(&self.vocabulary, text, options.parse_special, &mut ids);
            }
            Model::Foreign(foreign) if options.parse_special => {
                foreign.encode(text, self.unknown, &mut ids);
            }
            Model::Foreign(foreign) => {
                let special = |id| self.token(id).filter(|_| self.is_special(id));
                foreign.encode_plain(text, self.unknown, &special, &mut ids);
            }
            _ => self.encode_text(text, options.parse_special, &mut ids),
        }
        if options.add_special {
            if !(options.parse_special && ids.starts_with(&self.before)) {
                ids.splice(0..0, self.before.iter().copied());
            }
            if !(options.parse_special && ids.ends_with(&self.after)) {
                ids.extend(&self.after);
            }
        }
        ids
    }

    fn encode_text(&self, text: &str, parse_special: bool, ids: &mut Vec<u32>) {
        let mut merger = Merger::default();
        let mut at_start = true;
        for part in self.special.parts(text, parse_special) {
            match part {
                Part::Token(id) => {
                    // The text starts after a begin token, whoever puts it there.
                    at_start &= ids.is_empty() && self.bos == Some(id);
                    ids.push(id);
                }
                Part::Text(text) => {
                    for text in parts(text, LONGEST_PART) {
                        match &self.model {
                            Model::Bpe(bpe) => bpe.encode(&self.vocabulary, text, &mut merger, ids),
                            Model::Spm(spm) => {
                                spm.encode(&self.vocabulary, text, at_start, &mut merger, ids);
                            }
                            // They do not come here.
                            Model::Json(_) | Model::Foreign(_) => {}
                        }
                        at_start = false;
                    }
                }
            }
        }
    }

    /// The text of tokens, without those that steer the model.
    ///
    /// Bytes that can be no character and ids beyond the vocabulary become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decode_with(ids, DecodeOptions::default())
    }

    /// The text of tokens.
    pub fn decode_with(&self, ids: &[u32], options: DecodeOptions) -> String {
        let mut decoder = self.decoder_with(options);
        decoder.extend(ids);
        decoder.finish().to_owned()
    }

    /// Turns tokens into text as they come, without those that steer the model.
    pub fn decoder(&self) -> Decoder<&Tokenizer> {
        self.decoder_with(DecodeOptions::default())
    }

    /// Turns tokens into text as they come.
    pub fn decoder_with(&self, options: DecodeOptions) -> Decoder<&Tokenizer> {
        Decoder::new(self, options)
    }

    /// Tokens of the vocabulary. A model may have rows for more.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.vocabulary.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token that stands for what no other can express.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// Whether the file asks for a begin token before each text.
    pub fn adds_bos(&self) -> bool {
        self.bos.is_some() && self.before.first() == self.bos.as_ref()
    }

    /// Whether the file asks for an end token after each text.
    pub fn adds_eos(&self) -> bool {
        self.eos.is_some() && self.after.last() == self.eos.as_ref()
    }

    /// The tokens that end a generation, in ascending order.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.ends
    }

    /// Whether a token ends a generation.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    /// The token as the file writes it, such as `Ġthe` for ` the`.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.vocabulary.text(id)
    }

    /// The token that the file writes `text`.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.vocabulary.token(text.as_bytes())
    }

    /// The bytes that a token adds to a text; a part of a character at times.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.vocabulary.kind(id)?;
        self.append_bytes(id, true, &mut bytes);
        Some(bytes)
    }

    /// Whether every token adds the same bytes wherever it stands, so that [`token_bytes`](Self::token_bytes)
    /// together are the text.
    pub fn has_token_bytes(&self) -> bool {
        !matches!(self.model, Model::Foreign(_))
    }

    /// Whether a token steers the model and is no text.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.vocabulary.kind(id), Some(Kind::Control | Kind::Unknown))
    }

    /// What a user should know about this file's tokenizer; usually nothing.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether a text gets a space before it that it does not have.
    pub(crate) fn adds_space(&self) -> bool {
        match &self.model {
            Model::Spm(spm) => spm.adds_space(),
            Model::Json(pipeline) => pipeline.strips(),
            Model::Bpe(_) | Model::Foreign(_) => false,
        }
    }

    /// Whether a token is one that the encoder makes of plain text.
    pub(crate) fn is_ordinary(&self, id: u32) -> bool {
        match self.vocabulary.kind(id) {
            Some(Kind::Normal | Kind::Unused | Kind::Byte) => true,
            // There its spaces are written as they are in any other.
            Some(Kind::UserDefined) => matches!(self.model, Model::Json(_)),
            _ => false,
        }
    }

    /// The tokenizer of the `tokenizers` crate, where it is one.
    pub(crate) fn foreign(&self) -> Option<&Foreign> {
        match &self.model {
            Model::Foreign(foreign) => Some(foreign),
            _ => None,
        }
    }

    /// Appends what a token adds to a text.
    pub(crate) fn append_bytes(&self, id: u32, special: bool, bytes: &mut Vec<u8>) {
        let (Some(text), Some(kind)) = (self.vocabulary.text(id), self.vocabulary.kind(id)) else {
            let mut buffer = [0; 4];
            bytes.extend_from_slice(char::REPLACEMENT_CHARACTER.encode_utf8(&mut buffer).as_bytes());
            return;
        };
        match (kind, &self.model) {
            (Kind::Control | Kind::Unknown, _) if !special => {}
            (_, Model::Json(pipeline)) => pipeline.append_bytes(text, bytes),
            (_, Model::Foreign(foreign)) => bytes.extend_from_slice(foreign.decode(&[id]).as_bytes()),
            (Kind::Control | Kind::Unknown | Kind::UserDefined, _) => {
                bytes.extend_from_slice(text.as_bytes())
            }
            (Kind::Byte, _) => bytes.extend(byte_of(text)),
            (Kind::Normal | Kind::Unused, Model::Bpe(_)) => bpe::spelled_bytes(text, bytes),
            (Kind::Normal | Kind::Unused, Model::Spm(_)) => {
                for (at, part) in text.split(SPACE).enumerate() {
                    if at > 0 {
                        bytes.push(b' ');
                    }
                    bytes.extend_from_slice(part.as_bytes());
                }
            }
        }
    }
}

/// The pre-tokenizer that the file names. Old files name none.
fn pretokenizer(
    meta: &Metadata,
    warnings: &mut Vec<String>,
) -> Result<(&'static Row, &'static Pretokenizer), TokenizerError> {
    let name = meta.str("tokenizer.ggml.pre")?.unwrap_or_else(|| {
        warnings.push(
            "the file names no pre-tokenizer (tokenizer.ggml.pre): the default one is used, tokens may differ"
                .to_owned(),
        );
        "default"
    });
    pretokenizer::find(name).ok_or_else(|| TokenizerError::Pretokenizer {
        file: meta.file().into(),
        found: name.to_owned(),
        expected: ROWS.iter().map(|row| row.names[0]).collect::<Vec<_>>().join(", "),
    })
}

/// What a user should know of a vocabulary without these bytes.
pub(crate) fn warning_of_missing(bytes: &[u8]) -> Option<String> {
    let missing = bytes.iter().filter(|byte| is_of_text(**byte)).count();
    (missing > 0)
        .then(|| format!("the vocabulary has no token for {missing} of the byte values that text is made of"))
}

/// Whether a byte occurs in text: no control character, and no part of one that no one has assigned.
/// Vocabularies that were made from text alone do without the others.
fn is_of_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~' | 0x80..=0xbf | 0xc2..=0xf0 | 0xf3)
}

/// Which special tokens swallow the white space after them. Files do not say; of the
/// models whose training did so, one family is known by its name.
fn strips(meta: &Metadata) -> Result<impl Fn(&str) -> bool, TokenizerError> {
    let name = meta.str("general.name")?.unwrap_or_default().to_lowercase();
    let phi3 = name.contains("phi-3") || name.contains("phi3");
    Ok(move |text: &str| phi3 && !matches!(text, "<unk>" | "<s>" | "<|endoftext|>"))
}

/// Cuts `text` between characters into parts of at most `longest` bytes.
pub(crate) fn parts(mut text: &str, longest: usize) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (part, rest) = text.split_at(text.floor_char_boundary(longest));
        text = rest;
        (!part.is_empty()).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_between_characters() {
        let text = "aé日𝄞b";
        for longest in 4..12 {
            let cut: Vec<_> = parts(text, longest).collect();
            assert_eq!(cut.concat(), text);
            assert!(cut.iter().all(|part| part.len() <= longest && !part.is_empty()));
        }
    }
}
