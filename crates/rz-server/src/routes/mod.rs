//! The routes, a file for each family.

mod chat_completions;
mod completions;
mod embeddings;
mod llamacpp;
mod messages;
mod models;
mod ollama;
mod ollama_models;
mod openapi;
mod operations;
mod page;
mod responses;
mod slots;
mod wire;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::from_fn_with_state;
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};

use crate::guard::guard;
use crate::{ApiError, App};

/// All routes over a server: to be served, mounted into another router, or called in tests.
pub fn router(app: Arc<App>) -> Router {
    let routes = Router::new()
        .merge(chat_completions::routes())
        .merge(completions::routes())
        .merge(embeddings::routes())
        .merge(llamacpp::routes())
        .merge(messages::routes())
        .merge(models::routes())
        .merge(ollama::routes())
        .merge(ollama_models::routes())
        .merge(openapi::routes())
        .merge(operations::routes())
        .merge(responses::routes())
        .merge(slots::routes())
        .merge(page::routes(&app))
        .fallback(|| async { ApiError::not_found("there is nothing at this path") })
        // Bodies are bounded where they are read.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(app.clone(), guard));
    let routes = match cors(&app.config.origins) {
        Some(cors) => routes.layer(cors),
        None => routes,
    };
    routes.with_state(app)
}

/// Lets pages of these origins use the server; without any, there is nothing to let in.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    // An asterisk would let in all headers but the one with the key.
    let headers = AllowHeaders::mirror_request();
    let exposed = [HeaderName::from_static("x-request-id"), header::RETRY_AFTER];
    Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods(Any)
            .allow_headers(headers)
            .expose_headers(exposed),
    )
}
