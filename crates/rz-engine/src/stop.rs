//! Text that ends the answer, found while it streams by.

use crate::EngineError;

/// Finds the first stop string in text that comes in pieces, and holds back what may become one.
///
/// The first is the one that is complete first, and of those complete at the same place the longest: what
/// is released does not depend on how the text is cut into pieces.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopStrings {
    patterns: Vec<Pattern>,
    held: String,
}

/// A stop string with the state of its search (Knuth, Morris and Pratt).
#[derive(Clone, Debug)]
struct Pattern {
    bytes: Box<[u8]>,
    /// For each prefix, the length of the longest shorter prefix that is also its suffix.
    failure: Box<[usize]>,
    /// How many bytes of the pattern the text ends with.
    matched: usize,
}

impl StopStrings {
    pub(crate) fn new<S: AsRef<str>>(stops: &[S]) -> Result<Self, EngineError> {
        let patterns = stops.iter().map(|stop| Pattern::new(stop.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self { patterns, held: String::new() })
    }

    /// Takes the next piece of text. Returns what can be released, and which stop string was completed:
    /// nothing that comes after that matters.
    pub(crate) fn push(&mut self, text: &str) -> (String, Option<usize>) {
        let known = self.held.len();
        self.held.push_str(text);
        for (at, byte) in self.held.bytes().enumerate().skip(known) {
            let mut longest: Option<(usize, usize)> = None;
            for (which, pattern) in self.patterns.iter_mut().enumerate() {
                if pattern.advance(byte) && longest.is_none_or(|(len, _)| pattern.bytes.len() > len) {
                    longest = Some((pattern.bytes.len(), which));
                }
            }
            if let Some((len, which)) = longest {
                self.held.truncate(at + 1 - len);
                return (std::mem::take(&mut self.held), Some(which));
            }
        }
        // A partial match begins with the first byte of a string, so this cuts between characters.
        let keep = self.patterns.iter().map(|p| p.matched).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), None)
    }

    /// What is held back: it turned out not to be a stop string.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

impl Pattern {
    fn new(text: &str) -> Result<Self, EngineError> {
        if text.is_empty() {
            return Err(EngineError::EmptyStop);
        }
        let bytes: Box<[u8]> = text.as_bytes().into();
        let mut failure = vec![0; bytes.len()];
        let mut len = 0;
        for at in 1..bytes.len() {
            while len > 0 && bytes[len] != bytes[at] {
                len = failure[len - 1];
            }
            len += usize::from(bytes[len] == bytes[at]);
            failure[at] = len;
        }
        Ok(Self { bytes, failure: failure.into(), matched: 0 })
    }

    /// Whether the text ends with the pattern after this byte.
    fn advance(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.failure[self.matched - 1];
        }
        self.matched += usize::from(self.bytes[self.matched] == byte);
        self.matched == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Naive search over the whole text: the first end at which it ends with a stop string.
    fn naive(text: &str, stops: &[String]) -> (String, bool) {
        for end in 1..=text.len() {
            let longest = stops
                .iter()
                .filter(|s| text.as_bytes()[..end].ends_with(s.as_bytes()))
                .map(String::len)
                .max();
            if let Some(len) = longest {
                return (text[..end - len].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    /// Strings of few letters, so that they overlap a lot; two of them share their first byte.
    fn text(len: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "é", "è", "\n"]), len)
            .prop_map(|v| v.concat())
    }

    proptest! {
        #[test]
        fn equals_naive_search_however_the_text_is_cut(
            full in text(0..40),
            stops in prop::collection::vec(text(1..6), 0..4),
            cuts in prop::collection::vec(0usize..5, 60),
        ) {
            let (expected, stopped) = naive(&full, &stops);
            let mut matcher = StopStrings::new(&stops).unwrap();
            let mut released = String::new();
            let (mut rest, mut hit) = (&full[..], None);
            for cut in cuts {
                let at = rest.char_indices().nth(cut).map_or(rest.len(), |(i, _)| i);
                let (piece, after) = rest.split_at(at);
                let (text, which) = matcher.push(piece);
                released += &text;
                // Nothing that belongs to the stop string is ever let out.
                prop_assert!(expected.starts_with(&released));
                (rest, hit) = (after, which);
                if hit.is_some() { break; }
            }
            if hit.is_none() {
                let (text, which) = matcher.push(rest);
                released += &text;
                hit = which;
            }
            if hit.is_none() {
                released += &matcher.finish();
            }
            prop_assert_eq!(released, expected);
            prop_assert_eq!(hit.is_some(), stopped);
            if let Some(which) = hit {
                prop_assert!(full.contains(&stops[which]));
            }
        }
    }

    #[test]
    fn text_is_released_as_soon_as_it_cannot_be_a_stop() {
        let mut matcher = StopStrings::new(&["aab"]).unwrap();
        assert_eq!(matcher.push("x"), ("x".into(), None));
        assert_eq!(matcher.push("aa"), (String::new(), None));
        assert_eq!(matcher.push("a"), ("a".into(), None));
        assert_eq!(matcher.push("ac"), ("aaac".into(), None));
        assert_eq!(matcher.push("aa"), (String::new(), None));
        assert_eq!(matcher.push("b tail"), (String::new(), Some(0)));
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        assert!(matches!(StopStrings::new(&["a", ""]), Err(EngineError::EmptyStop)));
    }
}
