//! `rz inspect`: what is in a model file, also when it cannot be run.

use clap::Args;
use rz_engine::ModelFile;
use rz_formats::{Array, Tensor, Value};
use rz_model::ModelSpec;
use rz_model::arch::{self, Description};
use rz_tokenizer::{ChatTemplate, Tokenizer};
use serde_json::{Map, json};

use crate::args::Common;
use crate::failure::Failure;
use crate::model;
use crate::spec;
use crate::table::{self, Align, Table};
use crate::terminal::{self, Out};

/// What `rz inspect` takes.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The file, or any other reference; goes before --model
    file: Option<String>,
    /// Show long arrays and texts in full, and name the keys of the model's family that have no effect
    #[arg(short, long)]
    verbose: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Items of an array that JSON shows unless all are wanted.
const ITEMS: usize = 8;

/// Shows a file.
pub(crate) fn inspect(args: &InspectArgs, common: &Common, out: &Out) -> Result<(), Failure> {
    let path = model::locate(common, model::reference(common, args.file.as_deref()))?;
    let file = ModelFile::open(path)?;
    let findings = Findings::of(&file);
    if args.json {
        return out.json(&as_json(&file, &findings, args.verbose));
    }
    out.text(&summary(&file, &findings, args.verbose))?;
    let mut keys = Table::new(&[("key", Align::Left), ("type", Align::Left), ("value", Align::Left)]);
    match &file {
        ModelFile::Gguf(gguf) => {
            for (key, value) in gguf.metadata().iter() {
                let key = terminal::one_line(key).into_owned();
                keys.row([key, value.type_name().to_owned(), shown(value, args.verbose)]);
            }
        }
        ModelFile::Folder(folder) => {
            for (key, value) in folder.config() {
                let (key, text) = (terminal::one_line(key), value.to_string());
                keys.row([
                    key.into_owned(),
                    json_type(value).to_owned(),
                    terminal::one_line(&text).into_owned(),
                ]);
            }
        }
    }
    out.text(&format!("\n{}", keys.render()))?;
    let mut tensors = Table::new(&[
        ("tensor", Align::Left),
        ("type", Align::Left),
        ("size", Align::Right),
        ("shape", Align::Left),
    ]);
    for tensor in file.tensors() {
        tensors.row([
            terminal::one_line(tensor.name()).into_owned(),
            tensor.tensor_type().to_string(),
            table::bytes(tensor.bytes().len() as u64),
            shape(tensor),
        ]);
    }
    out.text(&format!("\n{}", tensors.render()))
}

/// What can be said of a file beyond what it says itself.
struct Findings {
    architecture: Option<String>,
    spec: Result<ModelSpec, String>,
    /// Keys of the family that have no effect.
    unread_keys: Vec<String>,
    /// Tensors that the model does not read, when those that it reads are all right.
    unused_tensors: Result<Vec<String>, String>,
    tokenizer: Result<Tokenizer, String>,
    template: Result<Option<ChatTemplate>, String>,
    types: Vec<Type>,
}

/// The tensors of one type.
struct Type {
    name: &'static str,
    supported: bool,
    tensors: usize,
    elements: u64,
    bytes: u64,
}

impl Findings {
    fn of(file: &ModelFile) -> Self {
        let tokenizer = file.tokenizer().map_err(|error| error.to_string());
        let template = match &tokenizer {
            Ok(tokenizer) => file.chat_template(tokenizer).map_err(|error| error.to_string()),
            Err(_) => Ok(None),
        };
        let mut types: Vec<Type> = Vec::new();
        for tensor in file.tensors() {
            let name = tensor.tensor_type().name();
            let at = types.iter().position(|known| known.name == name).unwrap_or_else(|| {
                let supported = is_supported(tensor);
                types.push(Type { name, supported, tensors: 0, elements: 0, bytes: 0 });
                types.len() - 1
            });
            types[at].tensors += 1;
            types[at].elements = types[at].elements.saturating_add(tensor.elements());
            types[at].bytes = types[at].bytes.saturating_add(tensor.bytes().len() as u64);
        }
        let description: Result<Description, _> = arch::describe(file);
        let unused_tensors = match &description {
            Ok(known) => arch::check_tensors(file, &known.spec).map_err(|error| error.to_string()),
            Err(_) => Ok(Vec::new()),
        };
        Self {
            unused_tensors,
            architecture: architecture(file),
            spec: description.as_ref().map(|known| known.spec.clone()).map_err(ToString::to_string),
            unread_keys: description.map(|known| known.unread_keys).unwrap_or_default(),
            tokenizer,
            template,
            types,
        }
    }

    /// Why the file cannot be run, as far as that can be told without loading it.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(self.spec.as_ref().err().cloned());
        problems.extend(self.unused_tensors.as_ref().err().cloned());
        for unsupported in self.types.iter().filter(|known| !known.supported) {
            let Type { name, tensors, .. } = unsupported;
            problems.push(format!("{tensors} tensors are of type {name}, which is not supported"));
        }
        problems.extend(self.tokenizer.as_ref().err().cloned());
        problems.extend(self.template.as_ref().err().cloned());
        if let (Ok(spec), Ok(tokenizer)) = (&self.spec, &self.tokenizer)
            && tokenizer.len() > spec.vocabulary
        {
            problems.push(format!(
                "the tokenizer has {} tokens, but the embedding only {} rows",
                tokenizer.len(),
                spec.vocabulary
            ));
        }
        problems
    }

    fn elements(&self) -> u64 {
        self.types.iter().map(|known| known.elements).fold(0, u64::saturating_add)
    }

    fn bytes(&self) -> u64 {
        self.types.iter().map(|known| known.bytes).fold(0, u64::saturating_add)
    }
}

fn summary(file: &ModelFile, findings: &Findings, verbose: bool) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, text: String| lines.push(format!("{name:<14}{text}\n"));
    for file in file.files() {
        let path = file.file().display().to_string();
        let size = table::bytes(file.bytes().len() as u64);
        line("file", format!("{}, {size}", terminal::one_line(&path)));
    }
    line(
        "format",
        match file {
            ModelFile::Gguf(gguf) => format!(
                "GGUF version {}, {} keys, {} tensors, alignment {}",
                gguf.version(),
                gguf.metadata().len(),
                gguf.tensors().len(),
                gguf.alignment()
            ),
            ModelFile::Folder(folder) => {
                format!("safetensors, {} settings, {} tensors", folder.config().len(), file.tensors().count())
            }
        },
    );
    let architecture = findings.architecture.as_deref().map_or_else(|| "none".into(), terminal::one_line);
    let supported = if findings.spec.is_ok() { "supported" } else { "not supported" };
    line("architecture", format!("{architecture} ({supported})"));
    if let Ok(spec) = &findings.spec {
        spec::lines(spec).into_iter().for_each(|(name, text)| line(name, text));
    }
    let (elements, bytes) = (findings.elements(), findings.bytes());
    line(
        "weights",
        format!(
            "{elements} in {}, {:.2} bits each",
            table::bytes(bytes),
            if elements == 0 { 0.0 } else { 8.0 * bytes as f64 / elements as f64 }
        ),
    );
    for known in &findings.types {
        let supported = if known.supported { "" } else { ", not supported" };
        let (tensors, size) = (known.tensors, table::bytes(known.bytes));
        line("", format!("{}: {tensors} tensors, {size}{supported}", known.name));
    }
    match &findings.tokenizer {
        Ok(tokenizer) => {
            let template = if matches!(findings.template, Ok(Some(_))) { "a" } else { "no" };
            line("tokenizer", format!("{} tokens, {template} chat template", tokenizer.len()));
            tokenizer.warnings().iter().for_each(|warning| line("", warning.clone()));
        }
        Err(_) => line("tokenizer", "none that is supported".to_owned()),
    }
    if verbose && !findings.unread_keys.is_empty() {
        let keys = findings.unread_keys.join(", ");
        line("without use", terminal::one_line(&keys).into_owned());
    }
    if let Ok(tensors) = &findings.unused_tensors
        && !tensors.is_empty()
    {
        line(
            "warning",
            format!("tensors that the model does not use: {}", terminal::one_line(&tensors.join(", "))),
        );
    }
    for problem in findings.problems() {
        line("problem", problem);
    }
    lines.concat()
}

/// What the file itself calls its family.
fn architecture(file: &ModelFile) -> Option<String> {
    let named = match file {
        ModelFile::Gguf(gguf) => gguf.metadata().str("general.architecture").ok().flatten(),
        ModelFile::Folder(folder) => folder.config().get("model_type").and_then(serde_json::Value::as_str),
    };
    named.map(str::to_owned)
}

fn json_type(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "bool",
        serde_json::Value::Number(_) => "number",
        serde_json::Value::String(_) => "string",
        serde_json::Value::Array(_) => "list",
        serde_json::Value::Object(_) => "object",
    }
}

fn as_json(file: &ModelFile, findings: &Findings, verbose: bool) -> serde_json::Value {
    let metadata: Map<String, serde_json::Value> = match file {
        ModelFile::Gguf(gguf) => {
            gguf.metadata().iter().map(|(key, value)| (key.to_owned(), value_json(value, verbose))).collect()
        }
        ModelFile::Folder(folder) => folder.config().clone(),
    };
    let (format, version, alignment) = match file {
        ModelFile::Gguf(gguf) => ("gguf", Some(gguf.version()), Some(gguf.alignment())),
        ModelFile::Folder(_) => ("safetensors", None, None),
    };
    let tensors: Vec<_> = file
        .tensors()
        .map(|tensor| {
            json!({
                "name": tensor.name(),
                "type": tensor.tensor_type().name(),
                "shape": tensor.shape(),
                "bytes": tensor.bytes().len(),
                "supported": is_supported(tensor),
            })
        })
        .collect();
    json!({
        "files": file.files().map(|file| json!({ "path": file.file(), "bytes": file.bytes().len() })).collect::<Vec<_>>(),
        "format": format,
        "version": version,
        "alignment": alignment,
        "architecture": findings.architecture,
        "supported": findings.problems().is_empty(),
        "problems": findings.problems(),
        "unread_keys": findings.unread_keys,
        "unused_tensors": findings.unused_tensors.as_deref().unwrap_or_default(),
        "model": findings.spec.as_ref().ok().map(spec::as_json),
        "tokens": findings.tokenizer.as_ref().ok().map(Tokenizer::len),
        "chat_template": matches!(findings.template, Ok(Some(_))),
        "elements": findings.elements(),
        "bytes": findings.bytes(),
        "metadata": metadata,
        "tensors": tensors,
    })
}

fn is_supported(tensor: &Tensor) -> bool {
    tensor.dtype().or(tensor.tensor_type().packs()).is_some()
}

fn shape(tensor: &Tensor) -> String {
    tensor.shape().iter().map(u64::to_string).collect::<Vec<_>>().join(" x ")
}

/// A value on one line, cut when it is long and not all is wanted.
fn shown(value: &Value, verbose: bool) -> String {
    match value {
        Value::String(text) if verbose => format!("{text:?}"),
        Value::Array(array) if verbose => serde_json::Value::from(first_items(array, usize::MAX)).to_string(),
        other => other.to_string(),
    }
}

fn value_json(value: &Value, verbose: bool) -> serde_json::Value {
    match value {
        Value::Array(array) if !verbose && array.len() > ITEMS => {
            json!({ "type": array.type_name(), "length": array.len(), "first": first_items(array, ITEMS) })
        }
        Value::Array(array) => first_items(array, usize::MAX).into(),
        Value::String(text) => text.as_str().into(),
        Value::Bool(value) => (*value).into(),
        Value::F32(value) => float(*value),
        Value::F64(value) => (*value).into(),
        other => integer(other.integer()),
    }
}

/// A number with the digits that it has, not those of its nearest double.
fn float(value: f32) -> serde_json::Value {
    value.to_string().parse::<f64>().ok().into()
}

fn integer(value: Option<i128>) -> serde_json::Value {
    let Some(value) = value else { return serde_json::Value::Null };
    match u64::try_from(value) {
        Ok(value) => value.into(),
        Err(_) => i64::try_from(value).ok().into(),
    }
}

/// The first items of an array, as JSON.
fn first_items(array: &Array, most: usize) -> Vec<serde_json::Value> {
    fn of<T: Clone + Into<serde_json::Value>>(items: &[T], most: usize) -> Vec<serde_json::Value> {
        items.iter().take(most).cloned().map(Into::into).collect()
    }
    match array {
        Array::U8(items) => of(items, most),
        Array::I8(items) => of(items, most),
        Array::U16(items) => of(items, most),
        Array::I16(items) => of(items, most),
        Array::U32(items) => of(items, most),
        Array::I32(items) => of(items, most),
        Array::U64(items) => of(items, most),
        Array::I64(items) => of(items, most),
        Array::F32(items) => items.iter().take(most).map(|item| float(*item)).collect(),
        Array::F64(items) => of(items, most),
        Array::Bool(items) => of(items, most),
        Array::Strings(items) => items.iter().take(most).map(Into::into).collect(),
        Array::Arrays(items) => {
            items.iter().take(most).map(|array| first_items(array, most).into()).collect()
        }
    }
}
