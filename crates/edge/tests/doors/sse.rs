//! What only server-sent events do.

use serde_json::{Value, json};

use crate::{
    event,
    support::{House, key, sse::Sse},
};

#[tokio::test]
async fn a_stream_replays_goes_live_and_resumes() {
    let house = House::open("").await;
    let alice = key(1);
    let events: Vec<_> = (0..4).map(|n| event(&alice, 1, &[], &n.to_string())).collect();
    house.publish_all(&events[..2]).await;
    let mut stream = Sse::open(&house, "/v1/events/stream?kinds=1&after=", "").await;
    for event in &events[..2] {
        let told = stream.next().await.unwrap();
        assert_eq!(told.event, "stream.event");
        assert_eq!(told.data["t"], "stream.event");
        assert_eq!(told.data["body"]["event"]["id"], event.id().to_string());
        assert_eq!(told.data["body"]["cursor"].as_str(), told.id.as_deref());
    }
    let live = stream.next().await.unwrap();
    assert_eq!(live.event, "stream.live");
    let cursor = live.id.unwrap();
    house.publish(&events[2]).await;
    let told = stream.next().await.unwrap();
    assert_eq!(told.data["body"]["event"]["id"], events[2].id().to_string());
    drop(stream);
    house.publish(&events[3]).await;
    // The header of a browser that reconnects wins over the parameter that it began with.
    let header = format!("last-event-id: {cursor}\r\n");
    let mut stream = Sse::open(&house, "/v1/events/stream?kinds=1&after=", &header).await;
    for event in &events[2..] {
        let told = stream.next().await.unwrap();
        assert_eq!(told.data["body"]["event"]["id"], event.id().to_string());
    }
    drop(stream);
    house
        .until("end of the streams", |node| {
            node.metrics.sse_streams.load(std::sync::atomic::Ordering::Relaxed) == 0
        })
        .await;
    house.close().await;
}

#[tokio::test]
async fn a_stream_that_is_not_live_ends() {
    let house = House::open("").await;
    house.publish_all(&[event(&key(1), 1, &[], "one")]).await;
    let mut stream = Sse::open(&house, "/v1/events/stream?after=&live=false", "").await;
    let kinds = ["stream.event", "stream.live", "stream.closed"];
    for kind in kinds {
        assert_eq!(stream.next().await.unwrap().event, kind);
    }
    assert_eq!(stream.next().await, None);
    house.close().await;
}

#[tokio::test]
async fn streams_end_when_the_relay_stops() {
    let house = House::open("").await;
    let mut stream = Sse::open(&house, "/v1/events/stream?after=", "").await;
    assert_eq!(stream.next().await.unwrap().event, "stream.live");
    let (_, end) = tokio::join!(house.close(), stream.next());
    assert_eq!(end, None);
}

#[tokio::test]
async fn watchers_of_a_lock_see_its_state_and_its_changes() {
    let house = House::open("").await;
    let mut stream = Sse::open(&house, "/v1/lock-watch?resource=db/main", "").await;
    let state = stream.next().await.unwrap();
    assert_eq!((state.event.as_str(), &state.data["body"]["held"]), ("lock.state", &json!(false)));
    let alice = house.client().key(key(1)).build().unwrap();
    let body = json!({ "resource": "db/main", "lease_ms": 60_000 });
    let request = relay_client::Request::post("/v1/locks/acquire", &body);
    let grant: Value = alice.call(request).await.unwrap();
    let changed = stream.next().await.unwrap();
    assert_eq!(changed.event, "lock.changed");
    assert_eq!(changed.data["body"]["state"], "held");
    assert_eq!(changed.data["body"]["fencing_token"], grant["fencing_token"]);
    drop(stream);
    house.close().await;
}
