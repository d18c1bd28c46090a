//! Keys and values of a text, kept in a file: another run of the same model need not compute it again.
//!
//! A file holds, all numbers little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | `rz-slot` and a line feed |
//! | 4 | version, 1 |
//! | 4, n | length of the identity, and the identity |
//! | 4, 4 | positions of a block; groups |
//! | 16 each | window (2^64 - 1 for none) and bytes of a block, for each group |
//! | 4, 4 each | tokens, a multiple of a block, and their ids |
//! | | for each group, the blocks that a continuation after the last token sees |
//! | 32 | SHA-256 of all before |

use std::fs::{File, TryLockError};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use rz_model::{KV_BLOCK, KvGroup};
use sha2::{Digest, Sha256};

use super::Engine;
use crate::EngineError;

const MAGIC: [u8; 8] = *b"rz-slot\n";
const VERSION: u32 = 1;

/// What a file that is being written ends with.
const PART: &str = ".part";

/// What is kept of a text's beginning, outside of any engine: whole blocks of tokens with their keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    tokens: Vec<u32>,
    blocks: Vec<u8>,
}

/// What the slots of an engine are: those of another model, or with other settings, mean nothing to it. It reads
/// and writes their files, which takes its time, on any thread.
#[derive(Clone, Debug)]
pub struct SlotKind {
    identity: String,
    groups: Vec<KvGroup>,
    context: usize,
    vocabulary: usize,
}

impl Slot {
    /// The tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

impl Engine {
    /// What this engine's slots are.
    pub fn slot_kind(&self) -> SlotKind {
        SlotKind {
            identity: self.identity.clone(),
            groups: self.cache.groups().to_vec(),
            context: self.limits.context,
            vocabulary: self.limits.vocabulary,
        }
    }

    /// A copy of what is kept of a text's beginning, as far as a request with this prompt would find it; nothing
    /// when nothing is.
    pub fn capture(&mut self, tokens: &[u32]) -> Option<Slot> {
        let table = self.cache.attach(|at| tokens[at], tokens.len());
        let blocks_of = table.len() / KV_BLOCK;
        let len = blocks_of * KV_BLOCK;
        let mut blocks = Vec::new();
        for (index, (group, table)) in self.cache.groups().iter().zip(table.groups()).enumerate() {
            for &block in &table[seen_from(group, len)..blocks_of] {
                self.model.read_block(index, block, &mut blocks);
            }
        }
        self.cache.release(table);
        (len > 0).then(|| Slot { tokens: tokens[..len].to_vec(), blocks })
    }

    /// Takes a slot in: requests whose prompts begin with its tokens find them as if they had just been computed.
    ///
    /// # Errors
    /// When there are not enough blocks. Nothing changes then.
    pub fn install(&mut self, slot: &Slot) -> Result<(), EngineError> {
        let count = slot.tokens.len();
        let Some(mut table) = self.cache.reserve(count) else { return Err(EngineError::NoRoom) };
        let mut rest = &slot.blocks[..];
        let mut result = Ok(());
        for (index, (group, table)) in self.cache.groups().iter().zip(table.groups()).enumerate() {
            for &block in &table[seen_from(group, count)..] {
                let (bytes, more) = rest.split_at(group.block_bytes);
                rest = more;
                result = result.and_then(|()| self.model.write_block(index, block, bytes));
            }
        }
        if result.is_ok() {
            // Only now, that all is known to be there, others may find it.
            self.cache.name_all(&mut table, |at| slot.tokens[at]);
        }
        self.cache.release(table);
        result.map_err(EngineError::from)
    }

    /// Writes what [`capture`](Self::capture) gives to a file. Returns how many tokens that are.
    ///
    /// # Errors
    /// When nothing is kept of the text, the engine has no identity, or the file cannot be written.
    pub fn save(&mut self, tokens: &[u32], path: &Path) -> Result<usize, EngineError> {
        let slot = self.capture(tokens).ok_or_else(|| EngineError::Slot {
            path: path.into(),
            problem: "would be empty: nothing is kept of these tokens, run them first".into(),
        })?;
        self.slot_kind().write(&slot, path)?;
        Ok(slot.tokens.len())
    }

    /// Reads a file of a slot, and takes the slot in. Returns its tokens.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or is not of this model with these settings, or when there are not
    /// enough blocks. Nothing changes then.
    pub fn restore(&mut self, path: &Path) -> Result<Vec<u32>, EngineError> {
        let slot = self.slot_kind().read(path)?;
        self.install(&slot)?;
        Ok(slot.tokens)
    }
}

impl SlotKind {
    /// Writes a slot of this kind to a file, and tells how many bytes that are.
    ///
    /// The file is complete or not there: it gets its name when it is on the disk. One that is interrupted leaves a
    /// file with another name, which [`remove_left_over`](Self::remove_left_over) removes.
    ///
    /// # Errors
    /// When the kind has no identity, or the file cannot be written.
    pub fn write(&self, slot: &Slot, path: &Path) -> Result<u64, EngineError> {
        if self.identity.is_empty() {
            let problem = "cannot be written by an engine without an identity: give it one".into();
            return Err(EngineError::Slot { path: path.into(), problem });
        }
        let written = write_whole(path, |out| self.write_to(slot, out));
        written.map_err(|cause| EngineError::SlotFile { path: path.into(), cause })
    }

    /// Reads what [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or is not of this kind.
    pub fn read(&self, path: &Path) -> Result<Slot, EngineError> {
        let failed = |cause| EngineError::SlotFile { path: path.into(), cause };
        let file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let mut input = Hashed { inner: BufReader::new(file), hash: Sha256::new() };
        self.read_from(&mut input, size).map_err(|problem| match problem {
            Problem::Io(cause) if cause.kind() != io::ErrorKind::UnexpectedEof => failed(cause),
            Problem::Io(_) => EngineError::Slot { path: path.into(), problem: "ends too early".into() },
            Problem::Content(problem) => EngineError::Slot { path: path.into(), problem },
        })
    }

    /// Removes what processes left in a folder that ended while they wrote a slot; what is still being written, by
    /// whomever, is let be. Returns how many files that were.
    ///
    /// # Errors
    /// When the folder cannot be read, or a file not be removed.
    pub fn remove_left_over(folder: &Path) -> io::Result<usize> {
        let mut removed = 0;
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let is_part = path.extension().is_some_and(|end| end == &PART[1..]);
            // Not through a link, which nobody here has made.
            if !is_part || !path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                continue;
            }
            match File::options().write(true).open(&path)?.try_lock() {
                Ok(()) => {
                    std::fs::remove_file(&path)?;
                    removed += 1;
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(cause)) => return Err(cause),
            }
        }
        Ok(removed)
    }

    fn write_to(&self, slot: &Slot, out: &mut dyn Write) -> io::Result<u64> {
        let mut out = Hashed { inner: out, hash: Sha256::new() };
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&(self.identity.len() as u32).to_le_bytes())?;
        out.write_all(self.identity.as_bytes())?;
        out.write_all(&self.shape())?;
        out.write_all(&(slot.tokens.len() as u32).to_le_bytes())?;
        for token in &slot.tokens {
            out.write_all(&token.to_le_bytes())?;
        }
        // Hashed in pieces, while they are in the cache.
        for piece in slot.blocks.chunks(1 << 18) {
            out.write_all(piece)?;
        }
        let Hashed { inner, hash } = out;
        inner.write_all(&hash.finalize())?;
        Ok(self.header(slot.tokens.len()) + slot.blocks.len() as u64 + 32)
    }

    /// Bytes before the blocks.
    fn header(&self, tokens: usize) -> u64 {
        (MAGIC.len() + 4 + 4 + self.identity.len() + self.shape().len() + 4 + 4 * tokens) as u64
    }

    fn read_from(&self, input: &mut Hashed<BufReader<File>>, size: u64) -> Result<Slot, Problem> {
        let content = |problem: String| Err(Problem::Content(problem));
        if input.bytes::<8>()? != MAGIC {
            return content("is no saved slot".into());
        }
        let version = input.number()?;
        if version != VERSION {
            return content(format!("is of version {version}, expected {VERSION}: save it again"));
        }
        // Compared as they come: nothing is reserved for a length that a file claims.
        let of_another = "was saved by another model or with other settings: save it again with these";
        let length = input.number()? as usize;
        if length != self.identity.len() || input.vec(length)? != self.identity.as_bytes() {
            return content(of_another.into());
        }
        let shape = self.shape();
        if input.vec(shape.len())? != shape {
            return content(of_another.into());
        }
        let count = input.number()? as usize;
        if count == 0 || !count.is_multiple_of(KV_BLOCK) || count > self.context {
            let context = self.context;
            return content(format!(
                "has {count} tokens, expected whole blocks of {KV_BLOCK} and at most {context}"
            ));
        }
        let blocks = |group: &KvGroup| (count / KV_BLOCK - seen_from(group, count)) as u64;
        let stored: u64 = self.groups.iter().map(|group| blocks(group) * group.block_bytes as u64).sum();
        let expected = self.header(count) + stored + 32;
        if size != expected {
            return content(format!("has {size} bytes, expected {expected}: it is damaged, save it again"));
        }
        let mut tokens = Vec::with_capacity(count);
        for _ in 0..count {
            tokens.push(input.number()?);
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= self.vocabulary) {
            return content(format!("has token {token}, and the model has {}", self.vocabulary));
        }
        let blocks = input.vec(stored as usize)?;
        let expected = input.hash.clone().finalize();
        if input.bytes::<32>()?[..] != expected[..] {
            return content("is damaged, its checksum is wrong: save it again".into());
        }
        Ok(Slot { tokens, blocks })
    }

    /// What has to be the same for blocks to mean the same.
    fn shape(&self) -> Vec<u8> {
        let mut bytes = [KV_BLOCK as u32, self.groups.len() as u32].map(u32::to_le_bytes).concat();
        for group in &self.groups {
            let window = group.window.map_or(u64::MAX, |window| window as u64);
            bytes.extend([window, group.block_bytes as u64].map(u64::to_le_bytes).concat());
        }
        bytes
    }
}

/// What is wrong with a file.
enum Problem {
    Io(io::Error),
    Content(String),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::Io(error)
    }
}

/// The first block of a group that a continuation after `len` tokens sees.
fn seen_from(group: &KvGroup, len: usize) -> usize {
    group.first_needed(len).min(len / KV_BLOCK)
}

/// Writes a file under another name first, so that under its own it is always whole.
fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<u64>) -> io::Result<u64> {
    let (part, file) = create_part(path)?;
    let result = (|| {
        let mut out = BufWriter::new(file);
        let bytes = write(&mut out)?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        std::fs::rename(&part, path)?;
        Ok(bytes)
    })();
    if result.is_err() {
        // It may never have been made.
        std::fs::remove_file(&part).ok();
    }
    result
}

/// A file that nobody else writes, beside the one that it will become. Its lock tells others that somebody does.
fn create_part(path: &Path) -> io::Result<(PathBuf, File)> {
    for number in 0..u32::MAX {
        let mut part = path.as_os_str().to_owned();
        part.push(format!(".{}-{number}{PART}", std::process::id()));
        match File::create_new(&part) {
            Ok(file) => {
                // Where there are no locks, nothing is removed by them either.
                file.try_lock().ok();
                return Ok((part.into(), file));
            }
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {}
            Err(cause) => return Err(cause),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Bytes that are hashed as they pass.
struct Hashed<T> {
    inner: T,
    hash: Sha256,
}

impl<T: Write> Write for Hashed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Hashed<T> {
    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        self.hash.update(bytes);
        Ok(bytes)
    }

    fn number(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    /// Bytes whose number is not the file's to choose.
    fn vec(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.inner.read_exact(&mut bytes)?;
        self.hash.update(&bytes);
        Ok(bytes)
    }
}
