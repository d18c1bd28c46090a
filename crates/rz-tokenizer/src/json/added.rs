//! Added tokens: found in a text before anything else, by the rules of `tokenizer.json`.

use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};
use regex_automata::meta::Regex;

use super::read::Added;
use crate::special::{MAX_BYTES, Part};

/// Finds added tokens: of those that start first, the longest.
pub(super) struct AddedTokens {
    automaton: Option<AhoCorasick>,
    /// The token of each pattern.
    tokens: Vec<Token>,
}

struct Token {
    id: u32,
    /// Only where no letter, digit or underscore stands beside it.
    single_word: bool,
    /// Takes the white space before it.
    lstrip: bool,
    /// Takes the white space after it.
    rstrip: bool,
}

impl AddedTokens {
    /// These tokens by their ids. `Err` has the bytes of texts that are too long in all.
    pub(super) fn new<'a>(added: impl Iterator<Item = (u32, &'a Added)>) -> Result<Self, usize> {
        let (mut patterns, mut tokens, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (id, added) in added {
            let &Added { single_word, lstrip, rstrip, ref content, .. } = added;
            bytes += content.len();
            patterns.push(content);
            tokens.push(Token { id, single_word, lstrip, rstrip });
        }
        if bytes > MAX_BYTES {
            return Err(bytes);
        }
        if patterns.is_empty() {
            return Ok(AddedTokens { automaton: None, tokens });
        }
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(patterns);
        Ok(AddedTokens { automaton: Some(automaton.map_err(|_| bytes)?), tokens })
    }

    /// Calls `part` with each part of `text`, in order, and where it starts. A token that
    /// `is_text` says is text is left in the text.
    pub(super) fn split<'t>(
        &self,
        text: &'t str,
        is_text: impl Fn(u32) -> bool,
        mut part: impl FnMut(usize, Part<'t>),
    ) {
        let mut done = 0;
        for found in self.automaton.iter().flat_map(|automaton| automaton.find_iter(text)) {
            let token = &self.tokens[found.pattern().as_usize()];
            let Range { mut start, mut end } = found.range();
            if is_text(token.id) || (token.single_word && !is_word(text, start, end)) {
                continue;
            }
            if token.lstrip {
                start = text[..start].trim_end().len().max(done);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            if done < start {
                part(done, Part::Text(&text[done..start]));
            }
            part(start, Part::Token(token.id));
            done = end;
        }
        if done < text.len() {
            part(done, Part::Text(&text[done..]));
        }
    }
}

/// Whether no word goes on before or after a part of a text.
fn is_word(text: &str, start: usize, end: usize) -> bool {
    static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\w").expect("a valid pattern"));
    let is_part = |letter: Option<char>| {
        letter.is_some_and(|letter| WORD.is_match(letter.encode_utf8(&mut [0; 4]).as_bytes()))
    };
    !is_part(text[..start].chars().next_back()) && !is_part(text[end..].chars().next())
}
