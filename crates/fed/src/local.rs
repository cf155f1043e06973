//! What this node offers to the federation; `node` implements it over actors and domains.

use std::fmt;

use futures_util::future::BoxFuture;
use relay_proto::{Call, CallError, Caller, Problem, RelayId, call::Json};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::link::ByteStream;

/// One public service as it is registered with the hub (`federation.md`, Registry).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceRecord {
    pub service_name: relay_proto::ServiceName,
    /// Semver.
    pub version: String,
    /// Empty where any method may be asked for.
    pub methods: Vec<String>,
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    #[serde(default = "public")]
    pub visibility: String,
    #[serde(default = "healthy")]
    pub is_healthy: bool,
}

fn public() -> String {
    "public".to_owned()
}

const fn healthy() -> bool {
    true
}

/// The result of a call, and where its time went.
pub struct Answer {
    pub value: Json,
    /// More of the result, in pieces; only for calls that said they take it.
    pub stream: Option<ByteStream>,
    /// Nearest first; only for calls that asked for it.
    pub hops: Vec<Hop>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("value", &self.value.get())
            .field("stream", &self.stream.is_some())
            .field("hops", &self.hops)
            .finish()
    }
}

/// What one relay on the way spent, for `relay call --trace`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hop {
    pub node: RelayId,
    /// From taking the request to handing on the answer, microseconds.
    pub total_us: u64,
    /// Of it, spent waiting in queues of this relay, microseconds.
    pub queue_us: u64,
    /// Smoothed round trip of the link the request left by, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
}

/// A request that belongs to another home, as its door took it: forwarded as bytes, answered as
/// bytes (`federation.md`, Homes).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Forward {
    /// Which door: `event.publish`, `event.query`, `lock.acquire`, `conv.send`, …
    pub operation: String,
    /// The request's JSON.
    pub request: Json,
    /// Who asks, as the edge relay proved; the home trusts it only as far as `grant` goes.
    pub caller: Caller,
    /// The user's own signed grant for the edge relay, where the operation needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
}

/// The node behind the federation.
pub trait LocalNode: Send + Sync {
    /// The public services of this node.
    fn services(&self) -> Vec<ServiceRecord>;

    /// Changes when [`Self::services`] does.
    fn services_changed(&self) -> watch::Receiver<u64>;

    /// Whether a service of this name lives here.
    fn has_service(&self, name: &relay_proto::ServiceName) -> bool;

    /// Takes a call that came over a link: served here or not at all.
    fn call(
        &self,
        call: Call,
        caller: Caller,
        body: Option<ByteStream>,
    ) -> BoxFuture<'static, Result<Answer, CallError>>;

    /// Takes a message that came over a link and wants no answer.
    ///
    /// # Errors
    /// Where it is refused.
    fn notify(&self, call: Call, caller: Caller) -> Result<(), CallError>;

    /// Takes a forwarded request whose home this node is. The answer may be a stream of frames
    /// after its JSON.
    fn forwarded(
        &self,
        from: RelayId,
        forward: Forward,
    ) -> BoxFuture<'static, Result<(Json, Option<ByteStream>), Problem>>;
}
