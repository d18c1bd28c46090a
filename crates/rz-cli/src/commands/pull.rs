//! `rz pull`: fetches models.

use clap::Args;
use rz_store::{ModelRef, StoreError};
use serde_json::json;

use crate::args::Common;
use crate::failure::Failure;
use crate::terminal::{self, Out};
use crate::{environment, model, progress};

/// What `rz pull` takes.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// The models [default: that of --model]
    #[arg(value_name = "REF")]
    models: Vec<String>,
    /// Print one JSON array of objects with reference and path
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
        fetched.push(json!({ "reference": model.to_string(), "path": path }));
    }
    if args.json { out.json(&fetched) } else { Ok(()) }
}
