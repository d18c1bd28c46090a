//! OpenAI's `/v1/responses`.

mod input;
mod items;

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use self::input::{Asked, take};
use self::items::Items;
use crate::answer::{Answer, End, Plan, start};
use crate::backend::Finish;
use crate::body::JsonBody;
use crate::kept::Entry;
use crate::prompt::Prompt;
use crate::stream::{Feed, Framing, Gone, respond};
use crate::{ApiError, App, ids};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/responses", post(create))
        .route("/v1/responses/{id}", get(retrieve).delete(remove))
        .route("/v1/responses/{id}/cancel", post(cancel))
}

async fn create(State(app): State<Arc<App>>, JsonBody(fields): JsonBody) -> Result<Response, ApiError> {
    let asked = take(&app, fields)?;
    let plan = Plan {
        prompts: vec![Prompt::Chat(Box::new(asked.chat.clone()))],
        choices: 1,
        sampling: asked.sampling.clone(),
    };
    let admission = app.admit(asked.model.as_deref()).await?;
    let (answer, _) = start(&app, admission, plan).await?;
    let writing = Writing::begin(&app, asked, answer.model());
    if writing.asked.streams {
        return Ok(respond(&app, Framing::Events, |feed| writing.run(Some(feed), answer, |_| {})));
    }
    // The client may cancel it by its id, though it learns that only at the end; another can, too.
    let mut result = None;
    let _ = writing.run(None, answer, |response| result = Some(response)).await;
    let response = result.ok_or_else(|| ApiError::internal("the response has no end"))?;
    if response["status"] == "failed" {
        return Err(ApiError::internal(response["error"]["message"].as_str().unwrap_or("the model failed")));
    }
    Ok(Json(response).into_response())
}

async fn retrieve(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let entry = app.kept.get(&id).ok_or_else(|| no_such(&id))?;
    Ok(Json((*entry.response).clone()))
}

async fn remove(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    if !app.kept.remove(&id) {
        return Err(no_such(&id));
    }
    Ok(Json(json!({ "id": id, "object": "response", "deleted": true })))
}

async fn cancel(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let entry = app.kept.get(&id).ok_or_else(|| no_such(&id))?;
    let mut response = (*entry.response).clone();
    if response["status"] == "in_progress" {
        entry.cancel.send_replace(true);
        response["status"] = "cancelled".into();
    }
    Ok(Json(response))
}

fn no_such(id: &str) -> ApiError {
    ApiError::not_found(format!(
        "there is no response '{}': it was not stored, or is no longer kept",
        crate::error::shown(id)
    ))
}

/// A response that is being written.
struct Writing {
    app: Arc<App>,
    asked: Asked,
    /// The response as it is now.
    response: Value,
    cancelled: watch::Receiver<bool>,
}

/// A response that is given up, because its client went away, does not stay in progress for ever.
impl Drop for Writing {
    fn drop(&mut self) {
        if self.response["status"] == "in_progress" && self.app.kept.get(self.id()).is_some() {
            self.response["status"] = "cancelled".into();
            self.keep_end(None);
        }
    }
}

impl Writing {
    fn begin(app: &Arc<App>, asked: Asked, model: &str) -> Self {
        let mut response = Map::new();
        response.insert("id".into(), ids::name("resp_").into());
        response.insert("object".into(), "response".into());
        response.insert("created_at".into(), ids::now().into());
        response.insert("status".into(), "in_progress".into());
        response.insert("model".into(), model.into());
        response.insert("output".into(), json!([]));
        for empty in ["error", "incomplete_details", "usage"] {
            response.insert(empty.into(), Value::Null);
        }
        response.extend(asked.echoed.clone());
        let cancel = watch::Sender::new(false);
        let cancelled = cancel.subscribe();
        let writing = Self { app: app.clone(), asked, response: Value::Object(response), cancelled };
        if writing.is_kept() {
            writing.app.kept.put(writing.id(), writing.entry(cancel, None));
        }
        writing
    }

    fn is_kept(&self) -> bool {
        self.asked.store && self.app.config.kept_responses > 0
    }

    /// The response as it is now, to be kept.
    fn entry(&self, cancel: watch::Sender<bool>, answer: Option<Value>) -> Entry {
        let messages = self.asked.history.iter().cloned().chain(answer).collect();
        Entry::new(self.response.clone(), messages, cancel)
    }

    /// Keeps the response at its end.
    fn keep_end(&self, answer: Option<Value>) {
        if self.is_kept() {
            let entry = self.entry(watch::Sender::new(false), answer);
            self.app.kept.put_end(self.id(), entry, &self.cancelled);
        }
    }

    /// Writes the response to its end: as events, if there is somewhere to write them.
    async fn run(
        mut self,
        feed: Option<Feed>,
        mut answer: Answer,
        give: impl FnOnce(Value),
    ) -> Result<(), Gone> {
        let mut items = Items::new(feed);
        for kind in ["response.created", "response.in_progress"] {
            items.event(kind, json!({ "response": self.response })).await?;
        }
        let mut cancelled = self.cancelled.clone();
        let end = loop {
            let piece = tokio::select! {
                piece = items.wait(answer.next()) => piece?,
                // Fails only when the entry made room for others, and then nobody can cancel it.
                true = async { cancelled.wait_for(|cancelled| *cancelled).await.is_ok() } => break Err(None),
            };
            match piece {
                Ok(Some((_, piece))) => {
                    if let Some(end) = items.add(piece).await? {
                        break Ok(end);
                    }
                }
                Ok(None) => break Ok(End::default()),
                Err(error) => break Err(Some(error)),
            }
        };
        drop(answer);
        let complete = matches!(&end, Ok(end) if !is_cut(end));
        let message = items.finish(complete).await?;
        self.response["output"] = items.take_output().into();
        let kind = self.conclude(end);
        // Who hears of the end finds it.
        self.keep_end(Some(message));
        items.event(kind, json!({ "response": self.response })).await?;
        give(self.response.take());
        Ok(())
    }

    fn id(&self) -> &str {
        self.response["id"].as_str().unwrap_or_default()
    }

    /// Writes into the response how it ended, and gives the name of the event that says so.
    fn conclude(&mut self, end: Result<End, Option<ApiError>>) -> &'static str {
        let (status, kind) = match end {
            Ok(end) => {
                self.response["usage"] = usage(&end);
                if is_cut(&end) {
                    self.response["incomplete_details"] = json!({ "reason": "max_output_tokens" });
                    ("incomplete", "response.incomplete")
                } else {
                    ("completed", "response.completed")
                }
            }
            Err(None) => ("cancelled", "response.incomplete"),
            Err(Some(error)) => {
                self.response["error"] = json!({ "code": "server_error", "message": error.message() });
                ("failed", "response.failed")
            }
        };
        self.response["status"] = status.into();
        kind
    }
}

fn is_cut(end: &End) -> bool {
    matches!(end.finish, Finish::Length | Finish::TimeLimit | Finish::Cancelled)
}

fn usage(end: &End) -> Value {
    let usage = &end.usage;
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": { "cached_tokens": usage.cached_tokens },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": { "reasoning_tokens": end.reasoning_tokens },
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    })
}
