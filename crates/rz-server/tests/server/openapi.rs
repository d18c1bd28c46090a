//! The document about the routes, against the routes.

use std::collections::BTreeSet;
use std::path::Path;

use rz_server::Config;
use serde_json::{Value, json};

use crate::fake::{Script, TEMPLATE, server, server_with};

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
            let answer = server.post(&path.replace("{id}", "0"), &json!({})).await;
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
    let extra = ["/api/show", "/api/pull"].map(|path| (path, json!({ "model": "tiny" })));
    for (path, good) in crate::hostile::good().into_iter().chain(extra) {
        let pointer = path.replace('/', "~1");
        let body = format!("/paths/{pointer}/post/requestBody/content/application~1json/schema/$ref");
        let reference = document.pointer(&body).and_then(Value::as_str).unwrap_or_else(|| panic!("{path}"));
        let schema = document.pointer(reference.trim_start_matches('#')).unwrap();
        for name in schema["properties"].as_object().unwrap().keys() {
            let mut body = good.clone();
            body[name] = json!({ "$": 1 });
            let answer = server.post(path, &body).await;
            // A strange value may be refused, but not the parameter.
            let refused = answer.text.contains(&format!("'{name}' is not supported here"));
            assert!(!refused, "{path} {name}: {}", answer.text);
        }
    }
}

/// The values at the bounds that a schema sets, with whether they are within.
fn at_bounds(schema: &Value) -> Vec<(Value, bool)> {
    if let Some(alternatives) = schema["oneOf"].as_array() {
        return alternatives.iter().flat_map(at_bounds).collect();
    }
    let mut found = Vec::new();
    let is = |name: &str| match &schema["type"] {
        Value::Array(types) => types.iter().any(|kind| kind == name),
        kind => kind == name,
    };
    for (bound, sign) in [("minimum", -1), ("maximum", 1)] {
        if let Some(bound) = schema[bound].as_i64().filter(|_| is("integer")) {
            // What is written with a fraction is a whole number, too.
            let float = bound as f64;
            found.push((json!(bound), true));
            found.extend(
                (float as i64 == bound && float < (1u64 << 63) as f64).then_some((json!(float), true)),
            );
            let beyond = bound.checked_add(sign).map_or(json!(float * 1.01), |beyond| json!(beyond));
            found.push((beyond, false));
        } else if let Some(bound) = schema[bound].as_f64().filter(|_| is("number")) {
            let beyond = if sign < 0 { bound.next_down() } else { bound.next_up() };
            found.extend([(json!(bound), true), (json!(beyond), false)]);
        }
    }
    for (bound, more) in [("minLength", -1), ("maxLength", 1)] {
        if let Some(bound) = schema[bound].as_i64() {
            let text = |length: i64| json!("é".repeat(length as usize));
            found.extend([(text(bound), true), (text(bound + more), false)]);
        }
    }
    for (bound, more) in [("minItems", -1), ("maxItems", 1)] {
        if let Some(bound) = schema[bound].as_i64().filter(|_| schema["items"].is_object()) {
            let list = |length: i64| (0..length).map(|index| item(&schema["items"], index)).collect();
            found.extend([(list(bound), true), (list(bound + more), false)]);
        }
    }
    found
}

/// An item that is as the schema says, and unlike others.
fn item(schema: &Value, index: i64) -> Value {
    let reference = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
    let name = format!("f{index}");
    match (reference, schema["type"].as_str()) {
        (Some("Message" | "InputItem" | "AnthropicMessage"), _) => json!({ "role": "user", "content": "x" }),
        (Some("Tool"), _) => json!({ "function": { "name": name } }),
        (Some("ResponseTool"), _) => json!({ "type": "function", "name": name }),
        (Some("AnthropicTool"), _) => json!({ "name": name, "input_schema": {} }),
        (None, Some("string")) => json!("x"),
        (None, Some("integer")) => json!(5),
        (None, None) if schema["oneOf"].is_array() => item(&schema["oneOf"][0], index),
        other => panic!("{other:?}"),
    }
}

/// At every bound that the document sets, and just behind it, the routes agree with it.
#[tokio::test]
async fn the_bounds_of_the_document_are_those_of_the_routes() {
    // Within their bounds, these must suit the model or the rest of the request, too.
    const DEPENDENT: [&str; 5] = ["best_of", "dimensions", "id_slot", "min_tokens", "top_logprobs"];
    let mut config = Config::default();
    config.max_choices = 5;
    let server = server_with(TEMPLATE, Script::Say(vec!["x"]), config);
    let document = server.get("/openapi.json").await.json();
    let named = |reference: &str| document.pointer(reference.trim_start_matches('#')).unwrap().clone();
    let older = ("/api/embeddings", json!({ "model": "tiny", "prompt": "Hi" }));
    let mut tried = 0;
    for (path, good) in crate::hostile::good().into_iter().chain([older]) {
        let pointer = path.replace('/', "~1");
        let body = format!("/paths/{pointer}/post/requestBody/content/application~1json/schema/$ref");
        let schema = named(document.pointer(&body).and_then(Value::as_str).unwrap());
        let mut fields: Vec<(Option<&str>, String, Value)> = Vec::new();
        for (name, property) in schema["properties"].as_object().unwrap() {
            if name == "model" {
                // There is only one, whatever may be a name.
                continue;
            }
            fields.push((None, name.clone(), property.clone()));
            if let Some(inner) = property["oneOf"][0]["$ref"].as_str().filter(|_| name == "options") {
                let inner = named(inner)["properties"].as_object().unwrap().clone();
                fields.extend(inner.into_iter().map(|(name, schema)| (Some("options"), name, schema)));
            }
        }
        for (within, name, schema) in fields {
            for (value, is_good) in at_bounds(&schema) {
                let mut body = good.clone();
                match within {
                    Some(object) => body[object] = json!({ name.as_str(): value }),
                    None => body[&name] = value.clone(),
                }
                if name == "max_tokens" && path == "/v1/completions" {
                    // No tokens at all are asked for to see the prompt.
                    body["echo"] = true.into();
                }
                let answer = server.post(path, &body).await;
                let shown: String = value.to_string().chars().take(40).collect();
                let shown = format!("{path} {name} {shown}: {}", answer.text);
                tried += 1;
                if !is_good {
                    assert_eq!(answer.status, 400, "{shown}");
                } else if answer.status != 200 {
                    let is_large = answer.text.contains("the context holds") || name == "num_ctx";
                    assert!(is_large || DEPENDENT.contains(&&*name), "{shown}");
                    assert!(!answer.text.contains(": give a whole number"), "{shown}");
                }
            }
        }
    }
    assert!(tried > 400, "{tried}");
}
