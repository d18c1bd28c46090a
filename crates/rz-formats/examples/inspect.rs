//! Shows the metadata and the tensors of a GGUF file, of a safetensors file or of a folder.

use std::path::Path;
use std::process::ExitCode;

use rz_formats::{FormatError, Gguf, ModelFolder, Safetensors, Tensor};

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: inspect PATH");
        return ExitCode::from(2);
    };
    match show(path.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn show(path: &Path) -> Result<(), FormatError> {
    if path.is_dir() {
        let model = ModelFolder::open(path)?;
        let settings = [Some(model.config()), model.generation_config(), model.tokenizer_config()];
        for (key, value) in settings.into_iter().flatten().flatten() {
            println!("{key} = {value}");
        }
        for (name, template) in model.chat_templates() {
            println!("chat template {name}: {} bytes", template.len());
        }
        show_safetensors(model.tensors());
        return Ok(());
    }
    if [".safetensors", ".index.json"].iter().any(|end| path.to_string_lossy().ends_with(end)) {
        show_safetensors(&Safetensors::open(path)?);
        return Ok(());
    }
    let model = Gguf::open(path)?;
    println!(
        "GGUF version {}, {} keys, {} tensors",
        model.version(),
        model.metadata().len(),
        model.tensors().len()
    );
    for (key, value) in model.metadata().iter() {
        println!("{key} ({}) = {value}", value.type_name());
    }
    model.tensors().for_each(show_tensor);
    Ok(())
}

fn show_safetensors(model: &Safetensors) {
    println!("safetensors, {} files, {} tensors", model.files().len(), model.tensors().len());
    for (key, value) in model.metadata() {
        println!("{key:?} = {value:?}");
    }
    model.tensors().for_each(show_tensor);
    model.empty_tensors().for_each(|name| println!("{:>12} {name}", 0));
}

fn show_tensor(tensor: &Tensor) {
    let supported = if tensor.dtype().is_some() { "" } else { " (not supported)" };
    println!(
        "{:>12} {:8} {:?} {}{supported}",
        tensor.bytes().len(),
        tensor.tensor_type(),
        tensor.shape(),
        tensor.name()
    );
}
