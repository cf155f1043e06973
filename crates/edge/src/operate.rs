//! What an operator asks of the running relay: its settings, a reload, an orderly stop.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{StatusCode, request::Parts},
};
use bytes::Bytes;
use relay_core::policy::Pattern;
use relay_node::{Node, ReloadError, Reloaded};
use relay_proto::{Code, Problem};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{
    auth::{self, Caller},
    body,
    reply::{Reply, no_store},
};

/// Longest time that an operator may give what is under way.
const MAX_DRAIN_MS: u64 = 3_600_000;

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct ReloadBody {
    /// Only tell what a reload would do.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct DrainBody {
    /// Time for what is under way, milliseconds; as configured where absent.
    timeout_ms: Option<u64>,
}

/// `GET /v1/config`: the settings in force, and how the last reload ended.
pub(crate) async fn config(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    auth::caller(&node, &parts, &[]).await?.need_admin(&node, &Pattern::All)?;
    let settings = node.live().settings();
    let items: Vec<Value> = settings
        .into_iter()
        .map(|(setting, value)| json!({ "setting": setting, "value": value }))
        .collect();
    let mut answer = json!({ "items": items });
    if let Some(last) = node.last_reload() {
        answer["reload"] = json!(last);
    }
    Ok(no_store(StatusCode::OK, &answer))
}

/// `POST /v1/config/reload {dry_run?}`: reads the configuration again.
pub(crate) async fn reload(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, bytes) = with_body(request).await?;
    let caller = admin(&node, &parts, &bytes).await?;
    let ReloadBody { dry_run } = body::parse(&bytes)?;
    let working = node.clone();
    let reload = move || if dry_run { working.preview_reload() } else { working.reload() };
    let done: Reloaded = tokio::task::spawn_blocking(reload)
        .await
        .map_err(|_| Problem::new(Code::InternalError, "the relay is stopping"))?
        .map_err(refused)?;
    if !dry_run {
        let names: Vec<&str> = done.changed.iter().map(|one| one.setting.as_str()).collect();
        let detail = json!({ "changed": names });
        node.audit.done(&caller.principal.to_string(), "config.reload", "", Some(detail)).await?;
    }
    let mut answer = json!(done);
    answer["status"] = if dry_run { "unchanged" } else { "reloaded" }.into();
    Ok(no_store(StatusCode::OK, &answer))
}

/// `POST /v1/drain {timeout_ms?}`: finish what is under way, then stop.
pub(crate) async fn drain(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, bytes) = with_body(request).await?;
    let caller = admin(&node, &parts, &bytes).await?;
    let DrainBody { timeout_ms } = body::parse(&bytes)?;
    if timeout_ms.is_some_and(|ms| !(1..=MAX_DRAIN_MS).contains(&ms)) {
        let message = format!("timeout_ms is 1 to {MAX_DRAIN_MS}");
        return Err(Problem::invalid(message).into());
    }
    node.audit.done(&caller.principal.to_string(), "drain", "", None).await?;
    let timeout = timeout_ms.map_or(node.live().drain.timeout, Duration::from_millis);
    node.ask_to_stop(timeout);
    let answer = json!({ "status": "draining", "timeout_ms": timeout.as_millis() as u64 });
    Ok(no_store(StatusCode::ACCEPTED, &answer))
}

fn refused(error: ReloadError) -> Problem {
    let message = error.to_string();
    match error {
        ReloadError::Bad(problems) => Problem::invalid(message).with("problems", json!(problems)),
        ReloadError::NoSources => Problem::invalid(message),
    }
}

async fn admin(node: &Node, parts: &Parts, bytes: &[u8]) -> Result<Caller, Problem> {
    let caller = auth::caller(node, parts, bytes).await?;
    caller.need_admin(node, &Pattern::All)?;
    Ok(caller)
}

async fn with_body(request: Request) -> Result<(Parts, Bytes), Problem> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, body::SMALL).await?;
    Ok((parts, bytes))
}
