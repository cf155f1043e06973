//! What the load says to a relay and how it reads the answers (`events.md`, `gateway.md`).

use std::{net::SocketAddr, ops::Range};

use anyhow::{Context, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use memchr::memmem;
use relay_proto::{
    SigningKey,
    auth::{DeviceId, GrantClaims},
};
use serde_json::{Value, json};

use crate::{
    http,
    load::{Frames, RelaySigner, generate, number_at},
    publish::{Answer, Dialect, Publisher},
    ws::{self, Socket},
};

/// Where sockets are opened.
pub const SOCKET_PATH: &str = "/v1/ws";

/// Reads `event.ok` and `error`; the frame's `id` is the number of the published frame.
#[derive(Debug)]
pub struct RelayDialect;

impl Dialect for RelayDialect {
    fn read(&self, answer: &[u8]) -> Answer {
        if contains(answer, b"\"t\":\"event.ok\"") {
            memmem::find(answer, b"\"id\":\"")
                .and_then(|at| number_at(answer, at + 6))
                .map_or(Answer::Other, Answer::Stored)
        } else if contains(answer, b"\"t\":\"error\"") {
            Answer::Refused
        } else {
            Answer::Other
        }
    }
}

pub fn contains(bytes: &[u8], part: &[u8]) -> bool {
    memmem::find(bytes, part).is_some()
}

/// `event.publish` frames of the plan's events `indexes`, numbered from 0.
pub fn publish_frames(signer: &RelaySigner, indexes: Range<usize>) -> Frames {
    let first = indexes.start;
    generate(indexes, |index, out| {
        ws::encode(out, |out| {
            let id = index - first;
            out.extend_from_slice(
                format!(r#"{{"v":1,"t":"event.publish","id":"{id}","body":{{"event":"#).as_bytes(),
            );
            signer.write_event(index, out);
            out.extend_from_slice(b"}}");
        });
    })
}

/// Connects `connections` publishers and shares the events `indexes` among them.
pub async fn publishers(
    to: SocketAddr,
    signer: &RelaySigner,
    connections: usize,
    indexes: Range<usize>,
) -> anyhow::Result<Vec<Publisher>> {
    let mut all = Vec::with_capacity(connections);
    for lane in 0..connections {
        let bound = |lane| indexes.start + indexes.len() * lane / connections;
        all.push(Publisher {
            socket: Socket::connect(to, SOCKET_PATH).await?,
            frames: publish_frames(signer, bound(lane)..bound(lane + 1)),
            dialect: std::sync::Arc::new(RelayDialect),
            next: 0,
        });
    }
    Ok(all)
}

/// `POST /v1/events` requests of `batch` events each, as NDJSON.
pub fn batch_requests(signer: &RelaySigner, indexes: Range<usize>, batch: usize) -> Frames {
    let batches = indexes.len().div_ceil(batch);
    generate(0..batches, |number, out| {
        let start = indexes.start + number * batch;
        let mut body = Vec::with_capacity(batch * (signer.plan.event_bytes + 1));
        for index in start..(start + batch).min(indexes.end) {
            signer.write_event(index, &mut body);
            body.push(b'\n');
        }
        http::post_into("/v1/events", "application/x-ndjson", &body, out);
    })
}

/// How many events an answer to a batch calls stored.
pub fn stored_in(body: &[u8]) -> u64 {
    memmem::find_iter(body, b"\"status\":\"stored\"").count() as u64
}

/// Stores the plan's events `indexes` in batches, signing a part at a time.
pub async fn fill(
    to: SocketAddr,
    signer: &RelaySigner,
    indexes: Range<usize>,
) -> anyhow::Result<()> {
    const PART: usize = 50_000;
    let mut connection = http::Connection::open(to).await?;
    let end = indexes.end;
    for start in indexes.step_by(PART) {
        let requests = batch_requests(signer, start..end.min(start + PART), 1000);
        for number in 0..requests.len() {
            let (status, body) = connection.ask(requests.slice(number..number + 1)).await?;
            let sent = (end - start - number * 1000).min(1000) as u64;
            ensure!(
                status == 200 && stored_in(body) == sent,
                "filling: status {status}, {} of {sent} stored: {}",
                stored_in(body),
                String::from_utf8_lossy(&body[..body.len().min(300)])
            );
        }
    }
    Ok(())
}

/// Asks the relay itself whether it holds what it acknowledged: the number of the plan's events
/// `indexes`, and some of them byte by byte.
pub async fn confirm(
    to: SocketAddr,
    signer: &RelaySigner,
    indexes: Range<usize>,
    acknowledged: u64,
) -> anyhow::Result<()> {
    const SAMPLE: usize = 50;
    let (since, until) =
        (signer.plan.created_at_ns(indexes.start), signer.plan.created_at_ns(indexes.end) - 1);
    let path = format!("/v1/events/count?since_ns={since}&until_ns={until}");
    let counted: Value = serde_json::from_slice(&http::once(to, &http::get(&path)).await?)?;
    ensure!(
        counted["count"] == acknowledged,
        "the relay acknowledged {acknowledged} events and counts {}",
        counted["count"]
    );
    if acknowledged < indexes.len() as u64 {
        // Which ones were published is known only where all were.
        return Ok(());
    }
    for index in indexes.clone().step_by((indexes.len() / SAMPLE).max(1)) {
        let mut event = Vec::new();
        let id = signer.write_event(index, &mut event);
        let path = format!("/v1/events/{}", String::from_utf8_lossy(&id));
        let found: Value = serde_json::from_slice(&http::once(to, &http::get(&path)).await?)?;
        let sent: Value = serde_json::from_slice(&event)?;
        ensure!(found == sent, "event {index} came back changed: {found}");
    }
    Ok(())
}

/// A frame with a body, ready to send.
pub fn frame(t: &str, id: &str, body: &Value) -> Vec<u8> {
    ws::frame(&relay_proto::frame::encode(t, Some(id), body))
}

/// Subscribes and waits until the relay says that the subscription is live.
pub async fn subscribe(socket: &mut Socket, sub: &str, filter: &Value) -> anyhow::Result<()> {
    let body = json!({"sub": sub, "filters": [filter]});
    socket.send(&frame("stream.subscribe", sub, &body)).await?;
    let refused = socket
        .receive_until(|answer| {
            if contains(answer, b"\"t\":\"stream.live\"") {
                return Some(None);
            }
            let refused = contains(answer, b"\"t\":\"error\"");
            refused.then(|| Some(String::from_utf8_lossy(answer).into_owned()))
        })
        .await?;
    ensure!(refused.is_none(), "subscribing: {}", refused.unwrap_or_default());
    Ok(())
}

/// A socket with a session, and the token of that session.
#[derive(Debug)]
pub struct Session {
    pub socket: Socket,
    to: SocketAddr,
    token: String,
}

impl Session {
    /// A request of this session that has to succeed.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<()> {
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        let mut connection = http::Connection::open(self.to).await?;
        let (status, answer) = connection.ask(head.as_bytes()).await?;
        ensure!(status == 200, "{path}: {status} {}", String::from_utf8_lossy(answer));
        Ok(())
    }
}

/// Opens a socket with a session for `key`: challenge, signature, `session.start`.
pub async fn session(to: SocketAddr, key: &SigningKey) -> anyhow::Result<Socket> {
    Ok(open_session(to, key).await?.socket)
}

/// As [`session`], with a grant for whatever lies at other homes.
pub async fn open_session(to: SocketAddr, key: &SigningKey) -> anyhow::Result<Session> {
    const DEVICE: &str = "bench";
    /// SHA-256 of no credential.
    const NO_CREDENTIAL: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    let user = key.node_id().to_string();
    let mut request = Vec::new();
    let body = json!({"user_id": user, "device_id": DEVICE}).to_string();
    http::post_into("/v1/auth/challenge", "application/json", body.as_bytes(), &mut request);
    let answer: Value = serde_json::from_slice(&http::once(to, &request).await?)?;
    let part = |name: &str| answer[name].as_str().with_context(|| format!("challenge: {name}"));
    let (gateway, id, challenge) = (part("gateway_id")?, part("challenge_id")?, part("challenge")?);
    let signed = format!(
        "relay-gateway-auth-v1\n{gateway}\n{user}\n{DEVICE}\n{id}\n{challenge}\n{NO_CREDENTIAL}"
    );
    let proof = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
    let device = DeviceId::new(DEVICE).context("a device")?;
    let grant = GrantClaims::new(key.node_id(), device, gateway.parse()?, now_ms as u64, 3_600_000)
        .sign(key);
    let start = json!({
        "auth_token": format!("cr1.{id}.{proof}"), "device_id": DEVICE, "grants": [grant],
    });

    let mut socket = Socket::connect(to, SOCKET_PATH).await?;
    socket.send(&frame("session.start", "session", &start)).await?;
    let answer = socket.receive_until(|answer| Some(answer.to_vec())).await?;
    ensure!(
        contains(&answer, b"\"t\":\"session.ready\""),
        "session: {}",
        String::from_utf8_lossy(&answer)
    );
    let ready: Value = serde_json::from_slice(&answer)?;
    let token = ready["body"]["session_token"].as_str().context("a session token")?.to_owned();
    Ok(Session { socket, to, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let read = |text: &str| RelayDialect.read(text.as_bytes());
        let ok =
            r#"{"v":1,"t":"event.ok","id":"41","body":{"id":"00ff","seq":7,"status":"stored"}}"#;
        assert_eq!(read(ok), Answer::Stored(41));
        let error = r#"{"v":1,"t":"error","id":"41","body":{"code":"forbidden","message":"no"}}"#;
        assert_eq!(read(error), Answer::Refused);
        assert_eq!(read(r#"{"v":1,"t":"pong","id":"41","body":{}}"#), Answer::Other);
    }

    #[test]
    fn batches_hold_all_events_once() {
        let signer = RelaySigner::new(crate::load::Plan::usual());
        let requests = batch_requests(&signer, 5..30, 10);
        assert_eq!(requests.len(), 3);
        let lines = |at| memchr::memchr_iter(b'\n', requests.slice(at..at + 1)).count() - 5;
        assert_eq!((lines(0), lines(1), lines(2)), (10, 10, 5));
    }
}
