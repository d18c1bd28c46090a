//! Texts turned into vectors.

use std::sync::Arc;
use std::time::Instant;

use crate::answer::refused;
use crate::app::Admission;
use crate::backend::{Event, Events, Finish, Job, Task, Usage};
use crate::body::off_thread;
use crate::metrics::ModelMetrics;
use crate::prompt::{Prompt, prepare};
use crate::{ApiError, App};

/// Embeds texts: one vector each, and the tokens they have together.
pub(crate) async fn embed(
    app: &Arc<App>,
    admission: Admission,
    prompts: Vec<Prompt>,
) -> Result<(Vec<Vec<f32>>, usize), ApiError> {
    let started = Instant::now();
    let metrics = app.metrics.model(admission.lease.name());
    let backend = admission.lease.backend();
    let preparing = backend.clone();
    // All prompts are looked at before any work begins.
    let prepare = move || {
        let tokens = prompts.iter().map(|prompt| Ok(prepare(&*preparing, prompt, false)?.tokens));
        tokens.collect::<Result<Vec<_>, ApiError>>()
    };
    let prepared = off_thread(prepare).await?;
    let tokens = prepared.iter().map(Vec::len).sum();
    let all = async {
        let mut vectors = Vec::with_capacity(prepared.len());
        let mut prompts = prepared.into_iter();
        loop {
            // No more at a time than another request may ask for, so that the queue has room for others.
            let part: Vec<_> = prompts.by_ref().take(app.config.max_choices.max(1)).collect();
            if part.is_empty() {
                return Ok(vectors);
            }
            let backend = backend.clone();
            let submit = move |prompt| {
                let job = Job { prompt, task: Task::Embed, priority: 0, time_limit: None };
                backend.submit(job).map_err(refused)
            };
            let jobs = off_thread(move || part.into_iter().map(submit).collect::<Result<Vec<_>, _>>());
            for events in jobs.await? {
                vectors.push(vector(events, &metrics, started).await?);
            }
        }
    };
    let vectors = match app.config.request_time {
        None => all.await?,
        Some(time) => match tokio::time::timeout_at((started + time).into(), all).await {
            Ok(vectors) => vectors?,
            Err(_) => {
                metrics.finished(&Finish::TimeLimit, &Usage::default(), started.elapsed());
                let seconds = time.as_secs_f64();
                let message =
                    format!("the texts took more than the {seconds} seconds that a request has: send less");
                return Err(ApiError::unavailable(message, 1));
            }
        },
    };
    Ok((vectors, tokens))
}

/// The vector of one text.
async fn vector(mut events: Events, metrics: &ModelMetrics, started: Instant) -> Result<Vec<f32>, ApiError> {
    let mut vector = None;
    loop {
        match events.next().await {
            Some((_, Event::Embedding(values))) => vector = Some(values),
            Some((_, Event::Finished { finish, usage })) => {
                metrics.finished(&finish, &usage, started.elapsed());
                break;
            }
            Some((_, Event::Failed(message))) => {
                metrics.broken(true, started.elapsed());
                tracing::error!(error = %message, "a request failed");
                return Err(ApiError::internal(message));
            }
            Some(_) => {}
            None => break,
        }
    }
    vector.map(normalised).ok_or_else(|| ApiError::internal("the model gave no vector"))
}

/// The vector with length one, as clients that compare vectors expect it.
fn normalised(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 && length.is_finite() {
        vector.iter_mut().for_each(|number| *number = (f64::from(*number) / length) as f32);
    }
    vector
}
