//! What relays ask each other of conversations and users (`federation.md`, Homes): doors for links alone.
//!
//! Who asks is proven by the user's grant for the relay that forwards; where a relay speaks for itself there is none.

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::future::join_all;
use relay_core::{
    conversations::{PageRequest, Start},
    presence::view_body,
};
use relay_node::{
    Node,
    chat::{
        DeviceAsked, Frames, MailBag, Outcome, Outcomes, PresenceAsked, Requests, Scope, TailAsked,
        Tidings, WatchedContacts, Window,
    },
};
use relay_proto::{
    Code, NodeId, Problem,
    conv::{self, ConvId},
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{ContactsBody, parse};
use crate::{
    auth, body,
    held::Held,
    homes::FromRelay,
    reply::{Reply, no_store},
    sse,
};

/// The most that a relay asks in one message: a commit with everything that comes with it.
const LARGEST: usize = 2 << 20;
/// What changes whom a user may see.
const CONTACTS_CHANGE: [&str; 4] =
    ["/v1/presence/watch", "/v1/presence/unwatch", "/v1/presence/block", "/v1/presence/unblock"];
/// Requests of one message.
const MAX_REQUESTS: usize = 256;

#[derive(Deserialize)]
struct UserBody {
    user_id: NodeId,
    scope: Scope,
}

#[derive(Deserialize)]
struct AttachmentBody {
    hash: String,
    scope: Scope,
}

#[derive(Deserialize)]
struct ConvBody {
    conv_id: ConvId,
}

#[derive(Deserialize)]
struct WindowBody {
    conv_id: ConvId,
    from_seq: Option<u64>,
}

#[derive(Deserialize)]
struct LogBody {
    conv_id: ConvId,
    from_seq: u64,
    limit: u64,
}

/// Every door for other relays.
pub(crate) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/v1/homes/requests", post(requests))
        .route("/v1/homes/window", post(window))
        .route("/v1/homes/log", post(log))
        .route("/v1/homes/tail", post(tail))
        .route("/v1/homes/place", post(place))
        .route("/v1/homes/device", post(device))
        .route("/v1/homes/user", post(user))
        .route("/v1/homes/mail", post(mail))
        .route("/v1/homes/inbox", get(inbox))
        .route("/v1/homes/presence", post(presence))
        .route("/v1/homes/presence/status", post(presence_status))
        .route("/v1/homes/contacts", get(contacts))
        .route("/v1/homes/attachment", post(attachment))
        .route("/v1/blobs/{hash}", get(super::blobs::get).put(super::blobs::put))
        .route("/v1/homes/news", post(news))
}

/// Several requests about conversations, carried out in their order.
async fn requests(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, Requests { requests }) = read(&node, request).await?;
    if requests.len() > MAX_REQUESTS {
        return Err(Problem::invalid("too many requests at once").into());
    }
    // A message has its place in the line when `serve` returns; whoever forwards here takes this relay for the home.
    let answers = requests.into_iter().map(|asked| node.conversations.serve(caller.clone(), asked));
    let answers: Vec<_> = answers.collect();
    let outcomes = join_all(answers).await.into_iter().map(Outcome::from).collect();
    Ok(no_store(StatusCode::OK, &Outcomes { outcomes }))
}

async fn window(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, WindowBody { conv_id, from_seq }) = read(&node, request).await?;
    let start = from_seq.map_or(Start::Cursor, Start::From);
    let (next_seq, latest_seq) = node.conversations.window(&caller, conv_id, start).await?;
    Ok(no_store(StatusCode::OK, &Window { next_seq, latest_seq }))
}

async fn log(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, LogBody { conv_id, from_seq, limit }) = read(&node, request).await?;
    let asked = PageRequest::for_reader(caller, conv_id, from_seq, limit);
    let (page, limit) = node.conversations.page(asked).await?;
    let damaged = || Problem::new(Code::InternalError, "a message is damaged");
    let raw = |(seq, frame): (u64, bytes::Bytes)| {
        let text = String::from_utf8(frame.into()).map_err(|_| damaged())?;
        Ok((seq, RawValue::from_string(text).map_err(|_| damaged())?))
    };
    let frames: Result<Vec<_>, Problem> = page.frames.into_iter().map(raw).collect();
    Ok(no_store(StatusCode::OK, &Frames { frames: frames?, more: page.more, limit }))
}

/// A conversation for a relay that hands it on to its clients.
async fn tail(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, asked): (_, TailAsked) = read(&node, request).await?;
    sse::open(node, sse::Asked::Tail(caller, asked), Held::none(), Default::default()).await
}

/// Where a user who lives here finds a conversation.
async fn place(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, ConvBody { conv_id }) = read(&node, request).await?;
    let home = node.known_place(caller.user, conv_id).await?;
    Ok(no_store(StatusCode::OK, &json!({ "conv_home": home })))
}

async fn device(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, DeviceAsked { lives_here }) = read(&node, request).await?;
    if lives_here {
        node.settle(caller.user).await?;
    }
    Ok(no_store(StatusCode::OK, &node.device_state_here(&caller).await?))
}

/// Whether a user lives here, or where this relay has heard that they do.
async fn user(
    State(node): State<Arc<Node>>,
    Extension(FromRelay(from)): Extension<FromRelay>,
    request: Request,
) -> Reply {
    let UserBody { user_id, scope } = read_body(request).await?;
    let lives_here = node
        .store
        .is_home_user(user_id)
        .await
        .map_err(|error| relay_core::failure::store_problem(&error))?;
    let home = if lives_here {
        Some(node.identity.relay_id.clone())
    } else {
        node.find_user(user_id, scope, Some(&from)).await?.map(|home| home.to_string())
    };
    Ok(no_store(StatusCode::OK, &json!({ "user_home_gateway": home })))
}

/// Which relay has an attachment, as far as this one can find out.
async fn attachment(
    State(node): State<Arc<Node>>,
    Extension(FromRelay(from)): Extension<FromRelay>,
    request: Request,
) -> Reply {
    let AttachmentBody { hash, scope } = read_body(request).await?;
    let hash = super::blobs::parse(&hash)?;
    let holder = node.attachment_holder(hash, scope, Some(&from)).await?;
    Ok(no_store(StatusCode::OK, &json!({ "held_by": holder })))
}

async fn mail(
    State(node): State<Arc<Node>>,
    Extension(FromRelay(from)): Extension<FromRelay>,
    request: Request,
) -> Reply {
    let MailBag { items } = read_body(request).await?;
    if items.len() > MAX_REQUESTS {
        return Err(Problem::invalid("too much mail at once").into());
    }
    Ok(no_store(StatusCode::OK, &node.take_mail(Some(&from), items).await?))
}

/// Something new lies at the relay that asks, for users who live here.
async fn news(
    State(node): State<Arc<Node>>,
    Extension(FromRelay(from)): Extension<FromRelay>,
    request: Request,
) -> Reply {
    let tidings: Tidings = read_body(request).await?;
    node.take_tidings(&from, tidings).await?;
    Ok(no_store(StatusCode::OK, &json!({ "status": "ok" })))
}

/// A device's inbox, from `from_seq` or from where it has got to, and on.
async fn inbox(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = super::caller(&node, &parts).await?;
    let params = crate::params::Params::parse(parts.uri.query())?;
    let last = parts.headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let from_seq = last.map(|seq: u64| seq + 1).or(params.parsed("from_seq")?);
    // Whoever reads their inbox through another relay is there, and need not be pushed to.
    let place = node.connections.attend(caller.user, caller.device.clone());
    sse::open(node, sse::Asked::Inbox(caller, from_seq), Held::none(), place).await
}

async fn presence(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, PresenceAsked { contacts }) = read(&node, request).await?;
    sse::open(node, sse::Asked::Presence(caller, contacts), Held::none(), Default::default()).await
}

/// Whom a user who lives here watches, for the relay through which they came in.
async fn contacts(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = super::caller(&node, &parts).await?;
    let mut contacts = node.presence.watchlist(&caller.user);
    contacts.retain(|contact| !node.presence.is_blocked(&caller.user, contact));
    Ok(no_store(StatusCode::OK, &WatchedContacts { contacts }))
}

async fn presence_status(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, contacts): (_, ContactsBody) = read(&node, request).await?;
    let statuses = node.presence.guest_status(&caller, contacts.users())?;
    let statuses: Vec<Value> = statuses.iter().map(|(user, view)| view_body(user, view)).collect();
    Ok(no_store(StatusCode::OK, &json!({ "statuses": statuses })))
}

/// Who asks, by their grant, and what for.
async fn read<B: serde::de::DeserializeOwned>(
    node: &Node,
    request: Request,
) -> Result<(conv::Caller, B), Problem> {
    let (parts, body) = request.into_parts();
    let caller = super::caller(node, &parts).await?;
    let bytes = body::read(&parts.headers, body, LARGEST).await?;
    Ok((caller, parse(&bytes)?))
}

async fn read_body<B: serde::de::DeserializeOwned>(request: Request) -> Result<B, Problem> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, LARGEST).await?;
    parse(&bytes)
}

/// Sends what belongs to a user's home there, and lets through what is at home here.
pub(super) async fn to_home(
    State(node): State<Arc<Node>>,
    request: Request,
    next: axum::middleware::Next,
) -> Response {
    if node.is_alone() || request.extensions().get::<FromRelay>().is_some() {
        return next.run(request).await;
    }
    match pass(&node, request, next).await {
        Ok(response) => response,
        Err(refused) => refused.into_response(),
    }
}

async fn pass(node: &Arc<Node>, request: Request, next: axum::middleware::Next) -> Reply {
    use relay_node::chat::Home;
    #[derive(Deserialize)]
    struct Target {
        user_id: conv::UserRef,
    }
    let (mut parts, body) = request.into_parts();
    let known = auth::caller(node, &parts, &[]).await?;
    let caller = super::caller_of(node, &parts, &known)?;
    // Found out once.
    parts.extensions.insert(crate::homes::Known(known));
    let mut home = node.home_of_caller(caller.user).await?;
    // Of presence several homes are asked.
    let is_status = parts.uri.path() == "/v1/presence/status";
    if is_status || (parts.uri.path() != "/v1/keypackages/fetch" && home == Home::Here) {
        return Ok(next.run(Request::from_parts(parts, body)).await);
    }
    let bytes = body::read(&parts.headers, body, LARGEST).await?;
    if parts.uri.path() == "/v1/keypackages/fetch" {
        // What cannot be read is for the handler to refuse; whom nobody knows has nothing anywhere.
        let target: Option<Target> = parse(&bytes).ok();
        home = match target {
            Some(Target { user_id }) => node.home_of_user(user_id.0).await?.unwrap_or(Home::Here),
            None => Home::Here,
        };
    }
    match home {
        Home::Here => {
            let body = axum::body::Body::from(bytes);
            Ok(next.run(Request::from_parts(parts, body)).await)
        }
        Home::At(home) => {
            let grant = node.grant_of(&caller)?;
            let carried = crate::homes::carried(&parts, &bytes)?;
            let answer = crate::homes::exchange(node, &home, &carried, Some(grant)).await?;
            if CONTACTS_CHANGE.contains(&parts.uri.path()) {
                node.contacts_changed(&caller.user);
            }
            Ok(crate::homes::named(answer, &home))
        }
    }
}
