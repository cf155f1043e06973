//! The doors of the federation: links at `/federate`, and what operators and people ask of it.

use std::sync::Arc;

use axum::{
    extract::{
        Path, Request, State, WebSocketUpgrade,
        ws::{CloseFrame, Message, rejection::WebSocketUpgradeRejection},
    },
    http::{StatusCode, request::Parts},
    response::IntoResponse,
};
use bytes::Bytes;
use relay_core::policy::Pattern;
use relay_fed::{
    directory::{DirectoryEntry, LIVE_MS},
    federation::views::ServiceQuery,
    link::Role,
    links::{Adapted, Arrival, Packet, dial::websocket_config},
};
use relay_node::{Decision, Node, join::Joined};
use relay_proto::{
    Call, Code, NodeId, Problem, RelayId, ServiceName,
    link::{Encoding, handshake::Offer},
};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::{
    auth, body, calls,
    params::Params,
    peer::{Certificates, Peer},
    reply::{Refused, Reply, no_store},
};

/// `/federate`, `/ws/federation`, `/ws/peers`: a link. Who may link is decided by its handshake.
pub(crate) async fn link(
    State(node): State<Arc<Node>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    request: Request,
) -> Reply {
    let (parts, _) = request.into_parts();
    let federated = node.federated();
    if federated.role == Role::Home {
        return Err(
            Problem::forbidden("this is a home relay: it dials out and takes no links").into()
        );
    }
    if !auth::is_encrypted(&node, &parts) && !node.config.federation.insecure {
        let message = "links come over TLS: dial wss://, or put a proxy in front and name it in listen.trusted_proxies";
        return Err(Problem::forbidden(message).into());
    }
    let ticket = federated.links.admit()?;
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => {
            let problem = Problem::invalid(format!("this path is a WebSocket: {rejection}"));
            return Ok(Refused(problem).into_response());
        }
    };
    let remote = match parts.extensions.get::<Peer>() {
        Some(Peer::Tcp { addr, .. }) => Some(*addr),
        _ => None,
    };
    let limits = websocket_config(Offer::MAIN.max_message_bytes);
    let upgrade = upgrade
        .protocols(Encoding::ALL.map(Encoding::subprotocol))
        .read_buffer_size(limits.read_buffer_size)
        .write_buffer_size(limits.write_buffer_size)
        .max_message_size(limits.max_message_size.unwrap_or(usize::MAX))
        .max_frame_size(limits.max_frame_size.unwrap_or(usize::MAX));
    let chosen = upgrade.selected_protocol().and_then(|protocol| protocol.to_str().ok());
    let encoding = chosen.map_or(Encoding::Json, Encoding::choose);
    let certificates = parts.extensions.get::<Certificates>().map(|shown| shown.0.to_vec());
    let arrival = Arrival { remote, certificates: certificates.unwrap_or_default() };
    Ok(upgrade.on_upgrade(move |socket| async move {
        let socket = Adapted::new(socket, read, write);
        federated.links.accept(ticket, socket, encoding, arrival);
    }))
}

fn read(message: Message) -> Option<Packet> {
    Some(match message {
        Message::Text(text) => Packet::Text(text.into()),
        Message::Binary(bytes) => Packet::Binary(bytes),
        Message::Ping(_) | Message::Pong(_) => Packet::Alive,
        Message::Close(Some(frame)) => Packet::Close(frame.code, frame.reason.to_string()),
        Message::Close(None) => Packet::Close(1005, String::new()),
    })
}

fn write(packet: Packet) -> Message {
    match packet {
        // Encoded JSON is UTF-8; should that be untrue, the other side closes.
        Packet::Text(bytes) => Message::Text(bytes.try_into().unwrap_or_default()),
        Packet::Binary(bytes) => Message::Binary(bytes),
        Packet::Alive => Message::Ping(Bytes::new()),
        Packet::Close(code, reason) => {
            Message::Close(Some(CloseFrame { code, reason: reason.into() }))
        }
    }
}

/// `GET /registry`: the services of this hub and its own spokes.
pub(crate) async fn registry(State(node): State<Arc<Node>>, request: Request) -> Reply {
    listed(&node, &request, true)
}

/// `GET /federation/registry?name=`: those of all hubs.
pub(crate) async fn federation_registry(State(node): State<Arc<Node>>, request: Request) -> Reply {
    listed(&node, &request, false)
}

fn listed(node: &Node, request: &Request, own: bool) -> Reply {
    let params = Params::parse(request.uri().query())?;
    let name: Option<ServiceName> = params.parsed("name")?;
    let found = node.federated().federation.services(&ServiceQuery { name, own });
    Ok(no_store(StatusCode::OK, &found))
}

/// `GET /federation/peers`.
pub(crate) async fn peers(State(node): State<Arc<Node>>) -> Reply {
    let peers = node.federated().federation.peers();
    Ok(no_store(StatusCode::OK, &json!({ "relay": node.identity.relay_id, "peers": peers })))
}

/// The body of `POST /federation/peers/add`.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct PeerBody {
    /// `wss://relay.example.com`
    url: String,
}

/// `POST /federation/peers/add`: dials another hub from now on.
pub(crate) async fn add_peer(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, body::SMALL).await?;
    let actor = admin(&node, &parts, &bytes).await?;
    let PeerBody { url } = body::parse(&bytes)?;
    node.federated().add_peer(&url)?;
    node.audit.done(&actor, "peer.add", &url, None).await?;
    Ok(no_store(StatusCode::ACCEPTED, &json!({ "url": url })))
}

/// `DELETE /federation/peers/{id}`: ends the links to it and dials it no more.
pub(crate) async fn remove_peer(
    State(node): State<Arc<Node>>,
    Path(id): Path<String>,
    request: Request,
) -> Reply {
    let (parts, _) = request.into_parts();
    let actor = admin(&node, &parts, &[]).await?;
    if !node.federated().remove_peer(&id)? {
        return Err(Problem::not_found(format!("'{id}' is no peer of this hub")).into());
    }
    node.audit.done(&actor, "peer.remove", &id, None).await?;
    Ok(no_store(StatusCode::OK, &json!({ "id": id })))
}

/// `GET /federation/spokes`: home relays linked to this hub.
pub(crate) async fn spokes(State(node): State<Arc<Node>>) -> Reply {
    let spokes = node.federated().federation.spokes();
    Ok(no_store(StatusCode::OK, &json!({ "relay": node.identity.relay_id, "spokes": spokes })))
}

/// `DELETE /federation/spokes/{id}`: closes its links; it may come again.
pub(crate) async fn kick_spoke(
    State(node): State<Arc<Node>>,
    Path(id): Path<String>,
    request: Request,
) -> Reply {
    let (parts, _) = request.into_parts();
    let actor = admin(&node, &parts, &[]).await?;
    let relay = relay_id(&id)?;
    if !node.federated().federation.kick(&relay) {
        return Err(Problem::not_found(format!("'{id}' is not linked to this hub")).into());
    }
    node.audit.done(&actor, "spoke.kick", &id, None).await?;
    Ok(no_store(StatusCode::OK, &json!({ "id": id })))
}

/// The body of `POST /v1/federation/join`: a join code, or what is in one.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct JoinBody {
    /// `relay-join-v1.…`
    code: String,
    /// Hubs to turn to when that one is out of reach.
    #[serde(default)]
    fallback: Vec<String>,
}

/// `POST /v1/federation/join`: becomes a spoke of the code's hub.
pub(crate) async fn join(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, body::SMALL).await?;
    let actor = admin(&node, &parts, &bytes).await?;
    let JoinBody { code, fallback } = body::parse(&bytes)?;
    let joined = Joined::from_code(&code, node.clock.wall_ns() / 1_000_000)?;
    let joined = Joined { fallback, ..joined };
    let url = joined.url.clone();
    node.join(joined).await?;
    node.audit.done(&actor, "federation.join", &url, None).await?;
    Ok(no_store(StatusCode::ACCEPTED, &json!({ "url": url })))
}

/// `DELETE /v1/federation/join`: leaves the hub that was joined.
pub(crate) async fn leave(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let actor = admin(&node, &parts, &[]).await?;
    if !node.leave().await? {
        return Err(Problem::not_found("this relay has joined no hub").into());
    }
    node.audit.done(&actor, "federation.leave", "", None).await?;
    Ok(no_store(StatusCode::OK, &json!({ "status": "ok" })))
}

/// The body of `POST /federation/spokes`: a pattern over ids (`*.home`), or a key.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct SpokesBody {
    /// Whom to let in from now on.
    allow: Option<String>,
    /// Whom to shut out, links that are up included.
    deny: Option<String>,
}

/// `POST /federation/spokes`: decides which home relays may link.
pub(crate) async fn decide_spokes(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, body::SMALL).await?;
    let actor = admin(&node, &parts, &bytes).await?;
    let (pattern, decision, action) = match body::parse(&bytes)? {
        SpokesBody { allow: Some(pattern), deny: None } => {
            (pattern, Decision::Allow, "spoke.allow")
        }
        SpokesBody { allow: None, deny: Some(pattern) } => (pattern, Decision::Deny, "spoke.deny"),
        _ => return Err(Problem::invalid("one of 'allow' and 'deny'").into()),
    };
    let closed = node.federated().decide(&pattern, decision)?;
    node.audit.done(&actor, action, &pattern, None).await?;
    Ok(no_store(StatusCode::OK, &json!({ "pattern": pattern, "closed": closed })))
}

/// `GET /federation/health`.
pub(crate) async fn health(State(node): State<Arc<Node>>) -> Reply {
    Ok(no_store(StatusCode::OK, &node.federated().federation.health()))
}

/// `GET /federation/topology`.
pub(crate) async fn topology(State(node): State<Arc<Node>>) -> Reply {
    Ok(no_store(StatusCode::OK, &node.federated().federation.topology()))
}

/// `GET /status`: what this node is; a home relay's hub, since when, how far.
pub(crate) async fn status(State(node): State<Arc<Node>>) -> Reply {
    let federated = node.federated();
    let mut status = serde_json::to_value(federated.federation.status()).unwrap_or_default();
    status["version"] = env!("CARGO_PKG_VERSION").into();
    status["key"] = node.identity.node_id().to_string().into();
    status["is_draining"] = node.is_draining().into();
    if let Some(uplink) = federated.uplink() {
        status["uplink"] = serde_json::to_value(uplink).unwrap_or_default();
    }
    Ok(no_store(StatusCode::OK, &status))
}

/// `GET /v1/gateways/resolve?gateway_id=`; with `node_id=` the name that a key has.
pub(crate) async fn resolve(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let params = Params::parse(parts.uri.query())?;
    if let Some(key) = params.parsed::<NodeId>("node_id")? {
        let found = node.federated().named(&key);
        let found =
            found.ok_or_else(|| Problem::not_found(format!("'{key}' is not known here")))?;
        return Ok(no_store(StatusCode::OK, &json!({ "gateway_id": found, "node_id": key })));
    }
    let id = params.get("gateway_id").filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| Problem::invalid("gateway_id is missing"))?;
    let relay = relay_id(id)?;
    let is_own = relay.as_str() == node.identity.relay_id;
    let itself = || is_own.then(|| own_entry(&node, &parts, relay.clone()));
    let found = node.federated().resolve(&relay).or_else(itself);
    let found = found.ok_or_else(|| Problem::not_found(format!("'{id}' is not known here")))?;
    Ok(no_store(StatusCode::OK, &found))
}

/// What this relay says of itself: no directory lists it, but it knows its name, key and address.
fn own_entry(node: &Node, parts: &Parts, gateway_id: RelayId) -> DirectoryEntry {
    let now_ms = node.clock.wall_ns() / 1_000_000;
    DirectoryEntry {
        gateway_id,
        gateway_url: match node.live().chat.public_url.as_str() {
            "" => auth::own_url(node, parts),
            public => public.to_owned(),
        },
        node_id: node.identity.node_id(),
        expires_at: now_ms + LIVE_MS,
    }
}

/// `POST /v1/calls/explain`: the way a call would take, and what would stop it; nothing is called.
pub(crate) async fn explain(State(node): State<Arc<Node>>, request: Request) -> Reply {
    #[derive(Deserialize)]
    struct Asked {
        method: String,
        params: Option<relay_proto::call::Json>,
    }
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, body::SMALL).await?;
    let who = auth::caller(&node, &parts, &bytes).await?;
    let caller = calls::http_caller(&node, &parts, &who)?;
    let Asked { method, params } = body::parse(&bytes)?;
    let call = Call::from_rpc(&method, params).map_err(Problem::from)?;
    let explained = node.federated().federation.explain(&call, &caller).await;
    Ok(no_store(StatusCode::OK, &explained))
}

async fn admin(node: &Node, parts: &Parts, body: &[u8]) -> Result<String, Problem> {
    let who = auth::caller(node, parts, body).await?;
    who.need_admin(node, &Pattern::All)?;
    Ok(who.principal.to_string())
}

fn relay_id(text: &str) -> Result<RelayId, Problem> {
    text.parse().map_err(|error| Problem::new(Code::InvalidRequest, format!("'{text}': {error}")))
}
