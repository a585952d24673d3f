//! `/openapi.json`: it documents every response of the server, and no other.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::client::{Request, Response};
use crate::support::server::{Server, unlimited};
use crate::support::store::TempStore;
use crate::support::{AuthConfig, GroupName, Limit};

fn document() -> Value {
    serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap()
}

/// Follows a reference of the document.
fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value.get("$ref") {
        Some(to) => document.pointer(to.as_str().unwrap().strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

/// Asserts that the document allows this response.
fn check(document: &Value, path: &str, method: &str, response: &Response) {
    let what = format!("{method} {path} {}", response.status);
    let responses = &document["paths"][path][method.to_lowercase()]["responses"];
    let declared = &responses[response.status.to_string()];
    assert!(declared.is_object(), "{what} is not in the document");
    let declared = resolve(document, declared);
    let fields = declared["headers"].as_object();
    for (name, field) in fields.into_iter().flatten() {
        let value = response.header(&name.to_lowercase());
        assert!(value.is_some() || field["required"] != true, "{what} has no {name}");
        let Some(value) = value else { continue };
        if let Some(only) = field["schema"]["const"].as_str() {
            assert_eq!(value, only, "{what}: {name}");
        }
        if let Some(some) = field["schema"]["enum"].as_array() {
            assert!(some.contains(&value.into()), "{what}: {name} is {value}");
        }
    }
    let content = declared["content"].as_object();
    for (kind, body) in content.into_iter().flatten() {
        assert!(response.header("content-type").unwrap().starts_with(kind), "{what}");
        let said = match kind.as_str() {
            "application/json" => serde_json::from_str(&response.body).unwrap(),
            _ => Value::from(response.body.clone()),
        };
        let schema = &body["schema"];
        assert!(schema["const"].is_null() || said == schema["const"], "{what}: {said}");
        if let Some(some) = schema["enum"].as_array() {
            assert!(some.contains(&said), "{what}: {said}");
        }
        // The two patterns of the document end with a line feed.
        assert!(schema["pattern"].is_null() || response.body.ends_with(".\n"), "{what}: {said}");
    }
}

#[test]
fn openapi_document_is_served_unchanged() {
    let store = TempStore::new();
    let response = store.serve().send(&Request::get("/openapi.json"));
    assert_eq!(response.status, 200);
    assert_eq!(response.body, include_str!("../../docs/openapi.json"));
}

#[test]
fn every_response_is_documented_and_every_documented_one_occurs() {
    let document = document();
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    store.add("ann", "open-sesame");
    store.change("INSERT INTO memberships VALUES ('roy', 'staff')");
    let settings = AuthConfig {
        require_groups: vec![GroupName::parse("staff").unwrap()],
        source_limit: Limit::new(3, Limit::MAX_PERIOD),
        ..unlimited()
    };
    let server = Server::start_with(store.reader(), &settings, &["127.0.0.1"]);
    let mut seen = BTreeSet::new();
    let mut ask = |path: &str, method: &str, request: Request| {
        let response = server.send(&request);
        check(&document, path, method, &response);
        seen.insert((path.to_owned(), method.to_lowercase(), response.status.to_string()));
    };
    let paths = document["paths"].as_object().unwrap();
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let method = &method.to_uppercase();
            let new = || Request::new(method, path);
            let elsewhere = |request: Request| {
                request.header("X-Forwarded-For", format!("192.0.2.{}", method.len()))
            };
            ask(path, method, new());
            ask(path, method, new().basic("roy", "open-sesame"));
            ask(path, method, new().basic("ann", "open-sesame"));
            ask(path, method, new().authorization("x").authorization("y"));
            ask(path, method, new().authorization(format!("Basic {}", "x".repeat(9000))));
            ask(path, method, new().header("X-Long", "x".repeat(70_000)));
            for guess in ["one", "two", "three", "four"] {
                ask(path, method, elsewhere(new().basic("roy", guess)));
            }
        }
    }
    store.hide_users();
    for method in ["GET", "HEAD"] {
        for path in ["/rest-auth", "/readyz"] {
            ask(path, method, Request::new(method, path).basic("roy", "open-sesame"));
        }
    }
    let documented: BTreeSet<_> = paths
        .iter()
        .flat_map(|(path, methods)| {
            let methods =
                methods.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters");
            methods.flat_map(move |(method, operation)| {
                let statuses = operation["responses"].as_object().unwrap().keys();
                statuses.map(move |status| (path.clone(), method.clone(), status.clone()))
            })
        })
        .collect();
    let missing: Vec<_> = documented.difference(&seen).collect();
    assert!(missing.is_empty(), "in the document and never given: {missing:?}");
}
