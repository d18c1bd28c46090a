//! From a model reference to a loaded model.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rz_engine::ModelFile;
use rz_formats::{Gguf, Tensor};
use rz_kernels::Runtime;
use rz_model::{CpuModel, KvRoom, LoadOptions, ModelSpec, PACKED_SOURCE, Placement, arch};
use rz_quant::PACKED_LAYOUT;
use rz_store::{ModelRef, StoreError, catalogue};
use rz_tokenizer::Tokenizer;

use crate::args::Common;
use crate::commands::{pack, pull};
use crate::failure::Failure;
use crate::progress::{self, Loading};
use crate::{environment, machine, table, terminal};

/// The context that is taken when none is asked for, unless the model's own is shorter.
const CONTEXT: usize = 4096;

/// Weights of which people want to see how far loading is.
const LARGE: u64 = 2 << 30;

/// The reference that names the model: the one given, that of `--model`, or the default.
pub(crate) fn reference<'a>(common: &'a Common, given: Option<&'a str>) -> &'a str {
    let named = given.or(common.model.as_deref()).filter(|text| !text.is_empty());
    named.unwrap_or(catalogue::default_entry().name)
}

/// The references that were given, or the one that names the model.
pub(crate) fn references<'a>(common: &'a Common, given: &'a [String]) -> Vec<&'a str> {
    match given {
        [] => vec![reference(common, None)],
        given => given.iter().map(String::as_str).collect(),
    }
}

/// The file of a model. One that is not on this machine is fetched.
pub(crate) fn locate(common: &Common, reference: &str) -> Result<PathBuf, Failure> {
    let model = ModelRef::parse(reference)?;
    if let ModelRef::Path(path) = model {
        return if path.exists() { Ok(path) } else { Err(StoreError::NoSuchFile { path }.into()) };
    }
    let store = environment::store(common)?;
    match store.resolve(&model)? {
        Some(path) => Ok(path),
        None => progress::fetch(&store, &model),
    }
}

/// Opens the file of the model that `--model` names: of a fetched model its packed copy, when there is one.
pub(crate) fn open(common: &Common) -> Result<ModelFile, Failure> {
    let reference = reference(common, None);
    let model = ModelRef::parse(reference)?;
    if let ModelRef::Path(_) = model {
        return Ok(ModelFile::open(locate(common, reference)?)?);
    }
    fetch(common, &model)?;
    stored(common, &model)
}

/// Sees to it that a model is in the store. One that is fetched gets a packed copy.
pub(crate) fn fetch(common: &Common, model: &ModelRef) -> Result<(), Failure> {
    let store = environment::store(common)?;
    if store.resolve(model)?.is_none() {
        progress::fetch(&store, model)?;
        pull::packed(common, model)?;
    }
    Ok(())
}

/// Opens a model of the store: its packed copy, when there is one.
pub(crate) fn stored(common: &Common, model: &ModelRef) -> Result<ModelFile, Failure> {
    let store = environment::store(common)?;
    let path = store.resolve(model)?;
    let path = path.ok_or_else(|| StoreError::NotStored { reference: model.to_string() })?;
    if let Some(packed) = open_packed(store.packed(model, PACKED_LAYOUT)?) {
        return Ok(packed);
    }
    // One of another layout, or a damaged one.
    if store.has_packed(model) {
        let renewed = pack::into_store(common, model, true);
        match renewed.as_ref().err().and_then(Failure::message) {
            Some(message) => terminal::note(&format!("the packed copy of {model} cannot be used: {message}")),
            None => {
                if let Some(packed) = open_packed(Some(renewed?)) {
                    return Ok(packed);
                }
            }
        }
    }
    Ok(ModelFile::open(path)?)
}

/// A packed copy, if it is whole and made of what its name says.
fn open_packed(path: Option<PathBuf>) -> Option<ModelFile> {
    let path = path?;
    let name = path.file_name()?.to_str()?.to_owned();
    let gguf = Gguf::open(path).ok().filter(Gguf::is_packed)?;
    let source = gguf.metadata().str(PACKED_SOURCE).ok()??.get(..16)?.to_owned();
    name.contains(&source).then_some(ModelFile::Gguf(gguf))
}

/// What the model is. A family or a setting that is not supported is refused here.
pub(crate) fn describe(file: &ModelFile) -> Result<ModelSpec, Failure> {
    Ok(arch::describe(file)?.spec)
}

/// The tokenizer of a model, once it is known to fit its embedding.
pub(crate) fn tokenizer(file: &ModelFile, spec: &ModelSpec) -> Result<Tokenizer, Failure> {
    let tokenizer = file.tokenizer()?;
    if tokenizer.len() > spec.vocabulary {
        return Err(Failure::input(format!(
            "{}: the tokenizer has {} tokens, but the embedding only {} rows: the file is damaged or badly converted",
            file.path().display(),
            tokenizer.len(),
            spec.vocabulary
        )));
    }
    tokenizer.warnings().iter().for_each(|warning| terminal::note(warning));
    Ok(tokenizer)
}

/// The context that `--ctx` asks for, or the usual one.
pub(crate) fn context(common: &Common, spec: &ModelSpec) -> Result<usize, Failure> {
    let Some(tokens) = common.ctx else { return Ok(spec.context.min(CONTEXT)) };
    let tokens = tokens as usize;
    if tokens == 0 {
        return Ok(spec.context);
    }
    if tokens > spec.context && spec.learned_positions {
        return Err(Failure::input(format!(
            "the model knows {} positions and no more: give --ctx {} or less",
            spec.context, spec.context
        )));
    }
    if tokens > spec.context {
        terminal::note(&format!(
            "the model was trained for {} tokens: with a context of {tokens}, answers get worse beyond that",
            spec.context
        ));
    }
    Ok(tokens)
}

/// Loads the weights, and says how long that took.
pub(crate) fn load(
    file: &ModelFile,
    spec: &ModelSpec,
    runtime: &Runtime,
    options: LoadOptions,
    placement: Placement,
) -> Result<(CpuModel, Duration), Failure> {
    let (mut model, mut background) = start(file, spec, runtime, options, placement)?;
    background.join();
    model.finish_loading();
    Ok((model, background.settle()))
}

/// Begins to load the weights in the background. The first pass takes over what is not ready by then.
pub(crate) fn start(
    file: &ModelFile,
    spec: &ModelSpec,
    runtime: &Runtime,
    options: LoadOptions,
    placement: Placement,
) -> Result<(CpuModel, Background), Failure> {
    let started = Instant::now();
    check_memory(file, spec, &options)?;
    let model = CpuModel::start(file, runtime, options, placement)?;
    let thread = model.loader().map(|loader| {
        std::thread::spawn(move || {
            let mut loading = Loading::start();
            loader.run(&mut |ready, total| loading.show(ready, total));
            loading.finish();
        })
    });
    let large = file.tensors().map(|tensor| tensor.bytes().len() as u64).sum::<u64>() >= LARGE;
    if let [first, rest @ ..] = model.unused_tensors() {
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        terminal::note(&format!("the model does not use the tensor {first}{more} of the file"));
    }
    Ok((model, Background { started, thread, large }))
}

/// Weights that are being loaded.
pub(crate) struct Background {
    started: Instant,
    thread: Option<JoinHandle<()>>,
    large: bool,
}

impl Background {
    /// Gives way to the first pass, unless there is so much to load that people want to see how far it is.
    /// Says how long loading has taken by then.
    pub(crate) fn settle(mut self) -> Duration {
        if self.large {
            self.join();
        }
        self.started.elapsed()
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported there, and the first pass meets it again.
            let _ = thread.join();
        }
    }
}

/// Threads and instruction set, for reports.
pub(crate) fn computed_by(runtime: &Runtime) -> String {
    let (threads, batch) = (runtime.pool.threads(), runtime.pool.batch_threads());
    let plural = if threads == 1 { "" } else { "s" };
    let batch = if batch == threads { String::new() } else { format!(" ({batch} for batches)") };
    format!("{threads} thread{plural}{batch}, {}", runtime.kernels.isa().name())
}

/// Refuses a context whose keys and values cannot be in memory together with the weights: better now than
/// in the middle of an answer.
fn check_memory(file: &ModelFile, spec: &ModelSpec, options: &LoadOptions) -> Result<(), Failure> {
    let Some(memory) = machine::memory().most() else { return Ok(()) };
    let weights: u64 = file.tensors().map(Tensor::bytes).map(|bytes| bytes.len() as u64).sum();
    let bytes = |context: usize| options.stored_type().bytes(spec.kv_elements(context)) as u64;
    let sequences = match options.kv_room {
        KvRoom::Sequences(sequences) => sequences as u64,
        _ => 1,
    };
    let needed = bytes(options.context).saturating_mul(sequences);
    if needed.saturating_add(weights) <= memory {
        return Ok(());
    }
    // Windowed layers stop growing; the others decide.
    let most = (options.context as u64).saturating_mul(memory.saturating_sub(weights)) / needed.max(1);
    Err(Failure::input(format!(
        "a context of {} tokens takes {} for keys and values beside {} of weights, and there are {} of memory: \
         give --ctx {most} or less",
        options.context,
        table::bytes(needed),
        table::bytes(weights),
        table::bytes(memory)
    )))
}
