//! `/v1/locks…` and the `lock.*` frames: the same requests, decoded once (`locks.md`).

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State},
    http::StatusCode,
};
use relay_core::policy::{Op, Principal};
use relay_node::Node;
use relay_proto::{
    Code, Cursor, Namespace, NodeId, Position, Problem,
    lease::{Acquire, Break, Grant, LockState, Release, Renew, Resource},
};
use relay_store::{HistoryQuery, HistoryRow};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use utoipa::ToSchema;

use crate::{
    auth, body,
    held::{Held, over_problem},
    params::Params,
    reply::{Reply, no_store},
};

/// Longest history or list page that is given without asking for more.
const PAGE: usize = 100;

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct AcquireBody {
    #[schema(value_type = Option<String>)]
    ns: Option<Namespace>,
    resource: String,
    lease_ms: u64,
    #[serde(default)]
    wait_ms: u64,
    request_id: Option<String>,
    #[schema(value_type = Option<Value>)]
    meta: Option<Box<RawValue>>,
    owner: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RenewBody {
    #[schema(value_type = Option<String>)]
    ns: Option<Namespace>,
    resource: String,
    fencing_token: u64,
    lease_ms: u64,
    owner: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ReleaseBody {
    #[schema(value_type = Option<String>)]
    ns: Option<Namespace>,
    resource: String,
    fencing_token: u64,
    owner: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct BreakBody {
    #[schema(value_type = Option<String>)]
    ns: Option<Namespace>,
    resource: String,
    fencing_token: u64,
    reason: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct InspectBody {
    ns: Option<Namespace>,
    resource: String,
}

/// The answer to a release or a break.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ended {
    resource: String,
    fencing_token: u64,
    status: &'static str,
}

pub(crate) async fn acquire(
    node: &Node,
    who: &Principal,
    asked: AcquireBody,
) -> Result<Grant, Problem> {
    let ns = asked.ns.unwrap_or_default();
    let owner = owner(node, who, &ns, asked.owner.as_deref())?;
    node.quotas.check_locks(ns.tenant(), node.locks.held_by(ns.tenant()))?;
    let began = node.clock.mono_ns();
    let grant = node
        .locks
        .acquire(Acquire {
            ns,
            resource: resource(&asked.resource)?,
            owner,
            lease_ms: asked.lease_ms,
            wait_ms: asked.wait_ms,
            request_id: asked.request_id.map(Into::into),
            meta: asked.meta.map(|meta| meta.get().into()),
        })
        .await?;
    node.metrics.lock_wait.observe_ns(node.clock.mono_ns().saturating_sub(began));
    Ok(grant)
}

pub(crate) async fn renew(
    node: &Node,
    who: &Principal,
    asked: RenewBody,
) -> Result<Grant, Problem> {
    let ns = asked.ns.unwrap_or_default();
    let owner = owner(node, who, &ns, asked.owner.as_deref())?;
    let (resource, token) = (resource(&asked.resource)?, asked.fencing_token);
    node.locks.renew(Renew { ns, resource, owner, token, lease_ms: asked.lease_ms }).await
}

pub(crate) async fn release(
    node: &Node,
    who: &Principal,
    asked: ReleaseBody,
) -> Result<Ended, Problem> {
    let ns = asked.ns.unwrap_or_default();
    let owner = owner(node, who, &ns, asked.owner.as_deref())?;
    let token = asked.fencing_token;
    node.locks.release(Release { ns, resource: resource(&asked.resource)?, owner, token }).await?;
    Ok(Ended { resource: asked.resource, fencing_token: token, status: "released" })
}

pub(crate) async fn break_lease(
    node: &Node,
    who: &Principal,
    asked: BreakBody,
) -> Result<Ended, Problem> {
    let ns = asked.ns.unwrap_or_default();
    node.check(who, &ns, Op::Admin)?;
    let by = match who {
        Principal::Key(key) => *key,
        _ => node.identity.node_id(),
    };
    if asked.reason.trim().is_empty() || asked.reason.len() > 1_024 {
        return Err(Problem::invalid("a break needs a reason of 1 to 1024 bytes"));
    }
    let token = asked.fencing_token;
    let reason = asked.reason.into();
    node.locks
        .break_lease(Break { ns, resource: resource(&asked.resource)?, token, reason, by })
        .await?;
    Ok(Ended { resource: asked.resource, fencing_token: token, status: "broken" })
}

pub(crate) async fn inspect(
    node: &Node,
    who: &Principal,
    asked: InspectBody,
) -> Result<LockState, Problem> {
    let ns = asked.ns.unwrap_or_default();
    node.check(who, &ns, Op::Read)?;
    node.locks.inspect(ns, resource(&asked.resource)?).await
}

/// The owner is who asks, never who the body says.
fn owner(
    node: &Node,
    who: &Principal,
    ns: &Namespace,
    claimed: Option<&str>,
) -> Result<NodeId, Problem> {
    let Principal::Key(key) = who else {
        return Err(Problem::unauthorized(
            "a lock belongs to a key: start a session or sign the request",
        ));
    };
    if claimed.is_some_and(|claimed| claimed != key.to_string()) {
        return Err(Problem::forbidden("'owner' is not the key that asks"));
    }
    node.check(who, ns, Op::Lock)?;
    Ok(*key)
}

fn resource(text: &str) -> Result<Resource, Problem> {
    text.parse().map_err(|error| Problem::invalid(format!("{error}")))
}

/// `POST /v1/locks/{verb}`.
pub(crate) async fn post(
    State(node): State<Arc<Node>>,
    Path(verb): Path<String>,
    request: Request,
) -> Reply {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, body::SMALL).await?;
    let caller = auth::caller(&node, &parts, &bytes).await?;
    let who = &caller.principal;
    let response = match verb.as_str() {
        "acquire" => {
            // Who waits in line with a session leaves it with the session.
            let mut held = Held::of(&node, &caller);
            tokio::select! {
                biased;
                over = held.over() => return Err(over_problem(over).into()),
                grant = acquire(&node, who, body::parse(&bytes)?) => {
                    no_store(StatusCode::OK, &grant?)
                }
            }
        }
        "renew" => no_store(StatusCode::OK, &renew(&node, who, body::parse(&bytes)?).await?),
        "release" => no_store(StatusCode::OK, &release(&node, who, body::parse(&bytes)?).await?),
        "break" => no_store(StatusCode::OK, &break_lease(&node, who, body::parse(&bytes)?).await?),
        _ => return Err(Problem::not_found("locks have acquire, renew, release and break").into()),
    };
    Ok(response)
}

/// `GET /v1/locks/{resource}?ns=`; the resource may hold slashes.
pub(crate) async fn get(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    request: Request,
) -> Reply {
    let (parts, _) = request.into_parts();
    let who = auth::identify(&node, &parts, &[]).await?;
    let ns = Params::parse(parts.uri.query())?.parsed("ns")?;
    let state = inspect(&node, &who, InspectBody { ns, resource: name }).await?;
    Ok(no_store(StatusCode::OK, &state))
}

/// `GET /v1/locks?ns=&prefix=&cursor=&limit=`.
pub(crate) async fn list(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let who = auth::identify(&node, &parts, &[]).await?;
    let params = Params::parse(parts.uri.query())?;
    let ns: Namespace = params.parsed("ns")?.unwrap_or_default();
    node.check(&who, &ns, Op::Read)?;
    let after = params.get("cursor").map(resource).transpose()?;
    let prefix = params.get("prefix").unwrap_or_default().to_owned();
    let limit = params.parsed("limit")?.unwrap_or(PAGE);
    let list = node.locks.list(ns, prefix, after, limit).await?;
    let mut answer = json!({ "items": list.items });
    if let Some(next) = list.next {
        answer["cursor"] = next.as_str().into();
    }
    Ok(no_store(StatusCode::OK, &answer))
}

/// `GET /v1/lock-history?ns=&resource=&cursor=&limit=`, newest first.
pub(crate) async fn history(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let who = auth::identify(&node, &parts, &[]).await?;
    let params = Params::parse(parts.uri.query())?;
    let ns: Namespace = params.parsed("ns")?.unwrap_or_default();
    node.check(&who, &ns, Op::Read)?;
    let log = node.events.log_id();
    let before_id = match params.get("cursor").map(|text| Cursor::decode(text, log)).transpose()? {
        None => None,
        Some(Cursor { position: Position::BeforeSeq(id), .. }) => Some(id),
        Some(_) => return Err(Problem::invalid("the cursor is not one of the lock history").into()),
    };
    let limit = params.parsed("limit")?.unwrap_or(PAGE).clamp(1, relay_core::locks::MAX_PAGE);
    let resource = params.get("resource").map(resource).transpose()?;
    let rows = node.locks.history(HistoryQuery { ns, resource, before_id, limit }).await?;
    let mut answer = json!({ "items": rows.iter().map(history_item).collect::<Vec<_>>() });
    if let Some(last) = rows.last().filter(|_| rows.len() == limit) {
        let cursor = Cursor { log, position: Position::BeforeSeq(last.id) };
        answer["cursor"] = cursor.encode().into();
    }
    Ok(no_store(StatusCode::OK, &answer))
}

fn history_item(found: &HistoryRow) -> Value {
    let row = &found.row;
    let mut item = json!({
        "at_ns": row.at_wall_ns.to_string(),
        "ns": row.ns,
        "resource": row.resource,
        "action": row.action.as_str(),
        "owner": row.owner,
        "fencing_token": row.token,
    });
    if let Some(previous) = row.previous_owner {
        item["previous_owner"] = previous.to_string().into();
    }
    if let Some(reason) = &row.reason {
        item["reason"] = reason.as_ref().into();
    }
    if let Some(by) = row.by {
        item["by"] = by.to_string().into();
    }
    item
}

/// Frames that need a key say so before anything else is looked at.
pub(crate) fn need_key(who: &Principal) -> Result<(), Problem> {
    match who {
        Principal::Anonymous => Err(Problem::new(Code::Unauthorized, "start a session first")),
        _ => Ok(()),
    }
}
