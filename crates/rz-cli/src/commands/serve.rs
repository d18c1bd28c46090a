//! `rz serve`: models over HTTP.

mod library;
mod loader;
mod logs;

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rz_engine::serve::SlotKind;
use rz_server::{
    Address, App, Config, Keys, Listener, Registry, ServeOptions, Served, ServerError, serve as run,
};
use rz_store::ModelRef;

use self::library::StoreLibrary;
use self::loader::EngineLoader;
use self::logs::{LogFormat, LogLevel};
use crate::args::{Common, Compute};
use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::terminal::{self, Out};
use crate::{model, table};

/// What `rz serve` takes.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The models, each a reference or NAME=REFERENCE [default: that of --model]
    #[arg(value_name = "MODEL")]
    models: Vec<String>,
    /// Another name for the first model; may be given several times
    #[arg(long, value_name = "NAME", visible_alias = "served-model-name")]
    alias: Vec<String>,
    /// Load models only when they are first asked for
    #[arg(long)]
    lazy: bool,
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    capacity: Capacity,
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    compute: Compute,
    /// Least important events that are logged
    #[arg(long, value_name = "LEVEL", default_value = "info", help_heading = "Logging options")]
    log_level: LogLevel,
    /// How events are logged
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = "Logging options")]
    log_format: LogFormat,
}

/// Where clients find the server.
#[derive(Debug, Args)]
#[command(next_help_heading = "Listening options")]
struct Listen {
    /// Address to listen on; 0.0.0.0 for all of this machine
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", env = "RZ_HOST")]
    host: String,
    /// Port to listen on; 0 for any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8080, env = "RZ_PORT")]
    port: u16,
    /// Listen on a socket in the file system instead of an address
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Certificate for HTTPS: a PEM file with the chain
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key: a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Time that requests get to end when the server is asked to, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain_timeout: u64,
}

/// How much is done at a time.
#[derive(Debug, Args)]
#[command(next_help_heading = "Capacity options")]
struct Capacity {
    /// Answers that a model works on at a time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    parallel: u32,
    /// Requests for models that are worked on or wait; more are refused for now
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    max_requests: u32,
    /// Memory for keys and values of each model, such as 512M or 8G
    /// [default: what --parallel answers may need, at most half of the memory that is free]
    #[arg(long, value_name = "SIZE", value_parser = table::parse_bytes)]
    kv_memory: Option<u64>,
    /// Memory that all loaded models may take; others are unloaded to make room
    #[arg(long, value_name = "SIZE", value_parser = table::parse_bytes)]
    model_memory: Option<u64>,
    /// Unload models that nobody used for so many seconds
    #[arg(long, value_name = "SECONDS")]
    idle_timeout: Option<u64>,
    /// The most tokens that one request may generate
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// Time that one request may take, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    request_timeout: Option<u64>,
    /// The largest body of a request
    #[arg(long, value_name = "SIZE", default_value = "8M", value_parser = table::parse_bytes)]
    max_body: u64,
}

/// Who may do what.
#[derive(Debug, Args)]
#[command(next_help_heading = "Access options")]
struct Access {
    /// File with the keys of clients, one a line; without it, everybody is served
    #[arg(long, value_name = "FILE", env = "RZ_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,
    /// Answer /metrics also without a key
    #[arg(long, requires = "api_key_file")]
    open_metrics: bool,
    /// A name that clients may call the server by, besides its own; may be given several times
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// An origin of web pages that may use the server, or *; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// Let clients fetch and delete models (/api/pull, /api/delete)
    #[arg(long)]
    allow_pull: bool,
    /// Let clients fetch pip: references, too
    #[arg(long, requires = "allow_pull")]
    allow_pip: bool,
    /// Folder that clients may save slots to, and restore them from; without it, they may not
    #[arg(long, value_name = "DIR")]
    slot_save_path: Option<PathBuf>,
    /// Do not serve the web page
    #[arg(long)]
    no_page: bool,
}

/// Serves models until it is told to end.
pub(crate) fn serve(args: &ServeArgs, common: &Common, out: &Out) -> Result<(), Failure> {
    let config = config(args)?;
    let options = options(args)?;
    let models = models(args, common)?;
    let runtime = common.runtime()?;
    logs::start(args.log_level, args.log_format)?;
    let by = model::computed_by(&runtime);
    let loader = EngineLoader::new(args.settings(common), runtime);
    // What can be wrong with a file shows before anybody asks for it.
    let mut served = Vec::new();
    for model in models {
        loader.add(&model.served, model.path)?;
        served.push(model.served);
    }
    let names: Vec<String> = served.iter().map(shown_name).collect();
    let all: Vec<String> = served.iter().map(|model| model.name.clone()).collect();
    let registry = Registry::new(served, Arc::new(loader), &config)?;
    let library = StoreLibrary::new(common, args.access.allow_pip)?;
    let app = Arc::new(App::new(config, registry).with_library(Arc::new(library)));
    if args.access.allow_pull {
        app.serve_kept().map_err(|error| Failure::input(error.to_string()))?;
    }

    let tasks = tokio::runtime::Builder::new_multi_thread()
        // Requests are small beside what models do.
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::other(format!("cannot start the server's threads: {error}")))?;
    let listening = Listening::start();
    let result = tasks.block_on(async {
        let listener = Listener::bind(&args.address()).await?;
        let secure = args.listen.tls_cert.is_some();
        let address = if secure {
            listener.address().replacen("http:", "https:", 1)
        } else {
            listener.address().into()
        };
        out.line(&format!("listening on {address}"))?;
        terminal::say(&format!("serving {} ({by})", names.join(", ")));
        if args.access.api_key_file.is_none() && !args.is_local() {
            terminal::note("everybody who reaches this address is served: --api-key-file asks for keys");
        }
        // With a limit on their memory, the models take turns, and the first one begins.
        let at_start: &[String] = match (args.lazy, args.capacity.model_memory) {
            (true, _) => &[],
            (false, Some(_)) => &all[..all.len().min(1)],
            (false, None) => &all,
        };
        at_start.iter().for_each(|name| app.registry().preload(name));
        // Who could answer nobody ends, so that whoever started it sees that, and why.
        let failed = async {
            match app.registry().loaded_one(at_start).await {
                Ok(()) => std::future::pending().await,
                Err(message) => message,
            }
        };
        let asked_to_end = async {
            while !listening.interrupted() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            terminal::say("ending: requests that were taken are answered; once more to end at once");
        };
        let mut result = Ok(());
        let end = async {
            tokio::select! {
                () = asked_to_end => {}
                message = failed => result = Err(Failure::other(message)),
            }
        };
        run(app.clone(), listener, options, end).await?;
        result
    });
    // A model that is in the middle of something is not waited for.
    tasks.shutdown_timeout(Duration::from_secs(1));
    result
}

impl ServeArgs {
    fn address(&self) -> Address {
        match &self.listen.socket {
            Some(path) => Address::Unix(path.clone()),
            None => Address::Tcp(self.listen.host.clone(), self.listen.port),
        }
    }

    /// Whether only this machine reaches the server.
    fn is_local(&self) -> bool {
        let host = self.listen.host.trim_start_matches('[').trim_end_matches(']');
        let loopback = host.parse::<IpAddr>().map_or(host == "localhost", |ip| ip.is_loopback());
        self.listen.socket.is_some() || loopback
    }

    fn settings(&self, common: &Common) -> loader::Settings {
        loader::Settings {
            common: common.clone(),
            compute: self.compute.clone(),
            parallel: self.capacity.parallel as usize,
            queue: self.capacity.max_requests as usize,
            kv_memory: self.capacity.kv_memory,
        }
    }
}

fn config(args: &ServeArgs) -> Result<Config, Failure> {
    let (capacity, access) = (&args.capacity, &args.access);
    let mut config = Config::default();
    if let Some(file) = &access.api_key_file {
        config.keys = Keys::read(file)?;
    }
    config.open_metrics = access.open_metrics;
    // On an address of this machine alone, no other name can be meant; elsewhere, names are not known.
    if args.listen.socket.is_none() && (args.is_local() || !access.allow_host.is_empty()) {
        let own = ["localhost", "127.0.0.1", "[::1]", &args.listen.host].map(str::to_owned);
        config.hosts = own.into_iter().chain(access.allow_host.iter().cloned()).collect();
    }
    for origin in &access.cors_origin {
        let plain = origin.split_once("://").is_some_and(|(_, rest)| !rest.is_empty() && !rest.contains('/'));
        if origin != "*" && !plain {
            return Err(Failure::input(format!(
                "'{origin}' is no origin: give one such as https://app.example, or *"
            )));
        }
    }
    config.origins.clone_from(&access.cors_origin);
    config.manage_models = access.allow_pull;
    if let Some(folder) = &access.slot_save_path {
        let failed = |cause| Failure::file("use", folder, &cause);
        std::fs::create_dir_all(folder).map_err(failed)?;
        // What a server left that was ended while it saved one.
        SlotKind::remove_left_over(folder).map_err(failed)?;
        config.slot_folder = Some(folder.clone());
    }
    config.page = !access.no_page;
    config.max_requests = capacity.max_requests as usize;
    config.max_tokens = capacity.max_tokens.map(|tokens| tokens as usize);
    config.max_body = usize::try_from(capacity.max_body).unwrap_or(usize::MAX);
    config.request_time = capacity.request_timeout.map(Duration::from_secs);
    config.idle_time = capacity.idle_timeout.map(Duration::from_secs);
    config.model_memory = capacity.model_memory;
    Ok(config)
}

fn options(args: &ServeArgs) -> Result<ServeOptions, Failure> {
    let mut options = ServeOptions::default();
    options.drain_time = Duration::from_secs(args.listen.drain_timeout);
    if let (Some(chain), Some(key)) = (&args.listen.tls_cert, &args.listen.tls_key) {
        options.tls = Some(rz_server::Certificate::read(chain, key)?);
    }
    Ok(options)
}

/// A model, with its file where it is not in the store.
struct Located {
    served: Served,
    path: Option<PathBuf>,
}

/// The models that the flags name, fetched if need be.
fn models(args: &ServeArgs, common: &Common) -> Result<Vec<Located>, Failure> {
    let named = common.model.iter().chain(&args.models);
    let mut texts: Vec<&str> = named.map(String::as_str).filter(|text| !text.is_empty()).collect();
    if texts.is_empty() {
        texts.push(model::reference(common, None));
    }
    let mut models = Vec::new();
    for (index, text) in texts.into_iter().enumerate() {
        let (name, reference) = match text.split_once('=') {
            Some((name, reference)) if is_name(name) => (Some(name.to_owned()), reference),
            _ => (None, text),
        };
        let parsed = ModelRef::parse(reference)?;
        let name = name.unwrap_or_else(|| name_of(&parsed, reference));
        let mut aliases = if index == 0 { args.alias.clone() } else { Vec::new() };
        aliases.retain(|alias| *alias != name);
        let (path, reference) = match &parsed {
            ModelRef::Path(_) => (Some(file_in(model::locate(common, reference)?)?), reference.to_owned()),
            // As the store calls it, whatever short form was given.
            stored => {
                model::fetch(common, stored)?;
                (None, stored.to_string())
            }
        };
        models.push(Located { served: Served { name, aliases, reference }, path });
    }
    Ok(models)
}

/// The file of a model in a folder that holds nothing else of that kind, as model storages fill them.
fn file_in(path: PathBuf) -> Result<PathBuf, Failure> {
    if !path.is_dir() || path.join("config.json").exists() {
        return Ok(path);
    }
    let entries = std::fs::read_dir(&path).map_err(|error| Failure::file("read", &path, &error))?;
    let mut files: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    files.retain(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        // Of a model in shards, the first one stands for all.
        name.ends_with(".gguf") && (!name.contains("-of-") || name.contains("-00001-of-"))
    });
    match &files[..] {
        [file] => Ok(file.clone()),
        [] => Ok(path),
        several => Err(Failure::input(format!(
            "'{}' holds {} models: name the file of one of them",
            path.display(),
            several.len()
        ))),
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// The name of a model that was given none: that of its file, or the reference.
fn name_of(model: &ModelRef, reference: &str) -> String {
    match model {
        ModelRef::Path(path) => {
            let path = path.canonicalize().unwrap_or_else(|_| path.clone());
            let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
            stem.map_or(reference.to_owned(), |stem| stem.to_string_lossy().into_owned())
        }
        ModelRef::Named(entry) => entry.name.to_owned(),
        _ => reference.to_owned(),
    }
}

fn shown_name(model: &Served) -> String {
    match &model.aliases[..] {
        [] => model.name.clone(),
        aliases => format!("{} (also {})", model.name, aliases.join(", ")),
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        match error {
            ServerError::Listen { ref cause, .. } => {
                let advice = match cause.kind() {
                    ErrorKind::AddrInUse => ": end who listens there, or give another --port or --socket",
                    ErrorKind::AddrNotAvailable => ": give a --host that is an address of this machine",
                    ErrorKind::NotFound => ": give a --socket in a folder that is there",
                    ErrorKind::PermissionDenied => {
                        ": give a --port from 1024 up, or a --socket in a folder of yours"
                    }
                    _ => "",
                };
                Failure::other(format!("{error}{advice}"))
            }
            _ => Failure::input(error.to_string()),
        }
    }
}
