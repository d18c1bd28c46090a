//! What can be wrong with the tokenizer or the chat template of a file.

use std::fmt;
use std::path::PathBuf;

/// Why a tokenizer or a chat template could not be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A key is missing or its value has the wrong type.
    #[error(transparent)]
    Metadata(#[from] rz_formats::FormatError),
    /// A kind of tokenizer that is not supported.
    #[error(
        "{}: the tokenizer model {} is not supported, expected one of {expected}: use the model with token ids, or convert it again",
        file.display(), Quoted(.found)
    )]
    Model {
        /// The file.
        file: PathBuf,
        /// The value of `tokenizer.ggml.model`.
        found: String,
        /// The supported values.
        expected: String,
    },
    /// A pre-tokenizer that is not supported. Guessing one would give wrong tokens.
    #[error(
        "{}: the pre-tokenizer {} (tokenizer.ggml.pre) is not supported, expected one of {expected}, or another name of one: use the model with token ids",
        file.display(), Quoted(.found)
    )]
    Pretokenizer {
        /// The file.
        file: PathBuf,
        /// The value of `tokenizer.ggml.pre`.
        found: String,
        /// The supported values, one for each that differ.
        expected: String,
    },
    /// A vocabulary of no tokens or of too many.
    #[error("{}: the vocabulary has {found} tokens, expected 1 to {limit}", file.display())]
    Count {
        /// The file.
        file: PathBuf,
        /// Tokens of the vocabulary.
        found: usize,
        /// The most that is accepted.
        limit: u32,
    },
    /// An array that should hold one value for each token and does not.
    #[error("{}: {key} has {found} entries, expected {expected}, one for each token", file.display())]
    Length {
        /// The file.
        file: PathBuf,
        /// The key of the array.
        key: &'static str,
        /// Entries of the array.
        found: usize,
        /// Tokens of the vocabulary.
        expected: usize,
    },
    /// The id of a special token that is none of the vocabulary's.
    #[error("{}: {key} is {found}, but the vocabulary has only {tokens} tokens", file.display())]
    TokenId {
        /// The file.
        file: PathBuf,
        /// The key of the id.
        key: &'static str,
        /// The id.
        found: u64,
        /// Tokens of the vocabulary.
        tokens: usize,
    },
    /// Two tokens of one text.
    #[error("{}: the tokens {first} and {second} have the same text {}", file.display(), Quoted(.text))]
    DuplicateToken {
        /// The file.
        file: PathBuf,
        /// The first token.
        first: u32,
        /// The second token.
        second: u32,
        /// Their text.
        text: String,
    },
    /// A token type that does not exist.
    #[error("{}: token {token} has the type {found}, expected 0 to 6", file.display())]
    TokenType {
        /// The file.
        file: PathBuf,
        /// The token.
        token: u32,
        /// Its type.
        found: i32,
    },
    /// A token that should stand for a byte and does not.
    #[error("{}: token {token} is {}, expected a byte from <0x00> to <0xFF>", file.display(), Quoted(.text))]
    ByteToken {
        /// The file.
        file: PathBuf,
        /// The token.
        token: u32,
        /// Its text.
        text: String,
    },
    /// Special tokens whose texts are too long to be looked for.
    #[error("{}: the texts of the special tokens have {found} bytes in all, expected at most {limit}", file.display())]
    SpecialTokens {
        /// The file.
        file: PathBuf,
        /// Bytes of the texts.
        found: usize,
        /// The most that is accepted.
        limit: usize,
    },
    /// A merge that is not two tokens whose texts together are a third.
    #[error("{}: merge {index} is {}, {problem}", file.display(), Quoted(.text))]
    Merge {
        /// The file.
        file: PathBuf,
        /// Number of the merge, from 0.
        index: usize,
        /// The merge.
        text: String,
        /// What is wrong.
        problem: MergeProblem,
    },
    /// A folder without a `tokenizer.json`.
    #[error("{}: has no tokenizer.json: other files of tokenizers are not read: make it with the transformers package, or use the model with token ids", folder.display())]
    NoTokenizerJson {
        /// The folder.
        folder: PathBuf,
    },
    /// A `tokenizer.json` that cannot be understood.
    #[error("{}: not a valid tokenizer.json: {message}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// A part of a `tokenizer.json` that is not supported.
    #[error("{}: {part} is {}, which is not supported: {advice}", file.display(), Quoted(.found))]
    Pipeline {
        /// The file.
        file: PathBuf,
        /// The part.
        part: &'static str,
        /// What stands there.
        found: String,
        /// What was expected, or what to do.
        advice: &'static str,
    },
    /// A value of a file beside `tokenizer.json` that is not of the right kind.
    #[error("{}: {key} is {}, expected {expected}", file.display(), Quoted(.found))]
    Setting {
        /// The file.
        file: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
    /// An id that is far beyond the number of tokens.
    #[error("{}: the token {} has the id {id}, expected less than {limit} for {tokens} tokens", file.display(), Quoted(.text))]
    HighId {
        /// The file.
        file: PathBuf,
        /// The token.
        text: String,
        /// Its id.
        id: u32,
        /// Tokens of the vocabulary.
        tokens: usize,
        /// The lowest id that is refused.
        limit: u64,
    },
    /// Two tokens of one id.
    #[error("{}: the tokens {} and {} have the same id {id}", file.display(), Quoted(.first), Quoted(.second))]
    DuplicateId {
        /// The file.
        file: PathBuf,
        /// The id.
        id: u32,
        /// The first token.
        first: String,
        /// The second token.
        second: String,
    },
    /// A chat template that cannot be understood.
    #[error("{}: {key}, line {line}: not a valid template: {message}", file.display())]
    TemplateSyntax {
        /// The file.
        file: PathBuf,
        /// The key of the template.
        key: String,
        /// The line of the template.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A chat template that failed while it ran.
    #[error("{}: {key}, line {line}: the template failed: {message}", file.display())]
    TemplateRun {
        /// The file.
        file: PathBuf,
        /// The key of the template.
        key: String,
        /// The line of the template.
        line: usize,
        /// What went wrong.
        message: String,
    },
    /// A chat template that refused the messages, in its own words.
    #[error("{}: {key}: the template refuses the conversation: {message}", file.display())]
    TemplateRefused {
        /// The file.
        file: PathBuf,
        /// The key of the template.
        key: String,
        /// The template's words.
        message: String,
    },
    /// A chat template that ran too long or made too much text.
    #[error("{}: {key}: the template was stopped: it exceeds {limit}", file.display())]
    TemplateLimit {
        /// The file.
        file: PathBuf,
        /// The key of the template.
        key: String,
        /// The limit.
        limit: String,
    },
}

/// What is wrong with a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MergeProblem {
    /// It is not two texts with a space between.
    NoSpace,
    /// The first text is no token.
    UnknownLeft,
    /// The second text is no token.
    UnknownRight,
    /// The two texts together are no token.
    UnknownResult,
}

impl fmt::Display for MergeProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MergeProblem::NoSpace => "expected two tokens with a space between them",
            MergeProblem::UnknownLeft => "whose first part is no token of the vocabulary",
            MergeProblem::UnknownRight => "whose second part is no token of the vocabulary",
            MergeProblem::UnknownResult => "whose parts do not make a token of the vocabulary",
        })
    }
}

/// Shows text from a file on one line, in quotes, cut when it is long.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 80;
        match self.0.char_indices().nth(SHOWN) {
            Some((end, _)) => write!(f, "{:?}…", &self.0[..end]),
            None => write!(f, "{:?}", self.0),
        }
    }
}
