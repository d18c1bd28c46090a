//! How byte-pair encoding cuts a text into words before it joins anything.
//!
//! Every published pattern ends in `\s+(?!\S)|\s+`: a run of white space leaves its
//! last character to the word that follows. That is the only place where a pattern
//! looks ahead, so the rule is applied here and the rest runs as an automaton in
//! linear time, whatever the text: a backtracking engine gives up on a megabyte of
//! spaces.

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

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DIGIT: &str = r"\p{N}";

/// Every known pre-tokenizer. Names that share a row cut text alike.
pub(crate) const ROWS: &[Row] = &[
    Row {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        patterns: &[DIGIT, GPT2],
        ignore_merges: false,
        add_bos: false,
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
        ignore_merges: false,
        add_bos: false,
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
    Row { names: &["glm4", "glm5"], patterns: &[LLAMA3], ignore_merges: true, add_bos: false },
    Row {
        names: &["dbrx", "smaug-bpe", "chatglm-bpe"],
        patterns: &[LLAMA3],
        ignore_merges: false,
        add_bos: false,
    },
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
        ignore_merges: false,
        add_bos: false,
    },
    Row { names: &["qwen35"], patterns: &[QWEN35], ignore_merges: false, add_bos: false },
    Row {
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
        ignore_merges: false,
        add_bos: false,
    },
    Row {
        names: &["falcon"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"],
        ignore_merges: false,
        add_bos: false,
    },
];

/// The row of a name.
pub(crate) fn row(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.names.contains(&name))
}

/// Cuts text into words.
pub(crate) struct Pretokenizer {
    steps: Vec<Splitter>,
}

impl Pretokenizer {
    /// The way of one row.
    pub(crate) fn new(row: &Row) -> Self {
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
