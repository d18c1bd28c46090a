//! The protocol of parallel regions, in the words of one caller and any number of workers.
//!
//! `state` holds a region's number, whether it is closed, and how many workers are inside.
//!
//! - The caller writes a region while it is closed and nobody is inside, and publishes it
//!   by storing the next number, open.
//! - A worker enters an open region by raising the count, which fails once the region is
//!   closed, and leaves by lowering it. It enters no region twice.
//! - Tasks are shared out evenly beforehand; whoever is done with its share takes from the
//!   others', so that a thread that never came is not missed.
//! - The caller, when no task is left to deal, closes the region and waits until nobody is
//!   inside. It waits for no worker that has not entered.
//! - A worker that has waited long sleeps; it looks at the state once more under the lock
//!   that the caller takes after publishing.

use std::sync::atomic::Ordering;

use super::sync::{AtomicBool, AtomicU64, Condvar, Mutex, UnsafeCell, Wait, lock, wait};

pub(super) type Task<'t> = &'t (dyn Fn(usize) + Sync);

/// The work of the current region and the workers that share it.
pub(super) struct Regions {
    /// Region number in the high half, [`CLOSED`], and the number of workers inside.
    state: AtomicU64,
    region: UnsafeCell<Option<Region>>,
    /// The tasks that are left of each thread's share, the caller's first.
    shares: Vec<Share>,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleepers: Mutex<usize>,
    wake: Condvar,
}

#[derive(Clone, Copy)]
struct Region {
    task: Task<'static>,
}

const REGION: u64 = 1 << 32;
const CLOSED: u64 = 1 << 31;
const INSIDE: u64 = CLOSED - 1;

// SAFETY: `region` is written only by the step's own thread while the state is
// closed and nobody is inside, and read only by workers that are inside.
#[allow(unsafe_code)]
unsafe impl Sync for Regions {}

/// A range of tasks, of which its own thread takes the first and others the last: first
/// and end in the halves of one number. On a cache line of its own.
#[repr(align(64))]
struct Share(AtomicU64);

impl Share {
    fn set(&self, first: usize, end: usize) {
        self.0.store((first as u64) << 32 | end as u64, Ordering::Relaxed);
    }

    // Takes a task, if there is one: which one decides how, and what to leave, given the range.
    fn take(&self, from: impl Fn(u64, u64) -> (u64, u64)) -> Option<usize> {
        let mut taken = 0;
        let leave = |range: u64| {
            let (first, end) = (range >> 32, range & u64::from(u32::MAX));
            if first >= end {
                return None;
            }
            let left;
            (taken, left) = from(first, end);
            Some(left)
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, leave).ok()?;
        Some(taken as usize)
    }

    fn take_first(&self) -> Option<usize> {
        self.take(|first, end| (first, (first + 1) << 32 | end))
    }

    fn take_last(&self) -> Option<usize> {
        self.take(|first, end| (end - 1, first << 32 | (end - 1)))
    }
}

impl Regions {
    /// For a caller and `threads - 1` workers.
    pub(super) fn new(threads: usize) -> Regions {
        Regions {
            state: AtomicU64::new(CLOSED),
            region: UnsafeCell::new(None),
            shares: (0..threads).map(|_| Share(AtomicU64::new(0))).collect(),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleepers: Mutex::new(0),
            wake: Condvar::new(),
        }
    }

    /// Before workers are called.
    pub(super) fn start(&self) {
        self.stop.store(false, Ordering::Relaxed);
    }

    /// Runs `task(i)` for every `i` below `tasks` on the caller's thread and the workers'.
    /// The caller's threads must not be inside another region.
    pub(super) fn run(&self, tasks: usize, task: Task<'_>) {
        // SAFETY: only the lifetime changes. The borrow outlives every use: `close`
        // below runs before this function returns or unwinds, and waits until no
        // worker is inside.
        #[allow(unsafe_code)]
        let task = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(task) };
        // SAFETY: the state is closed and nobody is inside (see `close`), and only
        // the step's own thread comes here.
        #[allow(unsafe_code)]
        self.region.with_mut(|region| unsafe { *region = Some(Region { task }) });
        let threads = self.shares.len();
        for (i, share) in self.shares.iter().enumerate() {
            share.set(tasks * i / threads, tasks * (i + 1) / threads);
        }
        // Both the caller and a worker may have panicked in the region before, and the
        // caller's panic was the one to be seen.
        self.panicked.store(false, Ordering::Relaxed);
        let number = (self.state.load(Ordering::Relaxed) / REGION) as u32;
        self.state.store(u64::from(number.wrapping_add(1)) * REGION, Ordering::SeqCst);
        let close = OnDrop(|| self.close());
        if *lock(&self.sleepers) > 0 {
            self.wake.notify_all();
        }
        self.deal(0, task);
        drop(close);
        if self.panicked.load(Ordering::Relaxed) {
            panic!("a worker thread panicked in a parallel region");
        }
    }

    // Each thread works through its own share in order, since neighbouring tasks read
    // neighbouring memory; then it helps the others, from the ends of their shares.
    fn deal(&self, thread: usize, task: Task<'_>) {
        while let Some(i) = self.shares[thread].take_first() {
            task(i);
        }
        let threads = self.shares.len();
        for other in (1..threads).map(|step| &self.shares[(thread + step) % threads]) {
            while let Some(i) = other.take_last() {
                task(i);
            }
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

    /// Sends the workers home.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let _guard = lock(&self.sleepers);
        self.wake.notify_all();
    }

    /// The life of worker `thread`, from 1 on, during a step.
    pub(super) fn work(&self, thread: usize) {
        let mut wait = Wait::new();
        // The region this worker has left: its tasks are dealt, open or not.
        let mut left = None;
        while !self.stop.load(Ordering::SeqCst) {
            match self.open(left) {
                Some(number) if self.enter(number, thread) => {
                    left = Some(number);
                    wait = Wait::new();
                }
                Some(_) => {}
                None if wait.pause() => {}
                None => {
                    self.sleep(left);
                    wait = Wait::new();
                }
            }
        }
    }

    // The number of the current region, if it is open and not the one that was left.
    fn open(&self, left: Option<u64>) -> Option<u64> {
        let state = self.state.load(Ordering::SeqCst);
        Some(state / REGION).filter(|number| state & CLOSED == 0 && left != Some(*number))
    }

    // Enters a region, shares its tasks and leaves once they are dealt. False when it
    // has been closed meanwhile.
    fn enter(&self, number: u64, thread: usize) -> bool {
        let enter = |now| (now & CLOSED == 0 && now / REGION == number).then_some(now + 1);
        if self.state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, enter).is_err() {
            return false;
        }
        let _leave = OnDrop(|| {
            self.state.fetch_sub(1, Ordering::Release);
        });
        // SAFETY: this thread is counted inside, so the region is not replaced.
        #[allow(unsafe_code)]
        let region = self.region.with(|region| unsafe { *region });
        if let Some(Region { task }) = region {
            let deal = std::panic::AssertUnwindSafe(|| self.deal(thread, task));
            if std::panic::catch_unwind(deal).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
        }
        true
    }

    fn sleep(&self, left: Option<u64>) {
        let mut sleepers = lock(&self.sleepers);
        *sleepers += 1;
        // Checked under the lock that a waker takes after it has published.
        if !self.stop.load(Ordering::SeqCst) && self.open(left).is_none() {
            sleepers = wait(&self.wake, sleepers);
        }
        *sleepers -= 1;
    }
}

/// Runs a closure when it goes out of scope, also when that is by a panic.
pub(super) struct OnDrop<F: FnMut()>(pub(super) F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Every order of events of small cases: `cargo xtask loom`.
#[cfg(all(test, loom))]
mod models {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Runs `caller` beside `workers` workers, in every order with at most `preemptions`
    /// switches that no thread asked for.
    fn model(workers: usize, preemptions: usize, caller: impl Fn(&Regions) + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.check(move || {
            let regions = Arc::new(Regions::new(workers + 1));
            regions.start();
            let handles: Vec<_> = (1..=workers)
                .map(|worker| {
                    let regions = regions.clone();
                    thread::spawn(move || regions.work(worker))
                })
                .collect();
            caller(&regions);
            regions.stop();
            handles.into_iter().for_each(|handle| handle.join().unwrap());
        });
    }

    /// What a region's tasks borrow: loom sees to it that no two threads reach a cell at
    /// once, or without one having seen what the other did.
    struct Cells(Vec<UnsafeCell<usize>>);

    // SAFETY: what is to be shown; loom fails a model that breaks it.
    #[allow(unsafe_code)]
    unsafe impl Sync for Cells {}

    impl Cells {
        fn new(count: usize) -> Cells {
            Cells((0..count).map(|_| UnsafeCell::new(0)).collect())
        }

        fn add(&self, index: usize, value: usize) {
            // SAFETY: as above.
            #[allow(unsafe_code)]
            self.0[index].with_mut(|cell| unsafe { *cell += value });
        }

        fn get(&self, index: usize) -> usize {
            // SAFETY: as above.
            #[allow(unsafe_code)]
            self.0[index].with(|cell| unsafe { *cell })
        }
    }

    fn every_task_once(regions: &Regions, rounds: usize, tasks: usize) {
        for round in 1..=rounds {
            // Gone after each round: a worker that came late would reach it no more.
            let cells = Cells::new(tasks);
            regions.run(tasks, &|i| cells.add(i, round));
            (0..tasks).for_each(|i| assert_eq!(cells.get(i), round));
        }
    }

    #[test]
    fn one_worker_over_several_regions() {
        model(1, 3, |regions| every_task_once(regions, 2, 2));
    }

    #[test]
    fn two_workers() {
        model(2, 2, |regions| every_task_once(regions, 1, 2));
    }

    #[test]
    fn workers_go_home_when_nothing_was_done() {
        model(2, 3, |_| ());
    }

    #[test]
    fn a_panic_reaches_the_caller_and_belongs_to_its_region() {
        model(1, 2, |regions| {
            // Quiet: without the message of a panic for each order.
            let failing = AssertUnwindSafe(|| regions.run(2, &|_| resume_unwind(Box::new(()))));
            assert!(catch_unwind(failing).is_err());
            every_task_once(regions, 1, 2);
        });
    }
}
