//! What a script reaches outside its machine, handed in by the node.

use futures_util::{future::BoxFuture, stream::BoxStream};
use relay_proto::{Call, CallError, Caller, ServiceName, call::Json};
use serde::{Deserialize, Serialize};

use crate::journal::LogLevel;

/// The outside of a script's machine.
pub trait Host: Send + Sync + 'static {
    /// Calls a service by address, here or anywhere.
    fn call(&self, call: Call, caller: Caller) -> BoxFuture<'static, Result<Json, CallError>>;

    /// Sends a message to a service; no answer comes.
    fn notify(&self, call: Call, caller: Caller) -> BoxFuture<'static, Result<(), CallError>>;

    /// Signs and publishes an event for a service. `draft` is what the script gave (`kind`,
    /// `content`, `tags`, `namespace`); the answer is the event as it stands.
    fn publish(
        &self,
        service: &ServiceName,
        draft: Json,
    ) -> BoxFuture<'static, Result<Json, CallError>>;

    /// Opens a subscription that begins after the cursor `after`, or with what comes from now on.
    /// Events nobody takes wait in the store, not in memory.
    fn subscribe(
        &self,
        service: &ServiceName,
        filter: Json,
        after: Option<String>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, HostEvent>, CallError>>;

    /// Takes a lock, waiting for it at most `wait_ms`.
    fn acquire(
        &self,
        service: &ServiceName,
        request: LockRequest,
    ) -> BoxFuture<'static, Result<LockGrant, CallError>>;

    /// Gives a lock back. One that is no longer held is no error.
    fn release(
        &self,
        service: &ServiceName,
        resource: String,
        token: u64,
    ) -> BoxFuture<'static, Result<(), CallError>>;

    /// Unix milliseconds.
    fn now_ms(&self) -> u64;

    /// Resolves when [`Self::now_ms`] has reached `due_ms`.
    fn sleep_until(&self, due_ms: u64) -> BoxFuture<'static, ()> {
        let pause = due_ms.saturating_sub(self.now_ms());
        Box::pin(tokio::time::sleep(std::time::Duration::from_millis(pause)))
    }

    /// Random bits.
    fn random(&self) -> u64;

    /// A line of a script's log; already bounded in length and number.
    fn log(&self, service: &ServiceName, level: LogLevel, message: &str);
}

/// An event as a subscription yields it.
#[derive(Debug, Clone)]
pub struct HostEvent {
    pub event: Json,
    /// Where to go on after this event.
    pub cursor: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LockRequest {
    pub resource: String,
    pub lease_ms: u64,
    pub wait_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockGrant {
    /// The fencing token.
    pub token: u64,
    /// Unix milliseconds.
    pub expires_at_ms: u64,
}
