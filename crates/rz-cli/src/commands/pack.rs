//! `rz pack`: writes a model's weights the way products read them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use rz_engine::ModelFile;
use rz_formats::{FormatError, Gguf};
use rz_quant::PACKED_LAYOUT;
use rz_store::ModelRef;
use serde_json::json;

use crate::args::Common;
use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::progress::Loading;
use crate::terminal::Out;
use crate::{environment, model};

/// What `rz pack` takes.
#[derive(Debug, Args)]
pub(crate) struct PackArgs {
    /// The file, or any other reference; goes before --model
    #[arg(value_name = "REF")]
    file: Option<String>,
    /// Where to write the packed file [default: beside the file, ending in .rzpack; of a fetched model, in the
    /// store, where rz finds it]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print one JSON object with path and bytes
    #[arg(long)]
    json: bool,
}

/// Packs a model, and prints where.
pub(crate) fn pack(args: &PackArgs, common: &Common, out: &Out) -> Result<(), Failure> {
    let reference = model::reference(common, args.file.as_deref());
    let parsed = ModelRef::parse(reference)?;
    let source = model::locate(common, reference)?;
    let path = match (&args.out, &parsed) {
        (None, ModelRef::Path(path)) => beside(path, common)?,
        (None, _) => into_store(common, &parsed, true)?,
        (Some(target), _) => into_file(&source, target, common)?,
    };
    let bytes = std::fs::metadata(&path).map_or(0, |meta| meta.len());
    match args.json {
        true => out.json(&json!({ "path": path, "bytes": bytes })),
        false => out.line(&path.display().to_string()),
    }
}

/// Packs a model of the store into the store. A copy that is there already is kept, unless `again`.
pub(crate) fn into_store(common: &Common, model: &ModelRef, again: bool) -> Result<PathBuf, Failure> {
    let store = environment::store(common)?;
    store.pack(model, PACKED_LAYOUT, again, &mut |_| ControlFlow::Continue(()), &mut |unpacked| {
        write(&Gguf::open(unpacked.path)?, unpacked.target, Some(unpacked.digest), common)
    })
}

fn beside(path: &Path, common: &Common) -> Result<PathBuf, Failure> {
    into_file(path, &path.with_extension("rzpack"), common)
}

fn into_file(source: &Path, target: &Path, common: &Common) -> Result<PathBuf, Failure> {
    let ModelFile::Gguf(gguf) = ModelFile::open(source)? else {
        return Err(Failure::input(format!(
            "{}: a folder of safetensors cannot be packed: only GGUF files can",
            source.display()
        )));
    };
    if gguf.is_packed() {
        return Err(Failure::input(format!("{}: is packed already", source.display())));
    }
    if target.exists() && !is_packed(target) {
        return Err(Failure::input(format!(
            "{}: is there and no packed model: remove it, or name another file with --out",
            target.display()
        )));
    }
    write(&gguf, target, None, common)?;
    Ok(target.to_owned())
}

/// Whether a file is one that this command has written, be it in another layout.
fn is_packed(path: &Path) -> bool {
    match Gguf::open(path) {
        Ok(gguf) => gguf.is_packed(),
        Err(FormatError::PackedLayout { .. } | FormatError::Seal { .. }) => true,
        Err(_) => false,
    }
}

fn write(gguf: &Gguf, target: &Path, digest: Option<&str>, common: &Common) -> Result<(), Failure> {
    let runtime = common.runtime()?;
    let listening = Listening::start();
    let mut packing = Loading::of("packing");
    let made = rz_model::write_packed(gguf, &runtime, target, digest, &mut |done, total| {
        packing.show(done as usize, total as usize);
        if listening.interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    packing.finish();
    if made.is_err() && listening.interrupted() {
        return Err(Failure::interrupted());
    }
    Ok(made?)
}
