//! Where threads leave letters for the one that runs the engine.

use std::sync::PoisonError;

#[cfg(all(test, loom))]
use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(all(test, loom)))]
use std::sync::{Condvar, Mutex, MutexGuard};

/// Letters for one reader. Those that bring work are bounded: what is in here and what the reader still has to
/// begin count together.
pub(super) struct Mailbox<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
}

struct State<T> {
    letters: Vec<T>,
    /// How many of the letters bring work.
    work: usize,
    /// Work that the reader took and has not begun.
    taken: usize,
    phase: Phase,
}

/// How far along the way to its end a mailbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Everything is taken.
    Open,
    /// No more work is taken.
    Draining,
    /// Nothing is taken, and what was taken is to be given up.
    Closed,
}

/// Why work is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// So much waits already.
    Full(usize),
    Draining,
    Closed,
}

impl<T> Mailbox<T> {
    pub(super) fn new() -> Mailbox<T> {
        let state = State { letters: Vec::new(), work: 0, taken: 0, phase: Phase::Open };
        Mailbox { state: Mutex::new(state), wake: Condvar::new() }
    }

    /// Leaves a letter that brings no work; false when nobody will read it.
    pub(super) fn post(&self, letter: T) -> bool {
        let mut state = self.lock();
        if state.phase == Phase::Closed {
            return false;
        }
        state.letters.push(letter);
        self.wake.notify_one();
        true
    }

    /// Leaves a letter that brings work, unless `most` wait already.
    pub(super) fn post_work(&self, letter: T, most: usize) -> Result<(), Refused> {
        let mut state = self.lock();
        let waiting = state.work + state.taken;
        match state.phase {
            Phase::Draining => Err(Refused::Draining),
            Phase::Closed => Err(Refused::Closed),
            Phase::Open if waiting >= most => Err(Refused::Full(waiting)),
            Phase::Open => {
                state.letters.push(letter);
                state.work += 1;
                self.wake.notify_one();
                Ok(())
            }
        }
    }

    /// Takes all letters; with `wait`, waits until there is one, or the box is no longer open. Work among them
    /// counts as taken.
    pub(super) fn take(&self, wait: bool, letters: &mut Vec<T>) -> Phase {
        let mut state = self.lock();
        while wait && state.letters.is_empty() && state.phase == Phase::Open {
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        letters.append(&mut state.letters);
        state.taken += std::mem::take(&mut state.work);
        state.phase
    }

    /// Says how much work that was taken is yet to begin.
    pub(super) fn set_taken(&self, count: usize) {
        self.lock().taken = count;
    }

    /// Ends the taking of work, or of everything. There is no way back.
    pub(super) fn end(&self, phase: Phase) {
        let mut state = self.lock();
        state.phase = state.phase.max(phase);
        self.wake.notify_one();
    }

    /// Ends everything, for the reader that goes. Gives the letters that it will not read.
    pub(super) fn close(&self) -> Vec<T> {
        let mut state = self.lock();
        state.phase = Phase::Closed;
        std::mem::take(&mut state.letters)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every order of events of small cases: `cargo xtask loom`.
#[cfg(all(test, loom))]
mod models {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// A reader that begins what it takes, one a step, until the box ends.
    fn read(mailbox: &Mailbox<u32>, begun: &mut Vec<u32>, most: usize) {
        let (mut letters, mut waiting) = (Vec::new(), Vec::new());
        loop {
            let phase = mailbox.take(waiting.is_empty(), &mut letters);
            waiting.append(&mut letters);
            assert!(waiting.len() <= most, "more waits than may");
            if waiting.is_empty() && phase != Phase::Open {
                break;
            }
            if !waiting.is_empty() {
                begun.push(waiting.remove(0));
            }
            mailbox.set_taken(waiting.len());
        }
        begun.extend(mailbox.close());
    }

    #[test]
    fn what_is_taken_is_begun_and_never_more_waits_than_may() {
        loom::model(|| {
            let mailbox = Arc::new(Mailbox::new());
            let writers: Vec<_> = [1, 2]
                .map(|letter| {
                    let mailbox = mailbox.clone();
                    thread::spawn(move || mailbox.post_work(letter, 1).is_ok().then_some(letter))
                })
                .into();
            let reader = {
                let mailbox = mailbox.clone();
                thread::spawn(move || {
                    let mut begun = Vec::new();
                    read(&mailbox, &mut begun, 1);
                    begun
                })
            };
            let mut taken: Vec<u32> = writers.into_iter().filter_map(|w| w.join().unwrap()).collect();
            mailbox.end(Phase::Draining);
            assert_eq!(mailbox.post_work(3, 9).is_err(), true);
            let mut begun = reader.join().unwrap();
            begun.sort();
            taken.sort();
            assert_eq!(begun, taken);
            assert!(!taken.is_empty());
        });
    }

    #[test]
    fn a_writer_that_meets_the_end_is_refused_or_read() {
        loom::model(|| {
            let mailbox = Arc::new(Mailbox::new());
            let writer = {
                let mailbox = mailbox.clone();
                thread::spawn(move || mailbox.post_work(1, 9).is_ok())
            };
            let ender = {
                let mailbox = mailbox.clone();
                thread::spawn(move || mailbox.end(Phase::Draining))
            };
            let mut begun = Vec::new();
            read(&mailbox, &mut begun, 9);
            ender.join().unwrap();
            assert_eq!(writer.join().unwrap(), begun == [1]);
            assert!(!mailbox.post(2));
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn work_is_bounded_until_it_begins() {
        let mailbox = Mailbox::new();
        assert_eq!(mailbox.post_work(1, 2), Ok(()));
        assert_eq!(mailbox.post_work(2, 2), Ok(()));
        assert_eq!(mailbox.post_work(3, 2), Err(Refused::Full(2)));
        assert!(mailbox.post(4), "what brings no work is not bounded");
        let mut letters = vec![];
        assert_eq!(mailbox.take(true, &mut letters), Phase::Open);
        assert_eq!(letters, [1, 2, 4]);
        assert_eq!(mailbox.post_work(3, 2), Err(Refused::Full(2)));
        mailbox.set_taken(1);
        assert_eq!(mailbox.post_work(3, 2), Ok(()));
        mailbox.end(Phase::Draining);
        assert_eq!(mailbox.post_work(5, 9), Err(Refused::Draining));
        assert!(mailbox.post(6));
        mailbox.end(Phase::Closed);
        assert_eq!(mailbox.post_work(5, 9), Err(Refused::Closed));
        assert_eq!((mailbox.post(7), mailbox.close()), (false, vec![3, 6]));
    }
}
