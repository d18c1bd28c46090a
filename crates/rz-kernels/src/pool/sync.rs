//! The primitives that regions rest on: the standard library's, or in models of loom its
//! own, which try every order of events that the memory model allows.

#[cfg(all(test, loom))]
pub(super) use in_models::*;
#[cfg(not(all(test, loom)))]
pub(super) use in_programs::*;

use std::sync::PoisonError;

/// Takes a lock that guards nothing a panic could leave broken.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits to be woken, with the lock given back meanwhile.
pub(super) fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

#[cfg(not(all(test, loom)))]
mod in_programs {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
    use std::time::{Duration, Instant};

    /// How long a thread spins for what it waits for before it sleeps. Much longer would waste
    /// the time of those who could use the processor; much shorter, it would sleep, and take
    /// long to be woken, also where the others are about to be done.
    pub(crate) const SPIN: Duration = Duration::from_micros(30);

    /// The standard library's cell, with loom's interface.
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> UnsafeCell<T> {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }

        pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
            read(self.0.get())
        }

        pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
            write(self.0.get())
        }
    }

    /// Spins, and says when it is time to sleep.
    pub(crate) struct Wait {
        turns: u32,
        since: Option<Instant>,
    }

    impl Wait {
        pub(crate) fn new() -> Wait {
            Wait { turns: 0, since: None }
        }

        // The clock is looked at now and then only: reading it costs more than a turn.
        pub(crate) fn pause(&mut self) -> bool {
            self.turns += 1;
            std::hint::spin_loop();
            if !self.turns.is_multiple_of(64) {
                return true;
            }
            self.since.get_or_insert_with(Instant::now).elapsed() <= SPIN
        }
    }
}

#[cfg(all(test, loom))]
mod in_models {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};

    /// Models have no clock: it is always time to sleep.
    pub(crate) struct Wait;

    impl Wait {
        pub(crate) fn new() -> Wait {
            Wait
        }

        pub(crate) fn pause(&mut self) -> bool {
            loom::thread::yield_now();
            false
        }
    }
}
