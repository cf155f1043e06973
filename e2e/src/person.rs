//! Somebody with a key, who uses the lock API over plain HTTP, and what they are told.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use relay_client::Client;
use relay_proto::{
    NodeId, SigningKey,
    auth::request::sign_request,
    event::{Draft, Tags},
};
use relay_sim::{Ask, Outcome};
use serde_json::{Value, json};

use crate::{relay::Relay, witness::Witness};

/// A client of one relay, who signs each request or has signed in.
#[derive(Debug, Clone)]
pub struct Person {
    pub number: u32,
    pub key: SigningKey,
    http: reqwest::Client,
    url: String,
    /// The token of a session; without one, each request is signed.
    session: Option<String>,
}

/// An answer as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub retry_after: Option<String>,
}

/// Why no answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// The request never reached the relay.
    NotSent,
    /// It may have had its effect.
    Lost,
}

pub fn key_of(number: u32) -> SigningKey {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    SigningKey::from_seed(seed)
}

impl Person {
    /// A client of this relay. The same number is always the same key.
    pub fn at(relay: &Relay, number: u32) -> Self {
        Self::with_key(&relay.url(), number, key_of(number))
    }

    /// The people 0…`size`, who share their connections.
    pub fn crowd(relay: &Relay, size: u32) -> Vec<Self> {
        let http = crate::relay::reqwest_client();
        let person = |number| Self {
            number,
            key: key_of(number),
            http: http.clone(),
            url: relay.url(),
            session: None,
        };
        (0..size).map(person).collect()
    }

    /// The one who may break locks.
    pub fn admin(relay: &Relay) -> Self {
        Self::with_key(&relay.url(), u32::MAX, crate::relay::admin_key())
    }

    pub fn with_key(url: &str, number: u32, key: SigningKey) -> Self {
        let http = crate::relay::reqwest_client();
        Self { number, key, http, url: url.to_owned(), session: None }
    }

    /// The same person with a session, and its resume token.
    pub async fn signed_in(&self) -> (Self, String) {
        let session = self.sdk().login(&format!("device-{}", self.number), None).await.unwrap();
        (Self { session: Some(session.session_token), ..self.clone() }, session.resume_token)
    }

    /// The same person through another address (a proxy).
    pub fn through(&self, url: &str) -> Self {
        let http = crate::relay::reqwest_client();
        Self { url: url.to_owned(), http, ..self.clone() }
    }

    pub fn id(&self) -> NodeId {
        self.key.node_id()
    }

    /// The SDK, with this person's key.
    pub fn sdk(&self) -> Client {
        Client::builder(&self.url).unwrap().key(self.key.clone()).build().unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.try_post(path, &body).await.unwrap()
    }

    pub async fn try_post(&self, path: &str, body: &Value) -> Result<Answer, NoAnswer> {
        let body = body.to_string();
        let header = self.authorization("POST", path, &body);
        let request = self.http.post(format!("{}{path}", self.url)).header("authorization", header);
        answer_to(request.header("content-type", "application/json").body(body)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.try_get(path).await.unwrap()
    }

    pub async fn try_get(&self, path: &str) -> Result<Answer, NoAnswer> {
        let header = self.authorization("GET", path, "");
        let request = self.http.get(format!("{}{path}", self.url));
        answer_to(request.header("authorization", header)).await
    }

    pub async fn acquire(&self, resource: &str, lease_ms: u64) -> Answer {
        self.post("/v1/locks/acquire", json!({"resource": resource, "lease_ms": lease_ms})).await
    }

    pub async fn acquire_waiting(&self, resource: &str, lease_ms: u64, wait_ms: u64) -> Answer {
        let body = json!({"resource": resource, "lease_ms": lease_ms, "wait_ms": wait_ms});
        self.post("/v1/locks/acquire", body).await
    }

    pub async fn renew(&self, resource: &str, token: u64, lease_ms: u64) -> Answer {
        let body = json!({"resource": resource, "fencing_token": token, "lease_ms": lease_ms});
        self.post("/v1/locks/renew", body).await
    }

    pub async fn release(&self, resource: &str, token: u64) -> Answer {
        self.post("/v1/locks/release", json!({"resource": resource, "fencing_token": token})).await
    }

    pub async fn break_lock(&self, resource: &str, token: u64) -> Answer {
        let body = json!({"resource": resource, "fencing_token": token, "reason": "test"});
        self.post("/v1/locks/break", body).await
    }

    pub async fn inspect(&self, resource: &str) -> Answer {
        self.get(&inspect_path(resource)).await
    }

    /// All rows of the history of a resource, oldest first.
    pub async fn history(&self, resource: &str) -> Vec<Value> {
        let mut rows = Vec::new();
        let mut cursor = String::new();
        loop {
            let name = percent(resource);
            let path = format!("/v1/lock-history?ns=default&resource={name}&limit=500{cursor}");
            let page = self.get(&path).await;
            assert_eq!(page.status, 200, "{page:?}");
            rows.extend(page.body["items"].as_array().unwrap().iter().cloned());
            match page.body["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        rows.reverse();
        rows
    }

    /// The body of an addressable event that only the holder of the lock may store.
    pub fn fenced_event(&self, resource: &str, token: u64, content: &str) -> Value {
        let mut tags = Tags::new();
        tags.push(["d", resource]);
        tags.push(["fence", resource, &token.to_string()]);
        tags.push(["n", &unique().to_string()]);
        let draft =
            Draft { kind: 30_001, created_at_ns: unix_ns(), tags, content: content.to_owned() };
        serde_json::from_slice(draft.sign(&self.key).unwrap().json()).unwrap()
    }

    pub async fn publish_fenced(&self, resource: &str, token: u64, content: &str) -> Answer {
        self.post("/v1/events", self.fenced_event(resource, token, content)).await
    }

    /// A signed request for an acquire: header and body.
    pub fn signed_acquire(&self, resource: &str) -> (String, String) {
        let body = json!({"resource": resource, "lease_ms": 1000}).to_string();
        (self.sign("POST", "/v1/locks/acquire", &body), body)
    }

    fn authorization(&self, method: &str, path: &str, body: &str) -> String {
        match &self.session {
            Some(token) => format!("Bearer {token}"),
            None => self.sign(method, path, body),
        }
    }

    fn sign(&self, method: &str, path: &str, body: &str) -> String {
        let url = format!("{}{path}", self.url);
        let nonce = unique().to_string();
        sign_request(&self.key, method, &url, body.as_bytes(), unix_ns(), &nonce).unwrap()
    }

    /// Sends a signed request to its path.
    pub async fn send_signed(&self, header: &str, body: &str) -> Answer {
        let request = self.http.post(format!("{}/v1/locks/acquire", self.url));
        let request = request.header("authorization", header);
        let request = request.header("content-type", "application/json").body(body.to_owned());
        answer_to(request).await.unwrap()
    }

    // === recorded operations ===

    /// Sends one operation and writes down what came of it. Gives the outcome.
    pub async fn act(&self, witness: &Witness, resource: &str, ask: Ask, wait_ms: u64) -> Outcome {
        let call = witness.now();
        let answer = match &ask {
            Ask::Acquire { lease_ms, request, .. } => {
                let mut body = json!({"resource": resource, "lease_ms": lease_ms});
                if let Some(request) = request {
                    body["request_id"] = format!("rq-{request}").into();
                }
                if wait_ms > 0 {
                    body["wait_ms"] = wait_ms.into();
                }
                self.try_post("/v1/locks/acquire", &body).await
            }
            Ask::Renew { token, lease_ms, .. } => {
                let body =
                    json!({"resource": resource, "fencing_token": token, "lease_ms": lease_ms});
                self.try_post("/v1/locks/renew", &body).await
            }
            Ask::Release { token, .. } => {
                let body = json!({"resource": resource, "fencing_token": token});
                self.try_post("/v1/locks/release", &body).await
            }
            Ask::Break { token } => {
                let body = json!({"resource": resource, "fencing_token": token, "reason": "test"});
                self.try_post("/v1/locks/break", &body).await
            }
            Ask::Inspect => self.try_get(&inspect_path(resource)).await,
            Ask::Fenced { token, .. } => {
                let event = self.fenced_event(resource, *token, "x");
                self.try_post("/v1/events", &event).await
            }
        };
        let outcome = outcome_of(witness, &ask, answer);
        witness.note(self.number, resource, call, ask, outcome.clone());
        outcome
    }
}

/// Reads an answer as the checker wants it. Where nothing came, the effect can only have come
/// before now: the harness cuts links by ending the process that served them.
fn outcome_of(witness: &Witness, ask: &Ask, answer: Result<Answer, NoAnswer>) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(NoAnswer::NotSent) => return Outcome::Nothing,
        Err(NoAnswer::Lost) => return Outcome::Unknown,
    };
    let token = |name: &str| answer.body[name].as_u64().unwrap_or(0);
    let owner = || witness.owner(answer.body["owner"].as_str().unwrap_or_default());
    match (answer.status, answer.code()) {
        (200 | 201, _) => match answer.body.get("held").and_then(Value::as_bool) {
            Some(true) => Outcome::Seen { owner: owner(), token: token("fencing_token") },
            Some(false) => Outcome::SeenFree { last_token: token("last_token") },
            None if matches!(ask, Ask::Acquire { .. }) => {
                Outcome::Granted { token: token("fencing_token") }
            }
            None => Outcome::Done,
        },
        (_, "lock_held") => Outcome::Held { owner: owner() },
        (_, "lease_expired") => Outcome::Expired,
        (_, "stale_token") => Outcome::Stale,
        (_, "forbidden") => Outcome::Forbidden,
        (_, "conflict") => Outcome::Conflict,
        (_, "fenced") => Outcome::Fenced,
        (400..500, _) => Outcome::Nothing,
        _ => Outcome::Unknown,
    }
}

impl Answer {
    /// The error code, or "" where it is none.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// The token of a grant.
    ///
    /// # Panics
    /// If this is no grant.
    pub fn token(&self) -> u64 {
        assert_eq!(self.status, 200, "{self:?}");
        self.body["fencing_token"].as_u64().unwrap_or_else(|| panic!("no token: {self:?}"))
    }

    pub fn assert_code(&self, code: &str) {
        assert_eq!(self.code(), code, "{self:?}");
    }
}

async fn answer_to(request: reqwest::RequestBuilder) -> Result<Answer, NoAnswer> {
    let no_answer = |error: reqwest::Error| {
        if error.is_connect() { NoAnswer::NotSent } else { NoAnswer::Lost }
    };
    let response = request.send().await.map_err(no_answer)?;
    let status = response.status().as_u16();
    let retry_after = response.headers().get("retry-after");
    let retry_after = retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let bytes = response.bytes().await.map_err(|_| NoAnswer::Lost)?;
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Ok(Answer { status, body, retry_after })
}

fn inspect_path(resource: &str) -> String {
    format!("/v1/locks/{}", percent(resource))
}

/// Percent-encodes everything but letters and digits.
pub fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// A number that this process has not used.
fn unique() -> u64 {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

pub fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_nanos() as u64
}
