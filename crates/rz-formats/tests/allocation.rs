//! No file, whatever it promises, makes the reader take memory out of proportion to its size.
//!
//! The one test of this program, because it counts what the whole program allocates.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use rz_formats::Gguf;
use rz_testkit::fixture;
use rz_testkit::gguf::RawGguf;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of this very method.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Most bytes that `work` holds at once, beyond those held before.
fn peak<T>(work: impl FnOnce() -> T) -> usize {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let kept = work();
    let peak = PEAK.load(Ordering::Relaxed) - before;
    drop(kept);
    peak
}

#[test]
fn memory_stays_in_proportion_to_the_file() {
    const ARRAY: u32 = 9;
    let key = |type_id| RawGguf::new(0, 1).key("k", type_id);
    let nested = |depth: usize, len: u64| (0..depth).fold(key(ARRAY), |raw, _| raw.u32(ARRAY).u64(len));

    // Files of a few bytes that promise much.
    let mut small = vec![
        RawGguf::new(1 << 63, 0),
        RawGguf::new(u64::MAX, u64::MAX),
        RawGguf::new(0, 1 << 62),
        key(8).u64(1 << 62),
        RawGguf::new(1, 0).tensor("t", &[1 << 40], 0, 0),
        RawGguf::new(1, 0).string("t").u32(u32::MAX),
        nested(1000, 1),
        nested(8, u64::MAX),
    ];
    for element in 0..14 {
        small.push(key(ARRAY).u32(element).u64(1 << 61));
        small.push(key(ARRAY).u32(element).u64(u64::MAX / 8 + 1));
    }
    for raw in small {
        let bytes = raw.0.clone();
        let peak = peak(|| Gguf::from_bytes("small", raw.0).expect_err("a malformed file was accepted"));
        assert!(peak < 16 * 1024, "{peak} bytes for a file of {}: {bytes:?}", bytes.len());
    }

    // Larger ones whose counts are as large as their size can excuse.
    const SIZE: usize = 8 << 20;
    let mut large = vec![
        RawGguf::new((SIZE / 33) as u64 - 1, 0).data(32, SIZE),
        RawGguf::new(0, 65536).data(32, SIZE),
        key(8).u64(SIZE as u64 - 1000).data(32, SIZE),
        key(ARRAY).u32(ARRAY).u64(65536).data(32, SIZE),
        // All strings empty: the most of them that a file can have.
        key(ARRAY).u32(8).u64(SIZE as u64 / 8 - 10).data(32, SIZE),
    ];
    for element in [0, 3, 4, 7, 8, 10, 12] {
        large.push(key(ARRAY).u32(element).u64(SIZE as u64 / 8 - 10).bytes(&[1; SIZE]));
    }
    for raw in large {
        let len = raw.0.len();
        let peak = peak(|| Gguf::from_bytes("large", raw.0));
        assert!(peak < 2 * len + 16 * 1024, "{peak} bytes for a file of {len}");
    }

    // The real model: its metadata, not its weights.
    let path = fixture("SmolLM2-135M-Instruct.Q4_1.gguf");
    let peak = peak(|| Gguf::open(path).unwrap());
    assert!(peak < 4 << 20, "{peak} bytes for the real model");
}
