//! Users as an operator sees them: `/v1/users`.

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State},
    http::{StatusCode, request::Parts},
};
use relay_core::{failure::store_problem, policy::Pattern};
use relay_node::Node;
use relay_proto::{NodeId, Problem, auth::fold_user_id, conv::UserRef};
use relay_store::chat::UserRow;
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse;
use crate::{
    auth, body,
    params::Params,
    reply::{Reply, no_store},
};

/// Users on a page, unless another number is asked for.
const PAGE: u64 = 100;
const MAX_PAGE: u64 = 1_000;

#[derive(Deserialize)]
struct PurgeBody {
    user_id: UserRef,
}

/// `GET /v1/users?cursor=&limit=`, in the order of their keys.
pub(super) async fn list(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    admin(&node, &parts, &[]).await?;
    let params = Params::parse(parts.uri.query())?;
    let limit = params.parsed("limit")?.unwrap_or(PAGE).clamp(1, MAX_PAGE);
    let after: Option<NodeId> = params.parsed("cursor")?;
    let users = node.store.users(after, limit).await.map_err(|error| store_problem(&error))?;
    let mut answer = json!({ "items": users.iter().map(view).collect::<Vec<_>>() });
    if let Some(last) = users.last().filter(|_| users.len() as u64 == limit) {
        answer["cursor"] = last.user.to_string().into();
    }
    Ok(no_store(StatusCode::OK, &answer))
}

/// `GET /v1/users/{user_id}`.
pub(super) async fn show(
    State(node): State<Arc<Node>>,
    Path(user): Path<String>,
    request: Request,
) -> Reply {
    let (parts, _) = request.into_parts();
    admin(&node, &parts, &[]).await?;
    let user =
        fold_user_id(&user).map_err(|error| Problem::invalid(format!("user_id: {error}")))?;
    let row = node.store.user(user).await.map_err(|error| store_problem(&error))?;
    Ok(no_store(StatusCode::OK, &view(&row)))
}

/// `POST /v1/users/purge {user_id}`: ends the user's sessions and deletes what the relay has of them, besides the
/// messages that others have received.
pub(super) async fn purge(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, body::SMALL).await?;
    let actor = admin(&node, &parts, &bytes).await?;
    let PurgeBody { user_id: UserRef(user) } = parse(&bytes)?;
    let sessions = node.sessions.revoke_user(user).await.map_err(Problem::from)?;
    let left = node.conversations.purge(user).await?;
    node.presence.forget(&user);
    node.audit.done(&actor, "user.purge", &user.to_string(), None).await?;
    let answer = json!({ "status": "ok", "sessions": sessions, "conversations": left });
    Ok(no_store(StatusCode::OK, &answer))
}

async fn admin(node: &Node, parts: &Parts, bytes: &[u8]) -> Result<String, Problem> {
    let caller = auth::caller(node, parts, bytes).await?;
    caller.need_admin(node, &Pattern::All)?;
    Ok(caller.principal.to_string())
}

fn view(row: &UserRow) -> Value {
    json!({
        "user_id": row.user,
        "sessions": row.sessions,
        "conversations": row.conversations,
        "key_packages": row.key_packages,
        "blob_bytes": row.blob_bytes,
    })
}
