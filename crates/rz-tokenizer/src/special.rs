//! Tokens that are recognised in a text before anything else.

use aho_corasick::{AhoCorasick, Input, MatchKind};

use crate::vocabulary::{Kind, Vocabulary};

/// Finds special tokens in texts: of those that start first, the longest.
#[derive(Default)]
pub(crate) struct SpecialTokens {
    /// What the user defined: always recognised.
    always: Option<Matcher>,
    /// Also what steers the model: recognised on request.
    all: Option<Matcher>,
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'t> {
    /// Plain text.
    Text(&'t str),
    /// A special token.
    Token(u32),
}

/// The most bytes that the texts of all special tokens may have; real vocabularies
/// have some ten thousand. The automaton takes a multiple of this.
pub(crate) const MAX_BYTES: usize = 4 << 20;

struct Matcher {
    automaton: AhoCorasick,
    /// The token of each pattern, and whether it swallows the white space after it.
    tokens: Vec<(u32, bool)>,
}

impl SpecialTokens {
    /// The special tokens of a vocabulary. `strips` says which swallow the white space
    /// that follows them. `Err` has the bytes of texts that are too long in all.
    pub(crate) fn new(vocabulary: &Vocabulary, strips: impl Fn(&str) -> bool) -> Result<Self, usize> {
        let matcher = |kinds: &[Kind]| {
            let special: Vec<_> = vocabulary
                .iter()
                .filter(|(_, text, kind)| kinds.contains(kind) && !text.is_empty())
                .map(|(token, text, _)| (token, text))
                .collect();
            if special.is_empty() {
                return Ok(None);
            }
            let bytes = special.iter().map(|(_, text)| text.len()).sum::<usize>();
            if bytes > MAX_BYTES {
                return Err(bytes);
            }
            let automaton = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(special.iter().map(|(_, text)| text))
                .map_err(|_| bytes)?;
            let tokens = special.iter().map(|&(token, text)| (token, strips(text))).collect();
            Ok(Some(Matcher { automaton, tokens }))
        };
        Ok(SpecialTokens {
            always: matcher(&[Kind::UserDefined])?,
            all: matcher(&[Kind::UserDefined, Kind::Control, Kind::Unknown])?,
        })
    }

    /// The parts of `text`, in order. Only with `parse_special` are tokens recognised
    /// that steer the model.
    pub(crate) fn parts<'t>(&self, text: &'t str, parse_special: bool) -> impl Iterator<Item = Part<'t>> {
        let matcher = if parse_special { &self.all } else { &self.always };
        let mut at = 0;
        let mut found = None;
        std::iter::from_fn(move || {
            loop {
                if let Some(token) = found.take() {
                    return Some(Part::Token(token));
                }
                if at == text.len() {
                    return None;
                }
                let start = at;
                let next = matcher.as_ref().and_then(|matcher| {
                    let hit = matcher.automaton.find(Input::new(text).range(start..))?;
                    Some((hit.range(), matcher.tokens[hit.pattern().as_usize()]))
                });
                let Some((range, (token, strips))) = next else {
                    at = text.len();
                    return Some(Part::Text(&text[start..]));
                };
                found = Some(token);
                at = range.end;
                if strips {
                    at = text.len()
                        - text[at..].trim_start_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']).len();
                }
                if start < range.start {
                    return Some(Part::Text(&text[start..range.start]));
                }
            }
        })
    }
}
