//! Fetches a model into a folder: `cargo run -p rz-store --example fetch -- FOLDER [REFERENCE]`.

use std::{env, io::Write, ops::ControlFlow, process::ExitCode};

use rz_store::{Config, ModelRef, Store, StoreError};

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let Some(folder) = arguments.next() else {
        eprintln!("usage: fetch FOLDER [REFERENCE]");
        return ExitCode::from(2);
    };
    let reference = arguments.next().unwrap_or_else(|| "smollm2:135m".into());
    match fetch(&folder, &reference) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error}");
            ExitCode::FAILURE
        }
    }
}

fn fetch(folder: &str, reference: &str) -> Result<(), StoreError> {
    let store = Store::new(Config::from_lookup(folder, |name| env::var(name).ok()));
    let model = ModelRef::parse(reference)?;
    let path = store.fetch(&model, &mut |progress| {
        let total = progress.total.map_or_else(|| "?".into(), |total| total.to_string());
        eprint!("\r{} {}: {} of {total} bytes ", progress.source, progress.stage.name(), progress.bytes);
        // A terminal that has gone away is no reason to stop.
        let _ = std::io::stderr().flush();
        ControlFlow::Continue(())
    })?;
    eprintln!();
    println!("{}", path.display());
    Ok(())
}
