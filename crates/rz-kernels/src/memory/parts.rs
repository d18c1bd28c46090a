//! An arena taken apart, so that one part can be written while another is read.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use super::Arena;

/// A part of an [`Arena`] of its own, aligned to 64 bytes. The memory goes when its last part does.
pub struct ArenaPart {
    start: NonNull<u8>,
    len: usize,
    /// Keeps the memory; never looked into, since other parts may be written.
    _arena: Arc<Arena>,
}

// SAFETY: a part is the only way to its bytes, which are plain memory.
#[allow(unsafe_code)]
unsafe impl Send for ArenaPart {}
// SAFETY: shared, a part is only read.
#[allow(unsafe_code)]
unsafe impl Sync for ArenaPart {}

impl Arena {
    /// The bytes that parts of these lengths take together.
    pub fn bytes_of_parts(lens: &[usize]) -> usize {
        lens.iter().map(|len| len.next_multiple_of(ArenaPart::ALIGN)).sum()
    }

    /// Takes the arena apart, into parts of these lengths.
    ///
    /// # Panics
    /// When it is smaller than [`bytes_of_parts`](Self::bytes_of_parts).
    pub fn into_parts(mut self, lens: &[usize]) -> Vec<ArenaPart> {
        assert!(Arena::bytes_of_parts(lens) <= self.len(), "parts of {} bytes", self.len());
        let base = NonNull::from(&mut *self).cast::<u8>();
        // From here on nobody reaches the memory but through the parts.
        let arena = Arc::new(self);
        let mut start = 0;
        lens.iter()
            .map(|&len| {
                // SAFETY: the parts lie inside the arena one after the other, as checked above,
                // and a mapping does not move with the value that owns it.
                #[allow(unsafe_code)]
                let part = ArenaPart { start: unsafe { base.add(start) }, len, _arena: arena.clone() };
                start += len.next_multiple_of(ArenaPart::ALIGN);
                part
            })
            .collect()
    }
}

impl ArenaPart {
    /// What the addresses of parts are multiples of.
    pub const ALIGN: usize = 64;
}

impl Deref for ArenaPart {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `into_parts` made the part, of initialised memory that lives as long as
        // `_arena` and that no other part overlaps.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.start.as_ptr(), self.len)
        }
    }
}

impl DerefMut for ArenaPart {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow of the only part that reaches these bytes is exclusive.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len)
        }
    }
}

impl AsRef<[u8]> for ArenaPart {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for ArenaPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ArenaPart({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_aligned_and_their_own() {
        let lens = [100, 0, 64, 1, 5000];
        let arena = Arena::new(Arena::bytes_of_parts(&lens)).unwrap();
        let mut parts = arena.into_parts(&lens);
        // On several threads at once.
        std::thread::scope(|scope| {
            for (i, part) in parts.iter_mut().enumerate() {
                scope.spawn(move || part.fill(i as u8 + 1));
            }
        });
        for (i, (part, len)) in parts.iter().zip(lens).enumerate() {
            assert_eq!((part.len(), part.as_ptr().addr() % ArenaPart::ALIGN), (len, 0));
            assert!(part.iter().all(|&byte| byte == i as u8 + 1));
        }
        // The last part keeps the memory.
        let last = parts.pop().unwrap();
        drop(parts);
        assert!(last.iter().all(|&byte| byte == 5));
    }

    #[test]
    #[should_panic(expected = "parts of")]
    fn more_than_the_arena_is_refused() {
        Arena::new(64).unwrap().into_parts(&[64, 1]);
    }
}
