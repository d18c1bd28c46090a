//! What all requests share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::kept::KeptResponses;
use crate::library::{Library, LibraryError};
use crate::metrics::Metrics;
use crate::registry::{Lease, ModelState};
use crate::{ApiError, Config, Registry, Served};

/// A server without its sockets: models, limits, counters.
pub struct App {
    pub(crate) config: Config,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Metrics,
    pub(crate) kept: KeptResponses,
    pub(crate) library: Option<Arc<dyn Library>>,
    pub(crate) started: Instant,
    draining: AtomicBool,
    /// How the server was when that was last looked at.
    seen: Mutex<Option<&'static str>>,
    /// One permit for each request that may be worked on or wait.
    places: Arc<Semaphore>,
    /// One permit for each KiB of large bodies that are read or looked at.
    pub(crate) body_room: Arc<Semaphore>,
}

/// So many bodies of the largest size are read at a time; of small ones there are as many as connections.
const BODIES: usize = 16;

/// Whether a server can answer requests for models.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// It can.
    Ok,
    /// A model is being loaded, and none is there yet.
    Loading,
    /// No model could be loaded.
    Failed(String),
    /// It is about to end.
    Draining,
    /// A model has work and makes no progress.
    Wedged {
        /// The model.
        model: String,
        /// For how long.
        time: Duration,
    },
}

impl Health {
    /// It in a word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Loading => "loading",
            Self::Failed(_) => "failed",
            Self::Draining => "draining",
            Self::Wedged { .. } => "wedged",
        }
    }

    /// What is wrong, for people; nothing, when all is well.
    pub fn problem(&self) -> Option<String> {
        Some(match self {
            Self::Ok => return None,
            Self::Loading => "a model is being loaded".to_owned(),
            Self::Failed(message) => message.clone(),
            Self::Draining => "the server is about to end".to_owned(),
            Self::Wedged { model, time } => {
                format!("the model '{model}' has made no progress for {} seconds", time.as_secs())
            }
        })
    }
}

impl App {
    /// A server for these models.
    pub fn new(config: Config, registry: Registry) -> Self {
        Self {
            metrics: Metrics::default(),
            kept: KeptResponses::new(config.kept_responses),
            library: None,
            started: Instant::now(),
            draining: AtomicBool::new(false),
            seen: Mutex::default(),
            places: Arc::new(Semaphore::new(config.max_requests)),
            body_room: Arc::new(Semaphore::new(BODIES * config.max_body.div_ceil(1 << 10))),
            registry: Arc::new(registry),
            config,
        }
    }

    /// Lets clients see, and where the configuration says so also fetch and delete, the models that are
    /// kept on this machine.
    #[must_use]
    pub fn with_library(self, library: Arc<dyn Library>) -> Self {
        Self { library: Some(library), ..self }
    }

    /// The models.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// From now on no request for a model is taken; those that were are answered to their end.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether the server is about to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Requests for models that are being answered.
    pub fn busy(&self) -> usize {
        self.config.max_requests - self.places.available_permits()
    }

    /// Whether requests for models can be answered. Waits for nothing.
    pub fn health(&self) -> Health {
        if self.is_draining() {
            return Health::Draining;
        }
        for loaded in self.registry.loaded() {
            let time = loaded.backend.stats().stalled;
            if time >= self.config.stall_time {
                return Health::Wedged { model: loaded.name, time };
            }
        }
        let states: Vec<_> = self.registry.models().map(|(_, state)| state).collect();
        if states.contains(&ModelState::Ready) {
            return Health::Ok;
        }
        if states.contains(&ModelState::Loading) {
            return Health::Loading;
        }
        // Models that are loaded on demand: all is well until one of them could not be.
        let failed = states.iter().find_map(|state| match state {
            ModelState::Failed(message) => Some(message.clone()),
            _ => None,
        });
        failed.map_or(Health::Ok, Health::Failed)
    }

    /// A place among the requests that are worked on, and the model, loaded.
    pub(crate) async fn admit(&self, model: Option<&str>) -> Result<Admission, ApiError> {
        let model = self.model_name(model)?;
        let place = self.place()?;
        let lease = self.registry.acquire(&model).await?;
        Ok(Admission { lease, place })
    }

    /// A place among the requests that are worked on.
    pub(crate) fn place(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        if self.is_draining() {
            return Err(ApiError::unavailable("the server is about to end: ask another one", 5));
        }
        self.places.clone().try_acquire_owned().map_err(|_| {
            let message = format!("{} requests are being answered or wait already", self.config.max_requests);
            ApiError::busy(message, 2)
        })
    }

    /// The name of the model that a request means.
    pub(crate) fn model_name(&self, asked: Option<&str>) -> Result<String, ApiError> {
        match asked {
            Some(name) => match self.registry.find(name) {
                Some(model) => Ok(model.name),
                None => Err(ApiError::no_such_model(name)),
            },
            None => {
                let first = self.registry.models().next().map(|(model, _)| model.name);
                first.ok_or_else(|| ApiError::not_found("this server has no models"))
            }
        }
    }

    /// Serves what the library keeps and nothing else has the name of, loaded on demand. Reads files.
    ///
    /// # Errors
    /// When the library cannot be read.
    pub fn serve_kept(&self) -> Result<(), LibraryError> {
        let Some(library) = &self.library else { return Ok(()) };
        library.list()?.into_iter().for_each(|kept| self.serve_as(&kept.name, &kept.name));
        Ok(())
    }

    /// Serves a model of the library under its name there, and under that by which a client asked for it.
    pub(crate) fn serve_as(&self, kept: &str, asked: &str) {
        let is_served = |name: &str| self.registry.find(name).is_some();
        let same = self.registry.models().any(|(served, _)| served.reference == kept);
        if same || is_served(kept) {
            return;
        }
        let aliases = Some(asked).filter(|asked| *asked != kept && !is_served(asked));
        let served = Served {
            name: kept.to_owned(),
            aliases: aliases.map(str::to_owned).into_iter().collect(),
            reference: kept.to_owned(),
        };
        match self.registry.add(served) {
            Ok(()) => tracing::info!(model = kept, "model served"),
            // Somebody else was quicker, or nobody could ask for such a name.
            Err(error) => tracing::debug!(model = kept, %error, "model not served"),
        }
    }

    /// What is done every second or so: unloads models that nobody uses, and looks whether the others get on.
    pub fn tick(&self) {
        self.registry.unload_idle(Instant::now());
        // A model counts as stuck from the last look that saw it move.
        for loaded in self.registry.loaded() {
            let _ = loaded.backend.stats();
        }
        self.log_health();
    }

    /// Logs how the server is when that is not as it was at the last look.
    fn log_health(&self) {
        let health = self.health();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.replace(health.name()) == Some(health.name()) {
            return;
        }
        match (&health, health.problem()) {
            (Health::Failed(_) | Health::Wedged { .. }, Some(problem)) => {
                tracing::error!(status = health.name(), problem, "health");
            }
            _ => tracing::info!(status = health.name(), "health"),
        }
    }
}

/// A request that was let in. Its place and its model are free again when it is dropped.
pub(crate) struct Admission {
    pub(crate) lease: Lease,
    // Held for its place.
    #[allow(dead_code)]
    place: OwnedSemaphorePermit,
}
