//! The web pages: one to chat on, and one that shows the routes.

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

use crate::App;

pub(super) fn routes(app: &App) -> Router<Arc<App>> {
    let router = Router::new().route("/favicon.ico", get(icon));
    if !app.config.page {
        return router;
    }
    router
        .route("/", get(|| async { page(include_str!("page.html")) }))
        .route("/docs", get(|| async { page(include_str!("docs.html")) }))
}

/// A page asks nobody but this server for anything, and the browser is told to hold it to that.
fn page(text: &'static str) -> Response {
    const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                          connect-src 'self'; img-src 'self' data:; form-action 'none'; frame-ancestors 'none'; \
                          base-uri 'none'";
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(text)).into_response()
}

async fn icon() -> Response {
    const ICON: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 16 16\">\
        <rect width=\"16\" height=\"16\" rx=\"4\" fill=\"#3b5bdb\"/>\
        <path d=\"M4 4h8L4 12h8\" stroke=\"#fff\" stroke-width=\"2\" fill=\"none\"/></svg>";
    ([(header::CONTENT_TYPE, "image/svg+xml"), (header::CACHE_CONTROL, "max-age=86400")], ICON)
        .into_response()
}
