//! `POST /rpc`: JSON-RPC 2.0, one request, one notification or a batch; streaming results as
//! server-sent events.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::{BoxFuture, join_all},
    stream,
};
use relay_actors::{BodyStream, Reply as CallReply};
use relay_node::Node;
use relay_proto::{
    Call, CallError, Caller,
    call::{Hop, Incoming, RpcId, RpcRequest, RpcResponse},
};
use serde::Serialize;

use super::{MAX_BODY, error_body, http_caller, last_piece, piece, read_headers};
use crate::{
    auth, body,
    held::{Held, over_problem},
    reply::{Reply, no_store},
};

/// After so long without a piece a comment is sent, for proxies and for clients that watch the clock.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// `POST /rpc`.
pub(crate) async fn rpc(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, MAX_BODY).await?;
    let who = auth::caller(&node, &parts, &bytes).await?;
    let caller = http_caller(&node, &parts, &who)?;
    let incoming = match Incoming::parse(&bytes) {
        Ok(incoming) => incoming,
        Err(refusal) => return Ok(answer(&refusal)),
    };
    // What a session asks for ends with the session.
    let mut held = Held::of(&node, &who);
    let answered = serve(&node, &parts.headers, caller, incoming);
    tokio::select! {
        biased;
        over = held.over() => Err(over_problem(over).into()),
        response = answered => Ok(response),
    }
}

async fn serve(
    node: &Arc<Node>,
    headers: &HeaderMap,
    caller: Caller,
    incoming: Incoming,
) -> Response {
    let single = match incoming {
        Incoming::Single(single) => single,
        Incoming::Batch(entries) => {
            let answers = batch(node, &caller, entries).await;
            return if answers.is_empty() { nothing() } else { answer(&answers) };
        }
    };
    let request = match single {
        Ok(request) => request,
        Err(refusal) => return answer(&refusal),
    };
    let call = Call::from_rpc(&request.method, request.params).and_then(|mut call| {
        read_headers(headers, &mut call)?;
        Ok(call)
    });
    let Some(id) = request.id else {
        // A notification is never answered, not even with why it was refused.
        if let Ok(call) = call {
            let _ = node.services.router.send(call, caller).await;
        }
        return nothing();
    };
    match call {
        Err(error) => answer(&RpcResponse { id: Some(id), result: Err(error) }),
        Ok(call) if wants_stream(headers) => streamed(node.clone(), call, caller, id),
        Ok(call) => {
            let (result, hops) = match node.call(call, caller, None).await {
                Ok(reply) => (Ok(reply.value), reply.hops),
                Err(error) => (Err(error), Vec::new()),
            };
            let mut response = answer(&RpcResponse { id: Some(id), result });
            if let Some(value) = hops_header(&hops) {
                response.headers_mut().insert("relay-hops", value);
            }
            response
        }
    }
}

fn hops_header(hops: &[Hop]) -> Option<HeaderValue> {
    let text = (!hops.is_empty()).then(|| serde_json::to_string(hops).ok()).flatten()?;
    HeaderValue::from_str(&text).ok()
}

/// Runs the requests of a batch beside each other. Notifications have no answer.
pub(crate) async fn batch(
    node: &Arc<Node>,
    caller: &Caller,
    entries: Vec<Result<RpcRequest, RpcResponse>>,
) -> Vec<RpcResponse> {
    let running = entries.into_iter().map(|entry| async move {
        let request = match entry {
            Ok(request) => request,
            Err(refusal) => return Some(refusal),
        };
        let call = Call::from_rpc(&request.method, request.params);
        let Some(id) = request.id else {
            if let Ok(call) = call {
                let _ = node.services.router.send(call, caller.clone()).await;
            }
            return None;
        };
        let result = match call {
            Ok(call) => node.call(call, caller.clone(), None).await.map(|reply| reply.value),
            Err(error) => Err(error),
        };
        Some(RpcResponse { id: Some(id), result })
    });
    join_all(running).await.into_iter().flatten().collect()
}

fn answer(body: &impl Serialize) -> Response {
    no_store(StatusCode::OK, body)
}

fn nothing() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
}

/// Where a streamed answer is.
enum Progress {
    Asking(BoxFuture<'static, Result<CallReply, CallError>>),
    Reading(BodyStream, u64),
    Over,
}

/// The answer as server-sent events: `rpc.result` with the response, then `rpc.stream` for each piece.
fn streamed(node: Arc<Node>, mut call: Call, caller: Caller, id: RpcId) -> Response {
    call.streaming = true;
    let asking = Box::pin(async move { node.call(call, caller, None).await });
    let events = stream::unfold(Progress::Asking(asking), move |mut progress| {
        let id = id.clone();
        async move {
            let waited = tokio::time::timeout(PING_INTERVAL, progress.next(id)).await;
            let event = waited.unwrap_or_else(|_| Some(": waiting\n\n".to_owned()))?;
            Some((Ok::<_, Infallible>(Bytes::from(event)), progress))
        }
    });
    let mut response = Body::from_stream(events).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl Progress {
    /// The next event; `None` when everything was said.
    ///
    /// # Cancel safety
    /// Nothing is lost: what is waited for stays in `self`.
    async fn next(&mut self, id: RpcId) -> Option<String> {
        match self {
            Self::Over => None,
            Self::Asking(asking) => {
                let (result, stream) = match asking.await {
                    Ok(reply) => (Ok(reply.value), reply.stream),
                    Err(error) => (Err(error), None),
                };
                *self = stream.map_or(Self::Over, |stream| Self::Reading(stream, 0));
                Some(event("rpc.result", &RpcResponse { id: Some(id), result }))
            }
            Self::Reading(stream, seq) => match stream.next().await {
                Some(Ok(bytes)) => {
                    let text = event("rpc.stream", &piece(*seq, bytes));
                    *seq += 1;
                    Some(text)
                }
                Some(Err(error)) => {
                    *self = Self::Over;
                    Some(event("rpc.error", &error_body(&error)))
                }
                None => {
                    let text = event("rpc.stream", &last_piece(*seq));
                    *self = Self::Over;
                    Some(text)
                }
            },
        }
    }
}

fn event(name: &str, data: &impl Serialize) -> String {
    // Compact JSON holds no line ends.
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n")
}
