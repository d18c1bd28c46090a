//! Byte-pair encoding as SentencePiece does it: any two neighbours that make a token
//! may be joined, those of the best score first, and spaces are written `▁`.

use rz_formats::Metadata;

use crate::error::TokenizerError;
use crate::merge::{Join, Merger, NO_TOKEN, Symbol};
use crate::vocabulary::{Kind, Vocabulary, byte_of, scores};

/// The scores of a file and the tokens of its bytes.
pub(crate) struct Spm {
    /// The order in which tokens are made: the better the score, the lower.
    ranks: Vec<u32>,
    /// The token of each byte, or [`NO_TOKEN`].
    bytes: [u32; 256],
    unknown: Option<u32>,
    add_space_prefix: bool,
    /// Bytes of the longest token.
    longest: usize,
    /// Whether no token goes on into another word, so that words can be encoded one by one.
    by_words: bool,
}

/// What stands for a space.
pub(crate) const SPACE: &str = "▁";

impl Spm {
    /// Reads and checks what the file says beside its tokens.
    pub(crate) fn from_gguf(
        meta: &Metadata,
        vocabulary: &Vocabulary,
        unknown: Option<u32>,
    ) -> Result<Self, TokenizerError> {
        let ranks = scores(meta, vocabulary.len())?.into_iter().map(rank).collect();
        let mut bytes = [NO_TOKEN; 256];
        let (mut longest, mut by_words) = (0, true);
        for (token, text, kind) in vocabulary.iter() {
            longest = longest.max(text.len());
            by_words &= word(text).len() == text.len() || !is_text(Some(kind));
            if kind == Kind::Byte
                && let Some(byte) = byte_of(text)
            {
                bytes[usize::from(byte)] = token;
            }
        }
        let add_space_prefix = meta.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        Ok(Spm { ranks, bytes, unknown, add_space_prefix, longest, by_words })
    }

    /// Whether the start of a text gets a space that it does not have.
    pub(crate) fn adds_space(&self) -> bool {
        self.add_space_prefix
    }

    /// Bytes that no token stands for. Characters that need one become unknown.
    pub(crate) fn missing_bytes(&self) -> Vec<u8> {
        (0..=255).filter(|&byte| self.bytes[usize::from(byte)] == NO_TOKEN).collect()
    }

    /// Appends the tokens of `text`; `at_start` says whether it starts a text.
    pub(crate) fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        at_start: bool,
        merger: &mut Merger,
        ids: &mut Vec<u32>,
    ) {
        let mut escaped = String::with_capacity(text.len() + text.len() / 2 + SPACE.len());
        if at_start && self.add_space_prefix {
            escaped.push_str(SPACE);
        }
        for (at, part) in text.split(' ').enumerate() {
            if at > 0 {
                escaped.push_str(SPACE);
            }
            escaped.push_str(part);
        }
        let mut rest = escaped.as_str();
        while !rest.is_empty() {
            let word = if self.by_words { word(rest) } else { rest };
            self.encode_word(vocabulary, word, merger, ids);
            rest = &rest[word.len()..];
        }
    }

    fn encode_word(&self, vocabulary: &Vocabulary, word: &str, merger: &mut Merger, ids: &mut Vec<u32>) {
        let token = |start: u32, end: u32| {
            let text = &word.as_bytes()[start as usize..end as usize];
            if text.len() > self.longest {
                return None;
            }
            // Only what is text may come out of text.
            vocabulary.token(text).filter(|&token| is_text(vocabulary.kind(token)))
        };
        merger.symbols.clear();
        merger.symbols.extend(word.char_indices().map(|(start, letter)| {
            let (start, end) = (start as u32, (start + letter.len_utf8()) as u32);
            Symbol { id: token(start, end).unwrap_or(NO_TOKEN), start, end }
        }));
        merger.run(|left, right| {
            token(left.start, right.end).map(|id| Join { rank: self.ranks[id as usize], id })
        });
        for symbol in &merger.symbols {
            if symbol.id != NO_TOKEN {
                ids.push(symbol.id);
                continue;
            }
            let bytes = &word.as_bytes()[symbol.start as usize..symbol.end as usize];
            let tokens = bytes.iter().map(|&byte| self.bytes[usize::from(byte)]);
            if tokens.clone().any(|token| token == NO_TOKEN) {
                ids.extend(self.unknown);
            } else {
                ids.extend(tokens);
            }
        }
    }
}

/// The start of `text` up to where another word begins: a space after anything else.
pub(crate) fn word(text: &str) -> &str {
    let spaces = text.len() - text.trim_start_matches(SPACE).len();
    match text[spaces..].find(SPACE) {
        Some(end) => &text[..spaces + end],
        None => text,
    }
}

fn is_text(kind: Option<Kind>) -> bool {
    matches!(kind, Some(Kind::Normal | Kind::UserDefined | Kind::Unused))
}

/// Maps scores to numbers of the opposite order.
fn rank(score: f32) -> u32 {
    // Both zeros are one score.
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 { !(bits | 1 << 31) } else { bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_scores_have_lower_ranks() {
        let scores = [f32::INFINITY, 1e9, 1.0, 1e-40, 0.0, -1e-40, -1.0, -2.5, -1e9, f32::NEG_INFINITY];
        for pair in scores.windows(2) {
            assert!(rank(pair[0]) < rank(pair[1]), "{pair:?}");
        }
    }
}
