//! `rz rm`: removes fetched models.

use clap::Args;
use rz_store::{ModelRef, StoreError};
use serde_json::json;

use crate::args::Common;
use crate::failure::Failure;
use crate::terminal::Out;
use crate::{environment, table};

/// What `rz rm` takes.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// The models; --model names none here, so that nothing goes by accident
    #[arg(value_name = "REF", required = true)]
    models: Vec<String>,
    /// Print one JSON array of objects with reference and freed bytes
    #[arg(long)]
    json: bool,
}

/// Removes models.
pub(crate) fn rm(args: &RmArgs, common: &Common, out: &Out) -> Result<(), Failure> {
    let models = args.models.iter().map(|reference| ModelRef::parse(reference));
    let models = models.collect::<Result<Vec<_>, StoreError>>()?;
    let store = environment::store(common)?;
    let mut removed = Vec::new();
    for model in &models {
        let freed = store.remove(model)?;
        if !args.json {
            out.line(&format!("removed {model}, {} freed", table::bytes(freed)))?;
        }
        removed.push(json!({ "reference": model.to_string(), "freed_bytes": freed }));
    }
    if args.json { out.json(&removed) } else { Ok(()) }
}
