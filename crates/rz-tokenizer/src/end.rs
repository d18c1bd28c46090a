//! Which tokens end a generation.

use rz_formats::Metadata;

use crate::error::TokenizerError;
use crate::vocabulary::{Kind, Vocabulary};

/// Texts that end a generation in whatever file they occur. Files name at most a few
/// of theirs, and often not the one that ends a turn.
const TEXTS: &[&str] = &[
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<turn|>",
    "<|tool_response>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<eos>",
    "</s>",
    "[e~[",
    "<｜end▁of▁sentence｜>",
    // Padding, repository and file marks of code models: the next document begins.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<reponame>",
    "<|file_sep|>",
];

/// Keys of ids that end a generation.
const KEYS: &[&str] = &[
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.fim_rep_token_id",
    "tokenizer.ggml.fim_sep_token_id",
];

/// The tokens that end a generation, in ascending order. Those known by their text
/// become control tokens, also where the file types them as text.
pub(crate) fn end_of_generation(
    meta: &Metadata,
    vocabulary: &mut Vocabulary,
    eos: Option<u32>,
) -> Result<Vec<u32>, TokenizerError> {
    let mut ends: Vec<u32> = eos.into_iter().collect();
    for key in KEYS {
        ends.extend(token_id(meta, vocabulary, key)?);
    }
    Ok(with_known(ends, vocabulary, |_| true))
}

/// These ends and those known by their text, of the tokens that `may_be` allows, in
/// ascending order. The latter become control tokens.
pub(crate) fn with_known(
    mut ends: Vec<u32>,
    vocabulary: &mut Vocabulary,
    may_be: impl Fn(u32) -> bool,
) -> Vec<u32> {
    let token = |text: &str| vocabulary.token(text.as_bytes());
    let mut known: Vec<u32> = TEXTS.iter().filter_map(|text| token(text)).filter(|&id| may_be(id)).collect();
    known.retain(|&id| {
        // HTML writes struck-out text between <s> and </s>: where these are typed as
        // text and the file names another end, they are just that.
        let text = matches!(vocabulary.kind(id), Some(Kind::Normal | Kind::UserDefined));
        !text || vocabulary.text(id) != Some("</s>") || ends.is_empty() || ends.contains(&id)
    });
    // Where a turn has several messages, <|end|> closes a message and others the turn.
    let has = |text: &str| token(text).is_some();
    if (has("<|return|>") && (has("<|call|>") || has("<|calls|>")))
        || (has("<|flush|>") && (has("<|call|>") || has("<|calls|>")))
    {
        let end = token("<|end|>");
        known.retain(|&id| Some(id) != end);
    }
    for &id in &known {
        vocabulary.set_kind(id, Kind::Control);
    }
    ends.append(&mut known);
    ends.sort_unstable();
    ends.dedup();
    ends
}

/// The token that `key` names, checked against the vocabulary.
pub(crate) fn token_id(
    meta: &Metadata,
    vocabulary: &Vocabulary,
    key: &'static str,
) -> Result<Option<u32>, TokenizerError> {
    let Some(found) = meta.u64(key)? else { return Ok(None) };
    match u32::try_from(found) {
        Ok(id) if (id as usize) < vocabulary.len() => Ok(Some(id)),
        _ => Err(TokenizerError::TokenId { file: meta.file().into(), key, found, tokens: vocabulary.len() }),
    }
}
