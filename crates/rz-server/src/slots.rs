//! Numbered places that remember what was computed last in each, so that it can be named, saved and restored.
//!
//! Keys and values lie in blocks that all requests share, whatever their number; a slot is the text of the last
//! request that had its number. Saving one writes what is still kept of that text, restoring one puts it back where
//! every request finds it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ApiError;
use crate::error::shown;

/// The slots of a loaded model.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Mutex<Vec<Slot>>,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    /// Prompt and answer of the last request.
    text: Vec<u32>,
    /// Requests that are being worked on.
    users: usize,
    /// When it was last given to a request: by counting.
    given: u64,
}

/// What a slot is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotState {
    pub(crate) busy: bool,
    /// Tokens of its text.
    pub(crate) tokens: usize,
}

impl Slots {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { slots: Mutex::new(vec![Slot::default(); count.max(1)]) })
    }

    /// A slot for a request: the one that is asked for; else, of those that are free, the one of which the prompt goes
    /// on with most, at least half of its text, or else the one used least lately. When none is free, it is shared.
    pub(crate) fn take(self: &Arc<Self>, asked: Option<usize>, prompt: &[u32]) -> Result<Seat, ApiError> {
        let mut slots = self.lock();
        let id = match asked {
            Some(id) => check(id, slots.len(), "id_slot")?,
            None => {
                let common = |text: &[u32]| {
                    let same = text.iter().zip(prompt).take_while(|(a, b)| a == b).count();
                    if 2 * same >= text.len() { same } else { 0 }
                };
                let key = |slot: &Slot| (slot.users == 0, common(&slot.text), std::cmp::Reverse(slot.given));
                let best = slots.iter().enumerate().max_by_key(|(_, slot)| key(slot));
                best.map_or(0, |(id, _)| id)
            }
        };
        let given = slots.iter().map(|slot| slot.given).max().unwrap_or(0) + 1;
        (slots[id].users, slots[id].given) = (slots[id].users + 1, given);
        Ok(Seat { slots: self.clone(), id, text: prompt.to_vec() })
    }

    /// What all slots are doing.
    pub(crate) fn states(&self) -> Vec<SlotState> {
        let state = |slot: &Slot| SlotState { busy: slot.users > 0, tokens: slot.text.len() };
        self.lock().iter().map(state).collect()
    }

    /// The text of a slot.
    pub(crate) fn text(&self, id: usize) -> Result<Vec<u32>, ApiError> {
        let slots = self.lock();
        check(id, slots.len(), "id").map(|id| slots[id].text.clone())
    }

    /// Gives a slot another text.
    pub(crate) fn put(&self, id: usize, text: Vec<u32>) -> Result<(), ApiError> {
        let mut slots = self.lock();
        check(id, slots.len(), "id").map(|id| slots[id].text = text)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(id: usize, count: usize, param: &str) -> Result<usize, ApiError> {
    if id < count {
        return Ok(id);
    }
    Err(ApiError::invalid(param, format!("there is no slot {id}: the model has 0 to {}", count - 1)))
}

/// A request's hold on a slot. What was computed by the time it ends becomes the slot's text.
#[derive(Debug)]
pub(crate) struct Seat {
    slots: Arc<Slots>,
    id: usize,
    text: Vec<u32>,
}

impl Seat {
    pub(crate) fn id(&self) -> usize {
        self.id
    }

    /// A token was generated.
    pub(crate) fn push(&mut self, token: u32) {
        self.text.push(token);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut slots = self.slots.lock();
        slots[self.id].users -= 1;
        slots[self.id].text = std::mem::take(&mut self.text);
    }
}

/// The file for a slot that a client calls so. The name is one of a file and nothing else: no path, nothing hidden,
/// nothing that is being written.
pub(crate) fn file(folder: &Path, name: &str) -> Result<PathBuf, ApiError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let good = (1..=128).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with('.')
        && !name.ends_with(".part");
    if good {
        return Ok(folder.join(name));
    }
    let message = format!(
        "'{}' cannot be the name of a slot's file: give 1 to 128 letters, digits, '.', '_' or '-', \
         not beginning with '.' and not ending with '.part'",
        shown(name)
    );
    Err(ApiError::invalid("filename", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_get_the_slot_that_knows_most_of_their_prompt() {
        let slots = Slots::new(3);
        let ask = |asked, prompt: &[u32], more: &[u32]| {
            let mut seat = slots.take(asked, prompt).unwrap();
            more.iter().for_each(|token| seat.push(*token));
            seat.id()
        };
        // Those never used come first, in turn.
        let used = [ask(None, &[1, 2, 3], &[4]), ask(None, &[5], &[6]), ask(None, &[7], &[])];
        assert_eq!(
            {
                let mut used = used;
                used.sort();
                used
            },
            [0, 1, 2]
        );
        assert_eq!(ask(None, &[1, 2, 9], &[]), used[0]);
        // What only begins alike is another text.
        assert_eq!(ask(None, &[1, 8, 8], &[]), used[1]);
        assert_eq!(ask(Some(2), &[1], &[1, 1]), 2);
        assert_eq!(slots.text(2).unwrap(), [1, 1, 1]);
        let held = slots.take(Some(0), &[3]).unwrap();
        assert!(slots.states()[0].busy && !slots.states()[1].busy);
        assert_ne!(ask(None, &[3], &[]), 0);
        let all: Vec<_> = (0..5).map(|_| slots.take(None, &[3]).unwrap()).collect();
        drop((held, all));
        assert!(slots.states().iter().all(|state| !state.busy));
        assert!(slots.take(Some(3), &[]).is_err() && slots.text(3).is_err() && slots.put(3, vec![]).is_err());
    }

    #[test]
    fn names_of_files_stay_in_their_folder() {
        let folder = Path::new("/slots");
        assert_eq!(file(folder, "a-1_b.bin").unwrap(), Path::new("/slots/a-1_b.bin"));
        let long = "x".repeat(129);
        for name in [
            "",
            ".",
            "..",
            "../a",
            "a/b",
            "/etc/passwd",
            "a\\b",
            "C:a",
            ".hidden",
            "a.part",
            "a\0",
            "é",
            "a b",
            &long,
        ] {
            assert!(file(folder, name).is_err(), "{name}");
        }
    }
}
