//! Bridges: any local program as a service, behind the same [`Service`](crate::Service) trait.
//!
//! - [`HttpRpcBridge`]: a program that speaks JSON-RPC over HTTP
//! - [`HttpBridge`]: any HTTP server; method, path, headers and bodies pass through
//! - [`StdioBridge`]: a child process that speaks JSON-RPC lines on stdin and stdout
//! - [`ChannelBridge`]: a program that is connected already and serves calls over its connection
//!
//! The program is told who calls by headers that callers cannot set themselves
//! (`x-relay-caller-key`, `x-relay-caller-node`, `x-relay-caller-service`).
//!
//! Building an HTTP bridge needs the process' default TLS provider to be installed.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue};
use relay_proto::{CallError, Caller, call::RpcCode};
use reqwest::{Client, Response, Url, redirect::Policy};
use tokio::time::{Instant, timeout_at};

mod channel;
mod http_plain;
mod http_rpc;
mod stdio;

pub use channel::{ChannelBridge, Passed};
pub use http_plain::{HttpBridge, Values, header_values};
pub use http_rpc::HttpRpcBridge;
pub use stdio::{Program, StdioBridge};

/// The most bytes of a result, or of a body that is not streamed.
const MAX_BUFFERED: usize = 8 << 20;
/// A local program that does not take a connection in this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A response that stops in its middle is given up after this.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a bridge cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BridgeError {
    #[error("a bridge leads to an http or https URL without user or password")]
    Url,
    #[error("no HTTP client: {0}")]
    Client(String),
}

/// A client that goes where it is told and nowhere else: no proxies, no redirects.
fn client() -> Result<Client, BridgeError> {
    Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .build()
        .map_err(|error| BridgeError::Client(error.to_string()))
}

fn url(text: &str) -> Result<Url, BridgeError> {
    let url: Url = text.parse().map_err(|_| BridgeError::Url)?;
    let plain = url.username().is_empty() && url.password().is_none();
    let http = matches!(url.scheme(), "http" | "https") && url.has_host();
    if plain && http { Ok(url) } else { Err(BridgeError::Url) }
}

/// Whether a bridge can lead to `text`.
pub fn is_usable_url(text: &str) -> bool {
    url(text).is_ok()
}

const CALLER_PREFIX: &str = "x-relay-";

/// What the program is told about a call.
fn identity(caller: &Caller, trace: Option<&str>, key: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, value: Option<String>| {
        let value = value.and_then(|value| HeaderValue::from_str(&value).ok());
        if let Some(value) = value {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("x-relay-caller-key", caller.key.map(|key| key.to_string()));
    set("x-relay-caller-node", caller.node.as_ref().map(ToString::to_string));
    set("x-relay-caller-service", caller.service.as_ref().map(ToString::to_string));
    set("traceparent", trace.map(str::to_owned));
    set("idempotency-key", key.map(str::to_owned));
    headers
}

/// What a failed exchange with the program means to the caller.
fn exchange_failed(error: &reqwest::Error) -> CallError {
    if error.is_connect() {
        return CallError::new(
            RpcCode::NodeUnreachable,
            "the program behind the service is not there",
        );
    }
    if error.is_timeout() {
        return CallError::timeout();
    }
    CallError::internal("the program behind the service broke off")
}

/// Reads a whole body, bounded.
async fn read_body(response: &mut Response, deadline: Instant) -> Result<Bytes, CallError> {
    let mut body = BytesMut::new();
    loop {
        let chunk = timeout_at(deadline, response.chunk()).await;
        let chunk = chunk.map_err(|_| CallError::timeout())?;
        let Some(chunk) = chunk.map_err(|error| exchange_failed(&error))? else {
            return Ok(body.freeze());
        };
        if body.len() + chunk.len() > MAX_BUFFERED {
            return Err(CallError::internal("the program's answer is too large"));
        }
        body.extend_from_slice(&chunk);
    }
}

/// Asks a health URL; well means any 2xx.
fn check(client: Client, url: Option<Url>) -> BoxFuture<'static, Result<(), String>> {
    Box::pin(async move {
        let Some(url) = url else { return Ok(()) };
        match client.get(url).send().await {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(format!("health check: {}", response.status())),
            Err(error) => Err(exchange_failed(&error).message),
        }
    })
}
