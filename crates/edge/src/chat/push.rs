//! `/v1/push`: where the session's device is pushed to while it is not connected.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::StatusCode,
};
use relay_core::failure::store_problem;
use relay_node::{Node, push::Push};
use relay_proto::Problem;
use serde::Deserialize;
use serde_json::json;

use super::{caller, caller_and_body, parse};
use crate::reply::{Reply, no_store};

#[derive(Deserialize)]
struct PushBody {
    /// What the push service gave out for the device.
    endpoint: String,
}

/// Whether this relay pushes, what browsers have to ask their push service with, and where the device is pushed to.
pub(super) async fn show(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = caller(&node, &parts).await?;
    let target = node.store.push_of(caller.user, caller.device).await;
    let target = target.map_err(|error| store_problem(&error))?;
    let answer = json!({
        "enabled": node.push.is_some(),
        "vapid_public_key": node.push.as_ref().map(|push| push.public_key()),
        "endpoint": target.map(|target| target.endpoint),
    });
    Ok(no_store(StatusCode::OK, &answer))
}

pub(super) async fn set(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, bytes) = caller_and_body(&node, request).await?;
    let PushBody { endpoint } = parse(&bytes)?;
    pushing(&node)?.check_endpoint(&endpoint)?;
    let at_ms = node.clock.wall_ns() / 1_000_000;
    let set = node.store.set_push(caller.user, caller.device, Some(endpoint), at_ms).await;
    set.map_err(|error| store_problem(&error))?;
    Ok(no_store(StatusCode::OK, &json!({ "status": "ok" })))
}

pub(super) async fn unset(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = caller(&node, &parts).await?;
    let set = node.store.set_push(caller.user, caller.device, None, 0).await;
    set.map_err(|error| store_problem(&error))?;
    Ok(no_store(StatusCode::OK, &json!({ "status": "ok" })))
}

fn pushing(node: &Node) -> Result<&Push, Problem> {
    let off =
        || Problem::invalid("this relay does not push: its operator has not set push.contact");
    node.push.as_deref().ok_or_else(off)
}
