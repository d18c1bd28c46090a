//! Shows the metadata and the tensors of a GGUF file.

use std::process::ExitCode;

use rz_formats::{FormatError, Gguf};

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: inspect FILE");
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

fn show(path: &std::path::Path) -> Result<(), FormatError> {
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
    for tensor in model.tensors() {
        let supported = if tensor.dtype().is_some() { "" } else { " (not supported)" };
        println!(
            "{:>12} {:8} {:?} {}{supported}",
            tensor.bytes().len(),
            tensor.tensor_type(),
            tensor.shape(),
            tensor.name()
        );
    }
    Ok(())
}
