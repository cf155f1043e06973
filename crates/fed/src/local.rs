//! What this node offers to the federation; `node` implements it over actors and domains.

use std::fmt;

use futures_util::future::BoxFuture;
use relay_proto::{Call, CallError, Caller, Problem, RelayId, call::Json};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::link::ByteStream;

pub use relay_proto::{call::Hop, registry::ServiceRecord};

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
    ///
    /// A refusal before the service was reached says so ([`CallError::not_started`]), so that
    /// the caller's hub may try another instance; an error of the service never does.
    fn call(
        &self,
        call: Call,
        caller: Caller,
        body: Option<ByteStream>,
    ) -> BoxFuture<'static, Result<Answer, CallError>>;

    /// Whether a call would be taken here, and why, in words for a person; nothing is called.
    ///
    /// # Errors
    /// What the call would be refused with.
    fn admits(&self, call: &Call, caller: &Caller) -> Result<String, CallError> {
        let _ = caller;
        if self.has_service(&call.to.service) {
            Ok(format!("serves '{}'", call.to.service))
        } else {
            Err(CallError::service_not_found(&call.to.service))
        }
    }

    /// Takes a message that came over a link and wants no answer.
    ///
    /// # Errors
    /// Where it is refused.
    fn notify(&self, call: Call, caller: Caller) -> Result<(), CallError>;

    /// Takes a forwarded request whose home this node is, with the rest of it where it is a long one. The answer may be
    /// a stream after its JSON.
    fn forwarded(
        &self,
        from: RelayId,
        forward: Forward,
        body: Option<ByteStream>,
    ) -> BoxFuture<'static, Result<(Json, Option<ByteStream>), Problem>>;
}
