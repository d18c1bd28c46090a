//! From tokens back to text, one token after another.

use std::ops::Deref;

use crate::Tokenizer;
use crate::json::Stream;

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
///
/// It borrows the tokenizer ([`Tokenizer::decoder_with`]) or shares it, as in `Decoder<Arc<Tokenizer>>`.
pub struct Decoder<T> {
    tokenizer: T,
    options: DecodeOptions,
    /// Whether nothing was shown yet.
    at_start: bool,
    /// Bytes that wait for the rest of their character.
    waiting: Vec<u8>,
    text: String,
    /// Tokens whose text depends on those before.
    stream: Option<Stream>,
}

impl<T: Deref<Target = Tokenizer>> Decoder<T> {
    /// A decoder of a tokenizer that is borrowed or shared.
    pub fn new(tokenizer: T, options: DecodeOptions) -> Self {
        let at_start = !options.continues && tokenizer.adds_space();
        let stream = stream(&tokenizer, options);
        Decoder { tokenizer, options, at_start, waiting: Vec::new(), text: String::new(), stream }
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
        self.flush();
        self.stream = stream(&self.tokenizer, self.options);
        self.complete();
        self.text.push_str(&String::from_utf8_lossy(&self.waiting));
        self.waiting.clear();
        self.at_start = !self.options.continues && self.tokenizer.adds_space();
        &self.text
    }

    fn take(&mut self, id: u32) {
        if self.stream.is_some() && self.tokenizer.is_special(id) && !self.options.special {
            return;
        }
        if let (Some(stream), Some(foreign)) = (&mut self.stream, self.tokenizer.foreign())
            && self.tokenizer.token(id).is_some()
        {
            stream.push(foreign, id, &mut self.waiting);
            return;
        }
        self.flush();
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

    /// Moves what the stream holds to `waiting`.
    fn flush(&mut self) {
        if let (Some(stream), Some(foreign)) = (&mut self.stream, self.tokenizer.foreign()) {
            stream.finish(foreign, &mut self.waiting);
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

/// What turns tokens into text where that takes more than one of them.
fn stream(tokenizer: &Tokenizer, options: DecodeOptions) -> Option<Stream> {
    let foreign = tokenizer.foreign()?;
    // Text in the middle of which the tokens go on.
    let before = |id: &u32| tokenizer.is_ordinary(*id) && foreign.decode(&[*id]).is_ascii();
    let before = (0..tokenizer.len() as u32).find(before).filter(|_| options.continues);
    Some(foreign.stream(before))
}
