//! What a file that holds panels says beyond GGUF.
//!
//! Such a file is GGUF in all respects but two. Its matrices are of types of their own
//! ([`TensorType::packed`](crate::TensorType::packed)), which other readers refuse as
//! unknown. And it ends with a seal of 32 bytes, which says what they would have to know:
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 0..8 | `rzpacked` |
//! | 8..12 | version of the layout of the panels |
//! | 12..16 | zero |
//! | 16..24 | bytes of everything before the data, without its padding |
//! | 24..32 | checksum of those bytes: FNV-1a over words of 64 bits, the last filled up with zeros |
//!
//! A seal is looked at before anything else: a file of another layout is refused as
//! such, and not for what it looks like when read by the rules of this one.

use std::path::Path;

use rz_quant::PACKED_LAYOUT;

use crate::error::{FormatError, Place};

pub(super) const MAGIC: &[u8; 8] = b"rzpacked";
pub(super) const BYTES: usize = 32;

/// The least alignment of a sealed file: panels are read by whole lines of the cache.
pub(super) const ALIGNMENT: u32 = 64;

/// The seal of a file with this header.
pub(super) fn of(header: &[u8]) -> [u8; BYTES] {
    let mut seal = [0; BYTES];
    seal[..8].copy_from_slice(MAGIC);
    seal[8..12].copy_from_slice(&PACKED_LAYOUT.to_le_bytes());
    seal[16..24].copy_from_slice(&(header.len() as u64).to_le_bytes());
    seal[24..].copy_from_slice(&checksum(header).to_le_bytes());
    seal
}

/// The length of the header that a sealed file says and vouches for; `None` of a file
/// without a seal.
pub(super) fn check(file: &Path, bytes: &[u8]) -> Result<Option<usize>, FormatError> {
    let Some((content, seal)) = bytes.split_last_chunk::<BYTES>() else { return Ok(None) };
    if !seal.starts_with(MAGIC) {
        return Ok(None);
    }
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| seal[at + i]));
    let found = word(8) as u32;
    if found != PACKED_LAYOUT {
        return Err(FormatError::PackedLayout { file: file.to_owned(), found, expected: PACKED_LAYOUT });
    }
    let broken = |what| FormatError::Seal {
        place: Place { file: file.to_owned(), offset: Some(content.len() as u64) },
        what,
    };
    let header = usize::try_from(word(16)).ok().and_then(|len| content.get(..len));
    let header = header.ok_or_else(|| broken("the seal speaks of more bytes than there are"))?;
    if checksum(header) != word(24) {
        return Err(broken("the checksum of the header is another one"));
    }
    Ok(Some(header.len()))
}

// It is to find accidents, not to withstand anybody.
fn checksum(bytes: &[u8]) -> u64 {
    let step = |sum: u64, word: [u8; 8]| (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x100_0000_01b3);
    let (words, rest) = bytes.as_chunks();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let sum = words.iter().fold(0xcbf2_9ce4_8422_2325, |sum, word| step(sum, *word));
    if rest.is_empty() { sum } else { step(sum, last) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_fnv_1a_over_words() {
        // Of no words the offset basis; of one word, by hand.
        assert_eq!(checksum(&[]), 0xcbf2_9ce4_8422_2325);
        let one = (0xcbf2_9ce4_8422_2325u64 ^ 1).wrapping_mul(0x100_0000_01b3);
        assert_eq!(checksum(&[1]), one);
        assert_eq!(checksum(&[1, 0, 0, 0, 0, 0, 0, 0]), one);
        assert_eq!(checksum(&[1, 0, 0, 0, 0, 0, 0, 0, 2]), (one ^ 2).wrapping_mul(0x100_0000_01b3));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let header: Vec<u8> = (0..77).map(|i| i * 3).collect();
        let sealed =
            |header: &[u8]| [header, &[0; 51], &of(&(0..77).map(|i| i * 3).collect::<Vec<u8>>())].concat();
        let path = Path::new("m");
        assert_eq!(check(path, &sealed(&header)).unwrap(), Some(77));
        for bit in 0..8 * header.len() {
            let mut header = header.clone();
            header[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(check(path, &sealed(&header)), Err(FormatError::Seal { .. })), "bit {bit}");
        }
    }
}
