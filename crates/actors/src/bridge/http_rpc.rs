//! A program that speaks JSON-RPC 2.0 over HTTP.

use futures_util::future::BoxFuture;
use http::header::CONTENT_TYPE;
use relay_proto::{
    CallError,
    call::rpc::{RpcResponse, encode_request},
};
use reqwest::{Client, Url};
use tokio::time::timeout_at;

use super::{BridgeError, check, client, exchange_failed, identity, read_body, url};
use crate::service::{Handled, Reply, Request, Service};

/// Passes each call on as one `POST`. Calls run beside each other.
#[derive(Debug, Clone)]
pub struct HttpRpcBridge {
    client: Client,
    url: Url,
    health: Option<Url>,
}

impl HttpRpcBridge {
    /// `health` is a path or URL asked by health checks.
    ///
    /// # Errors
    /// [`BridgeError`].
    pub fn new(endpoint: &str, health: Option<&str>) -> Result<Self, BridgeError> {
        let endpoint = url(endpoint)?;
        let health = health.map(|path| endpoint.join(path).map_err(|_| BridgeError::Url));
        Ok(Self { client: client()?, health: health.transpose()?, url: endpoint })
    }

    async fn pass_on(self, request: Request) -> Result<Reply, CallError> {
        let body = encode_request(Some(1), request.method.as_str(), request.args.as_deref());
        let key = request.idempotency_key.as_deref();
        let headers = identity(&request.caller, request.trace.as_deref(), key);
        let sending = self
            .client
            .post(self.url)
            .headers(headers)
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .send();
        let response = timeout_at(request.deadline, sending).await;
        let response = response.map_err(|_| CallError::timeout())?;
        let mut response = response.map_err(|error| exchange_failed(&error))?;
        let body = read_body(&mut response, request.deadline).await?;
        RpcResponse::parse(&body)?.result.map(Reply::from)
    }
}

impl Service for HttpRpcBridge {
    fn handle(&mut self, request: Request) -> BoxFuture<'_, Handled> {
        let work = self.clone().pass_on(request);
        Box::pin(std::future::ready(Handled::Aside(Box::pin(work))))
    }

    fn check(&self) -> BoxFuture<'static, Result<(), String>> {
        check(self.client.clone(), self.health.clone())
    }
}
