//! How byte-pair encoding cuts a text into words before it joins anything.
//!
//! Every published pattern ends in `\s+(?!\S)|\s+`: a run of white space leaves its
//! last character to the word that follows. That is the only place where a pattern
//! looks ahead, so the rule is applied here and the rest runs as an automaton in
//! linear time, whatever the text: a backtracking engine gives up on a megabyte of
//! spaces.

use std::sync::OnceLock;

use regex_automata::Input;
use regex_automata::meta::Regex;

/// What files call one way to cut text, and what comes with it.
pub(crate) struct Row {
    /// The values of `tokenizer.ggml.pre` that mean this row.
    pub(crate) names: &'static [&'static str],
    /// Patterns, each applied to the pieces of the one before. A match is a piece of
    /// its own, and so is what lies between two matches.
    patterns: &'static [&'static str],
    /// Whether a word that is a token as it stands is never built from merges.
    pub(crate) ignore_merges: bool,
    /// Whether a begin token is added when the file does not say.
    pub(crate) add_bos: bool,
}

pub(crate) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_SIGNS: &str = r"\s?[!-/:-~！-／：-～‘-‟　-。]+";
const DIGIT: &str = r"\p{N}";
/// The characters that [`char::is_numeric`] takes, which may know a newer Unicode.
pub(crate) const NUMERIC: &str = r"[\p{N}\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6}]";

/// What most rows have.
const PLAIN: Row = Row { names: &[], patterns: &[], ignore_merges: false, add_bos: false };

/// Every known pre-tokenizer. Names that share a row cut text alike.
pub(crate) const ROWS: &[Row] = &[
    Row {
        names: &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        patterns: &[NUMERIC, GPT2],
        ..PLAIN
    },
    Row {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "trillion",
            "granite-docling",
        ],
        patterns: &[GPT2],
        ..PLAIN
    },
    Row {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        patterns: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    Row { names: &["glm4", "glm5"], patterns: &[LLAMA3], ignore_merges: true, ..PLAIN },
    Row { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], patterns: &[LLAMA3], ..PLAIN },
    Row {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        patterns: &[QWEN2],
        ..PLAIN
    },
    Row { names: &["qwen35"], patterns: &[QWEN35], ..PLAIN },
    Row { names: &["gpt-4o", "llama4", "kanana2"], patterns: &[GPT4O], ..PLAIN },
    Row { names: &["tekken"], patterns: &[TEKKEN], ignore_merges: true, add_bos: true },
    Row {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        patterns: &[r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3],
        ..PLAIN
    },
    Row {
        names: &["deepseek-llm"],
        patterns: &[
            r"[\r\n]",
            DEEPSEEK_LETTERS,
            DEEPSEEK_SIGNS,
            r"\s+$",
            "[一-龥ࠀ-一가-\u{d7ff}]+",
            r"\p{N}+",
        ],
        ..PLAIN
    },
    Row {
        names: &["deepseek-coder"],
        patterns: &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\u{d7ff}]+", DIGIT],
        ..PLAIN
    },
    Row {
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        ..PLAIN
    },
    Row { names: &["falcon"], patterns: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"], ..PLAIN },
];

/// The row of a name, and what cuts text its way.
pub(crate) fn find(name: &str) -> Option<(&'static Row, &'static Pretokenizer)> {
    find_row(|row| row.names.contains(&name))
}

/// What cuts text by these patterns, one after another.
pub(crate) fn find_patterns(patterns: &[&str]) -> Option<&'static Pretokenizer> {
    find_row(|row| row.patterns == patterns).map(|(_, found)| found)
}

fn find_row(is_it: impl Fn(&Row) -> bool) -> Option<(&'static Row, &'static Pretokenizer)> {
    /// Made once for all tokenizers: that takes longer than many texts.
    static MADE: [OnceLock<Pretokenizer>; ROWS.len()] = [const { OnceLock::new() }; ROWS.len()];
    let at = ROWS.iter().position(is_it)?;
    Some((&ROWS[at], MADE[at].get_or_init(|| Pretokenizer::new(&ROWS[at]))))
}

/// Cuts text into words.
pub(crate) struct Pretokenizer {
    steps: Vec<Splitter>,
}

impl Pretokenizer {
    /// The way of one row.
    fn new(row: &Row) -> Self {
        let compile = |pattern: &&str| Splitter::new(pattern).expect("patterns of the table are valid");
        Pretokenizer { steps: row.patterns.iter().map(compile).collect() }
    }

    /// Calls `word` with each word of `text`, in order. Together they are the text.
    pub(crate) fn split<'t>(&self, text: &'t str, word: &mut dyn FnMut(&'t str)) {
        split(&self.steps, text, word);
    }
}

fn split<'t>(steps: &[Splitter], text: &'t str, word: &mut dyn FnMut(&'t str)) {
    match steps {
        [] if text.is_empty() => {}
        [] => word(text),
        [step, rest @ ..] => step.split(text, &mut |piece| split(rest, piece, word)),
    }
}

/// One pattern.
struct Splitter {
    /// Pattern 0 is what stands before the rule on white space, pattern 1 is `\s+`.
    regex: Regex,
}

const SPACE_RULE: &str = r"|\s+(?!\S)|\s+";

impl Splitter {
    /// A pattern, which may end in the rule on white space and looks ahead nowhere else.
    fn new(pattern: &str) -> Result<Self, Box<regex_automata::meta::BuildError>> {
        let regex = match pattern.strip_suffix(SPACE_RULE) {
            Some(pattern) => Regex::new_many(&[pattern, r"\s+"]),
            None => Regex::new(pattern),
        };
        Ok(Splitter { regex: regex.map_err(Box::new)? })
    }

    fn split<'t>(&self, text: &'t str, piece: &mut dyn FnMut(&'t str)) {
        let mut done = 0;
        while done < text.len() {
            let Some(found) = self.regex.search(&Input::new(text).range(done..)) else { break };
            let mut end = found.end();
            if found.pattern().as_usize() == 1 && end < text.len() {
                let run = &text[found.range()];
                let last = run.chars().next_back().map_or(0, char::len_utf8);
                if last < run.len() {
                    end -= last;
                }
            }
            if done < found.start() {
                piece(&text[done..found.start()]);
            }
            piece(&text[found.start()..end]);
            done = end;
        }
        if done < text.len() {
            piece(&text[done..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::tokenizer::pre_tokenizer::OffsetType;
    use tokenizers::{OffsetReferential, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior};

    /// Each row with the patterns run by a backtracking engine, look-ahead and all.
    static BOTH: LazyLock<Vec<(&Row, Pretokenizer, Vec<Split>)>> = LazyLock::new(|| {
        let isolate = |pattern: &&str| {
            let pattern = SplitPattern::Regex((*pattern).to_owned());
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap()
        };
        ROWS.iter()
            .map(|row| (row, Pretokenizer::new(row), row.patterns.iter().map(isolate).collect()))
            .collect()
    });

    fn check(text: &str) -> Result<(), TestCaseError> {
        for (row, ours, steps) in BOTH.iter() {
            let mut oracle = PreTokenizedString::from(text);
            for step in steps {
                step.pre_tokenize(&mut oracle).unwrap();
            }
            let expected: Vec<&str> = oracle
                .get_splits(OffsetReferential::Original, OffsetType::Byte)
                .into_iter()
                .map(|(piece, _, _)| piece)
                .collect();
            let mut words = Vec::new();
            ours.split(text, &mut |word| words.push(word));
            prop_assert_eq!(words, expected, "{} on {:?}", row.names[0], text);
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn words_are_those_of_the_published_patterns(text in prop::collection::vec(prop_oneof![
            "[ \t\r\n]{1,5}",
            r"[\s\u{85}\u{a0}\u{3000}]{1,3}",
            "[A-Za-z]{1,8}",
            "['’](s|S|t|re|RE|ve|m|ll|LL|d|ſ)",
            "[0-9]{1,7}",
            r"[\p{L}\p{M}\p{N}]{1,5}",
            r"[\p{P}\p{S}]{1,4}",
            any::<String>(),
        ], 0..16)) {
            check(&text.concat())?;
        }
    }

    #[test]
    fn runs_of_white_space_leave_their_last_to_the_word() {
        for text in
            ["", " ", "  ", "a  b", "a \n b", "  \n\n  x", "\u{3000}\u{3000}x", "\t\t", "x \r\n", "1  2\n 3"]
        {
            check(text).unwrap();
        }
    }

    #[test]
    fn numeric_characters_are_those_of_the_standard_library() {
        let regex = Regex::new(NUMERIC).unwrap();
        for letter in '\0'..=char::MAX {
            let mut buffer = [0; 4];
            let matches = regex.is_match(&*letter.encode_utf8(&mut buffer));
            assert_eq!(matches, letter.is_numeric(), "{letter:?}");
        }
    }

    #[test]
    fn names_are_unique() {
        let names: Vec<_> = ROWS.iter().flat_map(|row| row.names).collect();
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{name}");
            assert!(find(name).is_some());
        }
        assert!(find("no-such").is_none());
    }
}
