//! OpenAI's `/v1/models`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::registry::{ModelState, Served};
use crate::{ApiError, App};

pub(super) fn routes() -> Router<Arc<App>> {
    // Names may hold slashes.
    Router::new()
        .route("/v1/models", get(list))
        .route("/models", get(list))
        .route("/v1/models/{*name}", get(one))
}

async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let models: Vec<_> = app.registry.models().map(|(served, state)| entry(&app, &served, &state)).collect();
    Json(json!({ "object": "list", "data": models }))
}

async fn one(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    let found = app.registry.find(&name).ok_or_else(|| ApiError::no_such_model(&name))?;
    let state = app.registry.models().find(|(served, _)| served.name == found.name);
    let (served, state) = state.ok_or_else(|| ApiError::no_such_model(&name))?;
    Ok(Json(entry(&app, &served, &state)))
}

/// A model, with what routers want to know of it.
fn entry(app: &App, served: &Served, state: &ModelState) -> Value {
    let backend = app.registry.peek(&served.name);
    let state = match state {
        ModelState::Unloaded => "unloaded",
        ModelState::Loading => "loading",
        ModelState::Ready => "ready",
        ModelState::Failed(_) => "failed",
    };
    json!({
        "id": served.name,
        "object": "model",
        "created": app.registry.created(),
        "owned_by": "rz",
        "root": served.reference,
        "parent": null,
        "max_model_len": backend.map(|backend| backend.info().context),
        "aliases": served.aliases,
        "state": state,
    })
}
