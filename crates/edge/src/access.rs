//! What admins see and change: rules, quotas, tokens, the audit log; and `whoami`.

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State},
    http::{StatusCode, request::Parts},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use relay_core::{
    policy::{Op, Pattern, PolicyDocument, Principal, Who},
    sessions::NewToken,
};
use relay_node::Node;
use relay_proto::{
    Cursor, EventLimits, Namespace, NodeId, Position, Problem,
    auth::{SignedToken, fold_user_id},
    event::{Draft, Tags, parse_event, reserved},
};
use relay_store::TokenPurpose;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{
    auth::{self, Caller, Proof},
    body,
    params::Params,
    peer::Peer,
    reply::{Reply, no_store},
};

/// Entries of the audit log on a page, unless asked otherwise.
const AUDIT_PAGE: u32 = 100;
const MAX_AUDIT_PAGE: u32 = 1_000;
/// The `d` tag of the policy event that the relay signs for its operator.
const OPERATOR_RULES: &str = "operator";

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TestBody {
    /// A key or `*`; who asks, if absent.
    #[schema(value_type = Option<String>)]
    who: Option<Who>,
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    ns: Namespace,
    #[schema(value_type = String)]
    op: Op,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TokenBody {
    #[schema(value_type = String)]
    r#for: TokenPurpose,
    /// Which names a spoke may take, which namespaces a user is invited to.
    pattern: Option<String>,
    uses: Option<u32>,
    /// From now, milliseconds.
    expires_ms: Option<u64>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct UserBody {
    user_id: String,
}

#[derive(Deserialize, ToSchema)]
pub(crate) struct RevokeProofBody {
    auth_token: String,
}

/// `GET /v1/whoami`.
pub(crate) async fn whoami(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = auth::caller(&node, &parts, &[]).await?;
    let via = match &caller.proof {
        Proof::None => "nothing",
        Proof::LocalSocket => "local_socket",
        Proof::Session(_) => "session",
        Proof::SignedRequest => "signed_request",
        Proof::Grant { .. } => "grant",
        Proof::Token(_) => "token",
    };
    let mut answer = json!({
        "principal": caller.principal.to_string(),
        "via": via,
        "relay_id": node.identity.relay_id,
        "admin": node.policy.administers(&caller.principal, &Pattern::All),
    });
    if let Principal::Key(key) = caller.principal {
        answer["key"] = key.to_string().into();
    }
    match &caller.proof {
        Proof::Session(session) => {
            answer["session_id"] = session.id().to_string().into();
            answer["device_id"] = session.device().as_str().into();
            answer["expires_at_ms"] = session.expires_at_ms().into();
        }
        Proof::Token(purpose) => answer["token"] = purpose.as_str().into(),
        _ => {}
    }
    let ns: Namespace = Params::parse(parts.uri.query())?.parsed("ns")?.unwrap_or_default();
    answer["ns"] = ns.as_str().into();
    answer["rights"] = json!(node.policy.rights(&caller.principal, &ns));
    Ok(no_store(StatusCode::OK, &answer))
}

/// `GET /v1/acl?ns=`: every rule, or those that speak of one namespace.
pub(crate) async fn acl(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = auth::caller(&node, &parts, &[]).await?;
    let ns: Option<Namespace> = Params::parse(parts.uri.query())?.parsed("ns")?;
    caller.need_admin(&node, &ns.clone().map_or(Pattern::All, Pattern::Exact))?;
    let mut rules = node.policy.rules();
    if let Some(ns) = &ns {
        rules.retain(|rule| rule.rule.ns.matches(ns));
    }
    Ok(no_store(StatusCode::OK, &json!({ "rules": rules })))
}

/// `PUT /v1/acl {rules, groups}`: replaces the rules that the relay signs for its operator.
pub(crate) async fn set_acl(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, bytes) = with_body(request).await?;
    let caller = auth::caller(&node, &parts, &bytes).await?;
    caller.need_admin(&node, &Pattern::All)?;
    let document: PolicyDocument = body::parse(&bytes)?;
    let content = serde_json::to_string(&document)
        .map_err(|error| Problem::invalid(format!("not a policy: {error}")))?;
    let mut tags = Tags::new();
    tags.push(["d", OPERATOR_RULES]);
    let draft =
        Draft { kind: reserved::ACL_POLICY, created_at_ns: node.clock.wall_ns(), tags, content };
    let event = draft.sign(&node.identity.key).map_err(Problem::from)?;
    let raw = parse_event(event.json(), &EventLimits::default()).map_err(Problem::from)?;
    let outcome = node.events.publish(node.events.lane(), vec![raw]).await.pop();
    outcome.ok_or_else(|| Problem::not_found("the event was not taken"))??;
    let detail = json!({ "event": event.id(), "rules": document.rules.len() });
    node.audit.done(&caller.principal.to_string(), "acl.set", "", Some(detail)).await?;
    Ok(no_store(StatusCode::OK, &json!({ "status": "ok", "event_id": event.id() })))
}

/// `POST /v1/acl/test {who?, ns?, op}`: names the deciding rule. Others' rights are for admins.
pub(crate) async fn test_acl(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, bytes) = with_body(request).await?;
    let caller = auth::caller(&node, &parts, &bytes).await?;
    let TestBody { who, ns, op } = body::parse(&bytes)?;
    let about = match who {
        None => caller.principal,
        Some(Who::Key(key)) => Principal::Key(key),
        Some(Who::Anyone) => Principal::Anonymous,
        Some(Who::Group(_)) => {
            return Err(
                Problem::invalid("who is a key or '*'; a group has no rights of its own").into()
            );
        }
    };
    if about != caller.principal && about != Principal::Anonymous {
        caller.need_admin(&node, &Pattern::Exact(ns.clone()))?;
    }
    Ok(no_store(StatusCode::OK, &node.policy.explain(&about, &ns, op)))
}

/// `GET /v1/quota?tenant=`: limits and use; of all tenants for admins.
pub(crate) async fn quota(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = auth::caller(&node, &parts, &[]).await?;
    let tenant: Option<Namespace> = Params::parse(parts.uri.query())?.parsed("tenant")?;
    let tenants = match tenant {
        Some(tenant) => {
            node.check(&caller.principal, &tenant, Op::Read)?;
            vec![node.quotas.report(tenant.tenant())]
        }
        None => {
            caller.need_admin(&node, &Pattern::All)?;
            let mut tenants: Vec<_> =
                node.quotas.usage().into_iter().map(|row| row.tenant).collect();
            tenants.sort();
            tenants.iter().map(|tenant| node.quotas.report(tenant)).collect()
        }
    };
    let tenants: Vec<Value> = tenants
        .iter()
        .map(|report| {
            let mut item = serde_json::to_value(report).unwrap_or_default();
            item["locks"] = node.locks.held_by(&report.usage.tenant).into();
            item
        })
        .collect();
    Ok(no_store(StatusCode::OK, &json!({ "tenants": tenants })))
}

/// `GET /v1/audit?cursor=&limit=`, newest first.
pub(crate) async fn audit(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = auth::caller(&node, &parts, &[]).await?;
    caller.need_admin(&node, &Pattern::All)?;
    let params = Params::parse(parts.uri.query())?;
    let log = node.events.log_id();
    let before = match params.get("cursor").map(|text| Cursor::decode(text, log)).transpose()? {
        None => None,
        Some(Cursor { position: Position::BeforeSeq(id), .. }) => Some(id),
        Some(_) => return Err(Problem::invalid("the cursor is not one of the audit log").into()),
    };
    let limit = params.parsed("limit")?.unwrap_or(AUDIT_PAGE).clamp(1, MAX_AUDIT_PAGE);
    let rows = node.audit.page(before, limit).await?;
    let mut answer = json!({ "items": rows });
    if let Some(last) = rows.last().filter(|_| rows.len() == limit as usize) {
        let cursor = Cursor { log, position: Position::BeforeSeq(last.id) };
        answer["cursor"] = cursor.encode().into();
    }
    Ok(no_store(StatusCode::OK, &answer))
}

/// `POST /v1/tokens {for, pattern?, uses?, expires_ms?}`: the answer alone shows the token.
pub(crate) async fn create_token(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, bytes) = with_body(request).await?;
    let caller = auth::caller(&node, &parts, &bytes).await?;
    caller.need_admin(&node, &Pattern::All)?;
    let asked: TokenBody = body::parse(&bytes)?;
    if asked.pattern.as_ref().is_some_and(|pattern| pattern.is_empty() || pattern.len() > 256) {
        return Err(Problem::invalid("pattern has 1 to 256 bytes").into());
    }
    let now_ms = node.clock.wall_ns() / 1_000_000;
    let new = NewToken {
        purpose: asked.r#for,
        pattern: asked.pattern,
        uses: asked.uses,
        expires_at_ms: asked.expires_ms.map(|ms| now_ms.saturating_add(ms)),
        created_by: caller.principal.to_string(),
    };
    let created = node.sessions.create_token(new).await.map_err(Problem::from)?;
    let detail = json!({ "for": created.view.purpose });
    let actor = caller.principal.to_string();
    node.audit.done(&actor, "token.create", &created.view.id, Some(detail)).await?;
    let mut answer = serde_json::to_value(&created.view).unwrap_or_default();
    let token = created.token.reveal();
    if matches!(created.view.purpose, TokenPurpose::Spoke | TokenPurpose::User) {
        let url = public_url(&node, &parts);
        answer["join_code"] = join_code(&node, &url, &token, created.view.expires_at_ms).into();
    }
    answer["token"] = token.as_str().into();
    Ok(no_store(StatusCode::CREATED, &answer))
}

/// The address that goes into join codes: over the local socket nobody says which one that is.
fn public_url(node: &Node, parts: &Parts) -> String {
    let is_local = matches!(parts.extensions.get::<Peer>(), Some(Peer::Local { .. }));
    let own = node.address.get().filter(|address| !address.is_empty());
    match (node.config.chat.public_url.as_str(), own) {
        ("", Some(own)) if is_local => own.clone(),
        ("", _) => auth::own_url(node, parts),
        (public, _) => public.to_owned(),
    }
}

/// Address, pin and permission in one line; secret scanners know it by its prefix.
fn join_code(node: &Node, url: &str, token: &str, expires_at_ms: Option<u64>) -> String {
    let content = json!({
        "url": url,
        "key": node.identity.node_id(),
        "token": token,
        "exp": expires_at_ms,
    });
    format!("relay-join-v1.{}", URL_SAFE_NO_PAD.encode(content.to_string()))
}

/// `GET /v1/tokens`.
pub(crate) async fn tokens(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    auth::caller(&node, &parts, &[]).await?.need_admin(&node, &Pattern::All)?;
    let tokens = node.sessions.tokens().await.map_err(Problem::from)?;
    Ok(no_store(StatusCode::OK, &json!({ "items": tokens })))
}

/// `DELETE /v1/tokens/{id}`.
pub(crate) async fn delete_token(
    State(node): State<Arc<Node>>,
    Path(id): Path<String>,
    request: Request,
) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = auth::caller(&node, &parts, &[]).await?;
    caller.need_admin(&node, &Pattern::All)?;
    if !node.sessions.revoke_token(&id).await.map_err(Problem::from)? {
        return Err(Problem::not_found("there is no token of this id").into());
    }
    node.audit.done(&caller.principal.to_string(), "token.revoke", &id, None).await?;
    Ok(no_store(StatusCode::OK, &json!({ "status": "ok" })))
}

/// `POST /v1/users/revoke_tokens {user_id}`: ends everything of a user.
pub(crate) async fn revoke_user(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, bytes) = with_body(request).await?;
    let caller = auth::caller(&node, &parts, &bytes).await?;
    caller.need_admin(&node, &Pattern::All)?;
    let UserBody { user_id } = body::parse(&bytes)?;
    let user: NodeId =
        fold_user_id(&user_id).map_err(|error| Problem::invalid(format!("user_id: {error}")))?;
    let ended = node.sessions.revoke_user(user).await.map_err(Problem::from)?;
    let actor = caller.principal.to_string();
    node.audit.done(&actor, "user.revoke_tokens", &user.to_string(), None).await?;
    Ok(no_store(StatusCode::OK, &json!({ "status": "ok", "invalidated": ended })))
}

/// `POST /v1/auth/revoke {auth_token}`: makes one of one's own signed tokens worthless.
pub(crate) async fn revoke_proof(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, bytes) = with_body(request).await?;
    let caller = auth::caller(&node, &parts, &bytes).await?;
    let user = user_of(&caller)?;
    let asked: RevokeProofBody = body::parse(&bytes)?;
    let token = SignedToken::parse(&asked.auth_token)
        .ok_or_else(|| Problem::invalid("auth_token is no signed token (sat1)"))?;
    node.sessions.revoke_signed_token(user, &token).await.map_err(Problem::from)?;
    Ok(no_store(StatusCode::OK, &json!({ "status": "ok" })))
}

fn user_of(caller: &Caller) -> Result<NodeId, Problem> {
    match caller.principal {
        Principal::Key(key) => Ok(key),
        _ => Err(Problem::unauthorized("this needs a key: start a session or sign the request")),
    }
}

async fn with_body(request: Request) -> Result<(Parts, Bytes), Problem> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, body::SMALL).await?;
    Ok((parts, bytes))
}
