//! Ollama's routes about models: which there are, fetching and deleting them.

use std::ops::ControlFlow;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::ollama::not_here;
use crate::backend::ModelInfo;
use crate::body::{JsonBody, off_thread};
use crate::fields::Fields;
use crate::library::{FetchProgress, Library, LibraryError};
use crate::stream::{Framing, respond};
use crate::{ApiError, App, ids};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/api/tags", get(tags))
        .route("/api/show", post(show))
        .route("/api/ps", get(running))
        .route("/api/version", get(version))
        .route("/api/pull", post(pull))
        .route("/api/delete", delete(remove))
        .route("/api/create", post(|| async { not_here("/api/create") }))
        .route("/api/copy", post(|| async { not_here("/api/copy") }))
        .route("/api/push", post(|| async { not_here("/api/push") }))
}

async fn version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

/// The models that are served, and those that are kept on this machine besides.
async fn tags(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let mut models: Vec<Value> = Vec::new();
    for (served, _) in app.registry.models() {
        let backend = app.registry.peek(&served.name);
        let info = backend.as_ref().map(|backend| backend.info());
        models.push(entry(&app, &served.name, info, info.map_or(0, |info| info.file_bytes)));
    }
    if let Some(library) = app.library.clone() {
        let kept = off_thread(move || library.list().map_err(problem)).await?;
        for kept in kept {
            match models.iter_mut().find(|model| model["name"] == kept.name) {
                // One that is not loaded has said nothing about itself.
                Some(model) if model["size"] == 0 => model["size"] = kept.bytes.into(),
                Some(_) => {}
                None => models.push(entry(&app, &kept.name, None, kept.bytes)),
            }
        }
    }
    Ok(Json(json!({ "models": models })))
}

/// The models in memory.
async fn running(State(app): State<Arc<App>>) -> Json<Value> {
    let models = app.registry.loaded().into_iter().map(|loaded| {
        let info = loaded.backend.info();
        let mut entry = entry(&app, &loaded.name, Some(info), info.memory);
        // What stays for ever stays for a hundred years, where a moment has to be named.
        let remaining = loaded.remaining.map_or(100 * 365 * 86_400, |time| time.as_secs());
        entry["expires_at"] = ids::timestamp(ids::now() + remaining).into();
        entry["size_vram"] = 0.into();
        entry["context_length"] = info.context.into();
        entry
    });
    Json(json!({ "models": models.collect::<Vec<_>>() }))
}

async fn show(State(app): State<Arc<App>>, JsonBody(mut fields): JsonBody) -> Result<Json<Value>, ApiError> {
    let name = take_name(&mut fields)?;
    fields.bool("verbose")?;
    fields.finish()?;
    let lease = app.registry.acquire(&app.model_name(Some(&name))?).await?;
    let (backend, tokenizer) = (lease.backend(), lease.backend().tokenizer());
    let info = backend.info();
    let template = backend.template().map_or("", |template| template.source());
    let mut capabilities = vec!["completion"];
    if template.contains("tools") {
        capabilities.push("tools");
    }
    if template.contains("</think>") {
        capabilities.push("thinking");
    }
    let family = &info.family;
    let mut details = Map::new();
    for (key, value) in [
        ("general.architecture".to_owned(), json!(family)),
        ("general.parameter_count".to_owned(), json!(info.parameters)),
        (format!("{family}.context_length"), json!(info.trained_context)),
        (format!("{family}.embedding_length"), json!(info.embedding)),
        (format!("{family}.block_count"), json!(info.layers)),
        ("tokenizer.ggml.bos_token_id".to_owned(), json!(tokenizer.bos())),
        ("tokenizer.ggml.eos_token_id".to_owned(), json!(tokenizer.eos())),
    ] {
        details.insert(key, value);
    }
    Ok(Json(json!({
        "modelfile": format!("FROM {}", lease.name()),
        "parameters": format!("num_ctx {}", info.context),
        "template": template,
        "details": entry(&app, lease.name(), Some(info), 0)["details"],
        "model_info": details,
        "capabilities": capabilities,
        "modified_at": ids::timestamp(app.registry.created()),
    })))
}

/// A model in a list.
fn entry(app: &App, name: &str, info: Option<&ModelInfo>, bytes: u64) -> Value {
    let family = info.map_or("", |info| &info.family);
    json!({
        "name": name,
        "model": name,
        "modified_at": ids::timestamp(app.registry.created()),
        "size": bytes,
        "digest": "",
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": family,
            "families": [family],
            "parameter_size": info.map(|info| parameters(info.parameters)).unwrap_or_default(),
            "quantization_level": info.map_or("", |info| &info.quantization),
        },
    })
}

/// A number of parameters as people say it.
fn parameters(count: u64) -> String {
    match count {
        0 => String::new(),
        1..1_000_000_000 => format!("{:.1}M", count as f64 / 1e6),
        _ => format!("{:.1}B", count as f64 / 1e9),
    }
}

async fn pull(State(app): State<Arc<App>>, JsonBody(mut fields): JsonBody) -> Result<Response, ApiError> {
    let name = take_name(&mut fields)?;
    let streams = fields.bool("stream")?.unwrap_or(true);
    fields.only("insecure", &[false.into()])?;
    fields.finish()?;
    let library = managed(&app)?;
    let place = app.place()?;
    let (sender, mut progress) = mpsc::unbounded_channel::<FetchProgress>();
    let serving = app.clone();
    let fetching = tokio::task::spawn_blocking(move || {
        let _place = place;
        let mut last = None;
        let kept = library.fetch(&name, &mut |now| {
            // One report for each step forward is enough.
            if last.as_ref() != Some(&now) {
                last = Some(now.clone());
                // When nobody waits for it any more, what was fetched is kept for the next time.
                if sender.send(now).is_err() {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        serving.serve_as(&kept, &name);
        Ok(())
    });
    if !streams {
        while progress.recv().await.is_some() {}
        ended(fetching.await).map_err(problem)?;
        return Ok(Json(json!({ "status": "success" })).into_response());
    }
    Ok(respond(&app, Framing::Lines, move |feed| async move {
        feed.send(&json!({ "status": "pulling manifest" })).await?;
        while let Some(now) = progress.recv().await {
            let mut line = json!({ "status": format!("{} {}", now.stage, now.file), "completed": now.bytes });
            if let Some(total) = now.total {
                line["total"] = total.into();
            }
            feed.send(&line).await?;
        }
        match ended(fetching.await) {
            Ok(()) => feed.send(&json!({ "status": "success" })).await,
            Err(error) => feed.send(&json!({ "error": error.to_string() })).await,
        }
    }))
}

fn ended(result: Result<Result<(), LibraryError>, tokio::task::JoinError>) -> Result<(), LibraryError> {
    result.unwrap_or_else(|_| Err(LibraryError::Failed("an internal error".to_owned())))
}

fn problem(error: LibraryError) -> ApiError {
    match error {
        LibraryError::Unknown(message) => ApiError::not_found(message),
        LibraryError::Failed(message) => ApiError::internal(message),
    }
}

async fn remove(State(app): State<Arc<App>>, JsonBody(mut fields): JsonBody) -> Result<Response, ApiError> {
    let name = take_name(&mut fields)?;
    fields.finish()?;
    let library = managed(&app)?;
    off_thread(move || {
        let served = app.registry.find(&name);
        let reference = served.as_ref().map_or(&name, |served| &served.reference);
        let removed = library.remove(reference).map_err(|error| match (error, &served) {
            (LibraryError::Unknown(_), Some(_)) => ApiError::bad_request(format!(
                "the model '{name}' is served from where no client may delete it"
            )),
            (error, _) => problem(error),
        });
        removed?;
        // Whoever uses it has it in memory.
        if let Some(served) = served {
            app.registry.remove(&served.name);
        }
        Ok(())
    })
    .await?;
    Ok(Json(json!({ "status": "success" })).into_response())
}

/// The models of this machine, if clients may change them.
fn managed(app: &App) -> Result<Arc<dyn Library>, ApiError> {
    let library = app.library.clone().filter(|_| app.config.manage_models);
    library.ok_or_else(|| {
        ApiError::forbidden(
            "clients may not fetch or delete models: have the server started with --allow-pull",
        )
    })
}

/// The name of a model; older clients call it `name`.
fn take_name(fields: &mut Fields) -> Result<String, ApiError> {
    let name = match fields.string("model")? {
        Some(name) => {
            fields.without_effect(&["name"]);
            name
        }
        None => fields.string("name")?.ok_or_else(|| fields.missing("model"))?,
    };
    if name.is_empty() || name.len() > 1024 || name.chars().any(char::is_control) {
        return Err(ApiError::invalid("model", "'model' is no name of a model"));
    }
    Ok(name)
}
