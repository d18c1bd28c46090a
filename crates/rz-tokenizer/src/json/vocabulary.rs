//! The tokens of a `tokenizer.json`, put in the order of their ids.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rz_formats::StringArray;

use super::read::{Added, Model};
use crate::bpe::pair;
use crate::error::{MergeProblem, Quoted, TokenizerError};
use crate::hash::{PairTable, StringTable};
use crate::merge::NO_TOKEN;
use crate::vocabulary::{Duplicate, Kind, Vocabulary, byte_of};

/// Ids may have gaps, but no vocabulary is mostly gaps.
const FEW: u64 = 1 << 20;

/// The vocabulary of the model and the tokens that were added to it.
pub(super) struct Tokens<'a> {
    path: PathBuf,
    texts: &'a StringArray,
    ids: &'a [u32],
    /// From texts to their places in the file.
    places: StringTable,
    /// The place in the file of each id, or [`NO_TOKEN`].
    slots: Vec<u32>,
    added: Vec<(u32, Added)>,
    /// Places of added tokens by their texts.
    by_content: HashMap<String, usize>,
}

/// Tokens in the order of their ids.
pub(super) struct Numbered {
    pub(super) vocabulary: Vocabulary,
    /// Those that are looked for in a text before anything else.
    pub(super) added: Vec<(u32, Added)>,
    /// The ids of those of them that the model does not know.
    pub(super) outside: Vec<u32>,
}

impl<'a> Tokens<'a> {
    /// Checks the vocabulary of a model.
    pub(super) fn new(path: &Path, model: &'a Model) -> Result<Self, TokenizerError> {
        let (texts, ids) = (&model.vocabulary.texts, model.vocabulary.ids.as_slice());
        let file = || path.to_owned();
        let limit = FEW.max(4 * ids.len() as u64);
        let mut places = StringTable::with_capacity(ids.len());
        let mut slots = Vec::new();
        for ((place, text), &id) in (0u32..).zip(texts.iter()).zip(ids) {
            if u64::from(id) >= limit {
                let text = text.to_owned();
                return Err(TokenizerError::HighId { file: file(), text, id, tokens: ids.len(), limit });
            }
            if let Some(first) = places.insert(text, place, |place| text_of(texts, place)) {
                let first = ids[first as usize];
                return Err(TokenizerError::DuplicateToken {
                    file: file(),
                    first,
                    second: id,
                    text: text.to_owned(),
                });
            }
            if slots.len() <= id as usize {
                slots.resize(id as usize + 1, NO_TOKEN);
            }
            let slot = &mut slots[id as usize];
            if *slot != NO_TOKEN {
                let first = text_of(texts, *slot).to_owned();
                return Err(TokenizerError::DuplicateId { file: file(), id, first, second: text.to_owned() });
            }
            *slot = place;
        }
        let (added, by_content) = (Vec::new(), HashMap::new());
        Ok(Tokens { path: file(), texts, ids, places, slots, added, by_content })
    }

    /// Adds tokens. Those that the vocabulary does not have get the next ids, whatever
    /// the file says: that is how models were trained.
    pub(super) fn add(&mut self, added: &[Added], file: &str, warnings: &mut Vec<String>) {
        let count = self.ids.len() as u32;
        let last = self.added.iter().map(|(id, _)| *id).max();
        let mut next = last.map_or(count, |last| count.max(last + 1));
        for token in added.iter().filter(|token| !token.content.is_empty()) {
            let place = self.by_content.get(&token.content).copied();
            let known = place.map(|place| self.added[place].0).or_else(|| self.id(&token.content));
            let id = known.unwrap_or(next);
            next += u32::from(known.is_none());
            if token.id != u64::from(id) {
                let text = Quoted(&token.content);
                warnings.push(format!(
                    "{file}: the added token {text} has the id {}, but is {id} by its place: that is used",
                    token.id
                ));
            }
            match place {
                Some(place) => self.added[place].1 = token.clone(),
                None => {
                    self.by_content.insert(token.content.clone(), self.added.len());
                    self.added.push((id, token.clone()));
                }
            }
        }
    }

    /// The ranks and results of the merges of the model.
    pub(super) fn merges(&self, model: &Model) -> Result<PairTable, TokenizerError> {
        let Some(merges) = &model.merges else { return Ok(PairTable::with_capacity(0)) };
        let refuse = |index, text: String, problem| {
            Err(TokenizerError::Merge { file: self.path.clone(), index, text, problem })
        };
        if let Some((index, text)) = &merges.bad {
            return refuse(*index, text.clone(), MergeProblem::NoSpace);
        }
        let mut table = PairTable::with_capacity(merges.left.len());
        let mut joined = String::new();
        // Of equal pairs the last counts.
        for (index, (left, right)) in merges.left.iter().zip(merges.right.iter()).enumerate().rev() {
            joined.clear();
            joined.extend([left, right]);
            let problem = match (self.id(left), self.id(right), self.id(&joined)) {
                (Some(left), Some(right), Some(result)) => {
                    table.insert_first(pair(left, right), index as u32, result);
                    continue;
                }
                (None, ..) => MergeProblem::UnknownLeft,
                (_, None, _) => MergeProblem::UnknownRight,
                _ => MergeProblem::UnknownResult,
            };
            return refuse(index, format!("{left} {right}"), problem);
        }
        Ok(table)
    }

    /// All tokens in the order of their ids.
    pub(super) fn finish(mut self, model: &Model, unknown: Option<&str>) -> Result<Numbered, TokenizerError> {
        self.added.sort_by_key(|(id, _)| *id);
        let byte_fallback = model.settings.get("byte_fallback").is_some_and(|value| value == true);
        let unknown = model.settings.get("unk_token").and_then(|text| text.as_str()).or(unknown);
        let count = self.added.last().map_or(0, |(id, _)| *id as usize + 1).max(self.slots.len());
        if count == 0 {
            return Err(TokenizerError::Count {
                file: self.path,
                found: 0,
                limit: crate::merge::MAX_TOKENS - 1,
            });
        }
        self.slots.resize(count, NO_TOKEN);
        let mut texts = StringArray::default();
        let mut kinds = Vec::with_capacity(count);
        let mut added = self.added.iter().peekable();
        for (id, &place) in (0u32..).zip(&self.slots) {
            let ours = added.next_if(|(added, _)| *added == id).map(|(_, token)| token);
            let text = if place == NO_TOKEN { None } else { self.texts.get(place as usize) };
            let kind = match (ours, text) {
                (Some(token), Some(text)) if token.content != text => {
                    let (first, second) = (text.to_owned(), token.content.clone());
                    return Err(TokenizerError::DuplicateId { file: self.path, id, first, second });
                }
                (Some(token), _) if !token.special => Kind::UserDefined,
                (Some(token), _) if Some(token.content.as_str()) == unknown => Kind::Unknown,
                (Some(_), _) => Kind::Control,
                (None, Some(text))
                    if byte_fallback && text.len() == 6 && text.starts_with("<0x") && text.ends_with('>') =>
                {
                    if byte_of(text).is_none() {
                        let text = text.to_owned();
                        return Err(TokenizerError::ByteToken { file: self.path, token: id, text });
                    }
                    Kind::Byte
                }
                (None, Some(_)) => Kind::Normal,
                (None, None) => Kind::Unused,
            };
            texts.push(text.or(ours.map(|token| token.content.as_str())).unwrap_or_default());
            kinds.push(kind);
        }
        match Vocabulary::new(texts, kinds) {
            Ok(vocabulary) => {
                let is_outside = |(id, _): &&(u32, Added)| self.slots[*id as usize] == NO_TOKEN;
                let outside = self.added.iter().filter(is_outside).map(|(id, _)| *id).collect();
                Ok(Numbered { vocabulary, added: self.added, outside })
            }
            Err(Duplicate { first, second, text }) => {
                Err(TokenizerError::DuplicateToken { file: self.path, first, second, text })
            }
        }
    }

    /// The token of the model's vocabulary with this text.
    fn id(&self, text: &str) -> Option<u32> {
        let place = self.places.get(text.as_bytes(), |place| text_of(self.texts, place))?;
        Some(self.ids[place as usize])
    }
}

fn text_of(texts: &StringArray, place: u32) -> &str {
    texts.get(place as usize).unwrap_or_default()
}
