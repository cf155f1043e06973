//! `/v1/auth/…` and `/v1/session/…`, and the same requests as frames (`gateway.md` 3 and 4).

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use bytes::Bytes;
use relay_core::sessions::{RevokeTarget, Start, Started, Verify};
use relay_node::Node;
use relay_proto::{
    Code, NodeId, Problem,
    auth::{
        ChallengeId, ClientLabel, DeviceId, GrantClaims, GrantError, SessionId, fold_user_id,
        proof::parse_signature, verify_grant,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use utoipa::ToSchema;

use crate::{
    auth, body,
    reply::{Reply, no_store},
};

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ChallengeBody {
    user_id: String,
    device_id: String,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct VerifyBody {
    challenge_id: String,
    user_id: String,
    device_id: String,
    sig: String,
    device_credential: Option<String>,
}

/// The body of `session.start`.
#[derive(Deserialize, ToSchema)]
pub(crate) struct StartBody {
    auth_token: String,
    device_id: String,
    device_credential: Option<String>,
    client_label: Option<String>,
    /// For what lies at other homes: grants of the user for this device and this relay.
    #[serde(default)]
    grants: Vec<String>,
}

/// The body of `session.resume`.
#[derive(Deserialize, ToSchema)]
pub(crate) struct ResumeBody {
    resume_token: String,
    /// As when it was started.
    #[serde(default)]
    grants: Vec<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct LogoutAllBody {
    #[serde(default)]
    include_self: bool,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RevokeBody {
    session_id: Option<String>,
    device_id: Option<String>,
    #[serde(default)]
    include_self: bool,
}

/// The body of a session request over HTTP, which clients send bare or, as on a socket, in its frame.
fn unwrapped<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    #[derive(Deserialize)]
    struct Framed<'a> {
        v: u64,
        #[serde(borrow)]
        body: &'a RawValue,
    }
    match serde_json::from_slice::<Framed>(bytes) {
        Ok(Framed { v: 1, body }) => body::parse(body.get().as_bytes()),
        Ok(_) => Err(Problem::new(Code::UnsupportedVersion, "unsupported version")),
        Err(_) => body::parse(bytes),
    }
}

/// The body of `session.ready`.
#[derive(Serialize)]
struct Ready<'a> {
    user_id: NodeId,
    session_id: String,
    session_token: &'a str,
    resume_token: &'a str,
    expires_at: u64,
    cursors: Vec<Value>,
    key_packages_left: u64,
    inbox_next_seq: u64,
    relay: Value,
}

/// What a client that gives itself no label is called.
pub(crate) fn label_of(headers: &HeaderMap) -> ClientLabel {
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    ClientLabel::from_user_agent(agent)
}

/// Starts a session. A client that gives itself no label gets `unnamed`.
///
/// # Errors
/// `invalid_request`, `unauthorized`, `rate_limited`.
pub(crate) async fn start(
    node: &Node,
    asked: StartBody,
    unnamed: ClientLabel,
) -> Result<Started, Problem> {
    if asked.auth_token.is_empty() {
        return Err(Problem::invalid("auth_token is missing"));
    }
    let label = match asked.client_label.as_deref() {
        Some(text) => ClientLabel::parse(text).ok_or_else(|| {
            Problem::invalid("client_label is 1 to 32 of [a-z0-9 _-] and holds no token")
        })?,
        None => unnamed,
    };
    let grant = grant(node, &asked.grants)?;
    let start = Start {
        auth_token: &asked.auth_token,
        device: device(&asked.device_id)?,
        credential: asked.device_credential.as_deref(),
        label,
        grant: grant.as_ref().map(|(_, text)| (*text).to_owned()),
    };
    if grant.as_ref().is_some_and(|(claims, _)| claims.device_id != start.device) {
        return Err(Problem::unauthorized("the grant is for another device"));
    }
    let started = node.sessions.start(start).await?;
    own_grant(node, &started, grant).await?;
    Ok(started)
}

/// The grant for this relay among those that came; those for others are of no use here.
fn grant<'a>(node: &Node, grants: &'a [String]) -> Result<Option<(GrantClaims, &'a str)>, Problem> {
    if grants.len() > MAX_GRANTS {
        return Err(Problem::invalid(format!("at most {MAX_GRANTS} grants")));
    }
    let now_ms = node.clock.wall_ns() / 1_000_000;
    for text in grants {
        match verify_grant(text, &node.identity.relay_id, now_ms) {
            Ok(claims) => return Ok(Some((claims, text.as_str()))),
            Err(GrantError::Edge) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// A session that came with somebody else's grant ends again, and the grant with it.
async fn own_grant(
    node: &Node,
    started: &Started,
    grant: Option<(GrantClaims, &str)>,
) -> Result<(), Problem> {
    let Some((claims, _)) = grant else { return Ok(()) };
    let session = &started.session;
    if claims.user_id != session.user() || claims.device_id != *session.device() {
        node.sessions.logout(session).await?;
        return Err(Problem::unauthorized("the grant is another user's or device's"));
    }
    Ok(())
}

/// The most grants that come with a session.
const MAX_GRANTS: usize = 16;

/// Continues a session.
///
/// # Errors
/// `resume_failed`.
pub(crate) async fn resume(node: &Node, asked: ResumeBody) -> Result<Started, Problem> {
    let grant = grant(node, &asked.grants)?;
    let text = grant.as_ref().map(|(_, text)| (*text).to_owned());
    let resumed = node.sessions.resume(&asked.resume_token, text).await?;
    own_grant(node, &resumed, grant).await?;
    Ok(resumed)
}

/// What the holder of a new session is told; the only place where its tokens are shown.
///
/// The former tokens are worth nothing by now: whatever cannot be found out is left out, the new ones are told.
pub(crate) async fn ready(node: &Node, started: &Started) -> Value {
    let caller = node.chat_caller(&started.session);
    let state = node.device_state(&caller).await.unwrap_or_else(|problem| {
        tracing::warn!(%problem, "a session begins without its cursors");
        Default::default()
    });
    let cursors = state.cursors.into_iter();
    let ready = Ready {
        user_id: started.session.user(),
        session_id: started.session.id().to_string(),
        session_token: &started.session_token.reveal(),
        resume_token: &started.resume_token.reveal(),
        expires_at: started.expires_at_ms,
        cursors: cursors
            .map(|(conv, next_seq)| json!({ "conv_id": conv, "next_seq": next_seq }))
            .collect(),
        key_packages_left: state.key_packages_left,
        inbox_next_seq: state.inbox_next_seq.max(1),
        relay: json!({
            "relay_id": node.identity.relay_id,
            "key": node.identity.node_id(),
            "features": ["relay-mls/1"],
        }),
    };
    serde_json::to_value(&ready).unwrap_or_default()
}

/// `POST /v1/auth/challenge`.
pub(crate) async fn challenge(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (_, bytes) = unauthenticated(&node, request).await?;
    let asked: ChallengeBody = body::parse(&bytes)?;
    let challenge = node
        .sessions
        .challenge(user(&asked.user_id)?, device(&asked.device_id)?)
        .map_err(Problem::from)?;
    let answer = json!({
        "challenge_id": challenge.id.to_string(),
        "challenge": challenge.text,
        "gateway_id": node.sessions.config().gateway_id,
        "alg": "ed25519",
        "expires_at": challenge.expires_at_ms,
    });
    Ok(no_store(StatusCode::OK, &answer))
}

/// `POST /v1/auth/verify`.
pub(crate) async fn verify(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, bytes) = unauthenticated(&node, request).await?;
    let asked: VerifyBody = body::parse(&bytes)?;
    let (user, device) = (user(&asked.user_id)?, device(&asked.device_id)?);
    let answer = Verify {
        challenge: ChallengeId::parse(&asked.challenge_id),
        user,
        device: device.clone(),
        signature: parse_signature(&asked.sig),
        credential: asked.device_credential.as_deref(),
    };
    let verified = node.sessions.verify(answer).await.map_err(Problem::from);
    let (token, expires_at) = noted(&node, &parts, verified)?;
    let answer = json!({
        "auth_token": token.reveal().as_str(),
        "expires_at": expires_at,
        "user_id": user,
        "device_id": device,
    });
    Ok(no_store(StatusCode::OK, &answer))
}

/// `POST /v1/session/start`.
pub(crate) async fn post_start(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, bytes) = unauthenticated(&node, request).await?;
    let started = start(&node, unwrapped(&bytes)?, label_of(&parts.headers)).await;
    let started = noted(&node, &parts, started)?;
    Ok(no_store(StatusCode::OK, &ready(&node, &started).await))
}

/// `POST /v1/session/resume`.
pub(crate) async fn post_resume(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, bytes) = unauthenticated(&node, request).await?;
    let started = resume(&node, unwrapped(&bytes)?).await;
    let started = noted(&node, &parts, started)?;
    Ok(no_store(StatusCode::OK, &ready(&node, &started).await))
}

/// `GET /v1/session/list`.
pub(crate) async fn list(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = auth::caller(&node, &parts, &[]).await?;
    let list = node.sessions.list(caller.session()?).await.map_err(Problem::from)?;
    Ok(no_store(StatusCode::OK, &list))
}

/// `POST /v1/session/logout`.
pub(crate) async fn logout(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, _) = authenticated(&node, request).await?;
    node.sessions.logout(caller.session()?).await.map_err(Problem::from)?;
    Ok(no_store(StatusCode::OK, &json!({ "status": "ok" })))
}

/// `POST /v1/session/logout_all`.
pub(crate) async fn logout_all(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, bytes) = authenticated(&node, request).await?;
    let LogoutAllBody { include_self } = body::parse(&bytes)?;
    let ended = node.sessions.logout_all(caller.session()?, include_self).await;
    let ended = ended.map_err(Problem::from)?;
    let answer = json!({ "status": "ok", "invalidated": ended, "kept_current": !include_self });
    Ok(no_store(StatusCode::OK, &answer))
}

/// `POST /v1/session/revoke`.
pub(crate) async fn revoke(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, bytes) = authenticated(&node, request).await?;
    let asked: RevokeBody = body::parse(&bytes)?;
    let current = caller.session()?;
    let target = match (&asked.session_id, &asked.device_id) {
        // What is no id at all names nobody's session, like an id that is another user's.
        (Some(id), None) => SessionId::parse(id).map(RevokeTarget::Session),
        (None, Some(name)) => Some(RevokeTarget::Device(device(name)?)),
        _ => return Err(Problem::invalid("give exactly one of session_id and device_id").into()),
    };
    let done = match target {
        Some(target) => node
            .sessions
            .revoke(current, target, asked.include_self)
            .await
            .map_err(Problem::from)?,
        None => Default::default(),
    };
    let mut answer = serde_json::to_value(&done).unwrap_or_default();
    answer["status"] = "ok".into();
    Ok(no_store(StatusCode::OK, &answer))
}

/// Counts the request against its address before its body is read.
async fn unauthenticated(node: &Node, request: Request) -> Result<(Parts, Bytes), Problem> {
    let (parts, body) = request.into_parts();
    node.sessions.count_address(auth::client_address(node, &parts))?;
    let bytes = body::read(&parts.headers, body, body::SMALL).await?;
    Ok((parts, bytes))
}

async fn authenticated(node: &Node, request: Request) -> Result<(auth::Caller, Bytes), Problem> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, body::SMALL).await?;
    Ok((auth::caller(node, &parts, &bytes).await?, bytes))
}

/// Writes a refusal down.
fn noted<T>(node: &Node, parts: &Parts, outcome: Result<T, Problem>) -> Result<T, Problem> {
    outcome.inspect_err(|problem| {
        let address = auth::client_address(node, parts).to_string();
        node.audit.refused(&address, "authenticate", parts.uri.path(), problem);
    })
}

fn user(text: &str) -> Result<NodeId, Problem> {
    fold_user_id(text).map_err(|error| Problem::invalid(format!("user_id: {error}")))
}

fn device(text: &str) -> Result<DeviceId, Problem> {
    DeviceId::new(text).ok_or_else(|| Problem::invalid("device_id has 1 to 128 bytes"))
}
