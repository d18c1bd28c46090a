//! The model's tokens as a tree of bytes.

use rz_tokenizer::Tokenizer;
use toktrie::{TokRxInfo, TokTrie};

use crate::ConstrainError;

/// Tokens of more bytes are never chosen under a constraint: walks through the tree go as deep as the longest.
const LONGEST_TOKEN: usize = 1024;

/// The bytes that each token adds to a text. Those that steer the model are set apart: no text is made of them.
pub(crate) fn trie(tokenizer: &Tokenizer) -> Result<TokTrie, ConstrainError> {
    if !tokenizer.has_token_bytes() {
        let message = "what a token of it adds to a text depends on the tokens before it";
        return Err(ConstrainError::Tokenizer(message.into()));
    }
    let ends = tokenizer.end_of_generation();
    let Some(&end) = ends.first() else {
        return Err(ConstrainError::Tokenizer("it has no token that ends a text".into()));
    };
    let words: Vec<Vec<u8>> = (0..tokenizer.len() as u32)
        .map(|id| {
            if tokenizer.is_special(id) || tokenizer.is_end_of_generation(id) {
                let name = tokenizer.token(id).unwrap_or_default();
                [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat()
            } else {
                tokenizer.token_bytes(id).unwrap_or_default()
            }
        })
        .map(|word| if word.len() > LONGEST_TOKEN { Vec::new() } else { word })
        .collect();
    let info = TokRxInfo::new(words.len() as u32, end);
    Ok(TokTrie::from(&info, &words).with_eos_tokens(ends))
}
