//! What scripts ask of the outside, one future an operation.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use futures_util::future::LocalBoxFuture;
use relay_proto::{
    Address, Call, CallError, Caller, ServiceName,
    address::Method,
    call::{Json, check_idempotency_key},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout};

use super::{
    host::{Host, LockGrant, LockRequest},
    vm::Operation,
};

/// The result of an operation as the machine takes it.
pub(super) struct Resolved {
    pub id: u32,
    pub good: bool,
    /// A value, or `{code, message, data}`.
    pub text: String,
}

/// Locks the running message holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Held(Rc<RefCell<Vec<(String, u64)>>>);

/// For whom operations are started.
#[derive(Clone)]
pub(super) struct Outside {
    pub host: Arc<dyn Host>,
    pub service: ServiceName,
    pub held: Held,
}

impl Outside {
    /// Starts an operation of a message that came from `caller` and ends by `deadline`.
    pub fn start(
        &self,
        operation: Operation,
        caller: &Caller,
        deadline: Instant,
    ) -> LocalBoxFuture<'static, Resolved> {
        let Operation { id, kind, argument } = operation;
        let caller = Caller::service(self.service.clone(), Some(caller));
        let outside = self.clone();
        Box::pin(async move {
            let result = match kind.as_str() {
                "call" => outside.call(&argument, caller, deadline).await,
                "notify" => outside.notify(&argument, caller, deadline).await,
                "publish" => outside.publish(argument).await,
                "lock.acquire" => outside.acquire(&argument).await,
                "lock.release" => outside.release(&argument).await,
                other => Err(CallError::internal(format!("there is no operation '{other}'"))),
            };
            match result {
                Ok(value) => Resolved { id, good: true, text: value.get().to_owned() },
                Err(error) => Resolved { id, good: false, text: error_text(&error) },
            }
        })
    }

    /// Gives back what a message that ended badly still holds.
    pub async fn release_all(&self) {
        /// Longer than a healthy home takes; a lock that is not given back ends with its lease.
        const PATIENCE: Duration = Duration::from_secs(2);
        for (resource, token) in self.held.0.take() {
            let released = self.host.release(&self.service, resource, token);
            let _ = timeout(PATIENCE, released).await;
        }
    }

    async fn call(&self, text: &str, caller: Caller, deadline: Instant) -> Result<Json, CallError> {
        let call = read_call(text, deadline)?;
        self.host.call(call, caller).await
    }

    async fn notify(
        &self,
        text: &str,
        caller: Caller,
        deadline: Instant,
    ) -> Result<Json, CallError> {
        let call = read_call(text, deadline)?;
        self.host.notify(call, caller).await.map(|()| RawValue::NULL.to_owned())
    }

    async fn publish(&self, draft: String) -> Result<Json, CallError> {
        let draft = RawValue::from_string(draft).map_err(|_| CallError::invalid_params("event"))?;
        self.host.publish(&self.service, draft).await
    }

    async fn acquire(&self, text: &str) -> Result<Json, CallError> {
        let request: LockRequest = read(text)?;
        let resource = request.resource.clone();
        let grant: LockGrant = self.host.acquire(&self.service, request).await?;
        self.held.0.borrow_mut().push((resource, grant.token));
        to_json(&grant)
    }

    async fn release(&self, text: &str) -> Result<Json, CallError> {
        #[derive(Deserialize)]
        struct Release {
            resource: String,
            token: u64,
        }
        let Release { resource, token } = read(text)?;
        self.host.release(&self.service, resource.clone(), token).await?;
        self.held.0.borrow_mut().retain(|held| *held != (resource.clone(), token));
        Ok(RawValue::NULL.to_owned())
    }
}

fn read_call(text: &str, deadline: Instant) -> Result<Call, CallError> {
    #[derive(Deserialize)]
    struct Arguments {
        to: Address,
        method: Method,
        args: Option<Json>,
        timeout_ms: Option<u64>,
        idempotency_key: Option<String>,
        version: Option<String>,
    }
    let read: Arguments = read(text)?;
    if !read.args.as_deref().is_none_or(relay_proto::call::rpc::is_structured) {
        return Err(CallError::invalid_params("args is an object or an array"));
    }
    let mut call = Call::new(read.to, read.method, read.args);
    let left = deadline.saturating_duration_since(Instant::now());
    call.timeout = read.timeout_ms.map_or(left, |ms| left.min(Duration::from_millis(ms)));
    if let Some(key) = read.idempotency_key {
        check_idempotency_key(&key)?;
        call.idempotency_key = Some(key);
    }
    call.version = read.version;
    Ok(call)
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, CallError> {
    serde_json::from_str(text).map_err(|error| {
        let text = error.to_string();
        CallError::invalid_params(text.split(" at line ").next().unwrap_or(&text))
    })
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<Json, CallError> {
    serde_json::value::to_raw_value(value).map_err(|error| CallError::internal(error.to_string()))
}

fn error_text(error: &CallError) -> String {
    let data = error.wire_data();
    serde_json::json!({"code": error.code.number(), "message": error.message, "data": data})
        .to_string()
}
