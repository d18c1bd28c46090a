//! `rz list`: the models that are there, and those that have a short name.

use clap::Args;
use rz_store::{Store, catalogue};
use serde_json::{Value, json};

use crate::args::Common;
use crate::environment;
use crate::failure::Failure;
use crate::table::{self, Align, Table};
use crate::terminal::{self, Out};

/// What `rz list` takes.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// List the models that have a short name, fetched or not
    #[arg(long)]
    catalogue: bool,
    /// Print one JSON array of objects
    #[arg(long)]
    json: bool,
}

/// Lists models.
pub(crate) fn list(args: &ListArgs, common: &Common, out: &Out) -> Result<(), Failure> {
    let store = environment::store(common)?;
    if args.catalogue { list_catalogue(args, &store, out) } else { list_fetched(args, &store, out) }
}

fn list_fetched(args: &ListArgs, store: &Store, out: &Out) -> Result<(), Failure> {
    let models = store.list()?;
    if args.json {
        let models: Vec<Value> = models
            .iter()
            .map(|model| {
                json!({
                    "reference": model.reference,
                    "path": model.path,
                    "bytes": model.bytes,
                    "packed_bytes": model.packed_bytes,
                    "sha256": model.sha256,
                    "source": model.source,
                    "licence": model.licence,
                })
            })
            .collect();
        return out.json(&models);
    }
    if models.is_empty() {
        terminal::note(
            "no model was fetched yet: rz pull gets the default one, rz list --catalogue shows others",
        );
        return Ok(());
    }
    let mut table = Table::new(&[
        ("model", Align::Left),
        ("size", Align::Right),
        ("licence", Align::Left),
        ("packed", Align::Right),
        ("path", Align::Left),
    ]);
    for model in models {
        let packed = if model.packed_bytes > 0 { table::bytes(model.packed_bytes) } else { "-".to_owned() };
        table.row([
            model.reference,
            table::bytes(model.bytes),
            model.licence.unwrap_or_else(|| "-".to_owned()),
            packed,
            model.path.display().to_string(),
        ]);
    }
    out.text(&table.render())
}

fn list_catalogue(args: &ListArgs, store: &Store, out: &Out) -> Result<(), Failure> {
    let fetched: Vec<String> = store.list()?.into_iter().map(|model| model.reference).collect();
    let is_fetched = |name: &str| fetched.iter().any(|reference| reference == name);
    if args.json {
        let entries: Vec<Value> = catalogue::ENTRIES
            .iter()
            .map(|entry| {
                json!({
                    "reference": entry.name,
                    "aliases": entry.aliases,
                    "title": entry.title,
                    "bytes": entry.bytes,
                    "licence": entry.licence,
                    "fetched": is_fetched(entry.name),
                })
            })
            .collect();
        return out.json(&entries);
    }
    let mut table = Table::new(&[
        ("model", Align::Left),
        ("size", Align::Right),
        ("licence", Align::Left),
        ("fetched", Align::Left),
        ("what it is", Align::Left),
    ]);
    for entry in catalogue::ENTRIES {
        let fetched = if is_fetched(entry.name) { "yes" } else { "no" };
        table.row([
            entry.name.to_owned(),
            table::bytes(entry.bytes),
            entry.licence.to_owned(),
            fetched.to_owned(),
            entry.title.to_owned(),
        ]);
    }
    out.text(&table.render())
}
