//! From a model reference to a loaded model.

use std::path::PathBuf;

use rz_engine::ModelFile;
use rz_formats::Tensor;
use rz_kernels::Runtime;
use rz_model::{CpuModel, KvRoom, LoadOptions, ModelSpec, arch};
use rz_store::{ModelRef, StoreError, catalogue};
use rz_tokenizer::Tokenizer;

use crate::args::Common;
use crate::failure::Failure;
use crate::progress::{self, Loading};
use crate::{environment, machine, table, terminal};

/// The context that is taken when none is asked for, unless the model's own is shorter.
const CONTEXT: usize = 4096;

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

/// Opens the file of the model that `--model` names.
pub(crate) fn open(common: &Common) -> Result<ModelFile, Failure> {
    Ok(ModelFile::open(locate(common, reference(common, None))?)?)
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
) -> Result<(CpuModel, std::time::Duration), Failure> {
    check_memory(file, spec, &options)?;
    let mut loading = Loading::start();
    let model = CpuModel::load(file, runtime, options, &mut |ready, total| loading.show(ready, total));
    let taken = loading.finish();
    let model = model?;
    if let [first, rest @ ..] = model.unused_tensors() {
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        terminal::note(&format!("the model does not use the tensor {first}{more} of the file"));
    }
    Ok((model, taken))
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
