//! Large aligned memory, and how fast it can be read.

mod parts;

use std::ops::{Deref, DerefMut};

#[cfg(not(any(unix, windows)))]
use heap::MmapMut;
#[cfg(any(unix, windows))]
use memmap2::MmapMut;

use crate::{Isa, Kernels, SimdOp};

pub use parts::ArenaPart;

/// Zeroed anonymous memory, aligned to 64 bytes and more, in huge pages where the
/// system offers them. Pages that are never touched cost nothing.
pub struct Arena {
    map: MmapMut,
}

impl Arena {
    /// Reserves `bytes`.
    ///
    /// # Errors
    /// When the system refuses the reservation.
    pub fn new(bytes: usize) -> std::io::Result<Arena> {
        #[cfg(any(unix, windows))]
        let map = map_pages(&mut memmap2::MmapOptions::new(), bytes)?;
        #[cfg(not(any(unix, windows)))]
        let map = MmapMut::map_anon(whole_pages(bytes)?)?;
        Ok(Arena { map })
    }

    /// Reserves `bytes` of which perhaps little is ever used: without a claim on the
    /// system's memory.
    ///
    /// # Errors
    /// When the system refuses the reservation.
    pub fn sparse(bytes: usize) -> std::io::Result<Arena> {
        #[cfg(any(unix, windows))]
        let map = map_pages(memmap2::MmapOptions::new().no_reserve_swap(), bytes)?;
        #[cfg(not(any(unix, windows)))]
        let map = MmapMut::map_anon(whole_pages(bytes)?)?;
        Ok(Arena { map })
    }
}

#[cfg(any(unix, windows))]
fn map_pages(options: &mut memmap2::MmapOptions, bytes: usize) -> std::io::Result<MmapMut> {
    let map = options.len(whole_pages(bytes)?).map_anon()?;
    // Only a hint: systems without huge pages refuse it, and nothing is lost.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}

// An empty mapping is refused by the system, and a whole number of huge pages lets the last one
// be huge too.
fn whole_pages(bytes: usize) -> std::io::Result<usize> {
    const HUGE_PAGE: usize = 2 << 20;
    if bytes < HUGE_PAGE {
        return Ok(bytes.max(64));
    }
    bytes.checked_next_multiple_of(HUGE_PAGE).ok_or(std::io::ErrorKind::OutOfMemory.into())
}

impl Arena {
    /// Takes the memory for good, and keeps the system from ever moving it to disk.
    ///
    /// # Errors
    /// When the system refuses, mostly because a process may only have so much of such memory.
    pub fn lock(&self) -> std::io::Result<()> {
        #[cfg(unix)]
        return self.map.lock();
        #[cfg(not(unix))]
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

impl Deref for Arena {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl DerefMut for Arena {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

impl AsRef<[u8]> for Arena {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arena({} bytes)", self.map.len())
    }
}

/// Bytes of the processor's last level of cache, or 32 MiB where the system does not tell.
pub fn last_level_cache() -> usize {
    const USUAL: usize = 32 << 20;
    caches().map(|(_, size)| size).max().unwrap_or(USUAL)
}

/// Bytes of a core's second level of cache, or 512 KiB where the system does not tell.
pub(crate) fn second_level_cache() -> usize {
    const USUAL: usize = 512 << 10;
    caches().find(|(level, _)| level == "2").map_or(USUAL, |(_, size)| size)
}

// Level and size of the caches of the first processor.
fn caches() -> impl Iterator<Item = (String, usize)> {
    (0..8).filter_map(|index: usize| {
        let read = |name: &str| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}");
            Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
        };
        let text = read("size")?;
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let unit: usize = match unit {
            "K" => 1 << 10,
            "M" => 1 << 20,
            _ => return None,
        };
        Some((read("level")?, number.parse::<usize>().ok()?.checked_mul(unit)?))
    })
}

/// Reads every whole 64-byte line of `bytes` once and returns a checksum: the
/// yardstick that weight streaming is held against.
pub fn read_all(kernels: Kernels, bytes: &[u8]) -> i32 {
    struct Read<'a>(&'a [u8]);
    impl SimdOp for Read<'_> {
        type Output = i32;
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) -> i32 {
            let mut sums = [isa.splat_i32(0); 4];
            let (groups, _) = self.0.as_chunks::<256>();
            for group in groups {
                let (lines, _) = group.as_chunks::<64>();
                for (sum, line) in sums.iter_mut().zip(lines) {
                    *sum = isa.dot(*sum, isa.load_bytes(line), [1; 4]);
                }
            }
            sums.into_iter().fold(0i32, |total, sum| total.wrapping_add(isa.sum_i32(sum)))
        }
    }
    kernels.run(Read(bytes))
}

/// The part of a mapping that an arena needs, for systems that have none: WebAssembly.
#[cfg(not(any(unix, windows)))]
mod heap {
    use std::io::{Error, ErrorKind, Result};
    use std::ops::{Deref, DerefMut};

    #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
    #[repr(C, align(64))]
    struct Line([u8; 64]);

    /// Zeroed memory on the heap.
    pub(super) struct MmapMut(Vec<Line>);

    impl MmapMut {
        pub(super) fn map_anon(bytes: usize) -> Result<MmapMut> {
            let mut lines = Vec::new();
            lines.try_reserve_exact(bytes.div_ceil(64)).map_err(|_| Error::from(ErrorKind::OutOfMemory))?;
            lines.resize(bytes.div_ceil(64), Line([0; 64]));
            Ok(MmapMut(lines))
        }
    }

    impl Deref for MmapMut {
        type Target = [u8];
        fn deref(&self) -> &[u8] {
            bytemuck::cast_slice(&self.0)
        }
    }

    impl DerefMut for MmapMut {
        fn deref_mut(&mut self) -> &mut [u8] {
            bytemuck::cast_slice_mut(&mut self.0)
        }
    }
}
