//! `rz pull`: fetches models.

use std::path::PathBuf;

use clap::Args;
use rz_store::{ModelRef, StoreError};
use serde_json::json;

use crate::args::Common;
use crate::failure::Failure;
use crate::terminal::{self, Out};
use crate::{commands::pack, environment, model, progress};

/// What `rz pull` takes.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// The models [default: that of --model]
    #[arg(value_name = "REF")]
    models: Vec<String>,
    /// Do not leave a packed copy beside the model: half the disk, slower starts
    #[arg(long)]
    no_pack: bool,
    /// Print one JSON array of objects with reference, path and the path of the packed copy
    #[arg(long)]
    json: bool,
}

/// Fetches models, and prints where their files are.
pub(crate) fn pull(args: &PullArgs, common: &Common, out: &Out) -> Result<(), Failure> {
    let references = model::references(common, &args.models);
    let models = references.iter().map(|reference| ModelRef::parse(reference));
    let models = models.collect::<Result<Vec<_>, StoreError>>()?;
    let store = environment::store(common)?;
    let mut fetched = Vec::new();
    for model in &models {
        let path = match store.resolve(model)? {
            Some(path) => {
                terminal::note(&format!("{model} is there already"));
                path
            }
            None => progress::fetch(&store, model)?,
        };
        if !args.json {
            out.line(&path.display().to_string())?;
        }
        let packed = if args.no_pack { None } else { packed(common, model)? };
        fetched.push(json!({ "reference": model.to_string(), "path": path, "packed": packed }));
    }
    if args.json { out.json(&fetched) } else { Ok(()) }
}

/// The packed copy of a fetched model, made if need be. A model that cannot be packed is fetched all the same.
pub(crate) fn packed(common: &Common, model: &ModelRef) -> Result<Option<PathBuf>, Failure> {
    if let ModelRef::Path(_) = model {
        return Ok(None);
    }
    match pack::into_store(common, model, false) {
        Ok(path) => Ok(Some(path)),
        Err(failure) => match failure.message() {
            Some(message) => {
                terminal::note(&format!("{model} stays as it was fetched and is not packed: {message}"));
                Ok(None)
            }
            None => Err(failure),
        },
    }
}
