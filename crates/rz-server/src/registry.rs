//! The models of a server: loaded when they are asked for, unloaded when nobody uses them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::backend::Backend;
use crate::slots::Slots;
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
    entries: RwLock<Vec<Arc<Entry>>>,
    created: u64,
    load_time: Duration,
    idle_time: Option<Duration>,
    memory: Option<u64>,
    /// Held while a model is chosen to make room, so that two loads do not count on the same memory.
    making_room: Mutex<()>,
}

/// One model, loaded or not.
struct Entry {
    served: Served,
    state: Mutex<State>,
    /// Changes whenever the state does.
    changed: watch::Sender<u64>,
}

enum State {
    Unloaded,
    Loading { memory: u64 },
    Ready(Ready),
    Failed { message: String, at: Instant, retry: Duration },
}

struct Ready {
    backend: Arc<dyn Backend>,
    slots: Arc<Slots>,
    users: usize,
    used: Instant,
    /// What the last client asked for; else the server's own.
    idle_time: Option<Option<Duration>>,
}

/// A failed load is tried again after this time; one that only lacked room, after that.
const RETRY: Duration = Duration::from_secs(5);
const RETRY_ROOM: Duration = Duration::from_secs(1);

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
    entry: Arc<Entry>,
    backend: Arc<dyn Backend>,
    slots: Arc<Slots>,
}

impl Lease {
    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// The places that its requests have.
    pub(crate) fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// The model's name, whatever alias it was asked for by.
    pub(crate) fn name(&self) -> &str {
        &self.entry.served.name
    }

    /// How long the model is to stay when nobody uses it; nothing: for ever.
    pub(crate) fn keep(&self, time: Option<Duration>) {
        if let State::Ready(ready) = &mut *self.entry.lock() {
            ready.idle_time = Some(time);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A model that was taken away meanwhile is another one, or none.
        if let State::Ready(ready) = &mut *self.entry.lock()
            && Arc::ptr_eq(&ready.slots, &self.slots)
        {
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
        let registry = Self {
            loader,
            entries: RwLock::default(),
            created: ids::now(),
            load_time: config.load_time,
            idle_time: config.idle_time,
            memory: config.model_memory,
            making_room: Mutex::new(()),
        };
        models.into_iter().try_for_each(|model| registry.add(model))?;
        Ok(registry)
    }

    /// Offers another model.
    ///
    /// # Errors
    /// As for [`new`](Self::new). Nothing changes then.
    pub fn add(&self, model: Served) -> Result<(), ServerError> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<&str> = entries.iter().flat_map(|entry| entry.served.names()).collect();
        for name in model.names() {
            let visible = !name.is_empty() && name.len() <= 256 && !name.chars().any(char::is_control);
            if !visible {
                return Err(ServerError::ModelName { name: crate::error::shown(name) });
            }
            if names.contains(&name) {
                return Err(ServerError::SameName { name: name.to_owned() });
            }
            names.push(name);
        }
        let (state, changed) = (Mutex::new(State::Unloaded), watch::Sender::new(0));
        entries.push(Arc::new(Entry { served: model, state, changed }));
        Ok(())
    }

    /// Offers a model no longer. Requests that use it are answered to their end. False, when there is none with this
    /// name or alias.
    pub fn remove(&self, name: &str) -> bool {
        let Some(entry) = self.entry(name) else { return false };
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|other| !Arc::ptr_eq(other, &entry));
        drop(entries);
        entry.unload_if(|_| true);
        true
    }

    /// The models with what they are doing.
    pub fn models(&self) -> impl Iterator<Item = (Served, ModelState)> {
        self.entries().into_iter().map(|entry| (entry.served.clone(), entry.state()))
    }

    /// When the server started, in seconds since 1970.
    pub(crate) fn created(&self) -> u64 {
        self.created
    }

    /// The model with this name or alias.
    pub(crate) fn find(&self, name: &str) -> Option<Served> {
        self.entry(name).map(|entry| entry.served.clone())
    }

    /// The loaded models.
    pub(crate) fn loaded(&self) -> Vec<Loaded> {
        self.entries().iter().filter_map(|entry| entry.loaded(self.idle_time)).collect()
    }

    /// The model with this name, if it is loaded, without keeping it from being unloaded.
    pub(crate) fn peek(&self, name: &str) -> Option<Arc<dyn Backend>> {
        self.entry(name)?.loaded(None).map(|loaded| loaded.backend)
    }

    /// The places of the model with this name, if it is loaded.
    pub(crate) fn peek_slots(&self, name: &str) -> Option<Arc<Slots>> {
        match &*self.entry(name)?.lock() {
            State::Ready(ready) => Some(ready.slots.clone()),
            _ => None,
        }
    }

    /// The model with this name or alias, loaded.
    pub(crate) async fn acquire(self: &Arc<Self>, name: &str) -> Result<Lease, ApiError> {
        let entry = self.entry(name).ok_or_else(|| ApiError::no_such_model(name))?;
        let wait = async {
            let mut changes = entry.changed.subscribe();
            loop {
                changes.mark_unchanged();
                match entry.take()? {
                    Step::Ready(lease) => return Ok(lease),
                    Step::Load => {
                        let (registry, entry) = (self.clone(), entry.clone());
                        // Goes on when the client leaves: the next one will want the model, too.
                        tokio::task::spawn_blocking(move || registry.load(&entry));
                    }
                    Step::Wait => {}
                }
                // The sender lives as long as the entry.
                let _ = changes.changed().await;
            }
        };
        let late = || ApiError::unavailable(format!("the model '{name}' is still being loaded"), 10);
        tokio::time::timeout(self.load_time, wait).await.unwrap_or_else(|_| Err(late()))
    }

    /// Begins to load a model that nobody has asked for yet.
    pub fn preload(self: &Arc<Self>, name: &str) {
        let Some(entry) = self.entry(name) else { return };
        if entry.begin() {
            let registry = self.clone();
            tokio::task::spawn_blocking(move || registry.load(&entry));
        }
    }

    /// Waits until one of these models answers, which were begun to load.
    ///
    /// # Errors
    /// When none of them could be loaded: which one was the first of them, and why not.
    pub async fn loaded_one(&self, names: &[String]) -> Result<(), String> {
        let mut problem = None;
        for entry in names.iter().filter_map(|name| self.entry(name)) {
            let mut changes = entry.changed.subscribe();
            loop {
                changes.mark_unchanged();
                match entry.state() {
                    ModelState::Loading => {}
                    ModelState::Ready | ModelState::Unloaded => return Ok(()),
                    ModelState::Failed(message) => {
                        let name = &entry.served.name;
                        problem.get_or_insert(format!("the model '{name}' cannot be loaded: {message}"));
                        break;
                    }
                }
                // The sender lives as long as the entry.
                let _ = changes.changed().await;
            }
        }
        problem.map_or(Ok(()), Err)
    }

    /// Unloads what nobody used for long enough. To be called now and then.
    pub fn unload_idle(&self, now: Instant) {
        for entry in self.entries() {
            let is_idle = |ready: &Ready| {
                let limit = ready.idle_time.unwrap_or(self.idle_time);
                ready.users == 0
                    && limit.is_some_and(|limit| now.saturating_duration_since(ready.used) >= limit)
            };
            entry.unload_if(is_idle);
        }
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn entry(&self, name: &str) -> Option<Arc<Entry>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let named = |entry: &&Arc<Entry>| entry.served.names().any(|known| known == name);
        // Clients of Ollama leave out the tag `latest` or add it.
        let bare = name.strip_suffix(":latest");
        let bare = || bare.and_then(|bare| entries.iter().find(|entry| entry.served.name == bare));
        entries.iter().find(named).or_else(bare).cloned()
    }

    /// Loads a model that is marked as loading.
    fn load(&self, entry: &Arc<Entry>) {
        let name = &entry.served.name;
        let started = Instant::now();
        let loaded = self.make_room(entry).and_then(|()| {
            let load = std::panic::AssertUnwindSafe(|| self.loader.load(&entry.served));
            let loaded = std::panic::catch_unwind(load);
            loaded.unwrap_or_else(|_| Err("the loader failed".to_owned())).map_err(|message| (message, RETRY))
        });
        let now = Instant::now();
        let state = match loaded {
            Ok(backend) => {
                tracing::info!(model = %name, seconds = started.elapsed().as_secs_f64(), "model loaded");
                let slots = Slots::new(backend.info().parallel);
                State::Ready(Ready { backend, slots, users: 0, used: now, idle_time: None })
            }
            Err((message, retry)) => {
                tracing::error!(model = %name, error = %message, "model not loaded");
                State::Failed { message, at: now, retry }
            }
        };
        entry.set(state);
    }

    /// Unloads models that nobody uses, the one used least lately first, until the new one fits.
    fn make_room(&self, entry: &Entry) -> Result<(), (String, Duration)> {
        let (Some(limit), Some(needed)) = (self.memory, self.loader.memory(&entry.served)) else {
            return Ok(());
        };
        if needed > limit {
            let message = format!("it needs {needed} bytes, and all models together may take {limit}");
            return Err((message, RETRY));
        }
        let _one_at_a_time = self.making_room.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let entries = self.entries();
            let others = entries.iter().filter(|other| !std::ptr::eq(&***other, entry));
            let taken: u64 = others.clone().map(|other| other.memory()).sum();
            if taken.saturating_add(needed) <= limit {
                *entry.lock() = State::Loading { memory: needed };
                return Ok(());
            }
            let idle = others.filter_map(|other| Some((other.idle_since()?, other)));
            let Some((since, oldest)) = idle.min_by_key(|(since, _)| *since) else {
                let message = format!(
                    "{needed} bytes are needed and {} of {limit} are free: the other models are in use",
                    limit.saturating_sub(taken)
                );
                return Err((message, RETRY_ROOM));
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

impl Served {
    /// Its name and its aliases.
    fn names(&self) -> impl Iterator<Item = &str> {
        [&self.name].into_iter().chain(&self.aliases).map(String::as_str)
    }
}

impl Entry {
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
                let (backend, slots) = (ready.backend.clone(), ready.slots.clone());
                Ok(Step::Ready(Lease { entry: self.clone(), backend, slots }))
            }
            State::Loading { .. } => Ok(Step::Wait),
            State::Failed { message, at, retry } if at.elapsed() < *retry => {
                let message = format!("the model '{}' cannot be loaded: {message}", self.served.name);
                Err(ApiError::unavailable(message, retry.as_secs()))
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
