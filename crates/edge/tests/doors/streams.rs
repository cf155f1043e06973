//! Subscriptions over a socket (`events.md`, Streaming).

use std::{sync::atomic::Ordering, time::Duration};

use relay_store::Retention;
use serde_json::{Value, json};

use crate::{
    event, event_at, now_ns,
    support::{House, Socket, key},
    text,
};

pub async fn subscribe(socket: &mut Socket, body: Value) {
    socket
        .send(&json!({ "v": 1, "t": "stream.subscribe", "id": "s", "body": body }).to_string())
        .await;
}

#[tokio::test]
async fn a_thousand_subscriptions_fit_a_connection_and_one_more_does_not() {
    let house = House::open("").await;
    let mut socket = house.socket(&[]).await;
    for n in 0..1_000 {
        let filter = json!({ "tag.t": [n.to_string()] });
        subscribe(&mut socket, json!({ "sub": format!("s{n}"), "filters": [filter] })).await;
    }
    for _ in 0..1_000 {
        socket.frame("stream.live").await;
    }
    subscribe(&mut socket, json!({ "sub": "one more" })).await;
    let refused = socket.next().await;
    assert_eq!(refused["body"]["code"], "limit_exceeded", "{refused}");
    // A name that is used again takes no further place.
    subscribe(&mut socket, json!({ "sub": "s0", "filters": [{ "tag.t": ["0", "new"] }] })).await;
    socket.frame("stream.live").await;
    for n in [0, 1, 500, 999] {
        let event = event(&key(1), 1, &[&["t", &n.to_string()]], "");
        house.publish(&event).await;
        let frame = socket.frame("stream.event").await;
        assert_eq!(frame["body"]["sub"], format!("s{n}"));
        assert_eq!(frame["body"]["event"]["id"], event.id().to_string());
    }
    let end = json!({ "v": 1, "t": "stream.unsubscribe", "body": { "sub": "s1" } });
    socket.send(&end.to_string()).await;
    subscribe(&mut socket, json!({ "sub": "one more" })).await;
    socket.frame("stream.live").await;
    drop(socket);
    house
        .until("end of the subscriptions", |node| {
            node.fanout.stats().subscriptions.load(Ordering::Relaxed) == 0
        })
        .await;
    house.close().await;
}

#[tokio::test]
async fn a_reader_that_lags_misses_nothing() {
    let house = House::open("").await;
    let mut socket = house.socket(&[]).await;
    subscribe(&mut socket, json!({ "sub": "s", "filters": [{ "kinds": [1] }] })).await;
    socket.frame("stream.live").await;
    // More than the outbox and the buffers of a connection on loopback hold.
    let filler = "x".repeat(60_000);
    let events: Vec<_> =
        (0..400).map(|n| event(&key(1), 1, &[], &format!("{n} {filler}"))).collect();
    for batch in events.chunks(100) {
        house.publish_all(batch).await;
    }
    house.until("lagging", |node| node.fanout.stats().lagged.load(Ordering::Relaxed) > 0).await;
    for event in &events {
        let frame = socket.frame("stream.event").await;
        assert_eq!(frame["body"]["event"]["id"], event.id().to_string());
    }
    let last = event(&key(1), 1, &[], "last");
    house.publish(&last).await;
    let frame = socket.frame("stream.event").await;
    assert_eq!(frame["body"]["event"]["id"], last.id().to_string());
    drop(socket);
    house.close().await;
}

#[tokio::test]
async fn ephemeral_events_without_room_are_counted_and_told() {
    let house = House::open("").await;
    let mut socket = house.socket(&[]).await;
    subscribe(&mut socket, json!({ "sub": "s", "filters": [{ "kinds": [20_001] }] })).await;
    socket.frame("stream.live").await;
    let filler = "x".repeat(60_000);
    let events: Vec<_> =
        (0..400).map(|n| event(&key(1), 20_001, &[], &format!("{n} {filler}"))).collect();
    for batch in events.chunks(100) {
        house.publish_all(batch).await;
    }
    house.until("drops", |node| node.fanout.stats().dropped.load(Ordering::Relaxed) > 0).await;
    // All that was published has been through the fan-out, since this has.
    house.publish(&event(&key(1), 20_001, &[], "last")).await;
    let (mut came, mut dropped) = (0, 0);
    while came + dropped < 401 {
        let frame = socket.next().await;
        match frame["t"].as_str().unwrap() {
            "stream.event" => came += 1,
            "stream.gap" => dropped += frame["body"]["dropped"].as_u64().unwrap(),
            "ping" => {}
            other => panic!("{other}: {frame}"),
        }
    }
    assert_eq!(came + dropped, 401);
    assert!(dropped > 0);
    drop(socket);
    house.close().await;
}

#[tokio::test]
async fn ephemeral_events_within_their_window_are_replayed() {
    let house = House::open("[events]\nephemeral_replay = \"60s\"").await;
    let stored = event(&key(1), 1, &[], "stored");
    let passing = event(&key(1), 20_001, &[], "passing");
    house.publish_all(&[stored.clone(), passing.clone()]).await;
    let mut socket = house.socket(&[]).await;
    subscribe(&mut socket, json!({ "sub": "s", "after": "" })).await;
    for id in [stored.id(), passing.id()] {
        assert_eq!(socket.next().await["body"]["event"]["id"], id.to_string());
    }
    assert_eq!(socket.next().await["t"], "stream.live");
    subscribe(&mut socket, json!({ "sub": "live only" })).await;
    assert_eq!(socket.next().await["t"], "stream.live");
    drop(socket);
    house.close().await;
}

#[tokio::test]
async fn old_versions_come_only_with_history() {
    let house = House::open("").await;
    let (alice, base) = (key(1), now_ns());
    let version = |age| event_at(&alice, 30_001, &[&["d", "x"]], "", base + age);
    house.publish_all(&[version(1), version(0), version(2)]).await;
    let mut socket = house.socket(&[]).await;
    for (history, expected) in
        [(false, vec![version(2)]), (true, vec![version(1), version(0), version(2)])]
    {
        let body = json!({ "sub": "s", "after": "", "live": false, "history": history });
        subscribe(&mut socket, body).await;
        for event in expected {
            let frame = socket.next().await;
            assert_eq!(frame["body"]["event"]["id"], event.id().to_string(), "history {history}");
        }
        assert_eq!(socket.next().await["t"], "stream.live");
        assert_eq!(socket.next().await["body"]["code"], "done");
    }
    drop(socket);
    house.close().await;
}

#[tokio::test]
async fn a_cursor_from_before_what_was_pruned_is_refused_with_the_earliest() {
    let house = House::open("").await;
    let events: Vec<_> = (0..10).map(|n| event(&key(1), 1, &[], &n.to_string())).collect();
    house.publish_all(&events).await;
    let first = house.get("/v1/events?order=seq&limit=1").await.json();
    let old = first["cursor"].as_str().unwrap().to_owned();
    let keep = Retention { max_bytes: Some(1_000), ..Retention::default() };
    let ns = relay_proto::Namespace::default();
    while house.node.store.prune(ns.clone(), keep.clone()).await.unwrap() > 0 {}
    let left = house.ids("order=seq").await;
    assert!(!left.is_empty() && left.len() < 9, "{}", left.len());
    let refused = house.get(&format!("/v1/events?order=seq&cursor={old}")).await;
    assert_eq!((refused.status, refused.code()), (410, "replay_window_exceeded".into()));
    let earliest = refused.json()["earliest"].as_str().unwrap().to_owned();
    assert_eq!(house.ids(&format!("order=seq&cursor={earliest}")).await, left);
    let refused = house.get(&format!("/v1/events/stream?cursor={old}")).await;
    assert_eq!(refused.json()["earliest"], earliest);
    let mut socket = house.socket(&[]).await;
    subscribe(&mut socket, json!({ "sub": "s", "after": old })).await;
    let refused = socket.next().await;
    assert_eq!(refused["body"]["code"], "replay_window_exceeded");
    assert_eq!(refused["body"]["earliest"], earliest);
    for wrong in ["nonsense", "AQAAAAAAAAAAAAAAAAA"] {
        subscribe(&mut socket, json!({ "sub": "s", "after": wrong })).await;
        assert_eq!(socket.next().await["body"]["code"], "invalid_request", "{wrong}");
    }
    drop(socket);
    house.close().await;
}

#[tokio::test]
async fn what_was_taken_is_answered_when_the_relay_stops() {
    let house = House::open("").await;
    let mut socket = house.socket(&[]).await;
    let events: Vec<_> = (0..200).map(|n| event(&key(1), 1, &[], &n.to_string())).collect();
    for event in &events {
        let body = text(event);
        let frame = format!(r#"{{"v":1,"t":"event.publish","id":"x","body":{{"event":{body}}}}}"#);
        socket.send(&frame).await;
    }
    let read = async {
        let mut answered = 0;
        loop {
            match tokio::time::timeout(Duration::from_secs(20), socket.frame_or_close())
                .await
                .unwrap()
            {
                Ok(frame) => answered += u64::from(frame["t"] == "event.ok"),
                Err((code, reason)) => {
                    assert_eq!(code, 1012, "service restart");
                    assert!(reason.contains("retry_after_ms="), "{reason}");
                    return answered;
                }
            }
        }
    };
    let (answered, house) = tokio::join!(read, house.reopen(""));
    assert_eq!(house.count("").await, answered, "stored and answered are the same");
    house.close().await;
}
