//! What a process decides once about its processor.

use std::sync::Arc;

use crate::{Kernels, Pool, Processors};

/// The instruction set and the threads. Made once in `main` and handed down.
#[derive(Clone)]
pub struct Runtime {
    /// The instruction set.
    pub kernels: Kernels,
    /// The threads.
    pub pool: Arc<Pool>,
}

impl Runtime {
    /// The best instruction set, with `threads` threads; `None` takes as many as suit the
    /// processors that this process may use, see [`Processors::threads`].
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: Option<usize>) -> std::io::Result<Runtime> {
        let pool = Pool::new(threads.unwrap_or_else(|| Processors::detect().threads()))?;
        Ok(Runtime { kernels: Kernels::detect(), pool: Arc::new(pool) })
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Runtime({}, {} threads)", self.kernels.isa().name(), self.pool.threads())
    }
}
