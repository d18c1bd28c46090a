//! Byte-pair encoding over characters: the file lists which pairs are joined, in order,
//! and characters without a token are spelled in bytes.

use crate::bpe::pair;
use crate::hash::PairTable;
use crate::merge::{Join, Merger, NO_TOKEN, Symbol};
use crate::spm::word;
use crate::vocabulary::{Kind, Vocabulary};

/// The merges of a file and what stands for the characters that have no token.
pub(super) struct CharBpe {
    /// The rank and the result of each pair.
    pub(super) merges: PairTable,
    /// The token of each byte, or [`NO_TOKEN`].
    pub(super) bytes: Box<[u32; 256]>,
    /// Stands for a character that has no token and cannot be spelled.
    pub(super) unknown: Option<u32>,
    /// Whether one unknown token stands for several such characters in a row.
    pub(super) fuse_unknown: bool,
    /// Whether a word that is a token as it stands is never built from merges.
    pub(super) ignore_merges: bool,
    /// Tokens that stand beside the vocabulary, in ascending order.
    pub(super) outside: Vec<u32>,
    /// Whether nothing is joined across the start of a word, so that words can be
    /// encoded one by one.
    pub(super) by_words: bool,
}

impl CharBpe {
    /// Appends the tokens of a piece of text, in which spaces are written `▁`.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        mut text: &str,
        merger: &mut Merger,
        ids: &mut Vec<u32>,
    ) {
        if self.ignore_merges
            && let Some(token) = self.token(vocabulary, text)
        {
            ids.push(token);
            return;
        }
        while !text.is_empty() {
            let word = if self.by_words { word(text) } else { text };
            self.encode_word(vocabulary, word, merger, ids);
            text = &text[word.len()..];
        }
    }

    fn encode_word(&self, vocabulary: &Vocabulary, text: &str, merger: &mut Merger, ids: &mut Vec<u32>) {
        let symbols = &mut merger.symbols;
        symbols.clear();
        let symbol = |id| Symbol { id, start: 0, end: 0 };
        // An unknown token waits for the next that is none, past those of bytes.
        let mut waiting = None;
        for (start, letter) in text.char_indices() {
            let letter = &text[start..start + letter.len_utf8()];
            if let Some(token) = self.token(vocabulary, letter) {
                symbols.extend(waiting.take().map(symbol));
                symbols.push(symbol(token));
                continue;
            }
            let bytes = letter.bytes().map(|byte| self.bytes[usize::from(byte)]);
            if bytes.clone().all(|token| token != NO_TOKEN) {
                symbols.extend(bytes.map(symbol));
            } else if self.unknown.is_some() {
                if !self.fuse_unknown {
                    symbols.extend(waiting.map(symbol));
                }
                waiting = self.unknown;
            }
        }
        symbols.extend(waiting.map(symbol));
        merger
            .run(|left, right| self.merges.get(pair(left.id, right.id)).map(|(rank, id)| Join { rank, id }));
        ids.extend(merger.symbols.iter().map(|symbol| symbol.id));
    }

    fn token(&self, vocabulary: &Vocabulary, text: &str) -> Option<u32> {
        let token = vocabulary.token(text.as_bytes())?;
        // Only what is text may come out of text.
        let is_text = !matches!(vocabulary.kind(token), Some(Kind::Control | Kind::Unknown));
        (is_text && self.outside.binary_search(&token).is_err()).then_some(token)
    }
}
