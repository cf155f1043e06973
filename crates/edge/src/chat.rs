//! The chat gateway over HTTP (`gateway.md` 7 to 11, 13, 15): who asks, what for, and how it is answered.
//!
//! Bodies are read straight into the requests of [`relay_proto::conv`]; the home decides.

mod blobs;
mod directory;
pub(crate) mod homes;
mod inbox;
mod presence;
mod push;
mod users;

pub(crate) use inbox::InboxAck;
pub(crate) use presence::ContactsBody;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, request::Parts},
    middleware,
    routing::{get, post},
};
use bytes::Bytes;
use relay_core::policy::Principal;
use relay_node::Node;
use relay_proto::{
    Problem,
    conv::{
        self, Caller,
        request::{Act, List, Named},
    },
};
use serde::de::DeserializeOwned;

use crate::{
    auth::{self, Proof},
    body,
    homes::Speaker,
    params::Params,
    reply::{Reply, no_store},
};

/// Every route of the gateway but sockets and streams.
pub(crate) fn routes(node: &Arc<Node>) -> Router<Arc<Node>> {
    use conv::Request as R;
    let govern = |act: Act| {
        post(move |State(node): State<Arc<Node>>, request: Request| {
            asked(node, request, move |target| R::Govern { act, target })
        })
    };
    macro_rules! ask {
        ($make:expr) => {
            post(|State(node): State<Arc<Node>>, request: Request| asked(node, request, $make))
        };
    }
    macro_rules! look {
        ($make:expr) => {
            get(|State(node): State<Arc<Node>>, request: Request| looked(node, request, $make))
        };
    }
    Router::new()
        .route("/v1/rooms/create", ask!(R::CreateRoom))
        .route("/v1/rooms/invite", govern(Act::Invite))
        .route("/v1/rooms/remove", govern(Act::Remove))
        .route("/v1/rooms/promote", govern(Act::Promote))
        .route("/v1/rooms/demote", govern(Act::Demote))
        .route("/v1/rooms/ban", govern(Act::Ban))
        .route("/v1/rooms/unban", govern(Act::Unban))
        .route("/v1/rooms/mute", govern(Act::Mute))
        .route("/v1/rooms/unmute", govern(Act::Unmute))
        .route("/v1/rooms/members", look!(R::Members))
        .route("/v1/rooms/bans", look!(R::Bans))
        .route("/v1/rooms/mutes", look!(R::Mutes))
        .route("/v1/dms/create", ask!(R::CreateDm))
        .route("/v1/conversations", get(list))
        .route("/v1/conversations/mark_read", ask!(R::MarkRead))
        .route("/v1/conversations/mark_all_read", ask!(R::MarkAllRead))
        .route("/v1/conversations/title", ask!(R::SetTitle))
        .route("/v1/conversations/label", ask!(R::SetLabel))
        .route("/v1/conversations/pin", ask!(R::Pin))
        .route("/v1/conversations/mute", ask!(R::Mute))
        .route("/v1/conversations/archive", ask!(R::Archive))
        .route("/v1/conversations/commit", ask!(R::Commit))
        .route("/v1/conversations/group_info", look!(R::GroupInfo))
        .route("/v1/inbox", post(inbox::post))
        .route("/v1/conversations/rejoin_request", ask!(R::Rejoin))
        .merge(of_users(node))
        .route("/v1/users", get(users::list))
        .route("/v1/users/{user}", get(users::show))
        .route("/v1/users/purge", post(users::purge))
        .route("/v1/blobs/{hash}", get(blobs::get).put(blobs::put))
}

/// What lies at the home of the user: served here where this relay is it, else there. Other relays may ask for it too.
pub(crate) fn of_users(node: &Arc<Node>) -> Router<Arc<Node>> {
    Router::new()
        .route("/v1/inbox/events", get(inbox::events))
        .route("/v1/inbox/ack", post(inbox::ack))
        .route("/v1/keypackages", post(directory::publish))
        .route("/v1/keypackages/fetch", post(directory::fetch))
        .route("/v1/keypackages/rotate", post(directory::rotate))
        .route("/v1/keypackages/pool", get(directory::pool))
        .route("/v1/vault", get(directory::vault).put(directory::set_vault))
        .route("/v1/push", get(push::show).put(push::set).delete(push::unset))
        .route("/v1/presence/lease", post(presence::lease))
        .route("/v1/presence/renew", post(presence::lease))
        .route("/v1/presence/watch", post(presence::watch))
        .route("/v1/presence/unwatch", post(presence::unwatch))
        .route("/v1/presence/block", post(presence::block))
        .route("/v1/presence/unblock", post(presence::unblock))
        .route("/v1/presence/blocklist", get(presence::blocklist))
        .route("/v1/presence/status", post(presence::status))
        .route_layer(middleware::from_fn_with_state(node.clone(), homes::to_home))
}

/// Serves a request whose body is that of the wire.
async fn asked<B: DeserializeOwned>(
    node: Arc<Node>,
    request: Request,
    make: impl FnOnce(B) -> conv::Request,
) -> Reply {
    let (caller, bytes) = caller_and_body(&node, request).await?;
    let answer = node.chat(caller, make(parse(&bytes)?)).await?;
    Ok(no_store(StatusCode::OK, &answer.to_json()))
}

/// Serves a question about one conversation.
async fn looked(
    node: Arc<Node>,
    request: Request,
    make: impl FnOnce(Named) -> conv::Request,
) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = caller(&node, &parts).await?;
    let params = Params::parse(parts.uri.query())?;
    let answer = node.chat(caller, make(Named { conv_id: conv_id(&params)? })).await?;
    Ok(no_store(StatusCode::OK, &answer.to_json()))
}

async fn list(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = caller(&node, &parts).await?;
    let params = Params::parse(parts.uri.query())?;
    let list = List {
        include_archived: params.switch("include_archived")?,
        limit: params.parsed("limit")?,
        cursor: params.get("cursor").map(str::to_owned),
    };
    let answer = node.chat(caller, conv::Request::List(list)).await?;
    Ok(no_store(StatusCode::OK, &answer.to_json()))
}

/// The conversation that a URL names.
pub(crate) fn conv_id(params: &Params) -> Result<conv::ConvId, Problem> {
    params.parsed("conv_id")?.ok_or_else(|| Problem::invalid("conv_id is missing"))
}

/// Who asks, by their session or, at another relay, by their grant.
pub(crate) async fn caller(node: &Node, parts: &Parts) -> Result<Caller, Problem> {
    let caller = auth::caller(node, parts, &[]).await?;
    caller_of(node, parts, &caller)
}

/// As [`caller`], where it is known already who it is.
pub(crate) fn caller_of(
    node: &Node,
    parts: &Parts,
    known: &auth::Caller,
) -> Result<Caller, Problem> {
    if let (Proof::Grant { device, relay }, Principal::Key(user)) = (&known.proof, known.principal)
    {
        return Ok(Caller {
            user,
            device: device.clone(),
            gateway: relay.to_string(),
            grant: None,
        });
    }
    let caller = node.chat_caller(known.session()?);
    let grant = Speaker::of(&parts.headers, known).grant;
    Ok(Caller { grant, ..caller })
}

/// Who asks is known before the body is read.
async fn caller_and_body(node: &Node, request: Request) -> Result<(Caller, Bytes), Problem> {
    let (parts, body) = request.into_parts();
    let caller = caller(node, &parts).await?;
    let bytes = body::read(&parts.headers, body, body::SMALL).await?;
    Ok((caller, bytes))
}

/// Reads a body that is an object; none counts as `{}`.
fn parse<B: DeserializeOwned>(bytes: &[u8]) -> Result<B, Problem> {
    let text = bytes.trim_ascii();
    if !text.is_empty() && !text.starts_with(b"{") {
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok();
        let message = if is_json { "the body is an object" } else { "malformed json" };
        return Err(Problem::invalid(message));
    }
    body::parse(bytes)
}
