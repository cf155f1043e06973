//! Calls of services, whatever door they come through: who calls, and what pieces of a result look
//! like.
//!
//! A caller is who it proved to be and the node whose door it came through; only the operator (the
//! local socket, an admin token) and services of this node count as local, and reach what is private.

pub(crate) mod http;
pub(crate) mod proxy;

use axum::http::{HeaderMap, request::Parts};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use relay_core::policy::Principal;
use relay_node::{Node, config::Anonymous};
use relay_proto::{
    Call, CallError, Caller, NodeAddress, Problem,
    call::{MAX_TIMEOUT, check_idempotency_key},
};
use serde_json::{Value, json};

use crate::{auth, info, peer::Peer};

/// Longest body of a call.
pub(crate) const MAX_BODY: usize = 8 << 20;

/// As whom a principal calls; nobody in particular has no key.
pub(crate) fn caller_of(node: &Node, who: &Principal) -> Caller {
    let here = NodeAddress { relay: node.services.router.relay().clone(), hub: None };
    match who {
        Principal::Operator => Caller::local(),
        Principal::Key(key) => Caller { key: Some(*key), ..Caller::remote(here) },
        Principal::Anonymous => Caller::remote(here),
    }
}

/// As whom a request calls.
///
/// # Errors
/// `unauthorized` for nobody in particular, where the configuration takes no such calls.
pub(crate) fn http_caller(
    node: &Node,
    parts: &Parts,
    caller: &auth::Caller,
) -> Result<Caller, Problem> {
    let admitted = match (&caller.principal, node.config.calls.anonymous) {
        (Principal::Operator | Principal::Key(_), _) | (_, Anonymous::Always) => true,
        (Principal::Anonymous, Anonymous::Never) => false,
        (Principal::Anonymous, Anonymous::Loopback) => {
            let near = parts.extensions.get::<Peer>().is_some_and(Peer::is_loopback);
            near && !info::forwarded(&parts.headers)
        }
    };
    if admitted {
        return Ok(caller_of(node, &caller.principal));
    }
    Err(Problem::unauthorized("calls need a proven key: start a session or sign the request"))
}

/// What headers say of a call: `Idempotency-Key`, `Relay-Timeout-Ms`, `Relay-Version`, `Traceparent`,
/// and `Relay-Timing`, to be told in `Relay-Hops` where the time went.
pub(crate) fn read_headers(headers: &HeaderMap, call: &mut Call) -> Result<(), CallError> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(key) = text("idempotency-key") {
        check_idempotency_key(key)?;
        call.idempotency_key = Some(key.to_owned());
    }
    if let Some(ms) = text("relay-timeout-ms") {
        let ms = ms.parse().map_err(|_| CallError::invalid_params("relay-timeout-ms"))?;
        set_timeout(call, ms)?;
    }
    if let Some(version) = text("relay-version") {
        call.version = Some(version.to_owned());
    }
    call.timing = headers.contains_key("relay-timing");
    if let Some(trace) = text("traceparent") {
        call.trace = Some(trace.to_owned());
    }
    Ok(())
}

/// Sets how long the caller waits.
pub(crate) fn set_timeout(call: &mut Call, ms: u64) -> Result<(), CallError> {
    let timeout = std::time::Duration::from_millis(ms);
    if timeout.is_zero() || timeout > MAX_TIMEOUT {
        return Err(CallError::invalid_params("a timeout is 1 to 3600000 milliseconds"));
    }
    call.timeout = timeout;
    Ok(())
}

/// The body of an `rpc.stream` frame: text where the bytes are, else base64url.
pub(crate) fn piece(seq: u64, bytes: Bytes) -> Value {
    match String::from_utf8(bytes.into()) {
        Ok(text) => json!({ "seq": seq, "text": text }),
        Err(error) => json!({ "seq": seq, "base64": URL_SAFE_NO_PAD.encode(error.as_bytes()) }),
    }
}

/// The body of the last `rpc.stream` frame.
pub(crate) fn last_piece(seq: u64) -> Value {
    json!({ "seq": seq, "end": true })
}

/// The body of an `rpc.error` frame.
pub(crate) fn error_body(error: &CallError) -> Value {
    json!({ "code": error.code.number(), "message": error.message, "data": error.wire_data() })
}
