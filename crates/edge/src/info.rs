//! `/v1/info`, health, metrics.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use relay_core::policy::Pattern;
use relay_node::Node;
use relay_proto::Namespace;
use relay_store::TokenPurpose;
use serde_json::{Value, json};

use crate::{
    auth::{self, Proof},
    params::Params,
    peer::Peer,
    reply::{Reply, json as json_reply, no_store},
};

/// `GET /v1/info`: what this relay is and what it takes.
pub(crate) async fn info(State(node): State<Arc<Node>>) -> Response {
    let mut response = json_reply(StatusCode::OK, &document(&node));
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    response
}

fn document(node: &Node) -> Value {
    let limits = node.event_limits();
    let config = node.live();
    let events = &config.events;
    json!({
        "relay_id": node.identity.relay_id,
        "gateway_id": node.identity.relay_id,
        "key": node.identity.node_id(),
        "version": env!("CARGO_PKG_VERSION"),
        "roles": [if node.config.is_home() { "home" } else { "main" }],
        "protocols": ["relay-event-v1"],
        "limits": {
            "event_bytes": limits.event_bytes,
            "content_bytes": limits.content_bytes,
            "tags": limits.tags,
            "elements_per_tag": limits.elements_per_tag,
            "element_bytes": limits.element_bytes,
            "batch_events": events.max_batch,
            "batch_bytes": events.max_batch_bytes.0,
            "frame_bytes": config.chat.max_frame.0,
            "page_events": relay_core::events::MAX_LIMIT,
            "ephemeral_replay_ms": events.ephemeral_replay.as_millis() as u64,
            "call_bytes": crate::calls::MAX_BODY,
            "call_batch": relay_proto::call::rpc::MAX_BATCH,
            "lease_ms_min": 500,
            "lease_ms_max": config.locks.max_lease.as_millis() as u64,
        },
        "features": features(node),
        "kinds": {
            "replaceable": [10_000, 19_999],
            "ephemeral": [20_000, 29_999],
            "addressable": [30_000, 39_999],
            "reserved": [10_100, 10_101, 10_200, 21_000, 21_001, 27_235],
        },
    })
}

fn features(node: &Node) -> Vec<&'static str> {
    let mut features = vec![
        "events",
        "streams",
        "locks",
        "fenced-events",
        "sessions",
        "key-rotation",
        "conversations",
        "presence",
        "attachments",
        "relay-mls/1",
        "calls",
    ];
    if node.event_limits().sshsig {
        features.push("sshsig");
    }
    if node.config.social.enabled {
        features.push("polycentric");
    }
    features
}

/// `GET /`: browsers go to `/app`, programs get `/v1/info`.
pub(crate) async fn root(state: State<Arc<Node>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let mut response = match accept {
        Some(accept) if accept.contains("text/html") => Redirect::to("/app").into_response(),
        _ => info(state).await,
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// `GET /app`: what this is, for people who opened it in a browser.
pub(crate) async fn app() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, include_str!("app.html")).into_response()
}

/// `GET /livez`: the process answers.
pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: the store can be written and the relay is not stopping; `?verbose` lists the checks.
pub(crate) async fn readyz(State(node): State<Arc<Node>>, request: Request) -> Response {
    let checks = [("store", store_answers(&node).await), ("draining", !node.is_draining())];
    let ready = checks.iter().all(|(_, good)| *good);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose = Params::parse(request.uri().query()).is_ok_and(|params| {
        params.switch("verbose").unwrap_or(true) && params.get("verbose").is_some()
    });
    let mut text = String::new();
    if verbose {
        for (name, good) in checks {
            text.push_str(&format!("{} {name}\n", if good { "ok  " } else { "fail" }));
        }
    }
    text.push_str(if ready { "ok\n" } else { "not ready\n" });
    (status, [(header::CACHE_CONTROL, "no-store")], text).into_response()
}

/// A question that goes through the writer: it answers only while it can work.
async fn store_answers(node: &Node) -> bool {
    let Ok(resource) = "relay/readyz".parse() else { return false };
    let asked = node.locks.inspect(Namespace::default(), resource);
    matches!(tokio::time::timeout(std::time::Duration::from_secs(2), asked).await, Ok(Ok(_)))
}

/// `GET /health`.
pub(crate) async fn health(State(node): State<Arc<Node>>) -> Response {
    let ready = store_answers(&node).await && !node.is_draining();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let uptime_s = node.clock.wall_ns().saturating_sub(node.started_at_ns) / 1_000_000_000;
    let body = json!({
        "status": if ready { "ok" } else { "unavailable" },
        "relay_id": node.identity.relay_id,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": uptime_s,
        "seq": node.store.committed_seq(),
        "draining": node.is_draining(),
        // What is wrong with it is for admins: GET /v1/config.
        "config": match node.last_reload() {
            Some(last) if !last.ok => "reload_failed",
            Some(last) if !last.restart.is_empty() => "restart_needed",
            _ => "ok",
        },
    });
    no_store(status, &body)
}

/// `GET /healthz`, as older clients ask.
pub(crate) async fn healthz() -> &'static str {
    "ok"
}

/// `GET /metrics`: for loopback, and for bearers of an admin or metrics token.
pub(crate) async fn metrics(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let local =
        parts.extensions.get::<Peer>().is_some_and(Peer::is_loopback) && !forwarded(&parts.headers);
    if !local {
        let caller = auth::caller(&node, &parts, &[]).await?;
        if !matches!(caller.proof, Proof::Token(TokenPurpose::Metrics)) {
            caller.need_admin(&node, &Pattern::All)?;
        }
    }
    Ok(metrics_text(&node))
}

pub(crate) fn metrics_text(node: &Node) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")], node.metrics_text())
        .into_response()
}

/// A proxy on this machine makes every stranger look local.
pub(crate) fn forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key("x-forwarded-for") || headers.contains_key(header::FORWARDED)
}
