//! Worker threads for many short parallel regions.
//!
//! A decode step is about a hundred regions of some ten microseconds. A general
//! fork and join costs as much as the shortest of them, so the workers wait for the next
//! region: they spin for a while, then sleep, and are woken when a step begins
//! ([`Pool::step`]).
//!
//! A region's work is shared out evenly, and each thread works through its share in
//! order: neighbouring tasks read neighbouring memory. Who is done helps the others. A
//! worker that is not running when a region starts (another process has its core) is not waited for: the region is
//! over when no task is left and everybody who entered has left. Whoever waits for a thread that has lost its core
//! sleeps, too, and leaves its own core to others meanwhile. How that is done is
//! the business of `regions`, and what it rests on is checked there.

mod regions;
mod sync;

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use regions::Regions;
use sync::{Mutex, lock};

use crate::memory::second_level_cache;

/// A fixed number of threads: the caller's own and workers.
pub struct Pool {
    threads: usize,
    batch_threads: usize,
    regions: Arc<Regions>,
    // They run for as long as the pool lives.
    workers: Option<rayon::ThreadPool>,
    // One step at a time: a second caller waits.
    step: Mutex<()>,
    cache: usize,
}

/// The threads of one step. Regions run one after the other.
///
/// A task cannot hold a `Team` (it is not `Sync`), so regions never nest.
pub struct Team<'p> {
    regions: &'p Regions,
    threads: usize,
    cache: usize,
    not_sync: PhantomData<Cell<()>>,
}

impl Pool {
    /// Starts `threads - 1` workers; `threads` counts the caller and is at least 1.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        Pool::with_counts(threads, threads)
    }

    /// As [`new`](Self::new), with `threads` for steps that read much and compute little, as
    /// one token does, and `batch_threads` for steps that compute much.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn with_counts(threads: usize, batch_threads: usize) -> std::io::Result<Pool> {
        // WebAssembly has no threads but the caller's.
        let most = if cfg!(target_family = "wasm") { 1 } else { usize::MAX };
        let (threads, batch_threads) = (threads.clamp(1, most), batch_threads.clamp(1, most));
        let all = threads.max(batch_threads);
        let regions = Arc::new(Regions::new(all));
        let workers = match all {
            1 => None,
            _ => Some(
                rayon::ThreadPoolBuilder::new()
                    .num_threads(all - 1)
                    .thread_name(|index| format!("rz-worker-{}", index + 1))
                    .build()
                    .map_err(std::io::Error::other)?,
            ),
        };
        if let Some(workers) = &workers {
            let regions = regions.clone();
            workers.spawn_broadcast(move |context| regions.work(context.index() + 1));
        }
        Ok(Pool {
            threads,
            batch_threads,
            regions,
            workers,
            step: Mutex::new(()),
            cache: second_level_cache(),
        })
    }

    /// The number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The number of threads for steps that compute much.
    pub fn batch_threads(&self) -> usize {
        self.batch_threads
    }

    /// Runs `f`, whose regions all threads share.
    ///
    /// # Panics
    /// When `f` or a task panics. Calling it from within a task deadlocks.
    pub fn step<R>(&self, f: impl FnOnce(&Team<'_>) -> R) -> R {
        self.step_of(self.threads.max(self.batch_threads), f)
    }

    /// As [`step`](Self::step), with `threads` threads, or all if there are fewer.
    ///
    /// # Panics
    /// As [`step`](Self::step).
    pub fn step_of<R>(&self, threads: usize, f: impl FnOnce(&Team<'_>) -> R) -> R {
        let _one_at_a_time = lock(&self.step);
        let threads = threads.clamp(1, self.threads.max(self.batch_threads));
        if self.workers.is_some() {
            self.regions.call(threads);
        }
        f(&Team { regions: &self.regions, threads, cache: self.cache, not_sync: PhantomData })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.regions.stop();
    }
}

impl Team<'_> {
    /// The number of threads that share a region.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Bytes of cache that each thread has for itself.
    pub fn cache(&self) -> usize {
        self.cache
    }

    /// Runs `task(i)` for every `i` below `tasks`, each once, on all threads.
    ///
    /// # Panics
    /// When a task panics; the other tasks may or may not have run.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        self.units(tasks, 1, &|tasks| tasks.for_each(task));
    }

    /// Cuts `0..len` into ranges that begin at multiples of `grain` and runs `task` on each.
    /// The cuts depend on `len`, `grain` and on who is done first: results must not.
    ///
    /// # Panics
    /// When a task panics; the other ranges may or may not have been visited.
    pub fn ranges(&self, len: usize, grain: usize, task: impl Fn(Range<usize>) + Sync) {
        let grain = grain.max(1);
        let units = len.div_ceil(grain);
        self.units(units, self.least(units), &|units| {
            task(units.start * grain..(units.end * grain).min(len));
        });
    }

    /// Runs `task` on ranges of at least `least` units, the last ones excepted, that cover
    /// the numbers below `units`.
    pub(crate) fn units(&self, units: usize, least: usize, task: &(dyn Fn(Range<usize>) + Sync)) {
        match units {
            0 => {}
            1 => task(0..1),
            _ if self.threads == 1 => task(0..units),
            _ => {
                assert!(u32::try_from(units).is_ok(), "{units} units in one region");
                self.regions.run(self.threads, units, least, task);
            }
        }
    }

    /// The fewest of `units` that are worth a task: so few that nobody waits long for the
    /// last one, and several if that is no large part of the whole: each task begins to
    /// read somewhere else.
    pub(crate) fn least(&self, units: usize) -> usize {
        const SEVERAL: usize = 4;
        let part = |tasks_per_thread: usize| units / (self.threads * tasks_per_thread);
        part(64).max(part(6).min(SEVERAL)).max(1)
    }
}

// Not under loom, whose primitives exist within its models only.
#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use super::sync::SPIN;
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
                while start.elapsed() < 4 * SPIN {
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
    fn a_step_has_as_many_threads_as_it_asks_for() {
        let pool = Pool::with_counts(2, 4).unwrap();
        assert_eq!((pool.threads(), pool.batch_threads()), (2, 4));
        for (asked, threads) in [(0, 1), (1, 1), (2, 2), (4, 4), (9, 4), (3, 3), (1, 1), (4, 4)] {
            // As many threads at once as the step has, each with a task that waits for the others.
            let arrived = AtomicUsize::new(0);
            pool.step_of(asked, |team| {
                assert_eq!(team.threads(), threads);
                team.run(threads, &|_| {
                    arrived.fetch_add(1, Ordering::SeqCst);
                    while arrived.load(Ordering::SeqCst) < threads {
                        std::thread::yield_now();
                    }
                });
            });
            assert_eq!(arrived.into_inner(), threads);
        }
    }

    #[test]
    fn a_caller_that_sleeps_is_woken_by_the_last_to_leave() {
        let pool = Pool::new(2).unwrap();
        let caller = std::thread::current().id();
        pool.step(|team| {
            for _ in 0..20 {
                let arrived = AtomicUsize::new(0);
                team.run(2, &|_| {
                    arrived.fetch_add(1, Ordering::SeqCst);
                    while arrived.load(Ordering::SeqCst) < 2 {
                        std::thread::yield_now();
                    }
                    // The caller is done at once and waits longer than it stays awake.
                    let start = Instant::now();
                    while std::thread::current().id() != caller && start.elapsed() < 4 * SPIN {
                        std::thread::yield_now();
                    }
                });
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
