//! Locks: the operations as the relay has them (`locks.md`). [`LockGuard`](crate::LockGuard) is what
//! most programs want.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use relay_proto::{Namespace, NodeId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    auth::random,
    client::{Client, Request},
    error::Error,
    events::encode_segment,
};

/// The longest lease a relay gives, and the longest wait that one request asks for.
pub const MAX_LEASE: Duration = Duration::from_secs(3600);
/// The shortest lease a relay gives.
pub const MIN_LEASE: Duration = Duration::from_millis(500);

/// What to lock, for how long, and how long to wait for it.
#[derive(Debug, Clone)]
pub struct LockRequest {
    /// The namespace of the resource.
    pub ns: Namespace,
    /// What to lock, such as `site/prod`.
    pub resource: String,
    /// [`MIN_LEASE`] to [`MAX_LEASE`]; 30 s by default.
    pub lease: Duration,
    /// How long to queue for it; zero asks once.
    pub wait: Duration,
    /// Makes repeating harmless; made by [`LockRequest::new`].
    pub request_id: String,
    /// Anything that helps those who find it held.
    pub meta: Map<String, Value>,
}

impl LockRequest {
    /// A request for `resource` in the default namespace, with a lease of 30 s and without waiting.
    ///
    /// # Errors
    /// [`Error::Key`] where the system has no randomness.
    pub fn new(resource: impl Into<String>) -> Result<Self, Error> {
        Ok(Self {
            ns: Namespace::default(),
            resource: resource.into(),
            lease: Duration::from_secs(30),
            wait: Duration::ZERO,
            request_id: new_request_id()?,
            meta: Map::new(),
        })
    }
}

/// A fresh idempotency key.
///
/// # Errors
/// [`Error::Key`] where the system has no randomness.
pub fn new_request_id() -> Result<String, Error> {
    Ok(format!("rq_{}", URL_SAFE_NO_PAD.encode(random::<16>()?)))
}

/// The answer to acquire and renew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LockGrant {
    /// What is locked.
    pub resource: String,
    /// The caller's key.
    pub owner: NodeId,
    /// Rises with every grant of the resource; goes with every write that the lock protects.
    pub fencing_token: u64,
    /// How long the lease lasts from the grant or renewal.
    pub lease_ms: u64,
    /// By the relay's wall clock: for people. Count with [`LockGuard`](crate::LockGuard).
    pub lease_expires_at_ns: String,
    /// The relay's wall clock at the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now_ns: Option<String>,
    /// Further members of the answer.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// What `inspect` and `list` say of one resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LockState {
    /// What was asked for.
    pub resource: String,
    /// Whether somebody has it.
    pub held: bool,
    /// Who has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<NodeId>,
    /// The holder's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fencing_token: Option<u64>,
    /// By the relay's wall clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_expires_at_ns: Option<String>,
    /// How many queue for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u64>,
    /// The last token given, where it is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_token: Option<u64>,
    /// Further members of the answer.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// One page of a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Items {
    /// As the relay sent them.
    pub items: Vec<Value>,
    /// Where the next page begins; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl Client {
    /// Takes a lock, or queues for it for as long as the request says. Repeating the same request
    /// (with its `request_id`) gives the same grant.
    ///
    /// The time that the lease counts from passed while the answer travelled: use
    /// [`LockGuard::acquire`](crate::LockGuard::acquire), which knows.
    ///
    /// # Errors
    /// `lock_held` with `owner` and `retry_after_ms`, and any other refusal.
    pub async fn acquire(&self, request: &LockRequest) -> Result<LockGrant, Error> {
        let wait = request.wait.min(MAX_LEASE);
        let mut body = json!({
            "ns": request.ns,
            "resource": request.resource,
            "lease_ms": millis(request.lease),
            "request_id": request.request_id,
        });
        if !wait.is_zero() {
            body["wait_ms"] = millis(wait).into();
        }
        if !request.meta.is_empty() {
            body["meta"] = Value::Object(request.meta.clone());
        }
        let call = Request::post("/v1/locks/acquire", &body);
        self.call(Request { patience: wait, repeatable: true, ..call }).await
    }

    /// Lengthens the lease; never shortens it.
    ///
    /// # Errors
    /// `lease_expired`, `stale_token`, `forbidden`: it is no longer yours.
    pub async fn renew(
        &self,
        ns: &Namespace,
        resource: &str,
        fencing_token: u64,
        lease: Duration,
    ) -> Result<LockGrant, Error> {
        let body = json!({
            "ns": ns, "resource": resource, "fencing_token": fencing_token, "lease_ms": millis(lease),
        });
        let call = Request::post("/v1/locks/renew", &body);
        self.call(Request { repeatable: true, ..call }).await
    }

    /// Gives the lock back. Repeating is harmless until somebody else has it.
    ///
    /// # Errors
    /// `stale_token`, `lease_expired`, `forbidden`.
    pub async fn release(
        &self,
        ns: &Namespace,
        resource: &str,
        fencing_token: u64,
    ) -> Result<Value, Error> {
        let body = json!({ "ns": ns, "resource": resource, "fencing_token": fencing_token });
        let call = Request::post("/v1/locks/release", &body);
        self.call(Request { repeatable: true, ..call }).await
    }

    /// Who holds the resource now.
    ///
    /// # Errors
    /// `forbidden`, and any [`Error`] of the transport.
    pub async fn inspect(&self, ns: &Namespace, resource: &str) -> Result<LockState, Error> {
        let path = format!("/v1/locks/{}", encode_segment(resource));
        self.call(Request::get(path).query("ns", Some(ns))).await
    }

    /// One page of the locks that are held, by the beginning of their names.
    ///
    /// # Errors
    /// `forbidden`, and any [`Error`] of the transport.
    pub async fn locks(
        &self,
        ns: &Namespace,
        prefix: Option<&str>,
        cursor: Option<&str>,
    ) -> Result<Items, Error> {
        let request = Request::get("/v1/locks").query("ns", Some(ns));
        self.call(request.query("prefix", prefix).query("cursor", cursor)).await
    }

    /// One page of what happened to a resource.
    ///
    /// # Errors
    /// `forbidden`, and any [`Error`] of the transport.
    pub async fn lock_history(
        &self,
        ns: &Namespace,
        resource: &str,
        cursor: Option<&str>,
    ) -> Result<Items, Error> {
        let request = Request::get("/v1/lock-history").query("ns", Some(ns));
        self.call(request.query("resource", Some(resource)).query("cursor", cursor)).await
    }

    /// Ends another's lease now, as if it had run out. For administrators; audited.
    ///
    /// # Errors
    /// `forbidden`, `stale_token` where another holds it by now.
    pub async fn break_lock(
        &self,
        ns: &Namespace,
        resource: &str,
        fencing_token: u64,
        reason: &str,
    ) -> Result<Value, Error> {
        let body = json!({
            "ns": ns, "resource": resource, "fencing_token": fencing_token, "reason": reason,
        });
        self.call(Request::post("/v1/locks/break", &body)).await
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
