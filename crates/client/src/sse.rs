//! Server-sent events: for what a relay tells over plain HTTP, such as changes of a lock.

use bytes::BytesMut;
use relay_proto::Namespace;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    client::{Client, Request},
    error::Error,
    socket::SILENCE,
};

/// An open answer of server-sent events.
#[derive(Debug)]
pub struct SseStream {
    client: Client,
    response: reqwest::Response,
    buffer: BytesMut,
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SseEvent {
    /// The type, `message` where the relay names none.
    pub event: String,
    /// The cursor, where there is one.
    pub id: Option<String>,
    /// The JSON text.
    pub data: String,
}

/// The longest single event taken.
const MAX_EVENT: usize = 64 << 20;

impl Client {
    /// Opens a stream of server-sent events.
    ///
    /// # Errors
    /// The relay's refusal, and any [`Error`] of the transport.
    pub async fn sse(&self, request: Request) -> Result<SseStream, Error> {
        let url = self.inner.endpoint.url(&request.path, &request.query);
        let mut http = self.http().request(request.method.clone(), url.clone());
        http = http.header(ACCEPT, "text/event-stream");
        let body = request.body.as_ref().map(|body| &body.bytes[..]);
        if let Some(value) = self.authorization(&request.method, &url, body)? {
            http = http.header(AUTHORIZATION, value);
        }
        if let Some(body) = &request.body {
            http = http.header(CONTENT_TYPE, body.media_type).body(body.bytes.clone());
        }
        let after = self.inner.timeout.saturating_add(request.patience);
        let response = match tokio::time::timeout(after, http.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.unreachable(&error)),
            Err(_) => return Err(Error::Timeout { url: self.address(), after }),
        };
        let response = self.successful(response).await?;
        Ok(SseStream { client: self.clone(), response, buffer: BytesMut::new() })
    }

    /// Follows what happens to a lock: a frame `lock.state` with what it is now, then one
    /// `lock.changed` for each change.
    ///
    /// # Errors
    /// As [`sse`](Self::sse).
    pub async fn watch_lock(&self, ns: &Namespace, resource: &str) -> Result<SseStream, Error> {
        let request = Request::get("/v1/lock-watch").query("ns", Some(ns));
        self.sse(request.query("resource", Some(resource))).await
    }
}

impl SseStream {
    /// The next event; `None` where the relay ended the stream.
    ///
    /// # Errors
    /// The connection broke, or nothing came for 30 s, not even a heartbeat.
    ///
    /// # Cancel safety
    /// May stand in `select!`.
    pub async fn next(&mut self) -> Result<Option<SseEvent>, Error> {
        loop {
            while let Some(block) = take_block(&mut self.buffer) {
                if let Some(event) = parse_block(&block) {
                    return Ok(Some(event));
                }
            }
            if self.buffer.len() > MAX_EVENT {
                return Err(self.client.protocol_error("event too large".into()));
            }
            match tokio::time::timeout(SILENCE, self.response.chunk()).await {
                Ok(Ok(Some(part))) => self.buffer.extend_from_slice(&part),
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => return Err(self.client.unreachable(&error)),
                Err(_) => {
                    return Err(Error::Timeout { url: self.client.address(), after: SILENCE });
                }
            }
        }
    }

    /// The next frame: its type, such as `lock.changed`, and its body.
    ///
    /// # Errors
    /// As [`next`](Self::next); [`Error::Protocol`] where the data is no frame.
    pub async fn next_frame(&mut self) -> Result<Option<(String, Value)>, Error> {
        #[derive(Deserialize)]
        struct Frame {
            t: String,
            #[serde(default)]
            body: Value,
        }
        let Some(event) = self.next().await? else { return Ok(None) };
        let frame: Frame = serde_json::from_str(&event.data)
            .map_err(|error| self.client.protocol_error(error.to_string()))?;
        Ok(Some((frame.t, frame.body)))
    }
}

/// Takes what stands before the first empty line.
fn take_block(buffer: &mut BytesMut) -> Option<String> {
    let at = buffer.windows(2).position(|pair| pair == b"\n\n")?;
    let block = buffer.split_to(at + 2);
    Some(String::from_utf8_lossy(&block).into_owned())
}

fn parse_block(block: &str) -> Option<SseEvent> {
    let mut event = SseEvent { event: "message".into(), ..SseEvent::default() };
    let mut found = false;
    for line in block.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => event.event = value.to_owned(),
            "id" => event.id = Some(value.to_owned()),
            "data" => {
                if found {
                    event.data.push('\n');
                }
                event.data.push_str(value);
                found = true;
            }
            _ => {}
        }
    }
    found.then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_cut_and_read() {
        let mut buffer =
            BytesMut::from(&b": hello\n\nevent: a\nid: 7\ndata: {\ndata: }\n\ndata: x"[..]);
        let comment = take_block(&mut buffer).unwrap();
        assert_eq!(parse_block(&comment), None);
        let event = parse_block(&take_block(&mut buffer).unwrap()).unwrap();
        let want = SseEvent { event: "a".into(), id: Some("7".into()), data: "{\n}".into() };
        assert_eq!(event, want);
        assert_eq!(take_block(&mut buffer), None);
    }
}
