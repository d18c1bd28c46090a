//! The protocol of parallel regions, in the words of one caller and any number of workers.
//!
//! `state` holds a region's number, whether it is closed, whether the caller sleeps, and how
//! many workers are inside.
//!
//! - The caller writes a region while it is closed and nobody is inside, and publishes it
//!   by storing the next number, open.
//! - A worker enters an open region by raising the count, which fails once the region is
//!   closed, and leaves by lowering it. It enters no region twice.
//! - A region is a number of units of work, shared out evenly beforehand. A thread takes a
//!   part of what is left of its share, again and again, so that the parts grow small
//!   towards the end; whoever is done with its share takes from the ends of the others', so
//!   that a thread that never came is not missed.
//! - The caller, when nothing is left to deal, closes the region and waits until nobody is
//!   inside. It waits for no worker that has not entered.
//! - Who has waited long sleeps. A worker says so and then looks at the state once more, while
//!   the caller publishes and then looks who sleeps; the caller says in the state that it sleeps,
//!   under the lock that the last worker to leave takes when it finds that said.
//! - Workers beyond the number that take part now sleep apart, and are not woken for regions.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::sync::{AtomicBool, AtomicU64, AtomicUsize, Condvar, Mutex, UnsafeCell, Wait, fence, lock, wait};

pub(super) type Task<'t> = &'t (dyn Fn(Range<usize>) + Sync);

/// The work of the current region and the workers that share it.
pub(super) struct Regions {
    current: Lines<Current>,
    /// What is left of each thread's share, the caller's first.
    shares: Vec<Lines<Share>>,
    signs: Lines<Signs>,
    /// Guards nothing, but orders who goes to sleep and who wakes.
    sleepers: Mutex<()>,
    wake: Condvar,
    /// Workers that do not take part sleep here.
    apart: Condvar,
    /// The caller sleeps here until nobody is inside.
    left: Condvar,
}

/// Something on cache lines of its own: two, since some processors fetch lines in pairs.
#[repr(align(128))]
struct Lines<T>(T);

impl<T> std::ops::Deref for Lines<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// What changes with every region. A worker that sees the number gets the task with it.
struct Current {
    /// Region number in the high half, [`CLOSED`], [`ASLEEP`], and the number of workers inside.
    state: AtomicU64,
    region: UnsafeCell<Option<Region>>,
}

#[derive(Clone, Copy)]
struct Region {
    task: Task<'static>,
    /// The fewest units that a thread takes at once.
    least: usize,
}

/// What seldom changes.
struct Signs {
    panicked: AtomicBool,
    stop: AtomicBool,
    /// Threads that take part, the caller included. A worker that reads an old number helps
    /// or does not help in a region; both are harmless.
    taking_part: AtomicUsize,
    /// Workers that sleep until a region is published.
    asleep: AtomicUsize,
}

const REGION: u64 = 1 << 32;
const CLOSED: u64 = 1 << 31;
const ASLEEP: u64 = 1 << 30;
const INSIDE: u64 = ASLEEP - 1;

// SAFETY: `region` is written only by the step's own thread while the state is
// closed and nobody is inside, and read only by workers that are inside.
#[allow(unsafe_code)]
unsafe impl Sync for Regions {}

/// A range of units, of which its own thread takes the first and others the last: first
/// and end in the halves of one number.
struct Share(AtomicU64);

/// What part of the rest of a share a thread takes at once.
const PART: usize = 2;

impl Share {
    fn set(&self, units: Range<usize>) {
        self.0.store((units.start as u64) << 32 | units.end as u64, Ordering::Relaxed);
    }

    // Takes some units, if there are any: from which end decides `split`, which gives what is
    // taken and what is left.
    fn take(
        &self,
        least: usize,
        split: impl Fn(Range<usize>, usize) -> (Range<usize>, Range<usize>),
    ) -> Option<Range<usize>> {
        let mut taken = 0..0;
        let leave = |units: u64| {
            let units = (units >> 32) as usize..(units & u64::from(u32::MAX)) as usize;
            if units.is_empty() {
                return None;
            }
            let count = (units.len() / PART).max(least).min(units.len());
            let left;
            (taken, left) = split(units, count);
            Some((left.start as u64) << 32 | left.end as u64)
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, leave).ok()?;
        Some(taken)
    }

    fn take_first(&self, least: usize) -> Option<Range<usize>> {
        self.take(least, |units, count| {
            let middle = units.start + count;
            (units.start..middle, middle..units.end)
        })
    }

    fn take_last(&self, least: usize) -> Option<Range<usize>> {
        self.take(least, |units, count| {
            let middle = units.end - count;
            (middle..units.end, units.start..middle)
        })
    }
}

impl Regions {
    /// For a caller and `threads - 1` workers, all of which take part.
    pub(super) fn new(threads: usize) -> Regions {
        let current = Current { state: AtomicU64::new(CLOSED), region: UnsafeCell::new(None) };
        let signs = Signs {
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            taking_part: AtomicUsize::new(threads),
            asleep: AtomicUsize::new(0),
        };
        Regions {
            current: Lines(current),
            shares: (0..threads).map(|_| Lines(Share(AtomicU64::new(0)))).collect(),
            signs: Lines(signs),
            sleepers: Mutex::new(()),
            wake: Condvar::new(),
            apart: Condvar::new(),
            left: Condvar::new(),
        }
    }

    /// Wakes the workers for regions of `threads` threads, which will be published soon.
    pub(super) fn call(&self, threads: usize) {
        let _guard = lock(&self.sleepers);
        if self.signs.taking_part.load(Ordering::Relaxed) != threads {
            self.signs.taking_part.store(threads, Ordering::Relaxed);
            self.apart.notify_all();
        }
        if self.signs.asleep.load(Ordering::Relaxed) > 0 {
            self.wake.notify_all();
        }
    }

    /// Runs `task` on ranges that cover the numbers below `units`, each once, on the caller's
    /// thread and those of `threads - 1` workers. Ranges have at least `least` units where
    /// there are so many. The caller's threads must not be inside another region.
    pub(super) fn run(&self, threads: usize, units: usize, least: usize, task: Task<'_>) {
        // SAFETY: only the lifetime changes. The borrow outlives every use: `close`
        // below runs before this function returns or unwinds, and waits until no
        // worker is inside.
        #[allow(unsafe_code)]
        let task = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(task) };
        // SAFETY: the state is closed and nobody is inside (see `close`), and only
        // the step's own thread comes here.
        #[allow(unsafe_code)]
        self.current.region.with_mut(|region| unsafe { *region = Some(Region { task, least }) });
        for (i, share) in self.shares.iter().enumerate() {
            // Also the shares of who does not take part: a panic may have left something there.
            share.set(units * i.min(threads) / threads..units * (i + 1).min(threads) / threads);
        }
        // Both the caller and a worker may have panicked in the region before, and the
        // caller's panic was the one to be seen.
        if self.signs.panicked.load(Ordering::Relaxed) {
            self.signs.panicked.store(false, Ordering::Relaxed);
        }
        let number = (self.current.state.load(Ordering::Relaxed) / REGION) as u32;
        self.current.state.store(u64::from(number.wrapping_add(1)) * REGION, Ordering::Release);
        let close = OnDrop(|| self.close());
        // Between this store and this load; between the same two of who goes to sleep lies
        // another: one of both sees what the other has stored.
        fence(Ordering::SeqCst);
        if self.signs.asleep.load(Ordering::Relaxed) > 0 {
            let _guard = lock(&self.sleepers);
            self.wake.notify_all();
        }
        self.deal(0, task, least);
        drop(close);
        if self.signs.panicked.load(Ordering::Relaxed) {
            panic!("a worker thread panicked in a parallel region");
        }
    }

    // Each thread works through its own share in order, since neighbouring units read
    // neighbouring memory; then it helps the others, from the ends of their shares.
    fn deal(&self, thread: usize, task: Task<'_>, least: usize) {
        while let Some(units) = self.shares[thread].take_first(least) {
            task(units);
        }
        let threads = self.shares.len();
        for other in (1..threads).map(|step| &self.shares[(thread + step) % threads]) {
            while let Some(units) = other.take_last(least) {
                task(units);
            }
        }
    }

    // Lets nobody in any more and waits for those inside.
    fn close(&self) {
        self.current.state.fetch_or(CLOSED, Ordering::AcqRel);
        let mut wait = Wait::new();
        while self.current.state.load(Ordering::Acquire) & INSIDE != 0 {
            if !wait.pause() {
                return self.sleep_until_left();
            }
        }
    }

    // Somebody inside has no processor, perhaps: ours may be of use to whoever has that one.
    fn sleep_until_left(&self) {
        let mut guard = lock(&self.sleepers);
        // Said under the lock that the last to leave takes before it wakes.
        let mut state = self.current.state.fetch_or(ASLEEP, Ordering::AcqRel);
        while state & INSIDE != 0 {
            guard = wait(&self.left, guard);
            state = self.current.state.load(Ordering::Acquire);
        }
    }

    /// Sends the workers home, for good.
    pub(super) fn stop(&self) {
        self.signs.stop.store(true, Ordering::SeqCst);
        let _guard = lock(&self.sleepers);
        self.wake.notify_all();
        self.apart.notify_all();
    }

    /// The life of worker `thread`, from 1 on.
    pub(super) fn work(&self, thread: usize) {
        let mut wait = Wait::new();
        // The region this worker has left: its tasks are dealt, open or not.
        let mut left = None;
        while !self.signs.stop.load(Ordering::SeqCst) {
            match self.open(thread, left) {
                Some(number) if self.enter(number, thread) => {
                    left = Some(number);
                    wait = Wait::new();
                }
                Some(_) => {}
                None if self.takes_part(thread) && wait.pause() => {}
                None => {
                    self.sleep(thread, left);
                    wait = Wait::new();
                }
            }
        }
    }

    fn takes_part(&self, thread: usize) -> bool {
        thread < self.signs.taking_part.load(Ordering::Relaxed)
    }

    // The number of the current region, if it is open to `thread` and not the one that was left.
    fn open(&self, thread: usize, left: Option<u64>) -> Option<u64> {
        let state = self.current.state.load(Ordering::Acquire);
        let number = Some(state / REGION).filter(|number| state & CLOSED == 0 && left != Some(*number));
        number.filter(|_| self.takes_part(thread))
    }

    // Enters a region, shares its tasks and leaves once they are dealt. False when it
    // has been closed meanwhile.
    fn enter(&self, number: u64, thread: usize) -> bool {
        let enter = |now| (now & CLOSED == 0 && now / REGION == number).then_some(now + 1);
        if self.current.state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, enter).is_err() {
            return false;
        }
        let _leave = OnDrop(|| {
            let before = self.current.state.fetch_sub(1, Ordering::AcqRel);
            if before & ASLEEP != 0 && before & INSIDE == 1 {
                let _guard = lock(&self.sleepers);
                self.left.notify_all();
            }
        });
        // SAFETY: this thread is counted inside, so the region is not replaced.
        #[allow(unsafe_code)]
        let region = self.current.region.with(|region| unsafe { *region });
        if let Some(Region { task, least }) = region {
            let deal = std::panic::AssertUnwindSafe(|| self.deal(thread, task, least));
            if std::panic::catch_unwind(deal).is_err() {
                self.signs.panicked.store(true, Ordering::Relaxed);
            }
        }
        true
    }

    fn sleep(&self, thread: usize, left: Option<u64>) {
        let guard = lock(&self.sleepers);
        let takes_part = self.takes_part(thread);
        if takes_part {
            self.signs.asleep.fetch_add(1, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        // Checked under the lock that a waker takes.
        let wanted = self.signs.stop.load(Ordering::SeqCst) || self.open(thread, left).is_some();
        let _guard =
            if wanted { guard } else { wait(if takes_part { &self.wake } else { &self.apart }, guard) };
        if takes_part {
            self.signs.asleep.fetch_sub(1, Ordering::Relaxed);
        }
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
            let threads = regions.shares.len();
            regions.run(threads, tasks, 1, &|units| units.for_each(|i| cells.add(i, round)));
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
            let failing = AssertUnwindSafe(|| regions.run(2, 2, 1, &|_| resume_unwind(Box::new(()))));
            assert!(catch_unwind(failing).is_err());
            every_task_once(regions, 1, 2);
        });
    }

    #[test]
    fn workers_that_stay_apart_are_not_waited_for_and_come_back() {
        model(1, 2, |regions| {
            let cells = Cells::new(2);
            regions.call(1);
            regions.run(1, 2, 1, &|units| units.for_each(|i| cells.add(i, 1)));
            regions.call(2);
            regions.run(2, 2, 1, &|units| units.for_each(|i| cells.add(i, 1)));
            (0..2).for_each(|i| assert_eq!(cells.get(i), 2));
        });
    }
}
