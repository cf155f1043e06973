//! Calling services: `POST /rpc`, one request at a time.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use relay_proto::{
    Address, CallError,
    address::Method,
    call::{Hop, RpcResponse},
};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    client::{Client, Request},
    error::Error,
    sse::SseStream,
};

/// Beyond a call's own time: the relay says itself when that is over.
const GRACE: Duration = Duration::from_secs(2);

/// One call of a service.
#[derive(Debug, Clone)]
pub struct ServiceCall {
    /// The service, by name or address.
    pub to: Address,
    /// The method.
    pub method: Method,
    /// An object or an array.
    pub args: Option<Value>,
    /// Which versions of the service will do, as a semver range.
    pub version: Option<String>,
    /// With a key, a call that is repeated after a lost answer has its effect once.
    pub idempotency_key: Option<String>,
    /// How long the service may take. Default 60 s.
    pub timeout: Duration,
    /// Whether to be told where the time went.
    pub timing: bool,
}

/// The result of a call.
#[derive(Debug, Clone)]
pub struct ServiceAnswer {
    /// What the service answered.
    pub result: Value,
    /// Each relay on the way, nearest first, where [`ServiceCall::timing`] asked for it.
    pub hops: Vec<Hop>,
}

/// A piece of a streamed result.
#[derive(Debug, Clone)]
pub enum Piece {
    /// The result itself; it comes first.
    Result(Value),
    /// More of it.
    Bytes(Bytes),
}

/// A result in pieces.
#[derive(Debug)]
pub struct ServiceStream {
    events: SseStream,
    over: bool,
}

impl ServiceCall {
    /// A call without options.
    pub fn new(to: Address, method: Method, args: Option<Value>) -> Self {
        Self {
            to,
            method,
            args,
            version: None,
            idempotency_key: None,
            timeout: relay_proto::call::DEFAULT_TIMEOUT,
            timing: false,
        }
    }

    /// As JSON-RPC has it, in the explicit form.
    fn request(&self, id: Option<u64>) -> Value {
        let mut params = json!({
            "server_name": self.to.service,
            "method": self.method,
            "timeout": self.timeout.as_secs_f64(),
        });
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                params[name] = value;
            }
        };
        set("node_id", self.to.node.as_ref().map(|node| node.to_string().into()));
        set("args", self.args.clone());
        set("version", self.version.clone().map(Into::into));
        set("idempotency_key", self.idempotency_key.clone().map(Into::into));
        let mut request =
            json!({ "jsonrpc": "2.0", "method": relay_proto::call::REMOTE_CALL, "params": params });
        if let Some(id) = id {
            request["id"] = id.into();
        }
        request
    }
}

impl Client {
    /// Calls a service and waits for its answer.
    ///
    /// # Errors
    /// [`Error::Call`] with what the service or a relay on the way says; the relay's refusal of the
    /// request, and any [`Error`] of the transport.
    pub async fn call_service(&self, call: &ServiceCall) -> Result<ServiceAnswer, Error> {
        let after = call.timeout.saturating_add(GRACE);
        match tokio::time::timeout(after, self.ask(call)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Timeout { url: self.address(), after }),
        }
    }

    async fn ask(&self, call: &ServiceCall) -> Result<ServiceAnswer, Error> {
        let url = self.inner.endpoint.url("/rpc", &[]);
        let body = call.request(Some(1)).to_string();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if call.timing {
            headers.insert("relay-timing", HeaderValue::from_static("1"));
        }
        let proof = self.authorization(&reqwest::Method::POST, &url, Some(body.as_bytes()))?;
        headers.extend(proof.map(|proof| (AUTHORIZATION, proof)));
        let sent = self.http().post(url).headers(headers).body(body).send().await;
        let response = self.successful(sent.map_err(|error| self.unreachable(&error))?).await?;
        let hops = response.headers().get("relay-hops").and_then(|hops| hops.to_str().ok());
        let hops = hops.and_then(|hops| serde_json::from_str(hops).ok()).unwrap_or_default();
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        let answer = RpcResponse::parse(&bytes).map_err(|error| Error::Call(Box::new(error)))?;
        let result = answer.result.map_err(|error| Error::Call(Box::new(error)))?;
        let result = serde_json::from_str(result.get())
            .map_err(|error| self.protocol_error(error.to_string()))?;
        Ok(ServiceAnswer { result, hops })
    }

    /// Sends a message to a service; no answer comes, not even whether it arrived.
    ///
    /// # Errors
    /// The relay's refusal of the request, and any [`Error`] of the transport.
    pub async fn notify_service(&self, call: &ServiceCall) -> Result<(), Error> {
        let request = Request::post("/rpc", &call.request(None));
        self.fetch(request).await.map(drop)
    }

    /// Calls a service whose result comes in pieces.
    ///
    /// # Errors
    /// As [`call_service`](Self::call_service); errors of the call itself come from the stream.
    pub async fn stream_service(&self, call: &ServiceCall) -> Result<ServiceStream, Error> {
        let mut request = Request::post("/rpc", &call.request(Some(1)));
        request.patience = call.timeout;
        Ok(ServiceStream { events: self.sse(request).await?, over: false })
    }
}

impl ServiceStream {
    /// The next piece; `None` when the result is complete.
    ///
    /// # Errors
    /// [`Error::Call`] where the call failed, also in the middle; any [`Error`] of the transport.
    pub async fn next(&mut self) -> Result<Option<Piece>, Error> {
        #[derive(Deserialize)]
        struct Wire {
            text: Option<String>,
            base64: Option<String>,
            #[serde(default)]
            end: bool,
        }
        #[derive(Deserialize)]
        struct Fault {
            code: i64,
            message: String,
            data: Option<Value>,
        }
        let odd = || CallError::internal("the relay sent a piece that cannot be read");
        while !self.over {
            let Some(event) = self.events.next().await? else { break };
            match event.event.as_str() {
                "rpc.result" => {
                    let parsed = RpcResponse::parse(event.data.as_bytes());
                    let result = parsed.and_then(|response| response.result);
                    let result = result.map_err(|error| Error::Call(Box::new(error)))?;
                    let value = serde_json::from_str(result.get());
                    let value = value.map_err(|_| Error::Call(Box::new(odd())))?;
                    return Ok(Some(Piece::Result(value)));
                }
                "rpc.stream" => {
                    let wire: Wire = serde_json::from_str(&event.data)
                        .map_err(|_| Error::Call(Box::new(odd())))?;
                    if wire.end {
                        self.over = true;
                        break;
                    }
                    let bytes = match (wire.text, wire.base64) {
                        (Some(text), _) => text.into_bytes(),
                        (None, base64) => URL_SAFE_NO_PAD
                            .decode(base64.unwrap_or_default())
                            .map_err(|_| Error::Call(Box::new(odd())))?,
                    };
                    return Ok(Some(Piece::Bytes(bytes.into())));
                }
                "rpc.error" => {
                    self.over = true;
                    let fault: Fault = serde_json::from_str(&event.data)
                        .map_err(|_| Error::Call(Box::new(odd())))?;
                    let error = CallError::from_wire(fault.code, fault.message, fault.data);
                    return Err(Error::Call(Box::new(error)));
                }
                _ => {}
            }
        }
        Ok(None)
    }
}
