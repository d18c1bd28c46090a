//! Pipelines that run on the `tokenizers` crate.
//!
//! It was made for files that their owner trusts: where it would panic or fail on one
//! that nobody vouches for, the file is refused or the text is taken in parts.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use rz_formats::StringArray;
use tokenizers::AddedToken;

use super::read::{Added, Vocabulary};

/// A tokenizer of the `tokenizers` crate.
pub(crate) struct Foreign {
    inner: tokenizers::Tokenizer,
    /// The same, which leaves the texts of special tokens in the text. Made on demand.
    plain: OnceLock<Box<tokenizers::Tokenizer>>,
}

impl Foreign {
    /// Reads a `tokenizer.json` and adds tokens to it. The message says what is wrong.
    pub(super) fn new(json: &[u8], added: &[Added]) -> Result<Self, String> {
        let made = catch_unwind(AssertUnwindSafe(|| -> tokenizers::Result<_> {
            let mut inner = tokenizers::Tokenizer::from_bytes(json)?;
            inner.with_padding(None);
            inner.with_truncation(None)?;
            inner.add_tokens(added.iter().map(|added| AddedToken {
                content: added.content.clone(),
                single_word: added.single_word,
                lstrip: added.lstrip,
                rstrip: added.rstrip,
                normalized: added.normalized,
                special: added.special,
            }))?;
            Ok(inner)
        }));
        match made {
            Ok(Ok(inner)) => Ok(Foreign { inner, plain: OnceLock::new() }),
            Ok(Err(error)) => Err(crate::template::one_line(&error.to_string())),
            Err(_) => Err("the tokenizers crate cannot deal with it".to_owned()),
        }
    }

    /// All tokens with their ids.
    pub(super) fn vocabulary(&self) -> Vocabulary {
        let mut tokens: Vec<_> = self.inner.get_vocab(true).into_iter().collect();
        tokens.sort_unstable_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        let ids = tokens.iter().map(|(_, id)| *id).collect();
        Vocabulary { texts: tokens.into_iter().map(|(text, _)| text).collect::<StringArray>(), ids }
    }

    /// The added tokens, in the order of their ids.
    pub(super) fn added(&self) -> Vec<Added> {
        let tokens = self.inner.get_added_tokens_decoder();
        let mut added: Vec<_> = tokens
            .into_iter()
            .map(|(id, token)| Added {
                id: id.into(),
                content: token.content,
                single_word: token.single_word,
                lstrip: token.lstrip,
                rstrip: token.rstrip,
                normalized: token.normalized,
                special: token.special,
            })
            .collect();
        added.sort_by_key(|added| added.id);
        added
    }

    /// Appends the tokens of `text`, with special tokens that it has.
    pub(crate) fn encode(&self, text: &str, unknown: Option<u32>, ids: &mut Vec<u32>) {
        encode(&self.inner, text, unknown, ids);
    }

    /// Appends the tokens of `text`, of which no part is a token that `special` has a
    /// text for.
    pub(crate) fn encode_plain<'v>(
        &self,
        text: &str,
        unknown: Option<u32>,
        special: &impl Fn(u32) -> Option<&'v str>,
        ids: &mut Vec<u32>,
    ) {
        let is_bad = |id: &u32| Some(*id) != unknown && special(*id).is_some();
        let mut found = Vec::new();
        encode(self.plain(), text, unknown, &mut found);
        for id in found {
            let Some(text) = special(id).filter(|_| is_bad(&id)) else {
                ids.push(id);
                continue;
            };
            // The model knows the text of a special token as a word: take it apart.
            let (first, rest) = text.split_at(text.chars().next().map_or(0, char::len_utf8));
            let mut parts = Vec::new();
            encode(self.plain(), first, unknown, &mut parts);
            encode(self.plain(), rest, unknown, &mut parts);
            ids.extend(parts.into_iter().filter(|id| !is_bad(id)));
        }
    }

    /// A way from tokens to text that takes one after another. `before` is a token that
    /// they go on from, which is not shown.
    pub(crate) fn stream(&self, before: Option<u32>) -> Stream {
        let ids: Vec<u32> = before.into_iter().collect();
        Stream { shown: self.decode(&ids), done: ids.len(), ids }
    }

    /// The text of tokens of the vocabulary.
    pub(crate) fn decode(&self, ids: &[u32]) -> String {
        catch_unwind(AssertUnwindSafe(|| self.inner.decode(ids, false)))
            .ok()
            .and_then(Result::ok)
            .unwrap_or_default()
    }

    fn plain(&self) -> &tokenizers::Tokenizer {
        self.plain.get_or_init(|| {
            let mut plain = self.inner.clone();
            plain.set_encode_special_tokens(true);
            Box::new(plain)
        })
    }
}

/// Appends the tokens of `text`. What has none becomes `unknown`.
fn encode(tokenizer: &tokenizers::Tokenizer, text: &str, unknown: Option<u32>, ids: &mut Vec<u32>) {
    if text.is_empty() {
        return;
    }
    if let Ok(Ok(encoding)) = catch_unwind(AssertUnwindSafe(|| tokenizer.encode_fast(text, false))) {
        ids.extend(encoding.get_ids());
        return;
    }
    // Part of the text is more than it can deal with.
    let middle = text.ceil_char_boundary(text.len().div_ceil(2));
    if middle == text.len() {
        ids.extend(unknown);
        return;
    }
    encode(tokenizer, &text[..middle], unknown, ids);
    encode(tokenizer, &text[middle..], unknown, ids);
}

/// The last tokens, whose text may depend on each other.
pub(crate) struct Stream {
    ids: Vec<u32>,
    /// Of these, so many were shown, as this text.
    done: usize,
    shown: String,
}

impl Stream {
    /// The longest that tokens wait for the rest of a character.
    const WAIT: usize = 16;

    /// Appends the text that is complete with one more token.
    pub(crate) fn push(&mut self, foreign: &Foreign, id: u32, bytes: &mut Vec<u8>) {
        self.ids.push(id);
        let text = foreign.decode(&self.ids);
        let complete = !text.ends_with(char::REPLACEMENT_CHARACTER) && text.len() > self.shown.len();
        if !complete && self.ids.len() - self.done < Self::WAIT {
            return;
        }
        self.show(&text, bytes);
        self.ids.drain(..self.done);
        self.done = self.ids.len();
        self.shown = foreign.decode(&self.ids);
    }

    /// Appends the text that still waits.
    pub(crate) fn finish(&mut self, foreign: &Foreign, bytes: &mut Vec<u8>) {
        if self.done < self.ids.len() {
            let text = foreign.decode(&self.ids);
            self.show(&text, bytes);
        }
        *self = foreign.stream(None);
    }

    /// Appends what a text has more than the one that was shown.
    fn show(&self, text: &str, bytes: &mut Vec<u8>) {
        let same = text.bytes().zip(self.shown.bytes()).take_while(|(a, b)| a == b).count();
        bytes.extend_from_slice(&text.as_bytes()[text.floor_char_boundary(same)..]);
    }
}
