//! `rz doctor`: what matters of this machine, for a report.

use std::fmt::Write as _;
use std::sync::Arc;

use clap::Args;
use rz_kernels::{IsaKind, Pool, Processors, Runtime};
use serde_json::{Value, json};

use crate::args::Common;
use crate::failure::Failure;
use crate::terminal::Out;
use crate::{environment, machine, table};

/// What `rz doctor` takes.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Do not measure the read bandwidth, which takes some seconds
    #[arg(long)]
    quick: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Looks at the machine.
pub(crate) fn doctor(args: &DoctorArgs, common: &Common, out: &Out) -> Result<(), Failure> {
    let runtime = common.runtime()?;
    let facts = facts(args, common, &runtime)?;
    if args.json { out.json(&facts) } else { out.text(&as_text(&facts)) }
}

fn facts(args: &DoctorArgs, common: &Common, runtime: &Runtime) -> Result<Value, Failure> {
    let (name, count) = machine::processors();
    let usable = Processors::detect();
    let memory = machine::memory();
    let bandwidth = |runtime: &Runtime| {
        let measured = rz_engine::read_bandwidth(runtime);
        measured
            .map_err(|error| Failure::other(format!("no memory to measure the read bandwidth with: {error}")))
    };
    let (one, all) = if args.quick {
        (None, None)
    } else {
        let pool = Pool::new(1).map_err(|error| Failure::other(error.to_string()))?;
        let alone = Runtime { kernels: runtime.kernels, pool: Arc::new(pool) };
        (Some(bandwidth(&alone)?), Some(bandwidth(runtime)?))
    };
    let available: Vec<_> =
        IsaKind::ALL.iter().filter(|isa| isa.is_available()).map(|isa| isa.name()).collect();
    let known: Vec<_> = IsaKind::ALL.iter().map(|isa| isa.name()).collect();
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "build": if cfg!(debug_assertions) { "debug: slow, use --release" } else { "release" },
        "architecture": std::env::consts::ARCH,
        "system": machine::system(),
        "processor": name,
        "processors": count,
        "usable_processors": usable.usable,
        "usable_cores": usable.cores,
        "affinity": machine::affinity(),
        "quota": machine::quota(),
        "threads": runtime.pool.threads(),
        "threads_batch": runtime.pool.batch_threads(),
        "isa_known": known,
        "isa_available": available,
        "isa": runtime.kernels.isa().name(),
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "memory_limit_bytes": memory.limit.filter(|limit| memory.total.is_none_or(|total| *limit < total)),
        "huge_pages": machine::huge_pages(),
        "read_gb_s_one_thread": one,
        "read_gb_s": all,
        "cache": cache(common),
    }))
}

/// The folder of models and what is in it; what hinders it is a finding, and no failure.
fn cache(common: &Common) -> Value {
    let store = match environment::store(common) {
        Ok(store) => store,
        Err(failure) => return json!({ "problem": failure.message() }),
    };
    let config = store.config();
    let mut cache = json!({
        "folder": config.root,
        "hub": without_password(&config.hf_endpoint),
        "hub_token": config.hf_token.is_some(),
        "offline": config.offline,
    });
    match store.list() {
        Ok(models) => {
            let models = models.into_iter();
            cache["models"] = models
                .map(
                    |model| json!({ "reference": model.reference, "bytes": model.bytes, "path": model.path }),
                )
                .collect();
        }
        Err(error) => cache["problem"] = error.to_string().into(),
    }
    cache
}

/// An address without the name and password that may stand before its host.
fn without_password(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match host.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}{path}"),
        None => address.to_owned(),
    }
}

fn as_text(facts: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<20}{value}");
    };
    let plain = |name: &str| match &facts[name] {
        Value::Null => "unknown".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let size = |name: &str| facts[name].as_u64().map(table::bytes);
    let names = |name: &str| {
        let names = facts[name].as_array().into_iter().flatten().filter_map(Value::as_str);
        names.collect::<Vec<_>>().join(", ")
    };
    line("rz", format!("{} ({}, {})", plain("version"), plain("build"), plain("architecture")));
    line("system", plain("system"));
    line("processor", plain("processor"));
    let quota = facts["quota"].as_f64().map_or_else(|| "none".to_owned(), |quota| format!("{quota:.2}"));
    line(
        "processors",
        format!(
            "{}, usable {} in {} cores, affinity {}, quota {quota}",
            plain("processors"),
            plain("usable_processors"),
            plain("usable_cores"),
            plain("affinity")
        ),
    );
    line("threads", format!("{}, {} for batches", plain("threads"), plain("threads_batch")));
    line(
        "instruction set",
        format!("{} (available: {}; known: {})", plain("isa"), names("isa_available"), names("isa_known")),
    );
    line(
        "memory",
        format!(
            "{}, available {}, limit {}",
            size("memory_bytes").unwrap_or_else(|| "unknown".to_owned()),
            size("memory_available_bytes").unwrap_or_else(|| "unknown".to_owned()),
            size("memory_limit_bytes").unwrap_or_else(|| "none".to_owned())
        ),
    );
    line("huge pages", plain("huge_pages"));
    let speed = |name: &str| facts[name].as_f64().map(|speed| format!("{speed:.1} GB/s"));
    if let (Some(one), Some(all)) = (speed("read_gb_s_one_thread"), speed("read_gb_s")) {
        line("read bandwidth", format!("{one} by one thread, {all} by all"));
    }
    let cache = &facts["cache"];
    if let Some(folder) = cache["folder"].as_str() {
        let offline = if cache["offline"] == true { " (offline)" } else { "" };
        line("model folder", format!("{folder}{offline}"));
        let token = if cache["hub_token"] == true { "with" } else { "without" };
        line("hub", format!("{} ({token} token)", cache["hub"].as_str().unwrap_or_default()));
    }
    if let Some(problem) = cache["problem"].as_str() {
        line("problem", problem.to_owned());
    }
    for model in cache["models"].as_array().into_iter().flatten() {
        let size = table::bytes(model["bytes"].as_u64().unwrap_or_default());
        line("model", format!("{}, {size}", model["reference"].as_str().unwrap_or_default()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_left_out() {
        for (address, shown) in [
            ("https://huggingface.co", "https://huggingface.co"),
            ("https://me:secret@mirror/hub/a@b", "https://mirror/hub/a@b"),
            ("http://h:80/a@b", "http://h:80/a@b"),
        ] {
            assert_eq!(without_password(address), shown);
        }
    }
}
