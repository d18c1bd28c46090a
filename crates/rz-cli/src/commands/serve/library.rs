//! The store of fetched models, for clients.

use std::ops::ControlFlow;

use rz_server::{FetchProgress, Kept, Library};
use rz_store::{ModelRef, Store};

/// The models of the store. Files elsewhere on this machine are nobody's business.
pub(super) struct StoreLibrary {
    store: Store,
    allow_pip: bool,
}

impl StoreLibrary {
    pub(super) fn new(store: Store, allow_pip: bool) -> Self {
        Self { store, allow_pip }
    }

    fn parse(&self, name: &str) -> Result<ModelRef, String> {
        match ModelRef::parse(name).map_err(|error| error.to_string())? {
            ModelRef::Path(_) => Err("paths are not taken: give a short name or an hf: reference".to_owned()),
            ModelRef::Pip(_) if !self.allow_pip => {
                Err("pip: references are not taken: have the server started with --allow-pip".to_owned())
            }
            model => Ok(model),
        }
    }
}

impl Library for StoreLibrary {
    fn list(&self) -> Result<Vec<Kept>, String> {
        let stored = self.store.list().map_err(|error| error.to_string())?;
        Ok(stored.into_iter().map(|model| Kept { name: model.reference, bytes: model.bytes }).collect())
    }

    fn fetch(
        &self,
        name: &str,
        progress: &mut dyn FnMut(FetchProgress) -> ControlFlow<()>,
    ) -> Result<(), String> {
        let model = self.parse(name)?;
        let fetched = self.store.fetch(&model, &mut |now| {
            let file = now.file.to_owned();
            progress(FetchProgress { stage: now.stage.name(), bytes: now.bytes, total: now.total, file })
        });
        fetched.map(drop).map_err(|error| error.to_string())
    }

    fn remove(&self, name: &str) -> Result<(), String> {
        let model = self.parse(name)?;
        self.store.remove(&model).map(drop).map_err(|error| error.to_string())
    }
}
