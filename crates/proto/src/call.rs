//! Calls (`federation.md`, Calls): JSON-RPC 2.0 read strictly, and what one call is once read.
//!
//! - [`rpc`]: requests, batches and responses as they stand on the wire
//! - [`error`]: the error numbers and what each means to a caller
//! - [`access`]: who may call what, decided where the service lives
//!
//! Arguments and results pass through as JSON text: only the service reads them.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    address::{Address, Method, NodeAddress, RelayId, ServiceName},
    key::NodeId,
};

pub mod access;
pub mod error;
pub mod rpc;

pub use access::{AccessRules, Decision, Effect, Pattern, Rule};
pub use error::{CallError, RpcCode};
pub use rpc::{Incoming, RpcId, RpcRequest, RpcResponse};

/// JSON text that passes through unread.
pub type Json = Box<RawValue>;

/// The time a call has when its caller names none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest time a call may ask for.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
/// The longest idempotency key, in bytes.
pub const MAX_IDEMPOTENCY_KEY: usize = 128;

/// One call: to whom, what, and how long the caller waits.
#[derive(Debug, Clone)]
pub struct Call {
    pub to: Address,
    pub method: Method,
    /// An object (named) or an array; `None` where the caller gave none.
    pub args: Option<Json>,
    /// Which versions of the service will do, as a semver range.
    pub version: Option<String>,
    /// How long the caller waits; shrinks at every hop. At most [`MAX_TIMEOUT`].
    pub timeout: Duration,
    /// Given by a caller that may repeat the call: repeats get the first result.
    pub idempotency_key: Option<String>,
    /// Whether the caller can take a result in pieces.
    pub streaming: bool,
    /// W3C traceparent.
    pub trace: Option<String>,
    /// Whether the answer is to say where its time went (`relay call --trace`).
    pub timing: bool,
}

/// What one relay on the way spent, for `relay call --trace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

impl Call {
    pub fn new(to: Address, method: Method, args: Option<Json>) -> Self {
        Self {
            to,
            method,
            args,
            version: None,
            timeout: DEFAULT_TIMEOUT,
            idempotency_key: None,
            streaming: false,
            trace: None,
            timing: false,
        }
    }

    /// Reads the call out of a JSON-RPC request, in either form: `service.method` with an address
    /// allowed before the last dot, or `remote_call`.
    ///
    /// # Errors
    /// [`RpcCode::MethodNotFound`] for a method without a service, [`RpcCode::InvalidParams`] for
    /// a malformed address or malformed members of `remote_call`.
    pub fn from_rpc(method: &str, params: Option<Json>) -> Result<Self, CallError> {
        if method == REMOTE_CALL {
            return Self::from_remote_call(params);
        }
        let Some((to, method)) = method.rsplit_once('.') else {
            let message = format!("there is no method '{method}'; call 'service.method'");
            return Err(CallError::new(RpcCode::MethodNotFound, message));
        };
        let to = to.parse().map_err(|error| CallError::invalid_params(format!("{to}: {error}")))?;
        Ok(Self::new(to, read_method(method)?, params))
    }

    fn from_remote_call(params: Option<Json>) -> Result<Self, CallError> {
        #[derive(Deserialize)]
        struct Params {
            node_id: Option<NodeAddress>,
            server_name: ServiceName,
            method: Method,
            args: Option<Json>,
            /// Seconds.
            timeout: Option<f64>,
            version: Option<String>,
            idempotency_key: Option<String>,
        }
        let params = params.ok_or_else(|| CallError::invalid_params("remote_call needs params"))?;
        let params: Params = serde_json::from_str(params.get()).map_err(|error| {
            let text = error.to_string();
            let text = text.split(" at line ").next().unwrap_or(&text);
            CallError::invalid_params(format!("remote_call: {text}"))
        })?;
        if !params.args.as_deref().is_none_or(rpc::is_structured) {
            return Err(CallError::invalid_params("args is an object or an array"));
        }
        let to = Address { service: params.server_name, node: params.node_id };
        let mut call = Self::new(to, params.method, params.args);
        if let Some(seconds) = params.timeout {
            call.timeout = read_timeout(seconds)?;
        }
        if let Some(key) = params.idempotency_key {
            check_idempotency_key(&key)?;
            call.idempotency_key = Some(key);
        }
        call.version = params.version;
        Ok(call)
    }
}

/// The method of the explicit form.
pub const REMOTE_CALL: &str = "remote_call";

/// Refuses keys that are empty, too long or not printable ASCII.
///
/// # Errors
/// [`RpcCode::InvalidParams`].
pub fn check_idempotency_key(key: &str) -> Result<(), CallError> {
    let good = (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len())
        && key.bytes().all(|b| (0x21..0x7f).contains(&b));
    if good {
        return Ok(());
    }
    Err(CallError::invalid_params("an idempotency key is 1 to 128 printable ASCII characters"))
}

fn read_method(text: &str) -> Result<Method, CallError> {
    text.parse().map_err(|error| CallError::new(RpcCode::MethodNotFound, format!("{error}")))
}

fn read_timeout(seconds: f64) -> Result<Duration, CallError> {
    let timeout = Duration::try_from_secs_f64(seconds).ok();
    timeout
        .filter(|timeout| !timeout.is_zero() && *timeout <= MAX_TIMEOUT)
        .ok_or_else(|| CallError::invalid_params("timeout is above 0 and at most 3600 seconds"))
}

/// Who calls, as proven on the way in: by a session, a signed request or the links it came over.
///
/// Never read from the call itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The key that signed the request or holds the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<NodeId>,
    /// The node the call comes from, by the identity its link proved; `None` for this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeAddress>,
    /// The service that calls, on the word of `node`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// Services of this node that wait for this call, outermost first: a call back to one of
    /// them would wait for itself.
    #[serde(skip)]
    pub waiting: Option<Arc<Waiting>>,
}

/// A chain of services that wait for each other.
#[derive(Debug, PartialEq, Eq)]
pub struct Waiting {
    pub service: ServiceName,
    pub outer: Option<Arc<Self>>,
}

impl Caller {
    /// A caller on this node that is no service: its operator, or a native part.
    pub fn local() -> Self {
        Self::default()
    }

    /// A caller on another node.
    pub fn remote(node: NodeAddress) -> Self {
        Self { node: Some(node), ..Self::default() }
    }

    /// The service `name` of this node, calling on while it handles a call of `outer`.
    pub fn service(name: ServiceName, outer: Option<&Self>) -> Self {
        let outer = outer.and_then(|outer| outer.waiting.clone());
        let waiting = Some(Arc::new(Waiting { service: name.clone(), outer }));
        Self { service: Some(name), waiting, ..Self::default() }
    }

    pub const fn is_local(&self) -> bool {
        self.node.is_none()
    }

    /// Whether the service `name` of this node waits for this call to end.
    pub fn is_waited_for_by(&self, name: &ServiceName) -> bool {
        let mut next = self.waiting.as_ref();
        while let Some(waiting) = next {
            if waiting.service == *name {
                return true;
            }
            next = waiting.outer.as_ref();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Json {
        RawValue::from_string(text.into()).unwrap()
    }

    #[test]
    fn both_forms_name_the_same_call() {
        let direct = Call::from_rpc(
            "blog_service@alice.home@relay.example.com.create_post",
            Some(raw(r#"{"title":"Hi"}"#)),
        );
        // The last dot parts the method from the address, so the direct form reads to the end.
        let direct = direct.unwrap();
        let explicit = Call::from_rpc(
            "remote_call",
            Some(raw(r#"{"node_id":"alice.home@relay.example.com","server_name":"blog_service",
                    "method":"create_post","args":{"title":"Hi"},"timeout":60}"#)),
        )
        .unwrap();
        assert_eq!(direct.to, explicit.to);
        assert_eq!(direct.method, explicit.method);
        assert_eq!(direct.args.unwrap().get(), explicit.args.unwrap().get());
        assert_eq!(explicit.timeout, Duration::from_secs(60));
    }

    #[test]
    fn refusals_name_the_fault() {
        let code = |method: &str, params: Option<&str>| {
            Call::from_rpc(method, params.map(raw)).unwrap_err().code
        };
        assert_eq!(code("ping", None), RpcCode::MethodNotFound);
        assert_eq!(code("blog.", None), RpcCode::MethodNotFound);
        assert_eq!(code("b@X.m", None), RpcCode::InvalidParams);
        assert_eq!(code("remote_call", None), RpcCode::InvalidParams);
        assert_eq!(code("remote_call", Some(r#"{"method":"m"}"#)), RpcCode::InvalidParams);
        for bad in [r#""timeout":0"#, r#""timeout":1e99"#, r#""args":3"#, r#""timeout":-1"#] {
            let params = format!(r#"{{"server_name":"s","method":"m",{bad}}}"#);
            assert_eq!(code("remote_call", Some(&params)), RpcCode::InvalidParams, "{bad}");
        }
    }

    #[test]
    fn a_chain_of_services_knows_who_waits() {
        let name = |text: &str| text.parse::<ServiceName>().unwrap();
        let a = Caller::service(name("a"), None);
        let b = Caller::service(name("b"), Some(&a));
        assert!(b.is_waited_for_by(&name("a")) && b.is_waited_for_by(&name("b")));
        assert!(!b.is_waited_for_by(&name("c")) && !a.is_waited_for_by(&name("b")));
    }
}
