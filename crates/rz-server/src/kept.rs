//! Answers of `/v1/responses` that clients may ask for again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

/// Bytes that all of them may take, roughly.
const MOST_BYTES: usize = 64 << 20;

/// The last answers, by id. Old ones make room for new ones.
#[derive(Debug)]
pub(crate) struct KeptResponses {
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<(String, Entry)>,
    bytes: usize,
}

/// An answer, finished or not.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The response object as it is now.
    pub(crate) response: Arc<Value>,
    /// The conversation that led to it, with the answer once that is there.
    pub(crate) messages: Arc<Vec<Value>>,
    /// Becomes true when somebody cancels it.
    pub(crate) cancel: watch::Sender<bool>,
    bytes: usize,
}

impl Entry {
    pub(crate) fn new(response: Value, messages: Vec<Value>, cancel: watch::Sender<bool>) -> Self {
        let size = |value: &Value| value.to_string().len();
        let bytes = size(&response) + messages.iter().map(size).sum::<usize>();
        let (response, messages) = (Arc::new(response), Arc::new(messages));
        Self { response, messages, cancel, bytes }
    }
}

impl KeptResponses {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, kept: Mutex::default() }
    }

    /// Keeps an answer, in place of what there was under the id.
    pub(crate) fn put(&self, id: &str, entry: Entry) {
        self.lock().put(id, entry, self.most);
    }

    /// Keeps an answer that has ended, unless it was removed meanwhile, by which it was cancelled.
    pub(crate) fn put_end(&self, id: &str, entry: Entry, cancelled: &watch::Receiver<bool>) {
        let mut kept = self.lock();
        if kept.position(id).is_some() || !*cancelled.borrow() {
            kept.put(id, entry, self.most);
        }
    }

    pub(crate) fn get(&self, id: &str) -> Option<Entry> {
        self.lock().entries.iter().find(|(known, _)| known == id).map(|(_, entry)| entry.clone())
    }

    /// Forgets an answer, and cancels it if it has no end yet. False, when there is none.
    pub(crate) fn remove(&self, id: &str) -> bool {
        let mut kept = self.lock();
        let removed = kept.remove(id);
        // Before anybody else looks: it is either there, or cancelled.
        removed.is_some_and(|entry| {
            entry.cancel.send_replace(true);
            true
        })
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn position(&self, id: &str) -> Option<usize> {
        self.entries.iter().position(|(known, _)| known == id)
    }

    fn put(&mut self, id: &str, entry: Entry, most: usize) {
        self.remove(id);
        self.bytes += entry.bytes;
        self.entries.push_back((id.to_owned(), entry));
        while self.entries.len() > most || (self.bytes > MOST_BYTES && self.entries.len() > 1) {
            let Some((_, old)) = self.entries.pop_front() else { break };
            self.bytes -= old.bytes;
        }
    }

    fn remove(&mut self, id: &str) -> Option<Entry> {
        let at = self.position(id)?;
        let (_, entry) = self.entries.remove(at)?;
        self.bytes -= entry.bytes;
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_oldest_make_room() {
        let kept = KeptResponses::new(2);
        let entry = |response| Entry::new(response, vec![], watch::Sender::new(false));
        for id in ["a", "b", "a", "c"] {
            kept.put(id, entry(json!({ "id": id })));
        }
        assert!(kept.get("b").is_none());
        assert_eq!(*kept.get("a").unwrap().response, json!({ "id": "a" }));
        assert!(kept.remove("c") && !kept.remove("c") && kept.get("c").is_none());
        let large = "x".repeat(MOST_BYTES);
        kept.put("large", entry(json!(large)));
        assert!(kept.get("a").is_none() && kept.get("large").is_some());
        assert!(KeptResponses::new(0).get("a").is_none());
    }

    #[test]
    fn what_was_removed_before_its_end_is_not_kept() {
        let kept = KeptResponses::new(1);
        let entry = |state: &str, cancel| Entry::new(json!(state), vec![], cancel);
        let begin = || {
            let cancel = watch::Sender::new(false);
            let cancelled = cancel.subscribe();
            kept.put("a", entry("begun", cancel));
            cancelled
        };
        let end = |cancelled: &watch::Receiver<bool>| {
            kept.put_end("a", entry("ended", watch::Sender::new(false)), cancelled);
        };
        let state = || kept.get("a").map(|entry| (*entry.response).clone());
        end(&begin());
        assert_eq!(state(), Some(json!("ended")));
        let cancelled = begin();
        assert!(kept.remove("a") && *cancelled.borrow());
        end(&cancelled);
        assert_eq!(state(), None);
        // One that only made room for another is the last one again.
        let cancelled = begin();
        kept.put("b", entry("begun", watch::Sender::new(false)));
        assert_eq!(state(), None);
        end(&cancelled);
        assert_eq!(state(), Some(json!("ended")));
    }
}
