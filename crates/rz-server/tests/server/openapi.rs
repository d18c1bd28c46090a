//! The document about the routes, against the routes.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::fake::server;

/// The paths that the routes' own source names.
fn routed() -> BTreeSet<String> {
    fn collect(folder: &Path, paths: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, paths);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                paths.extend(
                    text.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()),
                );
            }
        }
    }
    let mut paths = BTreeSet::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/routes"), &mut paths);
    paths
}

#[tokio::test]
async fn the_document_names_every_route_and_no_other() {
    let server = server(&["x"]);
    let document = server.get("/openapi.json").await.json();
    let described: BTreeSet<String> = document["paths"].as_object().unwrap().keys().cloned().collect();
    for path in routed() {
        if !described.contains(&path.replace("{*name}", "{name}")) {
            // What is not there is not described.
            let answer = server.post(&path.replace("{id}", "0"), &serde_json::json!({})).await;
            assert_eq!(answer.status, 501, "{path} is not described");
        }
    }
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let concrete = path.replace("{name}", "tiny").replace("{id}", "x");
            let request =
                axum::http::Request::builder().method(method.to_uppercase().as_str()).uri(&concrete);
            let answer = server.send(request.body(axum::body::Body::from("{}")).unwrap()).await;
            let lost = answer.status == 404 && answer.text.contains("nothing at this path");
            assert!(!lost && answer.status != 405, "{method} {path}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn the_document_holds_together() {
    let server = server(&[]);
    let document = server.get("/openapi.json").await.json();
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 20);
    for reference in found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
    let mut names = BTreeSet::new();
    for operations in document["paths"].as_object().unwrap().values() {
        for operation in operations.as_object().unwrap().values() {
            assert!(names.insert(operation["operationId"].as_str().unwrap().to_owned()));
        }
    }
}

/// Each field that a request's schema names is one that its route knows.
#[tokio::test]
async fn the_document_names_no_parameter_that_is_refused() {
    let server = server(&["x"]);
    let document = server.get("/openapi.json").await.json();
    let extra = ["/api/show", "/api/pull"].map(|path| (path, serde_json::json!({ "model": "tiny" })));
    for (path, good) in crate::hostile::good().into_iter().chain(extra) {
        let pointer = path.replace('/', "~1");
        let body = format!("/paths/{pointer}/post/requestBody/content/application~1json/schema/$ref");
        let reference = document.pointer(&body).and_then(Value::as_str).unwrap_or_else(|| panic!("{path}"));
        let schema = document.pointer(reference.trim_start_matches('#')).unwrap();
        for name in schema["properties"].as_object().unwrap().keys() {
            let mut body = good.clone();
            body[name] = serde_json::json!({ "$": 1 });
            let answer = server.post(path, &body).await;
            // A strange value may be refused, but not the parameter.
            let refused = answer.text.contains(&format!("'{name}' is not supported here"));
            assert!(!refused, "{path} {name}: {}", answer.text);
        }
    }
}
