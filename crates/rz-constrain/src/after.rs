//! A constraint that begins in the middle of an answer.

use std::sync::Arc;

use rz_engine::{Constraint, TokenMask};
use rz_tokenizer::Tokenizer;

/// Tokens of white space between the marker and what follows it.
const SPACES: usize = 4;

/// Lets everything pass up to and with a marker, such as `</think>`; from there on, after some white space,
/// another constraint holds.
///
/// Until then the answer cannot end.
pub(crate) struct After {
    marker: Arc<Marker>,
    /// The end of what came, as far as the marker may begin in it. Nothing: the marker came.
    tail: Option<Vec<u8>>,
    spaces: usize,
    inner: Box<dyn Constraint>,
}

/// What is to come first, and what the tokens have to do with it.
struct Marker {
    tokenizer: Arc<Tokenizer>,
    text: Vec<u8>,
    /// Tokens that may complete it and hold more than white space behind it.
    beyond: Vec<u32>,
    /// Tokens of nothing but white space.
    spaces: Vec<u32>,
}

impl Marker {
    fn new(tokenizer: Arc<Tokenizer>, text: &str) -> Self {
        let text = text.as_bytes().to_vec();
        let (mut beyond, mut spaces) = (Vec::new(), Vec::new());
        for id in 0..tokenizer.len() as u32 {
            let word = tokenizer.token_bytes(id).unwrap_or_default();
            if !word.is_empty() && is_blank(&word) && !tokenizer.is_special(id) {
                spaces.push(id);
            }
            // The marker's end lies in it, begun by it or by what came before.
            let ends = (0..text.len()).filter_map(|at| word.strip_prefix(&text[at..]));
            let inside = word.windows(text.len()).position(|part| part == text);
            let inside = inside.map(|at| &word[at + text.len()..]);
            if ends.chain(inside).any(|rest| !is_blank(rest)) {
                beyond.push(id);
            }
        }
        Self { tokenizer, text, beyond, spaces }
    }

    /// Adds a token to the tail. Gives what it leaves behind the marker, if that is complete with it.
    fn rest<'a>(&self, tail: &'a mut Vec<u8>, token: u32) -> Option<&'a [u8]> {
        tail.extend(self.tokenizer.token_bytes(token).unwrap_or_default());
        let at = tail.windows(self.text.len()).position(|part| part == self.text)?;
        Some(&tail[at + self.text.len()..])
    }
}

impl After {
    /// The marker is not empty.
    pub(crate) fn new(tokenizer: Arc<Tokenizer>, marker: &str, inner: Box<dyn Constraint>) -> Self {
        let marker = Arc::new(Marker::new(tokenizer, marker));
        Self { marker, tail: Some(Vec::new()), spaces: SPACES, inner }
    }
}

impl Constraint for After {
    fn allow(&mut self, mask: &mut TokenMask) -> Result<(), String> {
        let Some(tail) = &self.tail else {
            self.inner.allow(mask)?;
            if self.spaces > 0 {
                self.marker.spaces.iter().for_each(|token| mask.allow(*token));
            }
            return Ok(());
        };
        mask.words_mut().fill(u32::MAX);
        for end in self.marker.tokenizer.end_of_generation() {
            mask.forbid(*end);
        }
        // What comes behind the marker in one token with it cannot be taken apart.
        for token in &self.marker.beyond {
            if self.marker.rest(&mut tail.clone(), *token).is_some_and(|rest| !is_blank(rest)) {
                mask.forbid(*token);
            }
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        let Some(mut tail) = self.tail.take() else {
            if self.spaces > 0 && self.marker.spaces.binary_search(&token).is_ok() {
                self.spaces -= 1;
                return Ok(());
            }
            self.spaces = 0;
            return self.inner.accept(token);
        };
        if self.marker.rest(&mut tail, token).is_none() {
            let keep = tail.len().min(self.marker.text.len() - 1);
            tail.drain(..tail.len() - keep);
            self.tail = Some(tail);
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.tail.is_none() && self.inner.is_complete()
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(Self {
            marker: self.marker.clone(),
            tail: self.tail.clone(),
            spaces: self.spaces,
            inner: self.inner.fork(),
        })
    }
}

/// What JSON takes for white space; others do not mind less.
fn is_blank(text: &[u8]) -> bool {
    text.iter().all(|byte| b" \t\r\n".contains(byte))
}
