//! `/svc/{service}/…`: HTTP and WebSockets passed through to a service that is an HTTP server.
//!
//! The service may be named by an address: `/svc/shop@alice.home/cart`. Bodies stream both ways.
//! Answers are shown in a sandbox of their own, since they share this relay's origin: pages of a
//! service must not reach what the web UI keeps in the browser.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request::Parts},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use relay_actors::{
    BodyStream,
    bridge::{Values, header_values},
};
use relay_node::{Node, Place};
use relay_proto::{
    Address, Call, CallError, Code, Problem,
    auth::{OperatorToken, SessionToken, request::SCHEME},
};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::{http_caller, read_headers};
use crate::{auth, body, params::decode, reply::Reply};

/// What the path begins with.
const PREFIX: &str = "/svc/";
/// Bytes read at once from an upgraded connection.
const READ: usize = 16 << 10;
/// Pieces of a WebSocket between client and service; then the client is not read.
const PIECES: usize = 8;
/// Scripts run, but in an origin of their own.
const SANDBOX: &str = "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads";

/// Any method on `/svc/{service}/{path}`.
pub(crate) async fn pass(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (mut parts, body) = request.into_parts();
    let upgrade = parts.extensions.remove::<OnUpgrade>().filter(|_| asks_for_socket(&parts));
    let ours = proof_is_ours(&parts.headers);
    let (who, body) = identify(&node, &parts, body, ours).await?;
    let caller = http_caller(&node, &parts, &who)?;
    let (to, path) = target(&parts)?;
    let method = parts.method.as_str().to_ascii_lowercase();
    let method = method.parse().map_err(|_| Problem::invalid("there is no such HTTP method"))?;

    let mut headers = header_values(&parts.headers);
    if ours {
        headers.remove(header::AUTHORIZATION.as_str());
    }
    add_forwarded(&node, &parts, &mut headers);
    let args = serde_json::json!({ "path": path, "headers": headers });
    let args = serde_json::value::to_raw_value(&args)
        .map_err(|_| Problem::invalid("the headers cannot be passed on"))?;
    let mut call = Call::new(to, method, Some(args));
    read_headers(&parts.headers, &mut call).map_err(Problem::from)?;
    // The bridge repeats nothing by itself, and a kept result could not be streamed: the key is
    // for the server behind it.
    call.idempotency_key = None;
    call.streaming = true;

    match upgrade {
        None => {
            let body = (!hyper::body::Body::is_end_stream(&body)).then(|| incoming(body));
            let reply = node.call(call, caller, body).await.map_err(Problem::from)?;
            respond(Answer::read(&reply)?, reply.stream)
        }
        Some(upgrade) => {
            let session = who.session().ok().map(|session| &**session);
            let address = auth::client_address(&node, &parts);
            let place = node.connections.enter(&node.config.chat, address, session)?;
            let (pieces, sent) = mpsc::channel::<Bytes>(PIECES);
            let sent = futures_util::stream::unfold(sent, |mut sent| async move {
                sent.recv().await.map(|bytes| (Ok(bytes), sent))
            });
            let reply = node.call(call, caller, Some(sent.boxed())).await;
            let reply = reply.map_err(Problem::from)?;
            let answer = Answer::read(&reply)?;
            match (answer.status, reply.stream) {
                (101, Some(stream)) => {
                    let wires = Wires { pieces, stream, place, stop: node.stop.clone() };
                    node.tasks.spawn(Box::pin(wires.run(upgrade)));
                    switching(answer)
                }
                (_, stream) => respond(answer, stream),
            }
        }
    }
}

/// Who asks. A signed request is about its whole body, which is then read first.
async fn identify(
    node: &Node,
    parts: &Parts,
    body: Body,
    ours: bool,
) -> Result<(auth::Caller, Body), Problem> {
    if !ours {
        let mut bare = parts.clone();
        bare.headers.remove(header::AUTHORIZATION);
        return Ok((auth::caller(node, &bare, &[]).await?, body));
    }
    let signed =
        scheme(&parts.headers).is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case(SCHEME));
    if !signed {
        return Ok((auth::caller(node, parts, &[]).await?, body));
    }
    let bytes = body::read(&parts.headers, body, body::SMALL).await?;
    Ok((auth::caller(node, parts, &bytes).await?, bytes.into()))
}

fn scheme(headers: &HeaderMap) -> Option<(&str, &str)> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')
}

/// Whether `Authorization` speaks to this relay. Anything else is the service's own affair.
fn proof_is_ours(headers: &HeaderMap) -> bool {
    scheme(headers).is_some_and(|(scheme, rest)| {
        let token = rest.trim();
        scheme.eq_ignore_ascii_case(SCHEME)
            || scheme.eq_ignore_ascii_case("session")
            || scheme.eq_ignore_ascii_case("bearer")
                && (SessionToken::parse(token).is_some() || OperatorToken::parse(token).is_some())
    })
}

fn asks_for_socket(parts: &Parts) -> bool {
    let upgrade = parts.headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    parts.method == http::Method::GET
        && upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"))
}

/// The service, and the path and query below it.
fn target(parts: &Parts) -> Result<(Address, String), Problem> {
    let rest = parts.uri.path().strip_prefix(PREFIX).unwrap_or_default();
    let (service, path) = match rest.split_once('/') {
        Some((service, path)) => (service, format!("/{path}")),
        None => (rest, "/".to_owned()),
    };
    let service = decode(service)?;
    let to = service.parse().map_err(|error| Problem::invalid(format!("'{service}': {error}")))?;
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    Ok((to, path + &query))
}

/// Tells the server where the client is and how it came; what the client says of that is not believed.
fn add_forwarded(node: &Node, parts: &Parts, headers: &mut BTreeMap<String, Values>) {
    let address = auth::client_address(node, parts);
    let own = auth::own_url(node, parts);
    headers.insert("x-forwarded-for".into(), Values::One(address.to_string()));
    if let Some((scheme, host)) = own.split_once("://") {
        headers.insert("x-forwarded-proto".into(), Values::One(scheme.to_owned()));
        headers.insert("x-forwarded-host".into(), Values::One(host.to_owned()));
    }
    headers.remove(header::FORWARDED.as_str());
}

fn incoming(body: Body) -> BodyStream {
    let broken = |_| CallError::invalid_params("the body broke off");
    body.into_data_stream().map_err(broken).boxed()
}

/// What a bridge to an HTTP server answers.
#[derive(Deserialize)]
struct Answer {
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, Values>,
    body: Option<String>,
    body_base64: Option<String>,
}

impl Answer {
    fn read(reply: &relay_actors::Reply) -> Result<Self, Problem> {
        serde_json::from_str(reply.value.get())
            .map_err(|_| Problem::invalid("this service is no HTTP server; call it at POST /rpc"))
    }
}

fn respond(answer: Answer, stream: Option<BodyStream>) -> Reply {
    let whole = match (answer.body, answer.body_base64) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(base64)) => URL_SAFE_NO_PAD.decode(base64).unwrap_or_default(),
        (None, None) => Vec::new(),
    };
    let body = match stream {
        Some(stream) => {
            Body::from_stream(stream.map_err(|error| std::io::Error::other(error.message)))
        }
        None => whole.into(),
    };
    build(answer.status, &answer.headers, body)
}

/// 101, with the headers that the two ends agree by.
fn switching(answer: Answer) -> Reply {
    let mut response = build(101, &answer.headers, Body::empty())?;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    Ok(response)
}

fn build(status: u16, values: &BTreeMap<String, Values>, body: Body) -> Reply {
    let odd = || Problem::new(Code::InternalError, "the service's answer is no HTTP");
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| odd())?;
    let headers = response.headers_mut();
    for (name, values) in values {
        let name = HeaderName::try_from(name.as_str()).map_err(|_| odd())?;
        for value in values.all() {
            let bytes: Option<Vec<u8>> = value.chars().map(|c| u8::try_from(c).ok()).collect();
            let value = HeaderValue::from_bytes(&bytes.ok_or_else(odd)?).map_err(|_| odd())?;
            headers.append(&name, value);
        }
    }
    headers.append(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(SANDBOX));
    Ok(response)
}

/// An upgraded connection, and the way to the service.
struct Wires {
    pieces: mpsc::Sender<Bytes>,
    stream: BodyStream,
    /// Held for as long as the connection.
    place: Place,
    stop: CancellationToken,
}

impl Wires {
    /// Passes bytes both ways until one side ends or the relay stops.
    async fn run(self, upgrade: OnUpgrade) {
        let Self { pieces, mut stream, place, stop } = self;
        let Ok(upgraded) = upgrade.await else { return };
        let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
        let up = async {
            let mut buffer = vec![0; READ];
            while let Ok(count @ 1..) = from.read(&mut buffer).await {
                let piece = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
                if pieces.send(piece).await.is_err() {
                    return;
                }
            }
        };
        let down = async {
            while let Some(Ok(bytes)) = stream.next().await {
                if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
                    return;
                }
            }
            let _ = to.shutdown().await;
        };
        tokio::select! {
            () = up => {}
            () = down => {}
            () = stop.cancelled() => {}
        }
        drop(place);
    }
}
