//! `rz logits`: the scores behind every token, for comparison with another implementation.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use rz_engine::Session;
use rz_model::Forward;
use serde_json::json;

use super::tokenize::ids_of;
use crate::args::{Common, Compute};
use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::model;
use crate::progress::Counting;
use crate::terminal::{self, Out};

/// What `rz logits` takes.
#[derive(Debug, Args)]
pub(crate) struct LogitsArgs {
    /// The token ids, separated by commas or spaces (`-`: from standard input)
    #[arg(long, value_name = "IDS")]
    tokens: String,
    /// The file to write: one row for each token, of the vocabulary's size, as little-endian f32
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print one JSON object: file, positions, vocabulary
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: Compute,
}

/// Writes the logits of every position.
pub(crate) fn logits(args: &LogitsArgs, common: &Common, out: &Out) -> Result<(), Failure> {
    let ids = ids_of(&args.tokens)?;
    if ids.is_empty() {
        return Err(Failure::input("there are no tokens: give at least one, such as --tokens 1,2,3"));
    }
    let file = model::open(common)?;
    let spec = model::describe(&file)?;
    if let Some(id) = ids.iter().find(|id| **id as usize >= spec.vocabulary) {
        return Err(Failure::input(format!(
            "token id {id} is beyond the embedding's {} rows: give ids below that",
            spec.vocabulary
        )));
    }
    let context = if common.ctx.is_none() { ids.len() } else { model::context(common, &spec)? };
    if ids.len() > context {
        return Err(Failure::input(format!(
            "{} tokens do not fit into a context of {context}: give a larger --ctx, or none",
            ids.len()
        )));
    }
    let mut target = Target::create(&args.out)?;
    let runtime = common.runtime()?;
    let (forward, _) =
        model::load(&file, &spec, &runtime, args.compute.load_options(context), args.compute.placement())?;
    let mut session = Session::new(forward);
    write(&mut session, &ids, &mut target)?;
    target.finish()?;
    if args.json {
        return out.json(&json!({
            "file": args.out,
            "positions": ids.len(),
            "vocabulary": spec.vocabulary,
        }));
    }
    terminal::say(&format!("wrote {} x {} logits to {}", ids.len(), spec.vocabulary, args.out.display()));
    Ok(())
}

fn write<F: Forward>(session: &mut Session<F>, ids: &[u32], target: &mut Target) -> Result<(), Failure> {
    let listening = Listening::start();
    let mut counting = Counting::start();
    let chunk = session.chunk();
    let mut written = Ok(());
    for (index, ids_of_chunk) in ids.chunks(chunk).enumerate() {
        session.feed_each(ids_of_chunk, 0, |_, row| {
            if written.is_ok() {
                written = target.write(row);
            }
        })?;
        if listening.interrupted() {
            return Err(Failure::interrupted());
        }
        counting.show((index * chunk + ids_of_chunk.len()).min(ids.len()), ids.len(), "tokens");
    }
    counting.finish();
    written
}

/// A file that is there whole or not at all: it is written under another name and then renamed. What is no
/// regular file, such as a pipe, is written as it is.
struct Target {
    path: PathBuf,
    /// The other name, until the file is renamed.
    temporary: Option<PathBuf>,
    writer: BufWriter<File>,
}

impl Target {
    fn create(path: &Path) -> Result<Self, Failure> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error: std::io::Error| Failure::file("write", &path, &error)
        };
        // Links stay, and what they lead to is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if fs::metadata(&path).is_ok_and(|info| !info.is_file()) {
            let file = File::options().write(true).open(&path).map_err(failed(&path))?;
            return Ok(Self { path, temporary: None, writer: BufWriter::new(file) });
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let temporary = path.with_file_name(name);
        let file =
            File::options().write(true).create_new(true).open(&temporary).map_err(failed(&temporary))?;
        Ok(Self { path, temporary: Some(temporary), writer: BufWriter::with_capacity(1 << 20, file) })
    }

    fn write(&mut self, row: &[f32]) -> Result<(), Failure> {
        let mut write = || row.iter().try_for_each(|value| self.writer.write_all(&value.to_le_bytes()));
        write().map_err(|error| Failure::file("write", &self.path, &error))
    }

    fn finish(mut self) -> Result<(), Failure> {
        let done = self.writer.flush().and_then(|()| match &self.temporary {
            Some(temporary) => fs::rename(temporary, &self.path),
            None => Ok(()),
        });
        done.map_err(|error| Failure::file("write", &self.path, &error))?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}
