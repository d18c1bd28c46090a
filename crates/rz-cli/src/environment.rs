//! Where things are kept, and the settings that come from the environment.

use std::path::PathBuf;

use etcetera::BaseStrategy;
use rz_store::{Config, Store};

use crate::args::Common;
use crate::failure::Failure;

/// The store of fetched models.
pub(crate) fn store(common: &Common) -> Result<Store, Failure> {
    let root = match &common.cache_dir {
        Some(folder) if !folder.as_os_str().is_empty() => folder.clone(),
        _ => folders()?.cache_dir().join("rz"),
    };
    let mut config = Config::from_lookup(root, crate::variable);
    config.offline |= common.offline;
    Ok(Store::new(config))
}

/// Where `rz chat` keeps the lines that were typed.
pub(crate) fn history_file() -> Result<PathBuf, Failure> {
    Ok(folders()?.data_dir().join("rz").join("history.txt"))
}

fn folders() -> Result<impl BaseStrategy, Failure> {
    etcetera::choose_base_strategy().map_err(|error| {
        Failure::other(format!("there is no home folder to keep models in ({error}): give --cache-dir DIR"))
    })
}
