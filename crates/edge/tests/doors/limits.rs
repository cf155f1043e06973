//! What bounds those who come in: the pace of frames, lines that nobody stands in any more.

use std::time::{Duration, Instant};

use relay_client::LockRequest;
use relay_proto::Namespace;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{House, Socket, key};

async fn start_session(house: &House, user: &str) -> Value {
    let body = json!({ "auth_token": user, "device_id": "d1" }).to_string();
    let started = house.raw("POST", "/v1/session/start", &[], &body).await;
    assert_eq!(started.status, 200, "{}", started.body);
    started.json()
}

async fn socket_of(house: &House, session: &Value) -> Socket {
    let token = session["session_token"].as_str().unwrap();
    house.socket(&[("authorization", format!("Bearer {token}"))]).await
}

#[tokio::test]
async fn frames_above_the_rate_are_slowed_and_none_is_refused() {
    let house = House::open("[chat]\nframes_per_sec = 20\n").await;
    let mut socket = house.socket(&[]).await;
    let begun = Instant::now();
    for n in 0..50 {
        socket.send(&format!(r#"{{"v":1,"t":"ping","id":"{n}","body":{{}}}}"#)).await;
    }
    for n in 0..50 {
        let answer = socket.next().await;
        assert_eq!((&answer["t"], &answer["id"]), (&"pong".into(), &n.to_string().into()));
    }
    // Twenty at once, then twenty a second: the last comes after 1.5 s at the earliest.
    assert!(begun.elapsed() >= Duration::from_millis(1_400), "{:?}", begun.elapsed());
    house.close().await;
}

#[tokio::test]
async fn the_rate_of_a_user_counts_over_all_its_sockets() {
    let house = House::open("[chat]\nuser_frames_per_sec = 20\ninsecure_dev_auth = true\n").await;
    let session = start_session(&house, "alice").await;
    let mut sockets = [socket_of(&house, &session).await, socket_of(&house, &session).await];
    let begun = Instant::now();
    for socket in &mut sockets {
        for _ in 0..25 {
            socket.send(r#"{"v":1,"t":"ping","body":{}}"#).await;
        }
    }
    for socket in &mut sockets {
        for _ in 0..25 {
            assert_eq!(socket.next().await["t"], "pong");
        }
    }
    assert!(begun.elapsed() >= Duration::from_millis(1_400), "{:?}", begun.elapsed());
    house.close().await;
}

/// At one frame a second this would take minutes, and the test's patience is seconds.
#[tokio::test]
async fn locks_and_published_events_are_not_frames_that_count() {
    let house = House::open("[chat]\nframes_per_sec = 1\ninsecure_dev_auth = true\n").await;
    let session = start_session(&house, "alice").await;
    let mut socket = socket_of(&house, &session).await;
    for n in 0..100 {
        let acquire = json!({ "v": 1, "t": "lock.acquire", "id": "a",
            "body": { "resource": format!("r/{n}"), "lease_ms": 10_000 } });
        socket.send(&acquire.to_string()).await;
        let event = crate::event(&key(1), 1, &[], &n.to_string());
        let event: Value = serde_json::from_slice(event.json()).unwrap();
        let publish = json!({ "v": 1, "t": "event.publish", "body": { "event": event } });
        socket.send(&publish.to_string()).await;
    }
    for _ in 0..200 {
        let answer = socket.next().await;
        assert!(["lock.acquired", "event.ok"].contains(&answer["t"].as_str().unwrap()), "{answer}");
    }
    house.close().await;
}

#[tokio::test]
async fn who_goes_away_leaves_the_line_at_once() {
    let house = House::open("[chat]\ninsecure_dev_auth = true\n").await;
    let holder = house.client().key(key(1)).build().unwrap();
    let ns = Namespace::default();
    let lease = Duration::from_secs(300);
    let wanted = LockRequest { lease, ..LockRequest::new("db/main").unwrap() };
    let grant = holder.acquire(&wanted).await.unwrap();
    let waiting = async || holder.inspect(&ns, "db/main").await.unwrap().waiting.unwrap();

    // One over HTTP, one over a socket; both hang up without a word.
    let session = start_session(&house, "waiter").await;
    let token = session["session_token"].as_str().unwrap();
    let body = json!({ "resource": "db/main", "lease_ms": 10_000, "wait_ms": 300_000 });
    let text = body.to_string();
    let request = format!(
        "POST /v1/locks/acquire HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-length: {}\r\n\r\n{text}",
        text.len()
    );
    let address = house.url().replace("http://", "");
    let mut http = TcpStream::connect(&address).await.unwrap();
    http.write_all(request.as_bytes()).await.unwrap();
    let mut socket = socket_of(&house, &session).await;
    socket.send(&json!({ "v": 1, "t": "lock.acquire", "id": "w", "body": body }).to_string()).await;
    until(2, &waiting).await;
    drop(http);
    until(1, &waiting).await;
    drop(socket);
    until(0, &waiting).await;

    // The line is really empty: a release frees the lock.
    holder.release(&ns, "db/main", grant.fencing_token).await.unwrap();
    assert!(!holder.inspect(&ns, "db/main").await.unwrap().held);
    house.close().await;
}

async fn until(want: u64, count: &impl AsyncFn() -> u64) {
    let wait = async {
        while count().await != want {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
    waited.unwrap_or_else(|_| panic!("the line never has the length {want}"));
}

#[tokio::test]
async fn development_mode_takes_any_text_for_a_user() {
    let house = House::open("[chat]\ninsecure_dev_auth = true\n").await;
    let (alice, again) =
        (start_session(&house, "alice").await, start_session(&house, "alice").await);
    let bob = start_session(&house, "Bearer bob").await;
    assert_eq!(alice["user_id"], again["user_id"], "the same text is the same user");
    assert_ne!(alice["user_id"], bob["user_id"]);
    let named = key(7).node_id().to_string();
    assert_eq!(start_session(&house, &named).await["user_id"], named.as_str());
    house.close().await;

    let house = House::open("").await;
    let body = r#"{"auth_token":"alice","device_id":"d1"}"#;
    assert_eq!(house.raw("POST", "/v1/session/start", &[], body).await.status, 401);
    house.close().await;
}
