//! llama.cpp's slots: the numbered places that requests have, saved to files and restored from them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::llamacpp::OfModel;
use crate::backend::SlotProblem;
use crate::body::{MaybeJsonBody, off_thread};
use crate::error::shown;
use crate::slots::file;
use crate::{ApiError, App};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/slots", get(slots)).route("/slots/{id}", post(act))
}

/// The slots of a model that is loaded; of one that is not, none.
async fn slots(State(app): State<Arc<App>>, Query(of): Query<OfModel>) -> Result<Json<Value>, ApiError> {
    let name = app.model_name(of.model.as_deref())?;
    let (Some(backend), Some(slots)) = (app.registry.peek(&name), app.registry.peek_slots(&name)) else {
        return Ok(Json(json!([])));
    };
    let context = backend.info().context;
    let states = slots.states().into_iter().enumerate();
    let slots = states.map(|(id, state)| {
        json!({
            "id": id,
            "n_ctx": context,
            "speculative": false,
            "is_processing": state.busy,
            "n_past": state.tokens,
        })
    });
    Ok(Json(slots.collect()))
}

/// What is to be done with a slot.
#[derive(Debug, Deserialize)]
struct Action {
    action: Option<String>,
    model: Option<String>,
}

async fn act(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(Action { action, model }): Query<Action>,
    MaybeJsonBody(mut fields): MaybeJsonBody,
) -> Result<Json<Value>, ApiError> {
    let id: usize = id
        .parse()
        .map_err(|_| ApiError::invalid("id", format!("'{}' is no slot: give a number from 0", shown(&id))))?;
    let action = action.unwrap_or_default();
    if !matches!(action.as_str(), "save" | "restore" | "erase") {
        let message = format!("'action' is '{}': give save, restore or erase", shown(&action));
        return Err(ApiError::invalid("action", message));
    }
    let model = fields.string("model")?.or(model);
    let path = match action.as_str() {
        "erase" => PathBuf::new(),
        _ => {
            let name = fields.required_string("filename")?;
            let folder = app.config.slot_folder.as_ref().ok_or_else(|| {
                ApiError::not_implemented(
                    "slots are not saved by this server: have it started with --slot-save-path",
                )
            })?;
            file(folder, &name)?
        }
    };
    fields.finish()?;
    let admission = app.admit(model.as_deref()).await?;
    off_thread(move || {
        let lease = &admission.lease;
        let (backend, slots) = (lease.backend(), lease.slots());
        let started = Instant::now();
        let text = slots.text(id)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let problem = |problem| problem_of(problem, &name, id);
        let size = || std::fs::metadata(&path).map_or(0, |meta| meta.len());
        let milliseconds = || started.elapsed().as_secs_f64() * 1e3;
        Ok(Json(match action.as_str() {
            "save" => {
                let saved = backend.save_slot(&text, &path).map_err(problem)?;
                json!({
                    "id_slot": id, "filename": name, "n_saved": saved, "n_written": size(),
                    "timings": { "save_ms": milliseconds() },
                })
            }
            "restore" => {
                let tokens = backend.restore_slot(&path).map_err(problem)?;
                let count = tokens.len();
                slots.put(id, tokens)?;
                json!({
                    "id_slot": id, "filename": name, "n_restored": count, "n_read": size(),
                    "timings": { "restore_ms": milliseconds() },
                })
            }
            _ => {
                slots.put(id, Vec::new())?;
                json!({ "id_slot": id, "n_erased": text.len() })
            }
        }))
    })
    .await
}

fn problem_of(problem: SlotProblem, name: &str, id: usize) -> ApiError {
    match problem {
        SlotProblem::Missing => ApiError::not_found(format!("there is no saved slot '{name}'")),
        SlotProblem::Unusable(message) => {
            ApiError::conflict(format!("slot {id} and the file '{name}' do not go together: {message}"))
        }
        SlotProblem::NoRoom => {
            ApiError::unavailable(format!("there is no room for the slot '{name}' now: ask again"), 2)
        }
        SlotProblem::Closed => ApiError::unavailable("the model is being unloaded", 1),
        SlotProblem::Failed(message) => {
            tracing::error!(file = name, error = %message, "slot not saved or restored");
            ApiError::internal(format!("the file '{name}' cannot be read or written: {message}"))
        }
    }
}
