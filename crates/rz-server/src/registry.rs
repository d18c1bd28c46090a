//! The models of a server: loaded when they are asked for, unloaded when nobody uses them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::backend::Backend;
use crate::{ApiError, Config, ServerError, ids};

/// A model that a server offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Its name in requests.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// What the loader finds it by.
    pub reference: String,
}

/// Loads models.
pub trait Loader: Send + Sync + 'static {
    /// Loads a model. Called on a thread that may wait.
    ///
    /// # Errors
    /// A message of one line for people.
    fn load(&self, model: &Served) -> Result<Arc<dyn Backend>, String>;

    /// Bytes of memory that the model will take, as far as that is known.
    fn memory(&self, _model: &Served) -> Option<u64> {
        None
    }
}

/// The models that a server offers.
pub struct Registry {
    loader: Arc<dyn Loader>,
    slots: Vec<Arc<Slot>>,
    created: u64,
    load_time: Duration,
    idle_time: Option<Duration>,
    memory: Option<u64>,
    /// Held while a model is chosen to make room, so that two loads do not count on the same memory.
    making_room: Mutex<()>,
}

/// One model, loaded or not.
struct Slot {
    served: Served,
    state: Mutex<State>,
    /// Changes whenever the state does.
    changed: watch::Sender<u64>,
}

enum State {
    Unloaded,
    Loading { memory: u64 },
    Ready(Ready),
    Failed { message: String, at: Instant },
}

struct Ready {
    backend: Arc<dyn Backend>,
    users: usize,
    used: Instant,
    /// What the last client asked for; else the server's own.
    idle_time: Option<Option<Duration>>,
}

/// A failed load is tried again after this time.
const RETRY: Duration = Duration::from_secs(5);

/// What a model is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// It is not in memory.
    Unloaded,
    /// It is being loaded.
    Loading,
    /// It answers.
    Ready,
    /// It could not be loaded.
    Failed(String),
}

/// A loaded model in use: it is not unloaded while this lives.
pub(crate) struct Lease {
    slot: Arc<Slot>,
    backend: Arc<dyn Backend>,
}

impl Lease {
    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// The model's name, whatever alias it was asked for by.
    pub(crate) fn name(&self) -> &str {
        &self.slot.served.name
    }

    /// How long the model is to stay when nobody uses it; nothing: for ever.
    pub(crate) fn keep(&self, time: Option<Duration>) {
        if let State::Ready(ready) = &mut *self.slot.lock() {
            ready.idle_time = Some(time);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let State::Ready(ready) = &mut *self.slot.lock() {
            ready.users -= 1;
            ready.used = Instant::now();
        }
    }
}

impl Registry {
    /// The models that a server offers. The first one answers requests that name none.
    ///
    /// # Errors
    /// When two have the same name, or one has a name that cannot stand in a request.
    pub fn new(models: Vec<Served>, loader: Arc<dyn Loader>, config: &Config) -> Result<Self, ServerError> {
        let mut names: Vec<&str> = Vec::new();
        for name in models.iter().flat_map(|model| [&model.name].into_iter().chain(&model.aliases)) {
            let visible = !name.is_empty() && name.len() <= 256 && !name.chars().any(char::is_control);
            if !visible {
                return Err(ServerError::ModelName { name: crate::error::shown(name) });
            }
            if names.contains(&name.as_str()) {
                return Err(ServerError::SameName { name: name.clone() });
            }
            names.push(name);
        }
        let slot = |served| {
            let state = Mutex::new(State::Unloaded);
            Arc::new(Slot { served, state, changed: watch::Sender::new(0) })
        };
        Ok(Self {
            loader,
            slots: models.into_iter().map(slot).collect(),
            created: ids::now(),
            load_time: config.load_time,
            idle_time: config.idle_time,
            memory: config.model_memory,
            making_room: Mutex::new(()),
        })
    }

    /// The models with what they are doing.
    pub fn models(&self) -> impl Iterator<Item = (&Served, ModelState)> {
        self.slots.iter().map(|slot| (&slot.served, slot.state()))
    }

    /// When the server started, in seconds since 1970.
    pub(crate) fn created(&self) -> u64 {
        self.created
    }

    /// The model with this name or alias.
    pub(crate) fn find(&self, name: &str) -> Option<&Served> {
        self.slot(name).map(|slot| &slot.served)
    }

    /// The loaded models.
    pub(crate) fn loaded(&self) -> Vec<Loaded> {
        self.slots.iter().filter_map(|slot| slot.loaded(self.idle_time)).collect()
    }

    /// The model with this name, if it is loaded, without keeping it from being unloaded.
    pub(crate) fn peek(&self, name: &str) -> Option<Arc<dyn Backend>> {
        self.slot(name)?.loaded(None).map(|loaded| loaded.backend)
    }

    /// The model with this name or alias, loaded.
    pub(crate) async fn acquire(self: &Arc<Self>, name: &str) -> Result<Lease, ApiError> {
        let slot = self.slot(name).ok_or_else(|| ApiError::no_such_model(name))?.clone();
        let wait = async {
            let mut changes = slot.changed.subscribe();
            loop {
                changes.mark_unchanged();
                match slot.take()? {
                    Step::Ready(lease) => return Ok(lease),
                    Step::Load => {
                        let (registry, slot) = (self.clone(), slot.clone());
                        // Goes on when the client leaves: the next one will want the model, too.
                        tokio::task::spawn_blocking(move || registry.load(&slot));
                    }
                    Step::Wait => {}
                }
                // The sender lives as long as the slot.
                let _ = changes.changed().await;
            }
        };
        let late = || ApiError::unavailable(format!("the model '{name}' is still being loaded"), 10);
        tokio::time::timeout(self.load_time, wait).await.unwrap_or_else(|_| Err(late()))
    }

    /// Begins to load a model that nobody has asked for yet.
    pub fn preload(self: &Arc<Self>, name: &str) {
        let Some(slot) = self.slot(name).cloned() else { return };
        if slot.begin() {
            let registry = self.clone();
            tokio::task::spawn_blocking(move || registry.load(&slot));
        }
    }

    /// Unloads what nobody used for long enough. To be called now and then.
    pub fn unload_idle(&self, now: Instant) {
        for slot in &self.slots {
            let is_idle = |ready: &Ready| {
                let limit = ready.idle_time.unwrap_or(self.idle_time);
                ready.users == 0
                    && limit.is_some_and(|limit| now.saturating_duration_since(ready.used) >= limit)
            };
            slot.unload_if(is_idle);
        }
    }

    fn slot(&self, name: &str) -> Option<&Arc<Slot>> {
        let named = |slot: &&Arc<Slot>| {
            slot.served.name == name || slot.served.aliases.iter().any(|alias| alias == name)
        };
        // Clients of Ollama leave out the tag `latest` or add it.
        let bare = name.strip_suffix(":latest");
        self.slots
            .iter()
            .find(named)
            .or_else(|| bare.and_then(|bare| self.slots.iter().find(|slot| slot.served.name == bare)))
    }

    /// Loads the model of a slot that is marked as loading.
    fn load(&self, slot: &Arc<Slot>) {
        let name = &slot.served.name;
        let started = Instant::now();
        let loaded = self.make_room(slot).and_then(|()| {
            let load = std::panic::AssertUnwindSafe(|| self.loader.load(&slot.served));
            std::panic::catch_unwind(load).unwrap_or_else(|_| Err("the loader failed".to_owned()))
        });
        let now = Instant::now();
        let state = match loaded {
            Ok(backend) => {
                tracing::info!(model = %name, seconds = started.elapsed().as_secs_f64(), "model loaded");
                State::Ready(Ready { backend, users: 0, used: now, idle_time: None })
            }
            Err(message) => {
                tracing::error!(model = %name, error = %message, "model not loaded");
                State::Failed { message, at: now }
            }
        };
        slot.set(state);
    }

    /// Unloads models that nobody uses, the one used least lately first, until the new one fits.
    fn make_room(&self, slot: &Slot) -> Result<(), String> {
        let (Some(limit), Some(needed)) = (self.memory, self.loader.memory(&slot.served)) else {
            return Ok(());
        };
        let _one_at_a_time = self.making_room.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let others = self.slots.iter().filter(|other| !std::ptr::eq(&***other, slot));
            let taken: u64 = others.clone().map(|other| other.memory()).sum();
            if taken.saturating_add(needed) <= limit {
                *slot.lock() = State::Loading { memory: needed };
                return Ok(());
            }
            let idle = others.filter_map(|other| Some((other.idle_since()?, other)));
            let Some((since, oldest)) = idle.min_by_key(|(since, _)| *since) else {
                return Err(format!(
                    "{needed} bytes are needed and {} of {limit} are free: the other models are in use",
                    limit.saturating_sub(taken)
                ));
            };
            oldest.unload_if(|ready| ready.users == 0 && ready.used == since);
        }
    }
}

/// A loaded model, for lists.
pub(crate) struct Loaded {
    pub(crate) name: String,
    pub(crate) backend: Arc<dyn Backend>,
    /// Time until it is unloaded, if nobody uses it.
    pub(crate) remaining: Option<Duration>,
}

enum Step {
    Ready(Lease),
    /// Somebody has to load it, and that is the caller.
    Load,
    Wait,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.lock() = state;
        self.changed.send_modify(|count| *count += 1);
    }

    fn state(&self) -> ModelState {
        match &*self.lock() {
            State::Unloaded => ModelState::Unloaded,
            State::Loading { .. } => ModelState::Loading,
            State::Ready(_) => ModelState::Ready,
            State::Failed { message, .. } => ModelState::Failed(message.clone()),
        }
    }

    /// Uses the model, or says what has to happen first.
    fn take(self: &Arc<Self>) -> Result<Step, ApiError> {
        let mut state = self.lock();
        match &mut *state {
            State::Ready(ready) => {
                ready.users += 1;
                Ok(Step::Ready(Lease { slot: self.clone(), backend: ready.backend.clone() }))
            }
            State::Loading { .. } => Ok(Step::Wait),
            State::Failed { message, at } if at.elapsed() < RETRY => {
                let message = format!("the model '{}' cannot be loaded: {message}", self.served.name);
                Err(ApiError::unavailable(message, RETRY.as_secs()))
            }
            State::Unloaded | State::Failed { .. } => {
                *state = State::Loading { memory: 0 };
                Ok(Step::Load)
            }
        }
    }

    /// Marks it as loading. False, when that is not needed.
    fn begin(&self) -> bool {
        let mut state = self.lock();
        let begin = matches!(*state, State::Unloaded | State::Failed { .. });
        if begin {
            *state = State::Loading { memory: 0 };
        }
        begin
    }

    fn memory(&self) -> u64 {
        match &*self.lock() {
            State::Ready(ready) => ready.backend.info().memory,
            State::Loading { memory } => *memory,
            State::Unloaded | State::Failed { .. } => 0,
        }
    }

    fn idle_since(&self) -> Option<Instant> {
        match &*self.lock() {
            State::Ready(ready) if ready.users == 0 => Some(ready.used),
            _ => None,
        }
    }

    fn loaded(&self, idle_time: Option<Duration>) -> Option<Loaded> {
        match &*self.lock() {
            State::Ready(ready) => Some(Loaded {
                name: self.served.name.clone(),
                backend: ready.backend.clone(),
                remaining: ready
                    .idle_time
                    .unwrap_or(idle_time)
                    .map(|limit| limit.saturating_sub(ready.used.elapsed())),
            }),
            _ => None,
        }
    }

    fn unload_if(&self, condition: impl FnOnce(&Ready) -> bool) {
        let mut state = self.lock();
        let unload = matches!(&*state, State::Ready(ready) if condition(ready));
        let old = unload.then(|| std::mem::replace(&mut *state, State::Unloaded));
        drop(state);
        if old.is_some() {
            self.changed.send_modify(|count| *count += 1);
            tracing::info!(model = %self.served.name, "model unloaded");
        }
        // The memory is given back here, with nothing locked.
        drop(old);
    }
}
