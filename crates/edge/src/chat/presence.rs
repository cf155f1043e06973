//! Presence over HTTP (`gateway.md` 11). Every answer is `no-store`, as all of the gateway's are.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::StatusCode,
};
use relay_core::presence::view_body;
use relay_node::{Node, chat::Home, homes::wire::Carried};
use relay_proto::{
    NodeId, Problem, RelayId,
    auth::DeviceId,
    conv::{Caller, UserRef},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{caller, caller_and_body, directory::own_device, parse};
use crate::reply::{Reply, no_store};

#[derive(Deserialize)]
struct LeaseBody {
    device_id: DeviceId,
    ttl_seconds: i64,
    invisible: Option<bool>,
}

/// The body of everything that is about contacts.
#[derive(Deserialize)]
pub(crate) struct ContactsBody {
    contacts: Vec<UserRef>,
}

impl ContactsBody {
    pub fn users(self) -> Vec<NodeId> {
        self.contacts.into_iter().map(|UserRef(user)| user).collect()
    }
}

/// `lease` and `renew`: a renewal without `invisible` keeps what was said before.
pub(super) async fn lease(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let renews = request.uri().path().ends_with("/renew");
    let (caller, bytes) = caller_and_body(&node, request).await?;
    let asked: LeaseBody = parse(&bytes)?;
    own_device(&caller, &asked.device_id)?;
    let invisible = asked.invisible.or(if renews { None } else { Some(false) });
    let expires_at = node.presence.lease(&caller, asked.ttl_seconds, invisible)?;
    Ok(no_store(StatusCode::OK, &json!({ "status": "ok", "expires_at": expires_at })))
}

pub(super) async fn watch(State(node): State<Arc<Node>>, request: Request) -> Reply {
    change_watch(&node, request, true).await
}

pub(super) async fn unwatch(State(node): State<Arc<Node>>, request: Request) -> Reply {
    change_watch(&node, request, false).await
}

async fn change_watch(node: &Node, request: Request, add: bool) -> Reply {
    let (caller, bytes) = caller_and_body(node, request).await?;
    let contacts = parse::<ContactsBody>(&bytes)?.users();
    let watching = node.presence.watch(&caller, contacts, add).await?;
    node.contacts_changed(&caller.user);
    Ok(no_store(StatusCode::OK, &json!({ "status": "ok", "watching": watching })))
}

pub(super) async fn block(State(node): State<Arc<Node>>, request: Request) -> Reply {
    change_block(&node, request, true).await
}

pub(super) async fn unblock(State(node): State<Arc<Node>>, request: Request) -> Reply {
    change_block(&node, request, false).await
}

async fn change_block(node: &Node, request: Request, add: bool) -> Reply {
    let (caller, bytes) = caller_and_body(node, request).await?;
    let contacts = parse::<ContactsBody>(&bytes)?.users();
    if contacts.contains(&caller.user) {
        return Err(Problem::invalid("nobody blocks themselves").into());
    }
    let away = node.away(&contacts).await;
    let blocked = node.presence.block(&caller, contacts, add, away).await?;
    node.conversations.note_mail();
    Ok(no_store(StatusCode::OK, &json!({ "status": "ok", "blocked": blocked })))
}

pub(super) async fn blocklist(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = caller(&node, &parts).await?;
    let blocked = node.presence.blocklist(&caller);
    Ok(no_store(StatusCode::OK, &json!({ "blocked": blocked })))
}

pub(super) async fn status(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, bytes) = caller_and_body(&node, request).await?;
    let contacts = parse::<ContactsBody>(&bytes)?.users();
    Ok(no_store(StatusCode::OK, &json!({ "statuses": statuses(&node, &caller, contacts).await? })))
}

#[derive(Deserialize)]
struct Statuses {
    statuses: Vec<Value>,
}

/// What the homes of these contacts say; those whose home is out of reach are as unavailable as strangers.
async fn statuses(
    node: &Node,
    caller: &Caller,
    contacts: Vec<NodeId>,
) -> Result<Vec<Value>, Problem> {
    // A relay that forwards asks the other homes itself: there is no grant for this one.
    let is_forwarded = caller.gateway != node.identity.relay_id;
    let own = match is_forwarded || node.is_alone() {
        true => Home::Here,
        false => node.home_of_caller(caller.user).await?,
    };
    let Home::At(own) = own else {
        let views = node.presence.status(caller, contacts)?;
        let statuses = views.iter().map(|(user, view)| view_body(user, view)).collect();
        let grant = if node.is_alone() { None } else { node.grant_of(caller).ok() };
        let Some(grant) = grant else { return Ok(statuses) };
        let watched = node.presence.watchlist(&caller.user);
        return Ok(elsewhere(node, caller, &grant, (None, &watched), statuses).await);
    };
    let body = json!({ "contacts": contacts });
    let carried = Carried::post_value("/v1/presence/status", &body)?;
    let grant = node.grant_of(caller)?;
    let Statuses { statuses } = node.ask_for(&own, &carried, Some(grant.clone())).await?;
    let watched = node.contacts_at(&own, caller).await?;
    Ok(elsewhere(node, caller, &grant, (Some(&own), &watched), statuses).await)
}

/// Fills in what homes say that are neither this relay nor, where it is another, the user's own.
async fn elsewhere(
    node: &Node,
    caller: &Caller,
    grant: &str,
    (own, watched): (Option<&RelayId>, &[NodeId]),
    mut statuses: Vec<Value>,
) -> Vec<Value> {
    let named = |view: &Value| view["user_id"].as_str().and_then(|user| user.parse().ok());
    let contacts: Vec<NodeId> = statuses.iter().filter_map(named).collect();
    let mut away: Vec<(RelayId, Vec<NodeId>)> = Vec::new();
    let mut told = Vec::new();
    for contact in contacts {
        let blocked = node.presence.is_blocked(&caller.user, &contact);
        if blocked || !watched.contains(&contact) {
            continue;
        }
        match node.home_of_user(contact).await {
            Ok(Some(Home::At(home))) if own != Some(&home) => {
                match away.iter_mut().find(|(known, _)| *known == home) {
                    Some((_, contacts)) => contacts.push(contact),
                    None => away.push((home, vec![contact])),
                }
            }
            Ok(Some(Home::Here)) if own.is_some() => {
                let views = node.presence.guest_status(caller, vec![contact]).unwrap_or_default();
                told.extend(views.iter().map(|(user, view)| view_body(user, view)));
            }
            _ => {}
        }
    }
    for (home, contacts) in away {
        let body = json!({ "contacts": contacts });
        let Ok(carried) = Carried::post_value("/v1/homes/presence/status", &body) else { continue };
        let asked = node.ask_for::<Statuses>(&home, &carried, Some(grant.to_owned())).await;
        told.extend(asked.map(|asked| asked.statuses).unwrap_or_default());
    }
    for view in told {
        let same = |known: &&mut Value| known["user_id"] == view["user_id"];
        if let Some(known) = statuses.iter_mut().find(same) {
            *known = view;
        }
    }
    statuses
}
