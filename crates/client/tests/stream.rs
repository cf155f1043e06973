//! A subscription over connections that break: nothing missing, nothing twice. The relay here is of
//! paper, because a real one does not cut connections on command.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    routing::get,
};
use relay_client::{
    Client, Error, EventStream, Start, StreamItem, Subscription, keys,
    proto::{Code, Event, event::Draft},
};
use serde_json::{Value, json};

/// What the relay of paper does with one connection, the next with each.
#[derive(Debug, Clone)]
enum Script {
    /// Sends this many events after the cursor, then drops the connection.
    CutAfter(usize),
    /// Refuses the subscription.
    Close(&'static str),
    /// Tells of dropped ephemeral events, then goes on to the end.
    Gap(u64),
    /// Sends everything, says that this was all, and ends.
    Finish,
}

struct Paper {
    events: Vec<Event>,
    scripts: Mutex<std::collections::VecDeque<Script>>,
    /// The `after` of each subscription.
    asked: Mutex<Vec<Option<String>>>,
}

/// Cursors are the number of events before them.
async fn serve(mut socket: WebSocket, paper: Arc<Paper>) {
    let Some(Ok(Message::Text(text))) = socket.recv().await else { return };
    let frame: Value = serde_json::from_str(&text).unwrap();
    let after = frame["body"]["after"].as_str().map(str::to_owned);
    paper.asked.lock().unwrap().push(after.clone());
    let start: usize = after.as_deref().unwrap_or("").parse().unwrap_or(0);
    let script = paper.scripts.lock().unwrap().pop_front().unwrap_or(Script::Finish);
    let mut send = async |t: &str, body: Value| {
        let frame = json!({ "v": 1, "t": t, "body": body }).to_string();
        socket.send(Message::Text(frame.into())).await.unwrap();
    };
    let most = match script {
        Script::Close(code) => {
            send("stream.closed", json!({ "sub": "s", "code": code, "message": "no" })).await;
            return;
        }
        Script::CutAfter(most) => most,
        Script::Gap(dropped) => {
            send("stream.gap", json!({ "sub": "s", "dropped": dropped })).await;
            usize::MAX
        }
        Script::Finish => usize::MAX,
    };
    for (number, event) in paper.events.iter().enumerate().skip(start).take(most) {
        let event: Value = serde_json::from_slice(event.json()).unwrap();
        let cursor = (number + 1).to_string();
        send("stream.event", json!({ "sub": "s", "cursor": cursor, "event": event })).await;
    }
    if most == usize::MAX {
        let cursor = paper.events.len().to_string();
        send("stream.live", json!({ "sub": "s", "cursor": cursor })).await;
        send("stream.closed", json!({ "sub": "s", "code": "done", "cursor": cursor })).await;
    }
}

async fn paper(events: usize, scripts: &[Script]) -> (Client, Arc<Paper>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let key = keys::generate().unwrap();
    let events = (0..events).map(|number| {
        let draft =
            Draft { kind: 1, created_at_ns: 1, content: number.to_string(), ..Draft::default() };
        draft.sign(&key).unwrap()
    });
    let paper = Arc::new(Paper {
        events: events.collect(),
        scripts: Mutex::new(scripts.to_vec().into()),
        asked: Mutex::default(),
    });
    let upgrade = async |State(paper): State<Arc<Paper>>, upgrade: WebSocketUpgrade| {
        upgrade.on_upgrade(move |socket| serve(socket, paper))
    };
    let router = Router::new().route("/v1/stream", get(upgrade)).with_state(paper.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (Client::builder(&url).unwrap().build().unwrap(), paper)
}

async fn open(client: &Client, start: Start) -> Result<EventStream, Error> {
    EventStream::open(client, Subscription { start, ..Subscription::default() }).await
}

/// The contents delivered, and how often the connection was lost and back.
async fn drain(stream: &mut EventStream) -> (Vec<String>, usize, usize) {
    let (mut contents, mut lost, mut back) = (Vec::new(), 0, 0);
    while let Some(item) = stream.next().await.unwrap() {
        match item {
            StreamItem::Event { event, .. } => contents.push(event.content()),
            StreamItem::Interrupted { .. } => lost += 1,
            StreamItem::Resumed => back += 1,
            _ => {}
        }
    }
    (contents, lost, back)
}

#[tokio::test]
async fn after_broken_connections_nothing_is_missing_and_nothing_comes_twice() {
    let cuts = [Script::CutAfter(3), Script::CutAfter(0), Script::CutAfter(5)];
    let (client, paper) = paper(20, &cuts).await;
    let mut stream = open(&client, Start::Beginning).await.unwrap();
    let (contents, lost, back) = drain(&mut stream).await;
    let want: Vec<_> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(contents, want);
    assert_eq!((lost, back), (3, 3));
    let asked = paper.asked.lock().unwrap().clone();
    let asked: Vec<_> = asked.iter().map(Option::as_deref).collect();
    assert_eq!(asked, [Some(""), Some("3"), Some("3"), Some("8")]);
}

#[tokio::test]
async fn a_cursor_is_gone_on_from() {
    let (client, paper) = paper(5, &[]).await;
    let mut stream = open(&client, Start::After("3".into())).await.unwrap();
    assert_eq!(drain(&mut stream).await.0, ["3", "4"]);
    assert_eq!(stream.cursor(), Some("5"));
    assert_eq!(*paper.asked.lock().unwrap(), [Some("3".to_owned())]);
}

#[tokio::test]
async fn a_live_start_names_no_cursor_until_it_has_one() {
    let (client, paper) = paper(2, &[Script::CutAfter(0), Script::CutAfter(1)]).await;
    let mut stream = open(&client, Start::Live).await.unwrap();
    drain(&mut stream).await;
    assert_eq!(*paper.asked.lock().unwrap(), [None, None, Some("1".to_owned())]);
}

#[tokio::test]
async fn a_refusal_ends_it_and_a_slow_reader_comes_back() {
    let (client, _) = paper(1, &[Script::Close("slow_consumer"), Script::Close("forbidden")]).await;
    let mut stream = open(&client, Start::Beginning).await.unwrap();
    assert!(matches!(stream.next().await, Ok(Some(StreamItem::Interrupted { .. }))));
    assert!(matches!(stream.next().await, Ok(Some(StreamItem::Resumed))));
    assert_eq!(stream.next().await.unwrap_err().code(), Some(Code::Forbidden));
    assert!(matches!(stream.next().await, Ok(None)), "over is over");
}

#[tokio::test]
async fn dropped_ephemeral_events_are_told() {
    let (client, _) = paper(1, &[Script::Gap(7)]).await;
    let mut stream = open(&client, Start::Beginning).await.unwrap();
    assert!(matches!(stream.next().await, Ok(Some(StreamItem::Gap { dropped: 7 }))));
}

#[tokio::test]
async fn a_forged_event_is_not_delivered() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let forged = async |upgrade: WebSocketUpgrade| {
        upgrade.on_upgrade(async |mut socket: WebSocket| {
            let key = keys::generate().unwrap();
            let event =
                Draft { kind: 1, content: "true".into(), ..Draft::default() }.sign(&key).unwrap();
            let mut event: Value = serde_json::from_slice(event.json()).unwrap();
            event["content"] = "false".into();
            let body = json!({ "sub": "s", "cursor": "1", "event": event });
            let frame = json!({ "v": 1, "t": "stream.event", "body": body }).to_string();
            let _ = socket.send(Message::Text(frame.into())).await;
        })
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/v1/stream", get(forged));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let client = Client::builder(&url).unwrap().build().unwrap();
    let mut stream = open(&client, Start::Beginning).await.unwrap();
    assert!(matches!(stream.next().await, Err(Error::Protocol { .. })));
}
