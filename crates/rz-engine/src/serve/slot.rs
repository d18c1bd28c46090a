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

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use rz_model::{KV_BLOCK, KvGroup};
use sha2::{Digest, Sha256};

use super::Engine;
use crate::EngineError;

const MAGIC: [u8; 8] = *b"rz-slot\n";
const VERSION: u32 = 1;

impl Engine {
    /// Writes what is kept of a text's beginning to a file: whole blocks of tokens, as far as a request with this
    /// prompt would find them. Returns how many tokens that are.
    ///
    /// The file is complete or not there: it gets its name when it is on the disk.
    ///
    /// # Errors
    /// When nothing is kept of the text, the engine has no identity, or the file cannot be written.
    pub fn save(&mut self, tokens: &[u32], path: &Path) -> Result<usize, EngineError> {
        let refused = |problem: &str| EngineError::Slot { path: path.into(), problem: problem.into() };
        if self.identity.is_empty() {
            return Err(refused("cannot be written by an engine without an identity: give it one"));
        }
        let table = self.cache.attach(|at| tokens[at], tokens.len());
        let len = table.len();
        let result = match len {
            0 => Err(refused("would be empty: nothing is kept of these tokens, run them first")),
            _ => {
                let write = |out: &mut dyn Write| self.write_slot(&tokens[..len], table.groups(), out);
                write_whole(path, write).map_err(|cause| EngineError::SlotFile { path: path.into(), cause })
            }
        };
        self.cache.release(table);
        result.map(|()| len)
    }

    /// Reads what [`save`](Self::save) wrote. Requests whose prompts begin with the tokens, which it returns, find
    /// them as if they had just been computed.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or is not of this model with these settings, or when there are not
    /// enough blocks. Nothing changes then.
    pub fn restore(&mut self, path: &Path) -> Result<Vec<u32>, EngineError> {
        let failed = |cause| EngineError::SlotFile { path: path.into(), cause };
        let file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let mut input = Hashed { inner: BufReader::new(file), hash: Sha256::new() };
        self.read_slot(&mut input, size).map_err(|problem| match problem {
            Problem::Io(cause) if cause.kind() != io::ErrorKind::UnexpectedEof => failed(cause),
            Problem::Io(_) => EngineError::Slot { path: path.into(), problem: "ends too early".into() },
            Problem::Content(problem) => EngineError::Slot { path: path.into(), problem },
        })
    }

    fn write_slot<'a>(
        &self,
        tokens: &[u32],
        tables: impl Iterator<Item = &'a [u32]>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let mut out = Hashed { inner: out, hash: Sha256::new() };
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&(self.identity.len() as u32).to_le_bytes())?;
        out.write_all(self.identity.as_bytes())?;
        out.write_all(&shape(self.cache.groups()))?;
        out.write_all(&(tokens.len() as u32).to_le_bytes())?;
        for token in tokens {
            out.write_all(&token.to_le_bytes())?;
        }
        let mut bytes = Vec::new();
        for (index, (group, table)) in self.cache.groups().iter().zip(tables).enumerate() {
            for &block in &table[seen_from(group, tokens.len())..tokens.len() / KV_BLOCK] {
                bytes.clear();
                self.model.read_block(index, block, &mut bytes);
                out.write_all(&bytes)?;
            }
        }
        let Hashed { inner, hash } = out;
        inner.write_all(&hash.finalize())
    }

    fn read_slot(&mut self, input: &mut Hashed<BufReader<File>>, size: u64) -> Result<Vec<u32>, Problem> {
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
        let shape = shape(self.cache.groups());
        if input.vec(shape.len())? != shape {
            return content(of_another.into());
        }
        let count = input.number()? as usize;
        if count == 0 || !count.is_multiple_of(KV_BLOCK) || count > self.limits.context {
            let context = self.limits.context;
            return content(format!(
                "has {count} tokens, expected whole blocks of {KV_BLOCK} and at most {context}"
            ));
        }
        let blocks = |group: &KvGroup| (count / KV_BLOCK - seen_from(group, count)) as u64;
        let stored = self.cache.groups().iter().map(|group| blocks(group) * group.block_bytes as u64);
        let header = (MAGIC.len() + 4 + 4 + length + shape.len() + 4 + 4 * count) as u64;
        let expected = header + stored.sum::<u64>() + 32;
        if size != expected {
            return content(format!("has {size} bytes, expected {expected}: it is damaged, save it again"));
        }
        let mut tokens = Vec::with_capacity(count);
        for _ in 0..count {
            tokens.push(input.number()?);
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= self.limits.vocabulary) {
            return content(format!("has token {token}, and the model has {}", self.limits.vocabulary));
        }
        let Some(mut table) = self.cache.reserve(count) else {
            return content(
                "does not fit into the blocks that are free: try again when less is running".into(),
            );
        };
        let result = self.read_blocks(input, count, table.groups());
        if result.is_ok() {
            // Only now, that all is known to be whole, others may find it.
            self.cache.name_all(&mut table, |at| tokens[at]);
        }
        self.cache.release(table);
        result.map(|()| tokens)
    }

    fn read_blocks<'a>(
        &mut self,
        input: &mut Hashed<BufReader<File>>,
        count: usize,
        tables: impl Iterator<Item = &'a [u32]>,
    ) -> Result<(), Problem> {
        for (index, (group, table)) in self.cache.groups().iter().zip(tables).enumerate() {
            for &block in &table[seen_from(group, count)..] {
                let bytes = input.vec(group.block_bytes)?;
                let written = self.model.write_block(index, block, &bytes);
                written.map_err(|error| Problem::Content(format!("cannot be taken: {error}")))?;
            }
        }
        let expected = input.hash.clone().finalize();
        if input.bytes::<32>()?[..] != expected[..] {
            return Err(Problem::Content("is damaged, its checksum is wrong: save it again".into()));
        }
        Ok(())
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

/// What has to be the same for blocks to mean the same.
fn shape(groups: &[KvGroup]) -> Vec<u8> {
    let mut bytes = [KV_BLOCK as u32, groups.len() as u32].map(u32::to_le_bytes).concat();
    for group in groups {
        let window = group.window.map_or(u64::MAX, |window| window as u64);
        bytes.extend([window, group.block_bytes as u64].map(u64::to_le_bytes).concat());
    }
    bytes
}

/// Writes a file under another name first, so that under its own it is always whole.
fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let result = (|| {
        let mut out = BufWriter::new(File::create(&part)?);
        write(&mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&part, path)
    })();
    if result.is_err() {
        // It may never have been made.
        std::fs::remove_file(&part).ok();
    }
    result
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
