//! Events, streams and plain HTTP through the public doors of a whole relay.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod events;
mod http;
mod limits;
mod openapi;
mod policy;
mod resume;
mod sse;
mod streams;
#[path = "../support/mod.rs"]
mod support;

use std::time::{SystemTime, UNIX_EPOCH};

use relay_proto::{
    Event, SigningKey,
    event::{Draft, Tags},
};
use serde_json::Value;
use support::{House, Raw, Socket};

pub fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// A signed event of now.
pub fn event(key: &SigningKey, kind: u16, tags: &[&[&str]], content: &str) -> Event {
    event_at(key, kind, tags, content, now_ns())
}

pub fn event_at(
    key: &SigningKey,
    kind: u16,
    tags: &[&[&str]],
    content: &str,
    created_at_ns: u64,
) -> Event {
    let mut all = Tags::new();
    for tag in tags {
        all.push(tag.iter().copied());
    }
    Draft { kind, created_at_ns, tags: all, content: content.to_owned() }.sign(key).unwrap()
}

/// The JSON of an event with the right id and signature that breaks other rules.
pub fn forged(key: &SigningKey, kind: u16, tags: &[&[&str]], content: &str) -> String {
    let tags: Tags = tags.iter().map(|tag| tag.iter().copied()).collect();
    let draft = Draft { kind, created_at_ns: now_ns(), tags, content: content.to_owned() };
    let (author, canonical) = (key.node_id(), draft.canonical(&key.node_id()));
    serde_json::json!({
        "id": blake3::hash(&canonical).to_hex().as_str(),
        "pubkey": author,
        "created_at_ns": draft.created_at_ns.to_string(),
        "kind": kind,
        "tags": draft.tags,
        "content": draft.content,
        "sig": hex::encode(key.sign(&canonical)),
    })
    .to_string()
}

pub fn text(event: &Event) -> &str {
    std::str::from_utf8(event.json()).unwrap()
}

impl House {
    pub async fn get(&self, path: &str) -> Raw {
        self.raw("GET", path, &[], "").await
    }

    /// Publishes one event; gives the answer.
    pub async fn publish(&self, event: &Event) -> Raw {
        self.raw("POST", "/v1/events", &[], text(event)).await
    }

    /// Publishes many; all have to be taken.
    pub async fn publish_all(&self, events: &[Event]) {
        for batch in events.chunks(500) {
            let body: Vec<&str> = batch.iter().map(text).collect();
            let kind = [("content-type", "application/x-ndjson")];
            let answer = self.raw("POST", "/v1/events", &kind, &body.join("\n")).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
            for result in answer.json()["results"].as_array().unwrap() {
                assert_ne!(result["status"], "error", "{result}");
            }
        }
    }

    pub async fn count(&self, query: &str) -> u64 {
        let answer = self.get(&format!("/v1/events/count?{query}")).await;
        answer.json()["count"].as_u64().unwrap_or_else(|| panic!("{}", answer.body))
    }

    /// The ids of one page.
    pub async fn ids(&self, query: &str) -> Vec<String> {
        let answer = self.get(&format!("/v1/events?{query}")).await;
        ids_of(&answer.json())
    }
}

pub fn ids_of(page: &Value) -> Vec<String> {
    let events = page["events"].as_array().unwrap_or_else(|| panic!("{page}"));
    events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

impl Socket {
    /// The next frame of this type; others are skipped.
    pub async fn frame(&mut self, t: &str) -> Value {
        loop {
            let frame = self.next().await;
            if frame["t"] == t {
                return frame;
            }
            assert_ne!(frame["t"], "error", "{frame}");
        }
    }
}
