//! A request on its way to its home, and the answer on its way back.

use axum::{
    body::{Body, HttpBody},
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::BodyExt;
use relay_actors::BodyStream;
use relay_core::events::{PublishStatus, Published};
use relay_node::{
    Node,
    homes::{
        Answered,
        wire::{Answer, Carried, MAX_INLINE, lost, problem_of},
    },
};
use relay_proto::{CallError, EventId, Problem, RelayId};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Headers of a request that its home has to know.
static REQUEST_HEADERS: [HeaderName; 5] =
    [header::ACCEPT, header::CONTENT_TYPE, header::IF_NONE_MATCH, LAST_EVENT_ID, header::RANGE];
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Headers of an answer that its client has to know.
static ANSWER_HEADERS: [HeaderName; 10] = [
    header::ACCEPT_RANGES,
    header::CACHE_CONTROL,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::ETAG,
    header::RETRY_AFTER,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("relay-cursor"),
    HeaderName::from_static("x-accel-buffering"),
];
/// The most of an answer to a frame that is read.
const MAX_FRAME_ANSWER: usize = 1 << 20;

/// A request as it came over HTTP.
///
/// # Errors
/// `invalid_request` where the body is no JSON.
pub(crate) fn of(parts: &Parts, body: &Bytes) -> Result<Carried, Problem> {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut carried = match std::str::from_utf8(body).map(str::trim) {
        Ok("") => Carried::get(target),
        Ok(text) => Carried::post(target, text)?,
        Err(_) => return Err(Problem::invalid("malformed json")),
    };
    carried.method = parts.method.to_string();
    for name in &REQUEST_HEADERS {
        let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
        carried.headers.extend(value.map(|value| (name.to_string(), value.to_owned())));
    }
    Ok(carried)
}

/// The same stream after a position of the home.
pub(super) fn resumed_at(mut carried: Carried, cursor: &str) -> Carried {
    carried.headers.retain(|(name, _)| name != LAST_EVENT_ID.as_str());
    carried.headers.push((LAST_EVENT_ID.to_string(), cursor.to_owned()));
    carried
}

/// The request as this relay's own handlers read it.
///
/// # Errors
/// `invalid_request`.
pub(super) fn into_request(
    carried: Carried,
    body: Option<BodyStream>,
) -> Result<axum::extract::Request, Problem> {
    let mut request = http::Request::builder().method(carried.method.as_str()).uri(&carried.target);
    for (name, value) in &carried.headers {
        // The length of what comes in pieces.
        let is_length = name == header::CONTENT_LENGTH.as_str();
        if is_length || REQUEST_HEADERS.iter().any(|known| known == name.as_str()) {
            request = request.header(name, value);
        }
    }
    let body = match (carried.body, body) {
        (Some(body), _) => Body::from(String::from(Box::<str>::from(body))),
        (None, Some(pieces)) => {
            Body::from_stream(pieces.map(|piece| piece.map_err(|error| error.message)))
        }
        (None, None) => Body::empty(),
    };
    request.body(body).map_err(|_| Problem::invalid("the forwarded request cannot be read"))
}

/// What a handler answered, for the way back.
pub(super) async fn carry(response: Response) -> Answered {
    let (parts, body) = response.into_parts();
    let value = |name: &HeaderName| {
        let value = parts.headers.get(name)?.to_str().ok()?;
        Some((name.to_string(), value.to_owned()))
    };
    let headers = ANSWER_HEADERS.iter().filter_map(value).collect();
    let mut answer = Answer { status: parts.status.as_u16(), headers, body: None };
    let size = HttpBody::size_hint(&body).exact();
    let mut stream = None;
    match size {
        Some(0) => {}
        Some(size) if size <= MAX_INLINE as u64 && is_json(&answer) => {
            let bytes = body.collect().await.map_err(|_| lost())?.to_bytes();
            let text = String::from_utf8(bytes.into()).map_err(|_| lost())?;
            answer.body = Some(RawValue::from_string(text).map_err(|_| lost())?);
        }
        _ => {
            let length = header::CONTENT_LENGTH.as_str();
            if let Some(size) = size.filter(|_| !parts.headers.contains_key(length)) {
                answer.headers.push((length.to_owned(), size.to_string()));
            }
            let pieces = body
                .into_data_stream()
                .map(|piece| piece.map_err(|_| CallError::internal("the home's answer broke off")));
            stream = Some(pieces.boxed());
        }
    }
    let answer = serde_json::value::to_raw_value(&answer).map_err(|_| lost())?;
    Ok((answer, stream))
}

fn is_json(answer: &Answer) -> bool {
    let is_type = |name: &str| name == header::CONTENT_TYPE.as_str();
    answer.headers.iter().any(|(name, value)| is_type(name) && value.ends_with("json"))
}

fn into_response(answer: Answer, body: Body) -> Result<Response, Problem> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(answer.status).map_err(|_| lost())?;
    for (name, value) in answer.headers {
        let known = ANSWER_HEADERS.iter().find(|known| **known == name.as_str());
        if let (Some(name), Ok(value)) = (known, HeaderValue::from_str(&value)) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

/// Asks the home and gives its answer as it is.
///
/// # Errors
/// As [`Node::forward`]: where there was none.
pub(crate) async fn exchange(
    node: &Node,
    home: &RelayId,
    carried: &Carried,
    grant: Option<String>,
) -> Result<Response, Problem> {
    let (answer, stream) = node.ask(home, carried, grant).await?;
    response(answer, stream)
}

/// A home's answer as a client gets it.
///
/// # Errors
/// `home_unreachable` where it cannot be read.
pub(crate) fn response(
    mut answer: Answer,
    stream: Option<BodyStream>,
) -> Result<Response, Problem> {
    let body = match (answer.body.take(), stream) {
        (Some(body), _) => Body::from(String::from(Box::<str>::from(body))),
        (None, Some(stream)) => Body::from_stream(
            stream.map(|piece| piece.map_err(|error| std::io::Error::other(error.message))),
        ),
        (None, None) => Body::empty(),
    };
    into_response(answer, body)
}

/// The answer for a frame.
///
/// # Errors
/// What the home refused it with.
pub(crate) async fn frame_answer(response: Response) -> Result<Box<RawValue>, Problem> {
    let (parts, body) = response.into_parts();
    let bytes = http_body_util::Limited::new(body, MAX_FRAME_ANSWER)
        .collect()
        .await
        .map_err(|_| lost())?
        .to_bytes();
    if !parts.status.is_success() {
        return Err(problem_of(serde_json::from_slice(&bytes).unwrap_or_default()));
    }
    serde_json::from_slice(&bytes).map_err(|_| lost())
}

/// One outcome of a batch, as the home tells it.
#[derive(Deserialize)]
struct Outcome {
    id: Option<EventId>,
    seq: Option<u64>,
    status: String,
    latest: Option<bool>,
}

/// Publishes good events at their home.
pub(super) async fn publish(
    node: &Node,
    home: &RelayId,
    events: &[&Bytes],
) -> Vec<Result<Published, Problem>> {
    let done = publish_batch(node, home, events).await;
    done.unwrap_or_else(|problem| vec![Err(problem); events.len()])
}

async fn publish_batch(
    node: &Node,
    home: &RelayId,
    events: &[&Bytes],
) -> Result<Vec<Result<Published, Problem>>, Problem> {
    #[derive(Deserialize)]
    struct Results {
        results: Vec<Box<RawValue>>,
    }
    let size: usize = events.iter().map(|event| event.len() + 1).sum();
    let mut body = String::with_capacity(size + 2);
    for event in events {
        body.push(if body.is_empty() { '[' } else { ',' });
        body.push_str(std::str::from_utf8(event).map_err(|_| lost())?);
    }
    body.push(']');
    let carried = Carried::post("/v1/events".to_owned(), &body)?;
    let answer = frame_answer(exchange(node, home, &carried, None).await?).await?;
    let Results { results } = serde_json::from_str(answer.get()).map_err(|_| lost())?;
    if results.len() != events.len() {
        return Err(lost());
    }
    Ok(results.iter().map(|result| outcome(result)).collect())
}

fn outcome(result: &RawValue) -> Result<Published, Problem> {
    let found: Outcome = serde_json::from_str(result.get()).map_err(|_| lost())?;
    let place = (found.seq, found.latest.unwrap_or(false));
    let status = match (found.status.as_str(), place) {
        ("stored", (Some(seq), latest)) => PublishStatus::Stored { seq, latest },
        ("duplicate", (Some(seq), latest)) => PublishStatus::Duplicate { seq, latest },
        ("relayed", _) => PublishStatus::Relayed,
        _ => return Err(problem_of(serde_json::from_str(result.get()).unwrap_or_default())),
    };
    Ok(Published { id: found.id.ok_or_else(lost)?, status })
}
