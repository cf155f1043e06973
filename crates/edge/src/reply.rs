//! Answers over HTTP: JSON, problem documents (RFC 9457), caching headers.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use relay_proto::{Code, Problem};
use serde::Serialize;
use serde_json::Value;

/// What a handler gives back.
pub(crate) type Reply = Result<Response, Refused>;

/// A refusal on its way out as `application/problem+json`.
#[derive(Debug)]
pub(crate) struct Refused(pub Problem);

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let problem = self.0;
        let status = status_of(&problem);
        let body = document(&problem, status);
        let mut response =
            (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(wait) = problem.extra.get("retry_after_ms").and_then(Value::as_u64) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.div_ceil(1000).max(1)));
        } else if problem.code == Code::HomeUnreachable {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(problem);
        response
    }
}

/// Counts of the chat gateway that are at their limit say how long to wait, and are 429 (`gateway.md` 14).
fn status_of(problem: &Problem) -> StatusCode {
    if problem.code == Code::LimitExceeded && problem.extra.contains_key("retry_after_s") {
        return StatusCode::TOO_MANY_REQUESTS;
    }
    StatusCode::from_u16(problem.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The problem document of RFC 9457.
fn document(problem: &Problem, status: StatusCode) -> Vec<u8> {
    let mut members = problem.members();
    members.insert("type".into(), "about:blank".into());
    members.insert("title".into(), status.canonical_reason().unwrap_or("Error").into());
    members.insert("status".into(), status.as_u16().into());
    members.insert("detail".into(), problem.message.as_str().into());
    encode(&members)
}

/// Names the request in its answer: in a header, and in a refusal's document too.
pub(crate) fn name_request(response: &mut Response) {
    let refused = response.extensions_mut().remove::<Problem>();
    let known = refused.as_ref().and_then(|problem| problem.extra.get("request_id")?.as_str());
    let id = known.map_or_else(relay_core::failure::correlation_id, str::to_owned);
    let Ok(value) = HeaderValue::from_str(&id) else { return };
    response.headers_mut().insert("relay-request-id", value);
    let Some(problem) = refused else { return };
    if problem.code == Code::InternalError {
        tracing::error!(request_id = id, message = problem.message, "answered internal_error");
    }
    let problem = problem.with("request_id", id);
    *response.body_mut() = document(&problem, response.status()).into();
    response.headers_mut().remove(header::CONTENT_LENGTH);
}

/// Whether the client has what it asks for already.
pub(crate) fn is_unchanged(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let given = headers.get_all(header::IF_NONE_MATCH).iter();
    given.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|value| {
        let value = value.trim();
        value == "*" || value.strip_prefix("W/").unwrap_or(value).as_bytes() == tag.as_bytes()
    })
}

/// An answer that may be kept by nobody.
pub(crate) fn no_store(status: StatusCode, body: &impl Serialize) -> Response {
    let mut response = json(status, body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], encode(body)).into_response()
}

/// An answer made of bytes that are JSON already.
pub(crate) fn raw_json(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

fn encode(body: &impl Serialize) -> Vec<u8> {
    // Bodies are plain structs and maps with text keys; they always serialise.
    serde_json::to_vec(body).unwrap_or_default()
}
