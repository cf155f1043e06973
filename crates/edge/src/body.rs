//! Request bodies, bounded before they are read.

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use relay_proto::{Code, Problem};

/// Longest body of a request that is not a batch of events.
pub(crate) const SMALL: usize = 1 << 20;

/// Reads a body of at most `limit` bytes; one that says it is longer is refused unread.
pub(crate) async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Problem> {
    let too_large =
        || Problem::new(Code::TooLarge, format!("the body is larger than {limit} bytes"));
    let told =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if told.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large());
    }
    match Limited::new(body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(Problem::invalid("the body ended early")),
    }
}

/// Reads a JSON body as a `T`. No body counts as `{}`.
pub(crate) fn parse<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        if error.is_data() {
            let text = error.to_string();
            Problem::invalid(text.split(" at line ").next().unwrap_or(&text))
        } else {
            Problem::invalid("malformed json")
        }
    })
}
