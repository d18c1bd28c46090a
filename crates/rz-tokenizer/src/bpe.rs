//! Byte-pair encoding over bytes: the file lists which pairs are joined, in order.

use rz_formats::Metadata;

use crate::error::{MergeProblem, TokenizerError};
use crate::hash::PairTable;
use crate::merge::{Join, Merger, NO_TOKEN, Symbol};
use crate::pretokenizer::{Pretokenizer, Row};
use crate::vocabulary::{Kind, Vocabulary};

/// The merges of a file and the way it cuts text into words.
pub(crate) struct Bpe {
    pretokenizer: &'static Pretokenizer,
    /// The token of each byte, or [`NO_TOKEN`].
    bytes: [u32; 256],
    /// The rank and the result of each pair.
    merges: PairTable,
    ignore_merges: bool,
    /// Tokens that stand beside the vocabulary, in ascending order: no word is one of them.
    outside: Vec<u32>,
}

const MERGES: &str = "tokenizer.ggml.merges";

impl Bpe {
    /// Reads and checks the merges of a file.
    pub(crate) fn from_gguf(
        meta: &Metadata,
        vocabulary: &Vocabulary,
        (row, pretokenizer): (&Row, &'static Pretokenizer),
    ) -> Result<Self, TokenizerError> {
        let list = meta.require_strings(MERGES)?;
        let mut merges = PairTable::with_capacity(list.len());
        let mut joined = Vec::new();
        for (index, merge) in list.iter().enumerate() {
            let problem = |problem| TokenizerError::Merge {
                file: meta.file().into(),
                index,
                text: merge.to_owned(),
                problem,
            };
            // A token may itself start with a space where bytes are not spelled.
            let space = merge.bytes().skip(1).position(|byte| byte == b' ').map(|at| at + 1);
            let Some(space) = space else { return Err(problem(MergeProblem::NoSpace)) };
            let (left, right) = (&merge.as_bytes()[..space], &merge.as_bytes()[space + 1..]);
            joined.clear();
            joined.extend_from_slice(left);
            joined.extend_from_slice(right);
            let find = |text, missing| vocabulary.token(text).ok_or_else(|| problem(missing));
            let left = find(left, MergeProblem::UnknownLeft)?;
            let right = find(right, MergeProblem::UnknownRight)?;
            let result = find(&joined, MergeProblem::UnknownResult)?;
            merges.insert_first(pair(left, right), index as u32, result);
        }
        Ok(Self::new(vocabulary, pretokenizer, merges, row.ignore_merges, Vec::new()))
    }

    /// Merges of [`pair`]s; `outside` has the tokens, in ascending order, that stand
    /// beside the vocabulary.
    pub(crate) fn new(
        vocabulary: &Vocabulary,
        pretokenizer: &'static Pretokenizer,
        merges: PairTable,
        ignore_merges: bool,
        outside: Vec<u32>,
    ) -> Self {
        let mut buffer = [0; 4];
        let bytes = std::array::from_fn(|byte| {
            let letter = letter(byte as u8).encode_utf8(&mut buffer);
            let token = vocabulary.token(letter.as_bytes());
            token.filter(|token| outside.binary_search(token).is_err()).unwrap_or(NO_TOKEN)
        });
        Bpe { pretokenizer, bytes, merges, ignore_merges, outside }
    }

    /// Bytes that no token stands for. Text loses them.
    pub(crate) fn missing_bytes(&self) -> Vec<u8> {
        (0..=255).filter(|&byte| self.bytes[usize::from(byte)] == NO_TOKEN).collect()
    }

    /// Appends the tokens of `text`.
    pub(crate) fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        merger: &mut Merger,
        ids: &mut Vec<u32>,
    ) {
        let mut spelled = String::new();
        self.pretokenizer.split(text, &mut |word| {
            if self.ignore_merges {
                spelled.clear();
                spelled.extend(word.bytes().map(letter));
                if let Some(token) = vocabulary.token(spelled.as_bytes())
                    && vocabulary.kind(token) != Some(Kind::Control)
                    && self.outside.binary_search(&token).is_err()
                {
                    ids.push(token);
                    return;
                }
            }
            merger.symbols.clear();
            merger.symbols.extend((0u32..).zip(word.bytes()).filter_map(|(at, byte)| {
                let id = self.bytes[usize::from(byte)];
                (id != NO_TOKEN).then_some(Symbol { id, start: at, end: at + 1 })
            }));
            merger.run(|left, right| {
                self.merges.get(pair(left.id, right.id)).map(|(rank, id)| Join { rank, id })
            });
            ids.extend(merger.symbols.iter().map(|symbol| symbol.id));
        });
    }
}

/// The bytes that a token's text spells, appended to `bytes`.
///
/// A text with any other letter stands for itself.
pub(crate) fn spelled_bytes(text: &str, bytes: &mut Vec<u8>) {
    let before = bytes.len();
    for letter in text.chars() {
        let Some(byte) = byte(letter) else {
            bytes.truncate(before);
            bytes.extend_from_slice(text.as_bytes());
            return;
        };
        bytes.push(byte);
    }
}

/// The letter that spells a byte: itself where it is visible, otherwise one of the
/// letters from U+0100 on, in the order of the bytes.
const fn letter(byte: u8) -> char {
    let code = match byte {
        0x00..=0x20 => 0x100 + byte as u32,
        0x7f..=0xa0 => 0x121 + (byte - 0x7f) as u32,
        0xad => 0x143,
        visible => visible as u32,
    };
    match char::from_u32(code) {
        Some(letter) => letter,
        None => char::REPLACEMENT_CHARACTER,
    }
}

/// The byte that a letter spells.
const fn byte(letter: char) -> Option<u8> {
    Some(match letter as u32 {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => code as u8,
        code @ 0x100..=0x120 => (code - 0x100) as u8,
        code @ 0x121..=0x142 => (code - 0x121) as u8 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    })
}

/// The key of a pair in a table of merges.
pub(crate) fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule as it was published: visible bytes spell themselves, the others get
    /// the letters from U+0100 on.
    #[test]
    fn letters_follow_the_published_rule() {
        let mut next = 0x100;
        for value in 0..=255u8 {
            let visible = matches!(value, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
            let expected = if visible { u32::from(value) } else { next };
            next += u32::from(!visible);
            assert_eq!(letter(value) as u32, expected);
            assert_eq!(byte(letter(value)), Some(value));
        }
        for other in ['\u{20}', '\u{7f}', '\u{a0}', '\u{ad}', '\u{144}', '▁'] {
            assert_eq!(byte(other), None);
        }
    }
}
