//! Worker threads for many short parallel regions.
//!
//! A decode step is about a hundred regions of some ten microseconds. A general
//! fork and join costs as much as the shortest of them, so the workers are called
//! once per step ([`Pool::step`]) and wait inside it for the next region: they
//! spin for a while, then yield, then sleep.
//!
//! A region's tasks are shared out evenly, and each thread works through its share in
//! order: neighbouring tasks read neighbouring memory. Who is done helps the others. A
//! worker that is not running when a region starts (another process has its core) is not waited for: the region is
//! over when no task is left and everybody who entered has left. How that is done is
//! the business of `regions`, and what it rests on is checked there.

mod regions;
mod sync;

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;

use regions::{OnDrop, Regions};
use sync::{Mutex, lock};

/// A fixed number of threads: the caller's own and `threads - 1` workers.
pub struct Pool {
    threads: usize,
    workers: Option<rayon::ThreadPool>,
    regions: Regions,
    // One step at a time: a second caller waits.
    step: Mutex<()>,
}

/// The threads of one step. Regions run one after the other.
///
/// A task cannot hold a `Team` (it is not `Sync`), so regions never nest.
pub struct Team<'p> {
    regions: &'p Regions,
    threads: usize,
    not_sync: PhantomData<Cell<()>>,
}

impl Pool {
    /// Starts `threads - 1` workers; `threads` counts the caller and is at least 1.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        let threads = threads.max(1);
        let workers = match threads {
            1 => None,
            _ => Some(
                rayon::ThreadPoolBuilder::new()
                    .num_threads(threads - 1)
                    .thread_name(|index| format!("rz-worker-{}", index + 1))
                    .build()
                    .map_err(std::io::Error::other)?,
            ),
        };
        Ok(Pool { threads, workers, regions: Regions::new(threads), step: Mutex::new(()) })
    }

    /// The number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls the workers and runs `f`, whose regions they share.
    ///
    /// # Panics
    /// When `f` or a task panics. Calling it from within a task deadlocks.
    pub fn step<R>(&self, f: impl FnOnce(&Team<'_>) -> R) -> R {
        let _one_at_a_time = lock(&self.step);
        let team = Team { regions: &self.regions, threads: self.threads, not_sync: PhantomData };
        let Some(workers) = &self.workers else { return f(&team) };
        self.regions.start();
        workers.in_place_scope(|scope| {
            scope.spawn_broadcast(|_, context| self.regions.work(context.index() + 1));
            // Also when `f` panics: the scope waits for the workers.
            let _stop = OnDrop(|| self.regions.stop());
            f(&team)
        })
    }
}

impl Team<'_> {
    /// The number of threads that share a region.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(i)` for every `i` below `tasks`, each once, on all threads.
    ///
    /// # Panics
    /// When a task panics; the other tasks may or may not have run.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if self.threads == 1 || tasks <= 1 {
            return (0..tasks).for_each(task);
        }
        self.regions.run(tasks, task);
    }

    /// Cuts `0..len` into ranges of a multiple of `grain` (the last may be shorter)
    /// and runs `task` on each. The cuts depend on `len`, `grain` and the number of
    /// threads: results must not.
    pub fn ranges(&self, len: usize, grain: usize, task: impl Fn(Range<usize>) + Sync) {
        let size = self.piece(len, grain);
        self.run(len.div_ceil(size), &|i| task(i * size..((i + 1) * size).min(len)));
    }

    // Several pieces a thread, so that a slow core does not hold up the others.
    pub(crate) fn piece(&self, len: usize, grain: usize) -> usize {
        const PIECES_PER_THREAD: usize = 8;
        match self.threads {
            1 => len.max(1),
            threads => len.div_ceil(threads * PIECES_PER_THREAD).next_multiple_of(grain.max(1)).max(1),
        }
    }
}

// Not under loom, whose primitives exist within its models only.
#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use super::sync::{SPIN, YIELD};
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_number_of_threads() {
        for threads in 1..=5 {
            let pool = Pool::new(threads).unwrap();
            for tasks in [0, 1, 2, 7, 100, 1000] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.step(|team| {
                    for _ in 0..50 {
                        team.run(tasks, &|i| {
                            counts[i].fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 50));
            }
        }
    }

    #[test]
    fn workers_that_sleep_are_woken() {
        let pool = Pool::new(3).unwrap();
        pool.step(|team| {
            for _ in 0..3 {
                // Both tasks wait for each other: one thread alone cannot finish.
                let arrived = AtomicUsize::new(0);
                team.run(2, &|_| {
                    arrived.fetch_add(1, Ordering::SeqCst);
                    while arrived.load(Ordering::SeqCst) < 2 {
                        std::thread::yield_now();
                    }
                });
                // Longer than a worker stays awake.
                let start = Instant::now();
                while start.elapsed() < 2 * (SPIN + YIELD) {
                    std::thread::yield_now();
                }
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..20 {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.step(|team| team.run(10, &|i| assert!(i != 7, "seven")));
            }));
            assert!(result.is_err());
            let sum = AtomicUsize::new(0);
            pool.step(|team| {
                team.run(10, &|i| {
                    sum.fetch_add(i, Ordering::Relaxed);
                })
            });
            assert_eq!(sum.load(Ordering::Relaxed), 45);
        }
    }

    #[test]
    fn panics_of_several_threads_are_those_of_one_region() {
        let pool = Pool::new(3).unwrap();
        pool.step(|team| {
            for _ in 0..100 {
                // Quiet: without a message.
                let all_fail = || team.run(10, &|_| std::panic::resume_unwind(Box::new(())));
                assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(all_fail)).is_err());
                team.run(10, &|_| ());
            }
        });
    }

    #[test]
    fn ranges_cover_exactly() {
        let pool = Pool::new(4).unwrap();
        for (len, grain) in [(0, 16), (1, 16), (17, 16), (1000, 16), (1000, 1), (64, 1000)] {
            let covered: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
            pool.step(|team| {
                team.ranges(len, grain, |range| {
                    assert!(range.start.is_multiple_of(grain));
                    range.for_each(|i| {
                        covered[i].fetch_add(1, Ordering::Relaxed);
                    });
                });
            });
            assert!(covered.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }
}
