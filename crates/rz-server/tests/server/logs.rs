//! What is logged, and how loudly.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rz_server::Stats;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::fake::server;

/// Events as lines: a level, and what was said.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<(Level, String)>>>);

impl Lines {
    /// What was logged since this was last asked.
    fn take(&self) -> Vec<(Level, String)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0 += &format!("{}={value:?} ", field.name());
    }
}

impl Subscriber for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push((*event.metadata().level(), text.0));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn probes_are_quiet_and_what_changes_is_said_once() {
    let lines = Lines::default();
    let _logged = tracing::subscriber::set_default(lines.clone());
    // As long as there is only one, other threads, which have none, decide what is of interest to it.
    let _second = tracing::Dispatch::new(lines.clone());
    let server = server(&["x"]);
    let only = |level, text: &str| {
        let lines = lines.take();
        assert!(lines.len() == 1 && lines[0].0 == level && lines[0].1.contains(text), "{lines:?}");
    };
    server.app.tick();
    only(Level::INFO, "\"ok\"");
    server.app.tick();
    assert_eq!(lines.take(), []);

    server.ask("/v1/completions", serde_json::json!({ "prompt": "Hi" })).await;
    assert!(
        lines.take().iter().any(|(level, text)| *level == Level::INFO && text.contains("/v1/completions"))
    );
    *server.model.stats.lock().unwrap() = Stats { stalled: Duration::from_secs(1000), ..Stats::default() };
    for path in ["/health", "/ready", "/v1/health", "/metrics"] {
        let status = server.get(path).await.status;
        assert_eq!(status, if path == "/metrics" { 200 } else { 503 });
        only(Level::DEBUG, path);
    }
    server.app.tick();
    only(Level::ERROR, "no progress");
    server.app.tick();
    assert_eq!(lines.take(), []);
    *server.model.stats.lock().unwrap() = Stats::default();
    server.app.tick();
    only(Level::INFO, "\"ok\"");

    // What clients wanted and did not get is worth a warning.
    server.app.drain();
    assert_eq!(server.post_text("/v1/completions", r#"{"prompt": "Hi"}"#).await.status, 503);
    only(Level::WARN, "/v1/completions");
}

#[tokio::test]
async fn a_stream_is_logged_when_it_is_over() {
    let lines = Lines::default();
    let _logged = tracing::subscriber::set_default(lines.clone());
    let _second = tracing::Dispatch::new(lines.clone());
    let server = server(&["a", "b"]);
    let of_requests = || {
        let lines = lines.take().into_iter().map(|(_, line)| line);
        lines.filter(|line| line.contains("/v1/completions")).collect::<Vec<_>>()
    };
    let body = serde_json::json!({ "prompt": "Hi", "stream": true });
    let stream = server.stream("/v1/completions", &body).await;
    assert_eq!(of_requests(), [""; 0], "it has only begun");
    axum::body::to_bytes(stream.into_body(), 1 << 20).await.unwrap();
    let said = of_requests();
    assert!(said.len() == 1 && said[0].contains("complete=true"), "{said:?}");

    // A client that goes away.
    drop(server.stream("/v1/completions", &body).await);
    let said = of_requests();
    assert!(said.len() == 1 && said[0].contains("complete=false"), "{said:?}");
}
