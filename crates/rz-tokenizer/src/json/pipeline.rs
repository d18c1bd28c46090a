//! A pipeline of `tokenizer.json` that runs on the tokenizers of this crate.

use std::borrow::Cow;
use std::path::Path;

use serde_json::Value;
use unicode_normalization_alignments::UnicodeNormalization;

use super::added::AddedTokens;
use super::chars::CharBpe;
use super::plan::{Core, Metaspace, Normalizer, Plan, Prepend, Unmapped, unmapped};
use super::read::{Merges, TokenizerJson};
use super::vocabulary::Numbered;
use crate::bpe::{self, Bpe};
use crate::error::TokenizerError;
use crate::hash::PairTable;
use crate::merge::{Merger, NO_TOKEN};
use crate::special::{MAX_BYTES, Part};
use crate::spm::{SPACE, word};
use crate::tokenizer::{LONGEST_PART, parts, warning_of_missing};
use crate::vocabulary::{Kind, Vocabulary, byte_of};

/// Added tokens, a normalizer and what makes tokens of the text between.
pub(crate) struct Pipeline {
    /// Those that are looked for in the text as it stands.
    raw: AddedTokens,
    normalizer: Normalizer,
    /// Those that are looked for in the normalized text.
    normalized: AddedTokens,
    encoder: Encoder,
}

enum Encoder {
    Bytes(Box<Bpe>),
    Chars { bpe: CharBpe, metaspace: Option<Metaspace>, strips: bool },
}

impl Pipeline {
    /// The pipeline of a file; `merges` and `tokens` are those of its model. The inner
    /// error says what does not run here.
    pub(super) fn new(
        path: &Path,
        json: &TokenizerJson,
        plan: Plan,
        merges: PairTable,
        tokens: &Numbered,
    ) -> Result<Result<Pipeline, Unmapped>, TokenizerError> {
        let Plan { normalizer, core } = plan;
        let Numbered { vocabulary, added, outside } = tokens;
        // A token whose text is normalized has one text to be found and another to be shown.
        let changed = added.iter().find(|(_, token)| {
            token.normalized && normalizer.apply(&token.content) != token.content.as_str()
        });
        if let Some((_, token)) = changed {
            return Ok(Err(unmapped("added_tokens", &Value::from(token.content.as_str()))));
        }
        let matcher = |normalized: bool| {
            let chosen = added.iter().filter(|(_, token)| token.normalized == normalized);
            AddedTokens::new(chosen.map(|(id, token)| (*id, token))).map_err(|found| {
                TokenizerError::SpecialTokens { file: path.to_owned(), found, limit: MAX_BYTES }
            })
        };
        let settings = &json.model.settings;
        let flag = |key: &str| settings.get(key).is_some_and(|value| value == true);
        let ignore_merges = flag("ignore_merges");
        let in_model = |text: &str| {
            vocabulary.token(text.as_bytes()).filter(|token| outside.binary_search(token).is_err())
        };
        let unknown = match settings.get("unk_token").and_then(Value::as_str) {
            None => None,
            Some(text) => match in_model(text) {
                Some(token) => Some(token),
                None => return Ok(Err(unmapped("model.unk_token", &Value::from(text)))),
            },
        };
        let encoder = match core {
            Core::Bytes(pretokenizer) => {
                let bpe = Bpe::new(vocabulary, pretokenizer, merges, ignore_merges, outside.clone());
                if !bpe.missing_bytes().is_empty() && (unknown.is_some() || flag("byte_fallback")) {
                    return Ok(Err(unmapped("model.vocab", &Value::from("not all bytes"))));
                }
                Encoder::Bytes(Box::new(bpe))
            }
            Core::Chars { metaspace, strips } => {
                let mut bytes = Box::new([NO_TOKEN; 256]);
                if flag("byte_fallback") {
                    for (byte, token) in bytes.iter_mut().enumerate() {
                        *token = in_model(&format!("<0x{byte:02X}>")).unwrap_or(NO_TOKEN);
                    }
                }
                // A space without a token would be spelled or unknown, like what stands before it.
                let by_words =
                    in_model(SPACE).is_some() && json.model.merges.as_ref().is_none_or(keep_to_words);
                let bpe = CharBpe {
                    merges,
                    bytes,
                    unknown,
                    fuse_unknown: flag("fuse_unk"),
                    ignore_merges,
                    outside: outside.clone(),
                    by_words,
                };
                Encoder::Chars { bpe, metaspace, strips }
            }
        };
        Ok(Ok(Pipeline { raw: matcher(false)?, normalizer, normalized: matcher(true)?, encoder }))
    }

    /// What a user should know.
    pub(super) fn warning(&self) -> Option<String> {
        let missing = match &self.encoder {
            Encoder::Bytes(bpe) => bpe.missing_bytes(),
            Encoder::Chars { bpe, .. } if bpe.unknown.is_some() => return None,
            Encoder::Chars { bpe, .. } => {
                (0..=255).filter(|&byte| bpe.bytes[usize::from(byte)] == NO_TOKEN).collect()
            }
        };
        warning_of_missing(&missing)
    }

    /// Appends the tokens of `text`.
    pub(crate) fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        parse_special: bool,
        ids: &mut Vec<u32>,
    ) {
        let mut merger = Merger::default();
        let is_text = |id| !parse_special && is_special(vocabulary, id);
        self.raw.split(text, is_text, |start, part| match part {
            Part::Token(id) => ids.push(id),
            Part::Text(piece) => {
                let piece = self.normalizer.apply(piece);
                self.normalized.split(&piece, is_text, |inner, part| match part {
                    Part::Token(id) => ids.push(id),
                    Part::Text(piece) => {
                        let mut at_start = start + inner == 0;
                        for piece in parts(piece, LONGEST_PART) {
                            self.encode_piece(vocabulary, piece, at_start, &mut merger, ids);
                            at_start = false;
                        }
                    }
                });
            }
        });
    }

    /// Appends what a token adds to a text.
    pub(crate) fn append_bytes(&self, text: &str, bytes: &mut Vec<u8>) {
        match &self.encoder {
            Encoder::Bytes(_) => bpe::spelled_bytes(text, bytes),
            Encoder::Chars { .. } => match byte_of(text) {
                Some(byte) => bytes.push(byte),
                None => bytes.extend_from_slice(text.replace(SPACE, " ").as_bytes()),
            },
        }
    }

    /// Whether a space at the start of a text is taken away when tokens become text.
    pub(crate) fn strips(&self) -> bool {
        matches!(self.encoder, Encoder::Chars { strips: true, .. })
    }

    fn encode_piece(
        &self,
        vocabulary: &Vocabulary,
        piece: &str,
        at_start: bool,
        merger: &mut Merger,
        ids: &mut Vec<u32>,
    ) {
        let (bpe, metaspace) = match &self.encoder {
            Encoder::Bytes(bpe) => return bpe.encode(vocabulary, piece, merger, ids),
            Encoder::Chars { bpe, metaspace: None, .. } => return bpe.encode(vocabulary, piece, merger, ids),
            Encoder::Chars { bpe, metaspace: Some(metaspace), .. } => (bpe, metaspace),
        };
        let mut escaped = piece.replace(' ', SPACE);
        let prepends = match metaspace.prepend {
            Prepend::Never => false,
            Prepend::First => at_start,
            Prepend::Always => true,
        };
        if prepends && !escaped.starts_with(SPACE) {
            escaped.insert_str(0, SPACE);
        }
        let mut rest = escaped.as_str();
        while metaspace.split
            && let Some((at, _)) = rest.match_indices(SPACE).find(|(at, _)| *at > 0)
        {
            bpe.encode(vocabulary, &rest[..at], merger, ids);
            rest = &rest[at..];
        }
        bpe.encode(vocabulary, rest, merger, ids);
    }
}

impl Normalizer {
    fn apply<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        if self.compose && !text.is_ascii() {
            text = Cow::Owned(text.nfc().map(|(letter, _)| letter).collect());
        }
        if self.escape && text.contains(' ') {
            text = Cow::Owned(text.replace(' ', SPACE));
        }
        if self.prepend && !text.is_empty() {
            text.to_mut().insert_str(0, SPACE);
        }
        text
    }
}

/// Whether no merge crosses the start of a word.
fn keep_to_words(merges: &Merges) -> bool {
    let mut joined = String::new();
    merges.left.iter().zip(merges.right.iter()).all(|(left, right)| {
        joined.clear();
        joined.extend([left, right]);
        word(&joined).len() == joined.len()
    })
}

fn is_special(vocabulary: &Vocabulary, id: u32) -> bool {
    matches!(vocabulary.kind(id), Some(Kind::Control | Kind::Unknown))
}
