//! Ctrl-C, and the signals that ask a process to end.
//!
//! The first one asks whoever listens to stop cleanly; where nobody listens, and the second time, the
//! process ends at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::failure::{Failure, INTERRUPTED};

static REQUESTED: AtomicBool = AtomicBool::new(false);
/// How many listen: what takes long may be a part of something else that does.
static LISTENING: AtomicUsize = AtomicUsize::new(0);

/// Takes over the handling of the signals. Called once, before anything long begins.
pub(crate) fn install() -> Result<(), Failure> {
    ctrlc::set_handler(|| {
        let heard = LISTENING.load(Ordering::SeqCst) > 0 && !REQUESTED.swap(true, Ordering::SeqCst);
        if !heard {
            crate::end_at_once(INTERRUPTED);
        }
    })
    .map_err(|error| Failure::other(format!("cannot handle Ctrl-C: {error}")))
}

/// Somebody who stops when asked, for as long as this lives.
pub(crate) struct Listening(());

impl Listening {
    /// Starts to listen.
    pub(crate) fn start() -> Self {
        if LISTENING.fetch_add(1, Ordering::SeqCst) == 0 {
            REQUESTED.store(false, Ordering::SeqCst);
        }
        Self(())
    }

    /// Becomes true when it is time to stop.
    pub(crate) fn flag(&self) -> &'static AtomicBool {
        &REQUESTED
    }

    /// Whether it is time to stop.
    pub(crate) fn interrupted(&self) -> bool {
        REQUESTED.load(Ordering::SeqCst)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        LISTENING.fetch_sub(1, Ordering::SeqCst);
    }
}
