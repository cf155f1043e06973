//! `/v1/events…`: publish, query, count, one event, addresses.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use relay_core::{
    events::{PublishStatus, Published, Question},
    policy::{Op, Principal},
};
use relay_node::Node;
use relay_proto::{Code, EventId, Filter, NodeId, Problem, RawEvent, event::parse_event};
use relay_store::{FoundEvent, Order, Page};
use serde::Serialize;
use serde_json::{Map, value::RawValue};
use utoipa::ToSchema;

use crate::{
    auth, body,
    homes::{self, FromRelay},
    params::Params,
    reply::{Reply, is_unchanged, no_store, raw_json},
};

type Outcome = Result<Published, Problem>;

/// The answer to one published event; also the body of `event.ok`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Receipt {
    #[schema(value_type = String)]
    id: EventId,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    latest: Option<bool>,
}

impl From<&Published> for Receipt {
    fn from(published: &Published) -> Self {
        let (seq, status, latest) = match published.status {
            PublishStatus::Stored { seq, latest } => (Some(seq), "stored", Some(latest)),
            PublishStatus::Duplicate { seq, latest } => (Some(seq), "duplicate", Some(latest)),
            PublishStatus::Relayed => (None, "relayed", None),
        };
        Self { id: published.id, seq, status, latest }
    }
}

/// `POST /v1/events`: one event, an array, or NDJSON.
pub(crate) async fn publish(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, body) = request.into_parts();
    let limit = node.live().events.max_batch_bytes.0 as usize;
    let from_relay = parts.extensions.get::<FromRelay>().is_some();
    let bytes = body::read(&parts.headers, body, limit).await?;
    if is_ndjson(&parts.headers, header::CONTENT_TYPE) {
        let lines: Vec<Bytes> = bytes
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.trim_ascii().is_empty())
            .map(|line| bytes.slice_ref(line))
            .collect();
        return publish_many(&node, lines, from_relay).await;
    }
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        let items: Vec<&RawValue> = body::parse(&bytes)?;
        let items = items.iter().map(|item| bytes.slice_ref(item.get().as_bytes())).collect();
        return publish_many(&node, items, from_relay).await;
    }
    publish_one(&node, &bytes, from_relay).await
}

async fn publish_one(node: &Arc<Node>, bytes: &[u8], from_relay: bool) -> Reply {
    let raw = parse_event(bytes, &node.event_limits()).map_err(Problem::from)?;
    let home = node.homes.of(raw.namespace());
    let published = homes::publish(node, node.events.lane(), vec![raw], from_relay)
        .await
        .pop()
        .unwrap_or_else(|| Err(Problem::new(Code::InternalError, "no outcome")))?;
    let status = match published.status {
        PublishStatus::Stored { .. } => StatusCode::CREATED,
        PublishStatus::Duplicate { .. } => StatusCode::OK,
        PublishStatus::Relayed => StatusCode::ACCEPTED,
    };
    Ok(homes::named(no_store(status, &Receipt::from(&published)), home))
}

/// Each event has its own outcome; a bad one does not stop the others.
async fn publish_many(node: &Arc<Node>, items: Vec<Bytes>, from_relay: bool) -> Reply {
    let most = node.live().events.max_batch as usize;
    if items.len() > most {
        let message = format!("a batch holds at most {most} events");
        return Err(Problem::new(Code::TooLarge, message).into());
    }
    let limits = node.event_limits();
    // A full batch takes milliseconds to parse: not on a thread that serves sockets.
    let parse = move || -> Vec<(Option<EventId>, Result<RawEvent, Problem>)> {
        items.iter().map(|item| parse_item(item, &limits)).collect()
    };
    let parsed = tokio::task::spawn_blocking(parse)
        .await
        .map_err(|_| Problem::new(Code::InternalError, "the relay is stopping"))?;
    let mut raws = Vec::with_capacity(parsed.len());
    let mut places: Vec<Result<EventId, (Option<EventId>, Problem)>> =
        Vec::with_capacity(parsed.len());
    for (id, item) in parsed {
        match item {
            Ok(raw) => {
                places.push(Ok(raw.claimed_id()));
                raws.push(raw);
            }
            Err(problem) => places.push(Err((id, problem))),
        }
    }
    let outcomes = homes::publish(node, node.events.lane(), raws, from_relay).await;
    let mut outcomes = outcomes.into_iter();
    let mut results = Vec::with_capacity(places.len() * 160);
    results.extend_from_slice(b"{\"results\":[");
    for (index, place) in places.into_iter().enumerate() {
        if index > 0 {
            results.push(b',');
        }
        let (id, outcome) = match place {
            Ok(id) => (Some(id), outcomes.next()),
            Err((id, problem)) => (id, Some(Err(problem))),
        };
        write_result(id, outcome, &mut results);
    }
    results.extend_from_slice(b"]}");
    Ok(raw_json(results))
}

fn parse_item(
    item: &[u8],
    limits: &relay_proto::EventLimits,
) -> (Option<EventId>, Result<RawEvent, Problem>) {
    match parse_event(item, limits) {
        Ok(raw) => (None, Ok(raw)),
        Err(error) => (claimed_id(item), Err(error.into())),
    }
}

/// The id that a refused event claimed, so that its author finds it in the results.
fn claimed_id(item: &[u8]) -> Option<EventId> {
    #[derive(serde::Deserialize)]
    struct Claim<'a> {
        #[serde(borrow)]
        id: Option<std::borrow::Cow<'a, str>>,
    }
    serde_json::from_slice::<Claim<'_>>(item).ok()?.id?.parse().ok()
}

fn write_result(id: Option<EventId>, outcome: Option<Outcome>, out: &mut Vec<u8>) {
    let written = match outcome {
        Some(Ok(published)) => serde_json::to_writer(out, &Receipt::from(&published)),
        Some(Err(problem)) => {
            let mut members = problem.members();
            members.insert("status".into(), "error".into());
            members.insert("id".into(), id.map(|id| id.to_string()).into());
            serde_json::to_writer(out, &members)
        }
        None => serde_json::to_writer(out, &Map::new()),
    };
    debug_assert!(written.is_ok());
}

/// `GET /v1/events`.
pub(crate) async fn query(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let principal = auth::identify(&node, &parts, &[]).await?;
    let question = Params::parse(parts.uri.query())?.question()?;
    let ndjson = is_ndjson(&parts.headers, header::ACCEPT);
    answer_page(&node, principal, question, ndjson).await
}

async fn answer_page(node: &Node, who: Principal, question: Question, ndjson: bool) -> Reply {
    let (page, cursor) = node.events.page(&node.reader(who), question).await?;
    let mut response = if ndjson {
        let mut response = lines(&page).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        if let Some(cursor) = cursor.and_then(|cursor| HeaderValue::from_str(&cursor).ok()) {
            headers.insert("relay-cursor", cursor);
        }
        response
    } else {
        raw_json(page_json(&page, cursor.as_deref()))
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn page_json(page: &Page, cursor: Option<&str>) -> Vec<u8> {
    let size: usize = page.events.iter().map(|event| event.json.len() + 1).sum();
    let mut out = Vec::with_capacity(size + 96);
    out.extend_from_slice(b"{\"events\":[");
    for (index, event) in page.events.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&event.json);
    }
    out.push(b']');
    if let Some(cursor) = cursor {
        out.extend_from_slice(b",\"cursor\":\"");
        out.extend_from_slice(cursor.as_bytes());
        out.push(b'"');
    }
    out.push(b'}');
    out
}

fn lines(page: &Page) -> Body {
    let mut out = Vec::new();
    for event in &page.events {
        out.extend_from_slice(&event.json);
        out.push(b'\n');
    }
    out.into()
}

/// `GET /v1/events/count`.
pub(crate) async fn count(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let principal = auth::identify(&node, &parts, &[]).await?;
    let question = Params::parse(parts.uri.query())?.question()?;
    let count = node.events.count(&node.reader(principal), question).await?;
    Ok(no_store(StatusCode::OK, &serde_json::json!({ "count": count })))
}

/// `GET /v1/events/{id}`.
pub(crate) async fn get(
    State(node): State<Arc<Node>>,
    Path(id): Path<String>,
    request: Request,
) -> Reply {
    let (parts, _) = request.into_parts();
    let principal = auth::identify(&node, &parts, &[]).await?;
    let id: EventId = id.parse().map_err(|error| Problem::invalid(format!("{error}")))?;
    let found = node.events.get(&node.reader(principal), id).await?;
    // Not a refusal: nobody in particular asked.
    let public = node.policy.allows(&Principal::Anonymous, &found.namespace, Op::Read);
    let cache = if public { "public, max-age=31536000, immutable" } else { "private, no-store" };
    Ok(one(&parts.headers, found, cache))
}

/// One event; 304 where the client has it already.
fn one(headers: &HeaderMap, found: FoundEvent, cache: &'static str) -> Response {
    let tag = HeaderValue::from_str(&format!("\"{}\"", found.id)).ok();
    let unchanged = tag.as_ref().is_some_and(|tag| is_unchanged(headers, tag));
    let mut response = if unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        raw_json(found.event.json)
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    headers.extend(tag.map(|tag| (header::ETAG, tag)));
    response
}

/// `GET /v1/events/address/{kind}/{pubkey}/{d}`: the latest version.
pub(crate) async fn address(
    State(node): State<Arc<Node>>,
    Path((kind, author, d)): Path<(String, String, String)>,
    request: Request,
) -> Reply {
    let (parts, _) = request.into_parts();
    let principal = auth::identify(&node, &parts, &[]).await?;
    let (kind, author) = coordinate(&kind, &author)?;
    let found = node.events.latest(&node.reader(principal), kind, author, &d).await?;
    Ok(one(&parts.headers, found, "no-cache"))
}

/// The same where `d` is empty, as it may be for replaceable kinds.
pub(crate) async fn address_without_d(
    state: State<Arc<Node>>,
    Path((kind, author)): Path<(String, String)>,
    request: Request,
) -> Reply {
    address(state, Path((kind, author, String::new())), request).await
}

/// As [`address_without_d`].
pub(crate) async fn history_without_d(
    state: State<Arc<Node>>,
    Path((kind, author)): Path<(String, String)>,
    request: Request,
) -> Reply {
    address_history(state, Path((kind, author, String::new())), request).await
}

/// `GET /v1/events/address/{kind}/{pubkey}/{d}/history`: all versions, newest first.
pub(crate) async fn address_history(
    State(node): State<Arc<Node>>,
    Path((kind, author, d)): Path<(String, String, String)>,
    request: Request,
) -> Reply {
    let (parts, _) = request.into_parts();
    let principal = auth::identify(&node, &parts, &[]).await?;
    let (kind, author) = coordinate(&kind, &author)?;
    let params = Params::parse(parts.uri.query())?;
    let mut filter = Filter { kinds: vec![kind], authors: vec![author], ..params.filter()? };
    if !d.is_empty() {
        filter.add_tag("d", [d]);
    }
    let question = Question {
        filters: vec![filter],
        history: true,
        order: Order::TimeDescending,
        ..params.question()?
    };
    answer_page(&node, principal, question, is_ndjson(&parts.headers, header::ACCEPT)).await
}

fn is_ndjson(headers: &HeaderMap, name: header::HeaderName) -> bool {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("application/x-ndjson"))
}

fn coordinate(kind: &str, author: &str) -> Result<(u16, NodeId), Problem> {
    let kind = kind.parse().map_err(|_| Problem::invalid("a kind is a number up to 65535"))?;
    let author = author.parse().map_err(|error| Problem::invalid(format!("pubkey: {error}")))?;
    Ok((kind, author))
}
