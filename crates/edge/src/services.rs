//! `GET /services`, and what looks after actors: `/v1/actors…`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use relay_actors::{ActorStatus, Journal, LogLine, Visibility};
use relay_core::policy::{Pattern, Principal};
use relay_node::Node;
use relay_proto::{Problem, ServiceName, frame::encode};
use serde_json::{Value, json};

use crate::{
    auth,
    params::Params,
    reply::{Reply, no_store},
};

/// Lines of an actor's log that are shown unless asked otherwise.
const LINES: usize = 50;
/// After so long without a line a comment is sent.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// `GET /services`: the services of this node; private ones for its operator only.
pub(crate) async fn list(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let who = auth::caller(&node, &parts, &[]).await?;
    let all = matches!(who.principal, Principal::Operator);
    let actors = node.services.router.actors();
    let seen = actors.iter().filter(|actor| all || actor.info.visibility == Visibility::Public);
    let services: Vec<Value> = seen.map(entry).collect();
    Ok(no_store(StatusCode::OK, &json!({ "relay": node.identity.relay_id, "services": services })))
}

/// What everybody may know of a service.
fn entry(actor: &ActorStatus) -> Value {
    json!({
        "service_name": actor.info.name,
        "version": actor.info.version.to_string(),
        "methods": actor.info.methods,
        "metadata": actor.info.metadata,
        "visibility": actor.info.visibility,
        "is_healthy": actor.is_healthy,
        "load_metrics": { "waiting": actor.waiting, "mean_us": actor.mean_us },
    })
}

/// `GET /v1/actors`.
pub(crate) async fn actors(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    admin(&node, &parts).await?;
    Ok(no_store(StatusCode::OK, &json!({ "items": node.services.router.actors() })))
}

/// `GET /v1/actors/{name}`.
pub(crate) async fn actor(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    request: Request,
) -> Reply {
    let (parts, _) = request.into_parts();
    admin(&node, &parts).await?;
    let (_, status) = find(&node, &name)?;
    Ok(no_store(StatusCode::OK, &status))
}

/// `POST /v1/actors/{name}/restart`: ends its present life and begins the next, also where it was given up.
pub(crate) async fn restart(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    request: Request,
) -> Reply {
    let (parts, _) = request.into_parts();
    let who = admin(&node, &parts).await?;
    let (name, status) = find(&node, &name)?;
    node.services.supervisor.restart(&name);
    node.audit.done(&who.to_string(), "actor.restart", name.as_str(), None).await?;
    Ok(no_store(StatusCode::ACCEPTED, &status))
}

/// `GET /v1/actors/{name}/log?lines=&follow=`: its last lines; with `follow` as server-sent events,
/// and those that come.
pub(crate) async fn log(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    request: Request,
) -> Reply {
    let (parts, _) = request.into_parts();
    admin(&node, &parts).await?;
    let params = Params::parse(parts.uri.query())?;
    let lines = params.parsed("lines")?.unwrap_or(LINES);
    let (name, _) = find(&node, &name)?;
    let journal = node.services.router.journal(&name).ok_or_else(|| unknown(name.as_str()))?;
    if params.switch("follow")? {
        return Ok(followed(&node, &journal, lines));
    }
    Ok(no_store(StatusCode::OK, &json!({ "items": journal.last(lines) })))
}

async fn admin(node: &Node, parts: &Parts) -> Result<Principal, Problem> {
    let who = auth::caller(node, parts, &[]).await?;
    who.need_admin(node, &Pattern::All)?;
    Ok(who.principal)
}

fn find(node: &Node, name: &str) -> Result<(ServiceName, ActorStatus), Problem> {
    let parsed: ServiceName = name.parse().map_err(|_| unknown(name))?;
    let status = node.services.router.actor(&parsed).ok_or_else(|| unknown(name))?;
    Ok((parsed, status))
}

fn unknown(name: &str) -> Problem {
    Problem::not_found(format!("no actor '{name}' runs here"))
}

/// Lines as server-sent events, until the client goes or the relay stops.
fn followed(node: &Node, journal: &Journal, lines: usize) -> Response {
    let newest = journal.newest();
    let first = journal.last(lines);
    let after = first.last().map_or(*newest.borrow(), |line| line.number);
    let stop = node.stop.clone();
    let start = (Some(first), after, newest, journal.clone());
    let events = stream::unfold(start, move |(first, mut after, mut newest, journal)| {
        let stop = stop.clone();
        async move {
            let lines = match first {
                Some(first) => first,
                None => {
                    let changed = tokio::time::timeout(PING_INTERVAL, newest.changed());
                    let changed = stop.run_until_cancelled(changed).await?;
                    // The actor is gone, and so is its log.
                    changed.unwrap_or(Ok(())).ok()?;
                    journal.after(after)
                }
            };
            after = lines.last().map_or(after, |line| line.number);
            Some((Ok::<_, Infallible>(text(&lines)), (None, after, newest, journal)))
        }
    });
    let mut response = Body::from_stream(events).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn text(lines: &[LogLine]) -> Bytes {
    if lines.is_empty() {
        return Bytes::from_static(b": ping\n\n");
    }
    let events = lines
        .iter()
        .map(|line| format!("event: actor.log\ndata: {}\n\n", encode("actor.log", None, line)));
    events.collect::<String>().into()
}
