//! From tokens back to text, one token after another.

use crate::Tokenizer;

/// How tokens become text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Shows the texts of tokens that steer the model, such as `<|im_end|>`.
    pub special: bool,
    /// The tokens go on from others, as those do that a model adds to its prompt:
    /// where the start of a text got a space that it does not have, none is taken away.
    pub continues: bool,
}

/// Turns tokens into text as they come.
///
/// What [`push`](Self::push) gives is always whole characters: bytes of one that is
/// not complete yet wait for the next token. The parts together are what
/// [`Tokenizer::decode_with`] makes of the tokens at once.
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    options: DecodeOptions,
    /// Whether nothing was shown yet.
    at_start: bool,
    /// Bytes that wait for the rest of their character.
    waiting: Vec<u8>,
    text: String,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer, options: DecodeOptions) -> Self {
        let at_start = !options.continues && tokenizer.adds_space();
        Decoder { tokenizer, options, at_start, waiting: Vec::new(), text: String::new() }
    }

    /// Takes a token and gives the text that is complete with it, often none.
    ///
    /// Bytes that can be no character and ids beyond the vocabulary become U+FFFD.
    pub fn push(&mut self, id: u32) -> &str {
        self.text.clear();
        self.take(id);
        self.complete();
        &self.text
    }

    /// Takes many tokens at once.
    pub(crate) fn extend(&mut self, ids: &[u32]) {
        ids.iter().for_each(|&id| self.take(id));
    }

    /// Gives what is left at the end: bytes whose character never became complete.
    /// The decoder then starts a new text.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        self.complete();
        self.text.push_str(&String::from_utf8_lossy(&self.waiting));
        self.waiting.clear();
        self.at_start = !self.options.continues && self.tokenizer.adds_space();
        &self.text
    }

    fn take(&mut self, id: u32) {
        let before = self.waiting.len();
        self.tokenizer.append_bytes(id, self.options.special, &mut self.waiting);
        if self.at_start && self.waiting.len() > before && self.tokenizer.bos() != Some(id) {
            // The space that the encoder put before the text.
            if self.waiting[before] == b' ' && self.tokenizer.is_ordinary(id) {
                self.waiting.remove(before);
            }
            self.at_start = false;
        }
    }

    /// Moves all whole characters from `waiting` to `text`.
    fn complete(&mut self) {
        let mut done = 0;
        loop {
            let rest = &self.waiting[done..];
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    self.text.push_str(valid);
                    done = self.waiting.len();
                    break;
                }
                Err(error) => {
                    let (valid, _) = rest.split_at(error.valid_up_to());
                    self.text.push_str(&String::from_utf8_lossy(valid));
                    done += valid.len();
                    let Some(bad) = error.error_len() else { break };
                    self.text.push(char::REPLACEMENT_CHARACTER);
                    done += bad;
                }
            }
        }
        self.waiting.drain(..done);
    }
}
