//! Attachments: `PUT`, `GET`, `HEAD /v1/blobs/{hash}` (`gateway.md` 15), streamed in both directions.
//!
//! Bytes are encrypted by whoever puts them; the path is the BLAKE3 of what is stored. Whoever has a session and
//! knows the hash may read. They lie at the home of who put them; other relays of the federation hand them on from there.

use std::{io::SeekFrom, sync::Arc};

use axum::{
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::StreamExt;
use relay_node::{
    Node,
    chat::Home,
    homes::wire::{Carried, PATIENCE, time_for},
};
use relay_proto::{CallError, Code, Problem, RelayId, conv::Caller, key::parse_hex};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::caller;
use crate::{
    homes::{FromRelay, carried, exchange, named, response},
    reply::{Reply, no_store},
};

/// So many bytes are waited for where nobody says how many come.
const LONG: u64 = 64 << 20;
/// What is read from a file at once.
const CHUNK: usize = 64 << 10;

pub(super) async fn put(
    State(node): State<Arc<Node>>,
    Path(hash): Path<String>,
    request: Request,
) -> Reply {
    let (parts, body) = request.into_parts();
    let caller = caller(&node, &parts).await?;
    let hash = parse(&hash)?;
    if let Some(home) = other_home(&node, &parts, &caller).await? {
        return put_at(&node, &home, &caller, &parts, body).await;
    }
    let told = parts.headers.get(header::CONTENT_LENGTH);
    let told = told.and_then(|length| length.to_str().ok()?.parse().ok());
    let mut upload = node.attachments.begin(caller.user, hash, told).await?;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Problem::invalid("the body ended early"))?;
        upload.write(&chunk).await?;
    }
    node.attachments.finish(upload).await?;
    let row = node.attachments.find(hash).await?;
    let answer = json!({ "status": "ok", "size": row.size, "expires_at_ms": row.expires_at_ms });
    Ok(no_store(StatusCode::OK, &answer))
}

pub(super) async fn get(
    State(node): State<Arc<Node>>,
    Path(hash): Path<String>,
    request: Request,
) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = caller(&node, &parts).await?;
    let hash = parse(&hash)?;
    let row = match node.attachments.find(hash).await {
        Err(missing) if missing.code == Code::NotFound => {
            return elsewhere(&node, &caller, &parts, hash, missing).await;
        }
        found => found?,
    };
    let range = match range(&parts.headers, row.size) {
        Ok(range) => range,
        Err(OutOfRange) => return Ok(unsatisfiable(row.size)),
    };
    let (first, length) = range.unwrap_or((0, row.size));
    let mut file = node.attachments.open(hash).await?;
    let failed = |error: std::io::Error| {
        tracing::error!(%error, "an attachment cannot be read");
        Problem::new(Code::InternalError, "the attachment cannot be read")
    };
    file.seek(SeekFrom::Start(first)).await.map_err(failed)?;
    let reader = file.take(length);
    let stream = futures_util::stream::try_unfold(reader, |mut reader| async move {
        let mut chunk = bytes::BytesMut::with_capacity(CHUNK);
        let read = reader.read_buf(&mut chunk).await?;
        Ok::<_, std::io::Error>((read > 0).then(|| (chunk.freeze(), reader)))
    });
    let mut response = Body::from_stream(stream).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // The bytes of a hash never change, but only those with a session may have them.
    let caching = HeaderValue::from_static("private, max-age=31536000, immutable");
    headers.insert(header::CACHE_CONTROL, caching);
    if range.is_some() {
        let text = format!("bytes {first}-{}/{}", first + length - 1, row.size);
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(header::CONTENT_RANGE, value);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// The caller's home, where it is another relay and this one was asked first.
async fn other_home(
    node: &Node,
    parts: &Parts,
    caller: &Caller,
) -> Result<Option<RelayId>, Problem> {
    if node.is_alone() || parts.extensions.get::<FromRelay>().is_some() {
        return Ok(None);
    }
    match node.home_of_caller(caller.user).await? {
        Home::Here => Ok(None),
        Home::At(home) => Ok(Some(home)),
    }
}

/// Hands the bytes on to the caller's home as they come.
async fn put_at(node: &Node, home: &RelayId, caller: &Caller, parts: &Parts, body: Body) -> Reply {
    let grant = node.grant_of(caller)?;
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let mut carried = Carried::get(parts.uri.path());
    carried.method = parts.method.to_string();
    let name = header::CONTENT_LENGTH.to_string();
    carried.headers.extend(length.map(|length| (name, length.to_owned())));
    let pieces = body.into_data_stream();
    let pieces = pieces.map(|piece| piece.map_err(|_| CallError::internal("the body ended early")));
    let bytes = length.and_then(|length| length.parse().ok());
    let patience = PATIENCE + time_for(bytes.unwrap_or(LONG));
    let (answer, stream) =
        node.ask_with(home, &carried, pieces.boxed(), Some(grant), patience).await?;
    Ok(named(response(answer, stream)?, home))
}

/// What is not here is asked for at the caller's home, and then wherever it is.
async fn elsewhere(
    node: &Node,
    caller: &Caller,
    parts: &Parts,
    hash: [u8; 32],
    missing: Problem,
) -> Reply {
    if node.is_alone() || parts.extensions.get::<FromRelay>().is_some() {
        return Err(missing.into());
    }
    let carried = carried(parts, &Bytes::new())?;
    if let Some(home) = other_home(node, parts, caller).await? {
        let grant = node.grant_of(caller)?;
        let answer = exchange(node, &home, &carried, Some(grant)).await?;
        if answer.status() != StatusCode::NOT_FOUND {
            return Ok(named(answer, &home));
        }
    }
    match node.find_attachment(caller.user, hash).await? {
        None => Err(missing.into()),
        Some(holder) => {
            let grant = node.grant_of(caller)?;
            let answer = exchange(node, &holder, &carried, Some(grant)).await?;
            Ok(named(answer, &holder))
        }
    }
}

pub(super) fn parse(hash: &str) -> Result<[u8; 32], Problem> {
    parse_hex(hash).ok_or_else(|| Problem::invalid("a hash is 64 lowercase hex digits"))
}

/// No byte of the attachment is asked for.
#[derive(Debug, PartialEq, Eq)]
struct OutOfRange;

/// First byte and length of a single range (RFC 9110 section 14.2); anything else is as no range at all.
fn range(headers: &HeaderMap, size: u64) -> Result<Option<(u64, u64)>, OutOfRange> {
    let Some(text) = headers.get(header::RANGE).and_then(|range| range.to_str().ok()) else {
        return Ok(None);
    };
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return Ok(None);
    };
    let (first, last) = (first.trim(), last.trim());
    let (first, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.saturating_add(1).min(size)),
        (Ok(first), Err(_)) if last.is_empty() => (first, size),
        (Err(_), Ok(count)) if first.is_empty() && count > 0 => (size.saturating_sub(count), size),
        (Err(_), Ok(0)) if first.is_empty() => return Err(OutOfRange),
        _ => return Ok(None),
    };
    if first >= end {
        return Err(OutOfRange);
    }
    Ok(Some((first, end - first)))
}

fn unsatisfiable(size: u64) -> Response {
    let mut response =
        crate::reply::Refused(Problem::invalid("the range lies outside the attachment"))
            .into_response();
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_has_them() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::from_static(text));
            range(&headers, 10)
        };
        assert_eq!(of("bytes=0-3"), Ok(Some((0, 4))));
        assert_eq!(of("bytes=4-"), Ok(Some((4, 6))));
        assert_eq!(of("bytes=-3"), Ok(Some((7, 3))));
        assert_eq!(of("bytes=-99"), Ok(Some((0, 10))));
        assert_eq!(of("bytes=5-99"), Ok(Some((5, 5))));
        assert_eq!(of("bytes=10-"), Err(OutOfRange));
        assert_eq!(of("bytes=-0"), Err(OutOfRange));
        for odd in ["bytes=3-1", "bytes=a-b", "lines=1-2", "bytes=1-2,4-5", "bytes="] {
            assert_eq!(of(odd), Ok(None), "{odd}");
        }
        assert_eq!(range(&HeaderMap::new(), 10), Ok(None));
    }
}
