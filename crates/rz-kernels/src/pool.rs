//! Worker threads for many short parallel regions.
//!
//! A decode step is about a hundred regions of some ten microseconds. A general
//! fork and join costs as much as the shortest of them, so the workers are called
//! once per step ([`Pool::step`]) and wait inside it for the next region: they
//! spin for a while, then yield, then sleep.
//!
//! A region's tasks are dealt by a counter. A worker that is not running when a
//! region starts (another process has its core) is not waited for: the region is
//! over when no task is left and everybody who entered has left.

use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a worker spins for the next region before it yields, and yields before it sleeps.
const SPIN: Duration = Duration::from_micros(50);
const YIELD: Duration = Duration::from_micros(200);

/// A fixed number of threads: the caller's own and `threads - 1` workers.
pub struct Pool {
    threads: usize,
    workers: Option<rayon::ThreadPool>,
    shared: Shared,
    // One step at a time: a second caller waits.
    step: Mutex<()>,
}

/// The threads of one step. Regions run one after the other.
///
/// A task cannot hold a `Team` (it is not `Sync`), so regions never nest.
pub struct Team<'p> {
    shared: &'p Shared,
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
        Ok(Pool { threads, workers, shared: Shared::new(), step: Mutex::new(()) })
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
        let team = Team { shared: &self.shared, threads: self.threads, not_sync: PhantomData };
        let Some(workers) = &self.workers else { return f(&team) };
        self.shared.stop.store(false, Ordering::Relaxed);
        workers.in_place_scope(|scope| {
            scope.spawn_broadcast(|_, _| self.shared.work());
            // Also when `f` panics: the scope waits for the workers.
            let _stop = OnDrop(|| self.shared.stop());
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
        self.shared.region(tasks, task);
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

type Task<'t> = &'t (dyn Fn(usize) + Sync);

/// A region's work: where the next task's number is drawn, and the task.
struct Region {
    tasks: usize,
    task: Task<'static>,
}

struct Shared {
    /// Region number in the high half, [`CLOSED`], and the number of workers inside.
    state: AtomicU64,
    region: UnsafeCell<Option<Region>>,
    next: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleepers: Mutex<usize>,
    wake: Condvar,
}

const REGION: u64 = 1 << 32;
const CLOSED: u64 = 1 << 31;
const INSIDE: u64 = CLOSED - 1;

// SAFETY: `region` is written only by the step's own thread while the state is
// closed and nobody is inside, and read only by workers that are inside.
#[allow(unsafe_code)]
unsafe impl Sync for Shared {}

impl Shared {
    fn new() -> Shared {
        Shared {
            state: AtomicU64::new(CLOSED),
            region: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleepers: Mutex::new(0),
            wake: Condvar::new(),
        }
    }

    fn region(&self, tasks: usize, task: Task<'_>) {
        // SAFETY: only the lifetime changes. The borrow outlives every use: `close`
        // below runs before this function returns or unwinds, and waits until no
        // worker is inside.
        #[allow(unsafe_code)]
        let task = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(task) };
        // SAFETY: the state is closed and nobody is inside (see `close`), and only
        // the step's own thread comes here.
        #[allow(unsafe_code)]
        unsafe {
            *self.region.get() = Some(Region { tasks, task });
        }
        self.next.store(0, Ordering::Relaxed);
        let number = (self.state.load(Ordering::Relaxed) / REGION) as u32;
        self.state.store(u64::from(number.wrapping_add(1)) * REGION, Ordering::SeqCst);
        if *lock(&self.sleepers) > 0 {
            self.wake.notify_all();
        }
        let close = OnDrop(|| self.close());
        self.deal(tasks, task);
        drop(close);
        if self.panicked.swap(false, Ordering::Relaxed) {
            panic!("a worker thread panicked in a parallel region");
        }
    }

    fn deal(&self, tasks: usize, task: Task<'_>) {
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= tasks {
                return;
            }
            task(i);
        }
    }

    // Lets nobody in any more and waits for those inside.
    fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
        let mut wait = Wait::new();
        while self.state.load(Ordering::Acquire) & INSIDE != 0 {
            wait.pause();
        }
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let _guard = lock(&self.sleepers);
        self.wake.notify_all();
    }

    // A worker's life during a step.
    fn work(&self) {
        let mut wait = Wait::new();
        // The region this worker has left: its tasks are dealt, open or not.
        let mut left = None;
        while !self.stop.load(Ordering::SeqCst) {
            let state = self.state.load(Ordering::SeqCst);
            if state & CLOSED == 0 && left != Some(state / REGION) {
                if self.enter(state) {
                    left = Some(state / REGION);
                    wait = Wait::new();
                }
            } else if !wait.pause() {
                self.sleep();
                wait = Wait::new();
            }
        }
    }

    // Enters the region that `state` describes, shares its tasks and leaves once
    // they are dealt. False when the region has changed meanwhile.
    fn enter(&self, state: u64) -> bool {
        if self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        let _leave = OnDrop(|| {
            self.state.fetch_sub(1, Ordering::Release);
        });
        // SAFETY: this thread is counted inside, so the region is not replaced.
        #[allow(unsafe_code)]
        let region = unsafe { (*self.region.get()).as_ref() };
        if let Some(region) = region {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                self.deal(region.tasks, region.task);
            }));
            if result.is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
        }
        true
    }

    fn sleep(&self) {
        let mut sleepers = lock(&self.sleepers);
        *sleepers += 1;
        // Checked under the lock that a waker takes after it has published.
        if !self.stop.load(Ordering::SeqCst) && self.state.load(Ordering::SeqCst) & CLOSED != 0 {
            sleepers = self.wake.wait(sleepers).unwrap_or_else(PoisonError::into_inner);
        }
        *sleepers -= 1;
    }
}

/// Spins, then yields; says when it is time to sleep.
struct Wait {
    turns: u32,
    since: Option<Instant>,
}

impl Wait {
    fn new() -> Wait {
        Wait { turns: 0, since: None }
    }

    // The clock is looked at now and then only: reading it costs more than a turn.
    fn pause(&mut self) -> bool {
        self.turns += 1;
        std::hint::spin_loop();
        if !self.turns.is_multiple_of(64) {
            return true;
        }
        let waited = self.since.get_or_insert_with(Instant::now).elapsed();
        if waited > SPIN {
            std::thread::yield_now();
        }
        waited <= SPIN + YIELD
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
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
