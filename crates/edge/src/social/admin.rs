//! What operators see and do, in JSON.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{StatusCode, request::Parts},
};
use bytes::Bytes;
use relay_core::{policy::Pattern, social::Social};
use relay_node::Node;
use relay_proto::{
    NodeId, Problem,
    polycentric::{Body, EventKey, ModerationTag, ProcessId, SystemKey},
};
use relay_store::{Censored, ModerationState, SocialQuota};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{
    auth::{self, Caller},
    body,
    params::Params,
    reply::{Reply, no_store},
};

/// Events of a page of the queue.
const PAGE: usize = 50;

/// What is to be hidden: a link, or a system, or an event of a system.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CensorBody {
    url: Option<String>,
    system: Option<String>,
    /// Hex, with `clock`: one event.
    process: Option<String>,
    clock: Option<u64>,
    /// Not stored any more, either.
    #[serde(default)]
    refuse: bool,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ModerateBody {
    seq: u64,
    approve: bool,
    /// What it is like: name and level.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    tags: Vec<(String, u32)>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct PurgeBody {
    system: String,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct QuotaBody {
    system: String,
    /// Bytes of events that are held; absent: as for all; 0: no limit.
    bytes: Option<u64>,
    /// Events a second in the long run; absent: as for all; 0: no limit.
    events_per_sec: Option<u32>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NoQuotaBody {
    system: String,
}

/// `GET /v1/social/censored`.
pub(crate) async fn censored(State(node): State<Arc<Node>>, request: Request) -> Reply {
    admin(&node, request).await?;
    let all = node.social.censored().await?;
    let items: Vec<Value> = all
        .into_iter()
        .map(|(what, refused)| match what {
            Censored::System(system) => json!({"system": system.to_string(), "refused": refused}),
            Censored::Event(key) => json!({
                "system": key.system.to_string(),
                "process": hex(key.process.as_bytes()),
                "clock": key.clock,
                "refused": refused,
            }),
        })
        .collect();
    Ok(no_store(StatusCode::OK, &json!({ "items": items })))
}

/// `POST /v1/social/censor`.
pub(crate) async fn censor(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, _, bytes) = admin(&node, request).await?;
    let asked: CensorBody = body::parse(&bytes)?;
    let what = what(&asked)?;
    node.social.censor(what, asked.refuse).await?;
    act(&node, &caller, "social.censor", &format!("{what:?}")).await?;
    Ok(no_store(StatusCode::OK, &json!({})))
}

/// `POST /v1/social/uncensor`.
pub(crate) async fn uncensor(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, _, bytes) = admin(&node, request).await?;
    let what = what(&body::parse(&bytes)?)?;
    node.social.uncensor(what).await?;
    act(&node, &caller, "social.uncensor", &format!("{what:?}")).await?;
    Ok(no_store(StatusCode::OK, &json!({})))
}

/// `GET /v1/social/waiting?after=`: the queue of those who approve.
pub(crate) async fn waiting(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (_, parts, _) = admin(&node, request).await?;
    let params = Params::parse(parts.uri.query())?;
    let after = params.parsed("after")?.unwrap_or(0);
    let queue = node.social.waiting(after, PAGE).await?;
    let items: Result<Vec<Value>, Problem> = queue
        .iter()
        .map(|waiting| {
            let event = waiting
                .event
                .parse()
                .map_err(|error| relay_core::failure::store_problem(&error))?;
            let text = match event.body() {
                Body::Text(text) => Some(text.as_str()),
                _ => None,
            };
            Ok(json!({
                "seq": waiting.event.seq,
                "system": event.system().to_string(),
                "process": hex(event.process().as_bytes()),
                "clock": event.clock(),
                "content_type": event.content_type(),
                "text": text,
            }))
        })
        .collect();
    Ok(no_store(StatusCode::OK, &json!({ "items": items? })))
}

/// `GET /v1/social/usage?system=`: how much one identity holds, or those that hold most; and how much they may.
pub(crate) async fn usage(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (_, parts, _) = admin(&node, request).await?;
    let params = Params::parse(parts.uri.query())?;
    let one = params.get("system").map(system).transpose()?;
    let found = node.social.usage(one, PAGE).await?;
    let config = node.social.config();
    let items: Vec<Value> = found
        .into_iter()
        .map(|usage| {
            json!({
                "system": usage.system.to_string(),
                "handle": usage.handle,
                "processes": usage.processes,
                "events": usage.events,
                "bytes": usage.bytes,
                "bytes_limit": node.social.bytes_limit(&usage.system),
            })
        })
        .collect();
    let (systems, events, waiting) = node.social.totals().await?;
    let answer = json!({
        "items": items,
        "totals": { "systems": systems, "events": events, "waiting": waiting },
        "limits": {
            "identity_bytes": config.identity_bytes,
            "identity_events_per_sec": config.identity_rate.map(|rate| rate.per_sec),
            "address_events_per_sec": config.address_rate.map(|rate| rate.per_sec),
        },
    });
    Ok(no_store(StatusCode::OK, &answer))
}

/// `GET /v1/social/quotas?system=`: identities that may hold or write more or less than all.
pub(crate) async fn quotas(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (_, parts, _) = admin(&node, request).await?;
    let params = Params::parse(parts.uri.query())?;
    let one = params.get("system").map(system).transpose()?;
    let mut quotas = node.social.quotas();
    quotas.retain(|quota| one.is_none_or(|one| one == quota.system));
    let items: Vec<Value> = quotas.iter().map(quota_value).collect();
    Ok(no_store(StatusCode::OK, &json!({ "items": items })))
}

/// `POST /v1/social/quotas/set`.
pub(crate) async fn set_quota(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, _, bytes) = admin(&node, request).await?;
    let asked: QuotaBody = body::parse(&bytes)?;
    let system = system(&asked.system)?;
    let quota = node.social.set_quota(system, asked.bytes, asked.events_per_sec).await?;
    let detail = json!({ "bytes": quota.bytes, "events_per_sec": quota.events_per_sec });
    let who = caller.principal.to_string();
    node.audit.done(&who, "social.quota_set", &asked.system, Some(detail)).await?;
    Ok(no_store(StatusCode::OK, &quota_value(&quota)))
}

/// `POST /v1/social/quotas/remove`.
pub(crate) async fn remove_quota(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, _, bytes) = admin(&node, request).await?;
    let asked: NoQuotaBody = body::parse(&bytes)?;
    node.social.remove_quota(system(&asked.system)?).await?;
    act(&node, &caller, "social.quota_remove", &asked.system).await?;
    Ok(no_store(StatusCode::OK, &json!({})))
}

fn quota_value(quota: &SocialQuota) -> Value {
    json!({
        "system": quota.system.to_string(),
        "bytes": quota.bytes,
        "events_per_sec": quota.events_per_sec,
        "set_at_ms": quota.set_at_ms,
    })
}

/// `POST /v1/social/moderate`.
pub(crate) async fn moderate(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, _, bytes) = admin(&node, request).await?;
    let asked: ModerateBody = body::parse(&bytes)?;
    let state = if asked.approve { ModerationState::Approved } else { ModerationState::Hidden };
    let tags = asked.tags.into_iter().map(|(name, level)| ModerationTag { name, level }).collect();
    node.social.moderate(asked.seq, state, tags).await?;
    act(&node, &caller, "social.moderate", &asked.seq.to_string()).await?;
    Ok(no_store(StatusCode::OK, &json!({})))
}

/// `POST /v1/social/purge`.
pub(crate) async fn purge(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, _, bytes) = admin(&node, request).await?;
    let asked: PurgeBody = body::parse(&bytes)?;
    let system = system(&asked.system)?;
    node.social.purge_system(system).await?;
    act(&node, &caller, "social.purge", &asked.system).await?;
    Ok(no_store(StatusCode::OK, &json!({})))
}

/// `GET /v1/social/servers`: from where identities are fetched, and how far that is.
pub(crate) async fn servers(State(node): State<Arc<Node>>) -> Reply {
    let followed: Vec<Value> = node
        .mirrors
        .state()
        .into_iter()
        .map(|mirror| {
            json!({
                "system": mirror.system.to_string(),
                "server": mirror.server,
                "held": mirror.held,
                "there": mirror.there,
                "missing": mirror.missing,
                "checked_at_ms": mirror.checked_at_ms,
                "error": mirror.error,
            })
        })
        .collect();
    Ok(no_store(StatusCode::OK, &json!({ "items": followed })))
}

async fn admin(node: &Node, request: Request) -> Result<(Caller, Parts, Bytes), Problem> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, body::SMALL).await?;
    let caller = auth::caller(node, &parts, &bytes).await?;
    caller.need_admin(node, &Pattern::All)?;
    Ok((caller, parts, bytes))
}

async fn act(node: &Node, caller: &Caller, action: &str, subject: &str) -> Result<(), Problem> {
    node.audit.done(&caller.principal.to_string(), action, subject, None).await
}

fn what(asked: &CensorBody) -> Result<Censored, Problem> {
    if let Some(url) = &asked.url {
        return Social::parse_link(url);
    }
    let text = asked.system.as_deref();
    let system = system(text.ok_or_else(|| Problem::invalid("url or system is missing"))?)?;
    match (&asked.process, asked.clock) {
        (None, None) => Ok(Censored::System(system)),
        (Some(process), Some(clock)) => {
            let process = relay_proto::key::parse_hex(process)
                .map(ProcessId::from_bytes)
                .ok_or_else(|| Problem::invalid("process is 32 hex digits"))?;
            Ok(Censored::Event(EventKey { system, process, clock }))
        }
        _ => Err(Problem::invalid("process and clock go together")),
    }
}

fn system(text: &str) -> Result<SystemKey, Problem> {
    let key: NodeId = text.parse().map_err(|error| Problem::invalid(format!("system: {error}")))?;
    Ok(SystemKey::from(key))
}

fn hex(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    relay_proto::key::write_hex(bytes, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}
