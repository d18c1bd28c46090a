//! The store of fetched models, for clients.

use std::ops::ControlFlow;

use rz_server::{FetchProgress, Kept, Library, LibraryError};
use rz_store::{ModelRef, Store, StoreError};

use crate::args::Common;
use crate::commands::pull;
use crate::environment;
use crate::failure::Failure;

/// The models of the store. Files elsewhere on this machine are nobody's business.
pub(super) struct StoreLibrary {
    store: Store,
    common: Common,
    allow_pip: bool,
}

impl StoreLibrary {
    pub(super) fn new(common: &Common, allow_pip: bool) -> Result<Self, Failure> {
        Ok(Self { store: environment::store(common)?, common: common.clone(), allow_pip })
    }

    fn parse(&self, name: &str) -> Result<ModelRef, LibraryError> {
        let refuse = |message: &str| Err(LibraryError::Unknown(message.to_owned()));
        match ModelRef::parse(name).map_err(problem)? {
            ModelRef::Path(_) => refuse("paths are not taken: give a short name or an hf: reference"),
            ModelRef::Pip(_) if !self.allow_pip => {
                refuse("pip: references are not taken: have the server started with --allow-pip")
            }
            model => Ok(model),
        }
    }
}

impl Library for StoreLibrary {
    fn list(&self) -> Result<Vec<Kept>, LibraryError> {
        let stored = self.store.list().map_err(problem)?;
        Ok(stored.into_iter().map(|model| Kept { name: model.reference, bytes: model.bytes }).collect())
    }

    fn fetch(
        &self,
        name: &str,
        progress: &mut dyn FnMut(FetchProgress) -> ControlFlow<()>,
    ) -> Result<String, LibraryError> {
        let model = self.parse(name)?;
        let fetched = self.store.fetch(&model, &mut |now| {
            let file = now.file.to_owned();
            progress(FetchProgress { stage: now.stage.name(), bytes: now.bytes, total: now.total, file })
        });
        let path = fetched.map_err(problem)?;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The client may leave now: what is fetched is there.
        let _ = progress(FetchProgress { stage: "packing", bytes: 0, total: None, file });
        let packed = pull::packed(&self.common, &model);
        packed
            .map_err(|failure| LibraryError::Failed(failure.message().unwrap_or("interrupted").to_owned()))?;
        Ok(model.to_string())
    }

    fn remove(&self, name: &str) -> Result<(), LibraryError> {
        let model = self.parse(name)?;
        self.store.remove(&model).map(drop).map_err(problem)
    }
}

fn problem(error: StoreError) -> LibraryError {
    let message = error.to_string();
    match error {
        StoreError::BadReference { .. }
        | StoreError::UnknownModel { .. }
        | StoreError::NotStored { .. }
        | StoreError::NoSuchFile { .. }
        | StoreError::NotManaged { .. } => LibraryError::Unknown(message),
        _ => LibraryError::Failed(message),
    }
}
