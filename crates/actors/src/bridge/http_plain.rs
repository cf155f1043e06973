//! Any HTTP server: a call names method, path, headers and body, and gets status, headers and body.
//!
//! A request to upgrade (a WebSocket) of a caller that streams gets 101 and, from then on, passes
//! bytes both ways: the call's body to the server, the server's bytes as the result's stream.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{CONNECTION, UPGRADE},
};
use relay_proto::{CallError, call::RpcCode};
use reqwest::{Body, Client, Response, Url};
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout_at},
};
use tokio_util::io::ReaderStream;

use super::{BridgeError, CALLER_PREFIX, check, client, exchange_failed, identity, read_body, url};
use crate::service::{BodyStream, Handled, Reply, Request, Service};

/// Passes requests on to a server below a base URL. The call's method is the HTTP method in lower
/// case (`get`, `post`, …). Bodies stream both ways where the caller streams.
#[derive(Debug, Clone)]
pub struct HttpBridge {
    client: Client,
    base: Url,
    health: Option<Url>,
}

/// The arguments of a call.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// Path and query below the base; default `/`.
    path: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Values>,
    /// A text body.
    body: Option<String>,
    /// A body that is no text, base64url.
    body_base64: Option<String>,
}

/// The value of a header, or its values where it stands more than once.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Values {
    One(String),
    Many(Vec<String>),
}

impl Values {
    /// Adds a further value.
    pub fn add(&mut self, value: String) {
        match self {
            Self::One(first) => *self = Self::Many(vec![std::mem::take(first), value]),
            Self::Many(all) => all.push(value),
        }
    }

    /// All of them.
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(all) => all,
        }
    }
}

/// The headers of a message as a call carries them: those about the connection are left out.
pub fn header_values(headers: &HeaderMap) -> BTreeMap<String, Values> {
    let mut values: BTreeMap<String, Values> = BTreeMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| passes(name)) {
        // Bytes above ASCII are Latin-1, as old servers send them.
        let value: String = value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
        match values.get_mut(name.as_str()) {
            Some(known) => known.add(value),
            None => {
                values.insert(name.as_str().to_owned(), Values::One(value));
            }
        }
    }
    values
}

/// The result of a call.
#[derive(Debug, Serialize)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, Values>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

impl HttpBridge {
    /// `health` is a path below the base, asked by health checks.
    ///
    /// # Errors
    /// [`BridgeError`].
    pub fn new(base: &str, health: Option<&str>) -> Result<Self, BridgeError> {
        let mut base = url(base)?;
        base.set_query(None);
        base.set_fragment(None);
        let mut bridge = Self { client: client()?, base, health: None };
        let health = health.map(|path| bridge.target(path).map_err(|_| BridgeError::Url));
        bridge.health = health.transpose()?;
        Ok(bridge)
    }

    /// The URL of a path below the base.
    fn target(&self, path: &str) -> Result<Url, CallError> {
        let refuse = || CallError::invalid_params("path begins with '/' and stays below the base");
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        if !path.starts_with('/') {
            return Err(refuse());
        }
        let prefix = self.base.path().trim_end_matches('/').to_owned();
        let mut target = self.base.clone();
        // Setting a path resolves its dots: what climbs out no longer has the prefix.
        target.set_path(&format!("{prefix}{path}"));
        target.set_query(query);
        let below = target.path().strip_prefix(&prefix).is_some_and(|rest| rest.starts_with('/'));
        if below { Ok(target) } else { Err(refuse()) }
    }

    async fn pass_on(self, mut request: Request) -> Result<Reply, CallError> {
        let method = http_method(request.method.as_str())?;
        let arguments = match &request.args {
            Some(_) => request.args::<Arguments>()?,
            None => Arguments::default(),
        };
        let target = self.target(arguments.path.as_deref().unwrap_or("/"))?;
        let mut headers = caller_headers(&arguments.headers)?;
        let upgrade = wants_upgrade(&request, &arguments.headers);
        if upgrade {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        }
        let key = request.idempotency_key.as_deref();
        headers.extend(identity(&request.caller, request.trace.as_deref(), key));

        let mut outgoing = self.client.request(method, target).headers(headers);
        // The body of an upgrade is what the caller sends afterwards.
        let afterwards = if upgrade { request.body.take() } else { None };
        if let Some(body) = body(&mut request, arguments.body, arguments.body_base64)? {
            outgoing = outgoing.body(body);
        }
        let response = timeout_at(request.deadline, outgoing.send()).await;
        let response = response.map_err(|_| CallError::timeout())?;
        let response = response.map_err(|error| exchange_failed(&error))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return upgraded(response, afterwards).await;
        }
        answer(response, request.streaming, request.deadline).await
    }
}

impl Service for HttpBridge {
    fn handle(&mut self, request: Request) -> BoxFuture<'_, Handled> {
        let work = self.clone().pass_on(request);
        Box::pin(std::future::ready(Handled::Aside(Box::pin(work))))
    }

    fn check(&self) -> BoxFuture<'static, Result<(), String>> {
        check(self.client.clone(), self.health.clone())
    }
}

fn http_method(name: &str) -> Result<Method, CallError> {
    Ok(match name {
        "get" => Method::GET,
        "head" => Method::HEAD,
        "post" => Method::POST,
        "put" => Method::PUT,
        "patch" => Method::PATCH,
        "delete" => Method::DELETE,
        "options" => Method::OPTIONS,
        _ => {
            let message = format!("there is no HTTP method '{name}'; call 'get', 'post', …");
            return Err(CallError::new(RpcCode::MethodNotFound, message));
        }
    })
}

/// The caller's headers without those that speak of the connection or of who calls.
fn caller_headers(given: &BTreeMap<String, Values>) -> Result<HeaderMap, CallError> {
    let mut headers = HeaderMap::new();
    for (name, values) in given {
        let refuse = || CallError::invalid_params(format!("header '{name}'"));
        let name = HeaderName::try_from(name).map_err(|_| refuse())?;
        if !passes(&name) || name.as_str().starts_with(CALLER_PREFIX) {
            continue;
        }
        for value in values.all() {
            let bytes: Option<Vec<u8>> = value.chars().map(|c| u8::try_from(c).ok()).collect();
            let bytes = bytes.unwrap_or_else(|| value.as_bytes().to_vec());
            headers.append(&name, HeaderValue::from_bytes(&bytes).map_err(|_| refuse())?);
        }
    }
    Ok(headers)
}

/// Whether the caller asks for a WebSocket, and can take one.
fn wants_upgrade(request: &Request, given: &BTreeMap<String, Values>) -> bool {
    request.streaming && request.body.is_some() && given.contains_key("sec-websocket-key")
}

/// Passes bytes both ways from now on, until either side ends.
async fn upgraded(response: Response, afterwards: Option<BodyStream>) -> Result<Reply, CallError> {
    let Some(mut afterwards) = afterwards else {
        return Err(CallError::internal("the program changed the protocol unasked"));
    };
    let headers = header_values(response.headers());
    let connection = response.upgrade().await.map_err(|error| exchange_failed(&error))?;
    let (from, mut to) = tokio::io::split(connection);
    let reply = Reply::json(&Answer { status: 101, headers, body: None, body_base64: None })?;
    let send = async move {
        while let Some(Ok(bytes)) = afterwards.next().await {
            if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    let broken = |_| CallError::internal("the program behind the service broke off");
    let received = ReaderStream::new(from).map(move |bytes| bytes.map_err(broken));
    // Sending is polled with receiving, so that it ends when the receiver is dropped.
    let both = futures_util::stream::unfold(
        (Box::pin(received), Some(Box::pin(send))),
        |(mut received, mut sending)| async move {
            loop {
                let next = match &mut sending {
                    None => received.next().await,
                    Some(work) => tokio::select! {
                        next = received.next() => next,
                        () = work => {
                            sending = None;
                            continue;
                        }
                    },
                };
                return next.map(|bytes| (bytes, (received, sending)));
            }
        },
    );
    Ok(Reply { stream: Some(Box::pin(both)), ..reply })
}

/// Whether a header is about the message rather than the connection (RFC 9110, 7.6.1).
fn passes(name: &HeaderName) -> bool {
    !matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authorization"
            | "proxy-authenticate"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "host"
            | "content-length"
            | "expect"
    )
}

fn body(
    request: &mut Request,
    text: Option<String>,
    base64: Option<String>,
) -> Result<Option<Body>, CallError> {
    match (request.body.take(), text, base64) {
        (None, None, None) => Ok(None),
        (Some(stream), None, None) => Ok(Some(Body::wrap_stream(stream))),
        (None, Some(text), None) => Ok(Some(text.into())),
        (None, None, Some(base64)) => {
            let bytes = URL_SAFE_NO_PAD.decode(base64);
            let bytes = bytes.map_err(|_| CallError::invalid_params("body_base64 is base64url"))?;
            Ok(Some(bytes.into()))
        }
        _ => Err(CallError::invalid_params("a request has one body")),
    }
}

async fn answer(
    mut response: Response,
    streaming: bool,
    deadline: Instant,
) -> Result<Reply, CallError> {
    let headers = header_values(response.headers());
    let status = response.status().as_u16();
    let mut answer = Answer { status, headers, body: None, body_base64: None };
    if streaming {
        let reply = Reply::json(&answer)?;
        let pieces = response.bytes_stream();
        let stream = pieces.map(|piece| piece.map_err(|error| exchange_failed(&error)));
        return Ok(Reply { stream: Some(Box::pin(stream)), ..reply });
    }
    let body: Bytes = read_body(&mut response, deadline).await?;
    match String::from_utf8(body.into()) {
        Ok(text) => answer.body = Some(text),
        Err(error) => answer.body_base64 = Some(URL_SAFE_NO_PAD.encode(error.as_bytes())),
    }
    Reply::json(&answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_base() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let bridge = HttpBridge::new("http://127.0.0.1:1/app/", None).unwrap();
        let target = |path: &str| bridge.target(path).map(|url| url.to_string()).ok();
        assert_eq!(target("/x?y=1").as_deref(), Some("http://127.0.0.1:1/app/x?y=1"));
        assert_eq!(target("/").as_deref(), Some("http://127.0.0.1:1/app/"));
        for bad in ["", "x", "/../secret", "/a/../../secret", "/%2e%2e/secret", "//../../x"] {
            assert_eq!(target(bad), None, "{bad}");
        }
        let evil = bridge.target("//evil.example/x").unwrap();
        assert_eq!(evil.host_str(), Some("127.0.0.1"));
        for bad in ["ftp://x/", "http://u:p@x/", "x"] {
            assert!(HttpBridge::new(bad, None).is_err(), "{bad}");
        }
    }
}
