//! From the file of a model to an engine that answers requests.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rz_engine::ModelFile;
use rz_engine::serve::{Engine, EngineOptions, EngineThread};
use rz_kernels::Runtime;
use rz_model::{KvRoom, LoadOptions, ModelSpec};
use rz_server::{Backend, EngineBackend, Loader, ModelInfo, Served};
use rz_store::ModelRef;

use crate::args::{Common, Compute};
use crate::failure::Failure;
use crate::{machine, model, table};

/// How models are loaded.
pub(super) struct Settings {
    pub(super) common: Common,
    pub(super) compute: Compute,
    /// Answers that a model works on at a time.
    pub(super) parallel: usize,
    /// Requests that may wait.
    pub(super) queue: usize,
    /// Bytes for keys and values.
    pub(super) kv_memory: Option<u64>,
}

/// Loads models onto engines.
pub(super) struct EngineLoader {
    settings: Settings,
    runtime: Runtime,
    /// The models by name.
    known: Mutex<HashMap<String, Known>>,
}

/// A model whose file has been looked at.
#[derive(Clone)]
struct Known {
    /// Its file, where it is not one of the store.
    path: Option<PathBuf>,
    /// Tokens of context for one sequence.
    context: usize,
}

impl EngineLoader {
    pub(super) fn new(settings: Settings, runtime: Runtime) -> Self {
        Self { settings, runtime, known: Mutex::default() }
    }

    /// Looks at the file of a model, so that what is wrong with it, and what there is to note about it, is said
    /// before it is loaded. Its path is given where it is not one of the store.
    pub(super) fn add(&self, served: &Served, path: Option<PathBuf>) -> Result<(), Failure> {
        self.look(served, path).map(drop)
    }

    fn look(&self, served: &Served, path: Option<PathBuf>) -> Result<(ModelFile, ModelSpec, Known), Failure> {
        let file = self.file(served, path.as_ref())?;
        let spec = model::describe(&file)?;
        let tokenizer = model::tokenizer(&file, &spec)?;
        file.chat_template(&tokenizer)?;
        let known = Known { path, context: model::context(&self.settings.common, &spec)? };
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(served.name.clone(), known.clone());
        Ok((file, spec, known))
    }

    fn file(&self, served: &Served, path: Option<&PathBuf>) -> Result<ModelFile, Failure> {
        match path {
            Some(path) => Ok(ModelFile::open(path)?),
            None => model::stored(&self.settings.common, &ModelRef::parse(&served.reference)?),
        }
    }

    fn open(&self, served: &Served) -> Result<(ModelFile, ModelSpec, LoadOptions), Failure> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&served.name).cloned();
        let (file, spec, known) = match known {
            Some(known) => {
                let file = self.file(served, known.path.as_ref())?;
                let spec = model::describe(&file)?;
                (file, spec, known)
            }
            // One that was fetched while the server runs.
            None => self.look(served, None)?,
        };
        let options = self.load_options(&file, &spec, known.context);
        Ok((file, spec, options))
    }

    /// How a model is loaded: for sequences as long as the context, with room for as many as are worked
    /// on at a time, as far as there is memory.
    fn load_options(&self, file: &ModelFile, spec: &ModelSpec, context: usize) -> LoadOptions {
        let settings = &self.settings;
        let mut options = settings.compute.load_options(context);
        // A step works on a token of every answer at least.
        options.max_batch = options.max_batch.max(settings.parallel);
        let bytes = match settings.kv_memory {
            Some(bytes) => bytes,
            None => default_kv_memory(file, spec, &options, settings.parallel),
        };
        options.kv_room = KvRoom::Bytes(usize::try_from(bytes).unwrap_or(usize::MAX));
        options
    }

    fn load(&self, served: &Served) -> Result<EngineBackend, Failure> {
        let (file, spec, options) = self.open(served)?;
        // What there is to note about it was said when the model became known.
        let tokenizer = Arc::new(file.tokenizer()?);
        let template = file.chat_template(&tokenizer)?;
        let kv_bytes = kv_bytes(&options);
        let placement = self.settings.compute.placement();
        let (loaded, _) = model::load(&file, &spec, &self.runtime, options, placement)?;
        let mut info = info(&file, &spec, &options, kv_bytes);
        info.parallel = self.settings.parallel;
        let identity = identity(&file, &spec, &options, &self.runtime);
        let engine = EngineOptions {
            max_running: self.settings.parallel,
            max_queue: self.settings.queue,
            context: Some(options.context),
            identity,
            ..EngineOptions::default()
        };
        let engine = Engine::new(loaded, tokenizer.clone(), engine);
        tracing::info!(
            model = served.name,
            context = engine.limits().context,
            kv_memory = table::bytes(kv_bytes),
            "model ready to run"
        );
        let info = ModelInfo { context: engine.limits().context, ..info };
        let thread = EngineThread::spawn(engine)
            .map_err(|error| Failure::other(format!("cannot start the engine's thread: {error}")))?;
        Ok(EngineBackend::new(thread, info, tokenizer, template))
    }
}

impl Loader for EngineLoader {
    fn load(&self, model: &Served) -> Result<Arc<dyn Backend>, String> {
        let loaded = EngineLoader::load(self, model);
        loaded
            .map(|backend| Arc::new(backend) as _)
            .map_err(|failure| failure.message().unwrap_or("loading was interrupted").to_owned())
    }

    fn memory(&self, model: &Served) -> Option<u64> {
        let (file, _, options) = self.open(model).ok()?;
        Some(weights(&file) + kv_bytes(&options))
    }
}

/// What the answers that are worked on at a time may need, at most half of the memory that is free; and
/// always room for one.
fn default_kv_memory(file: &ModelFile, spec: &ModelSpec, options: &LoadOptions, parallel: usize) -> u64 {
    let one = options.stored_type().bytes(spec.kv_elements(options.context)) as u64;
    let all = one.saturating_mul(parallel as u64);
    let memory = machine::memory();
    let free = memory.available.into_iter().chain(memory.limit).min();
    match free {
        Some(free) => all.min((free.saturating_sub(weights(file)) / 2).max(one)),
        None => all,
    }
}

/// Names everything that keys and values depend on: the model, what it is computed with, and by whom. What was saved
/// under one name is not restored under another.
fn identity(file: &ModelFile, spec: &ModelSpec, options: &LoadOptions, runtime: &Runtime) -> String {
    const SAMPLE: usize = 256;
    let mut hash = DefaultHasher::new();
    format!("{spec:?}").hash(&mut hash);
    // Samples of every tensor tell models of one shape apart; all of it would take as long as loading.
    for tensor in file.tensors() {
        (tensor.name(), tensor.tensor_type().id(), tensor.shape()).hash(&mut hash);
        let bytes = tensor.bytes();
        for part in 0..4 {
            let at = bytes.len().saturating_sub(SAMPLE) / 3 * part;
            bytes[at..bytes.len().min(at + SAMPLE)].hash(&mut hash);
        }
    }
    format!(
        "{} {:016x}, keys and values in {:?}, activations in {:?}, exact {}, by rz {} on {}",
        spec.family,
        hash.finish(),
        options.stored_type(),
        options.activations,
        options.exact,
        env!("CARGO_PKG_VERSION"),
        runtime.kernels.isa().name()
    )
}

fn kv_bytes(options: &LoadOptions) -> u64 {
    match options.kv_room {
        KvRoom::Bytes(bytes) => bytes as u64,
        KvRoom::Sequences(_) => 0,
    }
}

fn weights(file: &ModelFile) -> u64 {
    file.tensors().map(|tensor| tensor.bytes().len() as u64).sum()
}

fn info(file: &ModelFile, spec: &ModelSpec, options: &LoadOptions, kv_bytes: u64) -> ModelInfo {
    let mut types: HashMap<String, u64> = HashMap::new();
    for tensor in file.tensors() {
        let kind = tensor.tensor_type();
        let name = kind.packs().map_or_else(|| kind.name().to_owned(), |packed| packed.to_string());
        *types.entry(name).or_default() += tensor.bytes().len() as u64;
    }
    let most = types.into_iter().max_by_key(|(name, bytes)| (*bytes, name.clone()));
    let weights = weights(file);
    ModelInfo {
        family: spec.family.to_owned(),
        quantization: most.map_or(String::new(), |(name, _)| name),
        context: options.context,
        trained_context: spec.context,
        vocabulary: spec.vocabulary,
        embedding: spec.width,
        layers: spec.layers.len(),
        parallel: 1,
        parameters: file.tensors().map(|tensor| tensor.elements()).fold(0, u64::saturating_add),
        file_bytes: file.files().map(|file| file.bytes().len() as u64).sum(),
        memory: weights + kv_bytes,
        path: file.path().display().to_string(),
    }
}
