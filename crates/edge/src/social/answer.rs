//! Answers and how long they are good.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use prost::Message;
use relay_core::social::Freshness;
use relay_node::Node;
use relay_proto::Problem;
use std::sync::atomic::Ordering::Relaxed;

use crate::reply::is_unchanged;

/// How long an answer may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Kept, but asked for each time.
    Asking,
    /// A few seconds by readers, longer by caches on the way, which then may answer while they ask.
    Shared,
    /// For ever: what it is made of never changes.
    Immutable,
    /// So many seconds by everybody.
    Seconds(u32),
    /// Not at all.
    Never,
}

impl Keep {
    fn header(self, node: &Node) -> HeaderValue {
        let text = match self {
            Self::Asking => return HeaderValue::from_static("no-cache"),
            Self::Never => return HeaderValue::from_static("no-store"),
            Self::Immutable => {
                return HeaderValue::from_static("public, max-age=31536000, immutable");
            }
            Self::Shared => {
                let shared_s = node.config.social.shared_max_age.as_secs();
                format!(
                    "public, max-age={}, s-maxage={shared_s}, stale-while-revalidate=30",
                    shared_s.min(5)
                )
            }
            Self::Seconds(seconds) => format!("public, max-age={seconds}, s-maxage={seconds}"),
        };
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("no-cache"))
    }
}

/// The tag of what an answer will be made of, taken before it is made, so that it is never newer than the answer;
/// or the whole answer, where the asker has it already.
///
/// # Errors
/// Only those of the store.
pub(super) async fn tag(
    node: &Node,
    headers: &HeaderMap,
    of: &Freshness,
    keep: Keep,
) -> Result<Result<HeaderValue, Response>, Problem> {
    let text = node.social.tag(of).await?;
    let tag = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("\"0\""));
    if !is_unchanged(headers, &tag) {
        return Ok(Ok(tag));
    }
    node.social.stats().unchanged.fetch_add(1, Relaxed);
    let kept = [(header::ETAG, tag), (header::CACHE_CONTROL, keep.header(node))];
    Ok(Err((StatusCode::NOT_MODIFIED, kept).into_response()))
}

/// A message, with its tag and how long it is good.
pub(super) fn message(
    node: &Node,
    message: &impl Message,
    tag: Option<HeaderValue>,
    keep: Keep,
) -> Response {
    let body = Body::from(message.encode_to_vec());
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CACHE_CONTROL, keep.header(node));
    if let Some(tag) = tag {
        headers.insert(header::ETAG, tag);
    }
    response
}
