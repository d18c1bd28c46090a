//! From chosen tokens to the text of an answer.

use std::ops::Deref;

use rz_tokenizer::{DecodeOptions, Decoder, Tokenizer};

use crate::EngineError;
use crate::stop::StopStrings;

/// Turns tokens into text and finds the stop string that ends it.
pub(crate) struct Text<T> {
    decoder: Decoder<T>,
    stop: StopStrings,
    /// Whether a character that never became complete is left out at the end.
    whole: bool,
}

impl<T: Deref<Target = Tokenizer>> Text<T> {
    pub(crate) fn new<S: AsRef<str>>(
        tokenizer: T,
        options: DecodeOptions,
        stop: &[S],
    ) -> Result<Self, EngineError> {
        Ok(Self { stop: StopStrings::new(stop)?, decoder: Decoder::new(tokenizer, options), whole: false })
    }

    /// Leaves out what is no whole character at the end, so that the text is a part of what it was to become.
    pub(crate) fn whole_characters(self, whole: bool) -> Self {
        Self { whole, ..self }
    }

    /// The text that is certain with one more token, and the stop string that it completes.
    pub(crate) fn push(&mut self, id: u32) -> (String, Option<usize>) {
        self.stop.push(self.decoder.push(id))
    }

    /// The same without looking for stop strings.
    pub(crate) fn push_unstopped(&mut self, id: u32) -> String {
        self.decoder.push(id).to_owned()
    }

    /// The text that waited, at the end, and the stop string that it completes after all.
    pub(crate) fn finish(&mut self) -> (String, Option<usize>) {
        let rest = self.decoder.finish();
        let (mut text, stopped) = self.stop.push(if self.whole { "" } else { rest });
        if stopped.is_none() {
            text += &self.stop.finish();
        }
        (text, stopped)
    }
}
