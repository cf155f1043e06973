//! `/openapi.json`: which paths there are, what they take and what they answer.
//!
//! The schemas come from the types that are decoded and encoded, where they are the doors' own, and from
//! `schemas` where an answer is written by hand or by a crate below. Tests hold the list of paths against
//! the router, and real answers against the schemas.

mod chat;
mod paths;
mod schemas;

use std::sync::LazyLock;

use axum::{
    http::{HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::reply::raw_json;
use paths::{OPERATIONS, Operation};

/// `GET /openapi.json`. The document is made once.
pub(crate) async fn serve() -> Response {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());
    let mut response = raw_json(TEXT.clone());
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}

fn document() -> Value {
    let mut document = json!({ "openapi": "3.1.0" });
    // Schemas are plain data; they always serialise.
    document["components"] = serde_json::to_value(schemas::components()).unwrap_or_default();
    document["info"] = json!({
        "title": "Relay",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "Signed events, live streams, locks with fencing tokens, end-to-end encrypted conversations. Sockets at /v1/ws carry the same \
            in frames; /svc/SERVICE/… passes any request on to a service that is an HTTP server. Every refusal is a problem document (RFC 9457) with a stable `code`.",
        "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
    });
    document["components"]["securitySchemes"] = json!({
        "session": {
            "type": "http",
            "scheme": "bearer",
            "description": "The session_token of POST /v1/session/start, or an operator's token.",
        },
        "signed": {
            "type": "apiKey",
            "in": "header",
            "name": "authorization",
            "description": "`Relay BASE64URL`, a signed event of kind 27235 about this very request; good once.",
        },
    });
    // Nobody in particular may do what the rules let everyone do.
    document["security"] = json!([{}, { "session": [] }, { "signed": [] }]);
    document["paths"] = Value::Object(paths());
    document
}

fn paths() -> Map<String, Value> {
    let mut paths = Map::new();
    for operation in OPERATIONS.iter().chain(chat::OPERATIONS) {
        let path = operation.path.replace("{*", "{");
        let item = paths.entry(path).or_insert_with(|| json!({}));
        item[operation.method] = operation.describe();
    }
    paths
}

impl Operation {
    fn describe(&self) -> Value {
        let mut described = json!({
            "tags": [self.tag],
            "summary": self.summary,
            "responses": self.responses(),
        });
        let parameters = self.parameters();
        if !parameters.is_empty() {
            described["parameters"] = parameters.into();
        }
        if let Some(body) = self.body {
            described["requestBody"] = json!({ "required": true, "content": { "application/json": { "schema": reference(body) } } });
        }
        described
    }

    fn parameters(&self) -> Vec<Value> {
        let in_path = self.path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        let in_path = in_path.map(|name| {
            let name = name.trim_start_matches('*');
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
        });
        let in_query = self.query.iter().map(|(name, about)| {
            json!({ "name": name, "in": "query", "description": about, "schema": { "type": "string" } })
        });
        in_path.chain(in_query).collect()
    }

    fn responses(&self) -> Value {
        let mut responses = Map::new();
        for (status, kind) in self.answers {
            let content = match *kind {
                "" => json!({ "description": "done" }),
                "text/event-stream" | "text/plain" | "text/html" => {
                    json!({ "description": kind, "content": { *kind: { "schema": { "type": "string" } } } })
                }
                name => {
                    json!({ "description": name, "content": { "application/json": { "schema": reference(name) } } })
                }
            };
            responses.insert(status.to_string(), content);
        }
        responses.insert(
            "default".into(),
            json!({
                "description": "a refusal",
                "content": { "application/problem+json": { "schema": reference("Problem") } },
            }),
        );
        responses.into()
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Method and path of every `.route(…)` in the routers' sources.
    fn routed() -> BTreeSet<(String, String)> {
        let source =
            [include_str!("routes.rs"), include_str!("chat.rs"), include_str!("social.rs")]
                .concat();
        let source = source
            .replace("ask!(", "post(")
            .replace("look!(", "get(")
            .replace("govern(Act", "post(Act");
        let mut routes = BTreeSet::new();
        for call in source.split(".route(").skip(1) {
            let (path, rest) = call.trim_start().trim_start_matches('"').split_once('"').unwrap();
            let handlers = rest.split("\n        .").next().unwrap();
            for method in ["get", "post", "put", "patch", "delete"] {
                if handlers.contains(&format!("{method}(")) {
                    routes.insert((method.to_owned(), path.to_owned()));
                }
            }
        }
        routes
    }

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        let described: BTreeSet<_> = OPERATIONS
            .iter()
            .chain(chat::OPERATIONS)
            .map(|operation| (operation.method.to_owned(), operation.path.to_owned()))
            .collect();
        let count = OPERATIONS.len() + chat::OPERATIONS.len();
        assert_eq!(described.len(), count, "one of them is described twice");
        let routed = routed();
        assert!(routed.len() > 30, "the router's source is read wrongly");
        assert_eq!(described, routed);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let text = document.to_string();
        let named = text.split("#/components/schemas/").skip(1);
        let named: BTreeSet<&str> = named.filter_map(|rest| rest.split('"').next()).collect();
        for name in &named {
            assert!(schemas.contains_key(*name), "{name}");
        }
        let unused: Vec<_> = schemas.keys().filter(|name| !named.contains(name.as_str())).collect();
        assert!(unused.is_empty(), "{unused:?}");
    }
}
