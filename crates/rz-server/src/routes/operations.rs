//! For those who operate a server: whether it lives, how it is doing, what it is.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::app::Health;
use crate::backend::Stats;
use crate::{ApiError, App};

/// None of these waits for a model: they answer whatever the engine is doing.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/health", get(health))
        .route("/v1/health", get(health))
        .route("/ready", get(health))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .route("/server_info", get(server_info))
        .route("/model_info", get(model_info))
        .route("/v1/loads", get(loads))
}

async fn health(State(app): State<Arc<App>>) -> Response {
    let health = app.health();
    let mut body = json!({ "status": health.name() });
    let Some(message) = health.problem() else { return Json(body).into_response() };
    let status = StatusCode::SERVICE_UNAVAILABLE;
    // As others have it, beside the state: some clients look for it.
    body["error"] = json!({
        "message": message, "type": "service_unavailable_error", "param": null, "code": status.as_u16(),
    });
    (status, Json(body)).into_response()
}

/// The loaded models with how they are doing.
fn loaded(app: &App) -> Vec<(String, Stats)> {
    app.registry.loaded().into_iter().map(|loaded| (loaded.name, loaded.backend.stats())).collect()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let text = app.metrics.text(&loaded(&app), app.health() == Health::Ok, tasks);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

async fn server_info(State(app): State<Arc<App>>) -> Json<Value> {
    let models: Vec<_> = app.registry.models().map(|(served, _)| served.name.clone()).collect();
    Json(json!({
        "server": "rz",
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": app.started.elapsed().as_secs(),
        "models": models,
        "max_requests": app.config.max_requests,
        "requests": app.busy(),
    }))
}

/// The first model, as routers ask for it.
async fn model_info(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let name = app.model_name(None)?;
    let backend = app.registry.peek(&name);
    let info = backend.as_ref().map(|backend| backend.info());
    Ok(Json(json!({
        "model_path": name,
        "served_model_name": name,
        "is_generation": true,
        "model_type": info.map(|info| info.family.as_str()),
        "max_context_length": info.map(|info| info.context),
        "vocab_size": info.map(|info| info.vocabulary),
    })))
}

async fn loads(State(app): State<Arc<App>>) -> Json<Value> {
    let loads: Vec<_> = loaded(&app)
        .iter()
        .enumerate()
        .map(|(rank, (model, stats))| {
            let (used, all) =
                (stats.kv_blocks_used * stats.block_tokens, stats.kv_blocks * stats.block_tokens);
            json!({
                "dp_rank": rank,
                "model": model,
                "num_running_reqs": stats.running,
                "num_waiting_reqs": stats.waiting,
                "num_used_tokens": used,
                "max_total_num_tokens": all,
                "token_usage": used as f64 / all.max(1) as f64,
                "cache_hit_rate": stats.prefix_hits as f64 / stats.prefix_queries.max(1) as f64,
            })
        })
        .collect();
    Json(
        json!({ "timestamp": crate::ids::timestamp(crate::ids::now()), "dp_rank_count": loads.len(), "loads": loads }),
    )
}
