//! What goes on for a while, and what comes in many pieces, through an edge.

use std::time::Duration;

use relay_client::{EventStream, Request, Start, StreamItem, Subscription};
use relay_proto::{
    Filter,
    event::{Draft, Tags},
};
use serde_json::{Value, json};

use super::{Pair, client, count, event, open, open_with, open_with_rules, publish};
use crate::support::{Socket, code_of, key, sse::Sse};

/// One change of a lock as somebody with a key.
async fn change(
    pair: &Pair,
    n: u8,
    verb: &str,
    body: &Value,
) -> Result<Value, relay_client::Error> {
    let client = pair.edge.client().key(key(n)).build().unwrap();
    client.call(Request::post(format!("/v1/locks/{verb}"), body)).await
}

async fn frame(socket: &mut Socket, t: &str, body: Value) -> Value {
    socket.send(&json!({"v": 1, "t": t, "id": t, "body": body}).to_string()).await;
    socket.next().await
}

#[tokio::test(flavor = "multi_thread")]
async fn server_sent_events_survive_cut_links_and_resume_at_the_homes_cursor() {
    let pair = open().await;
    publish(&pair.home, &event("far/x", 0)).await;
    let path = "/v1/events/stream?ns=far/x&after=";
    let mut stream = Sse::open(&pair.edge, path, "").await;
    let first = stream.next().await.unwrap();
    assert_eq!(first.data["body"]["event"]["content"], "event 0");
    assert_eq!(stream.next().await.unwrap().event, "stream.live");
    for n in 1..10 {
        if n % 4 == 0 {
            pair.cut();
        }
        publish(&pair.home, &event("far/x", n)).await;
    }
    for n in 1..10 {
        let told = stream.next().await.unwrap();
        assert_eq!(told.data["body"]["event"]["content"], format!("event {n}"));
    }
    drop(stream);
    // The browser's own way to go on, with the home's cursor.
    let after = format!("last-event-id: {}\r\n", first.id.unwrap());
    let mut again = Sse::open(&pair.edge, path, &after).await;
    assert_eq!(again.next().await.unwrap().data["body"]["event"]["content"], "event 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_watched_renewed_and_broken_at_its_home() {
    let admin = key(9).node_id();
    let admin = format!("[[acl]]\nns = \"**\"\nwho = [\"{admin}\"]\nallow = [\"admin\"]\n");
    let pair = open_with(&admin).await;
    let lock = json!({"ns": "far/x", "resource": "r"});
    let with = |token: &Value, more: Value| {
        let mut body = lock.clone();
        body["fencing_token"] = token.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let session = client(&pair).login("d_laptop", None).await.unwrap();
    let bearer = format!("Bearer {}", session.session_token);
    let mut watching = pair.edge.socket(&[("authorization", bearer.clone())]).await;
    let watch = json!({"v": 1, "t": "lock.watch", "id": "w", "body": {"ns": "far/x"}});
    watching.send(&watch.to_string()).await;
    // A watch is not answered: other locks change until it tells of one.
    let mut probe = 0;
    loop {
        let body = json!({"ns": "far/x", "resource": format!("probe/{probe}"), "lease_ms": 60_000});
        change(&pair, 1, "acquire", &body).await.unwrap();
        if tokio::time::timeout(Duration::from_millis(200), watching.next()).await.is_ok() {
            break;
        }
        probe += 1;
    }
    let mut stream = Sse::open(&pair.edge, "/v1/lock-watch?ns=far/x&resource=r", "").await;
    assert_eq!(stream.next().await.unwrap().event, "lock.state");

    let mut body = lock.clone();
    body["lease_ms"] = 5_000.into();
    let got = change(&pair, 1, "acquire", &body).await.unwrap();
    let token = got["fencing_token"].clone();
    let renewed =
        change(&pair, 1, "renew", &with(&token, json!({"lease_ms": 60_000}))).await.unwrap();
    assert_eq!((&renewed["fencing_token"], &renewed["lease_ms"]), (&token, &json!(60_000)));
    // Over a socket too.
    let mut socket = pair.edge.socket(&[("authorization", bearer)]).await;
    let renewed = frame(&mut socket, "lock.renew", with(&token, json!({"lease_ms": 30_000}))).await;
    assert_eq!(
        (&renewed["t"], &renewed["body"]["lease_ms"]),
        (&json!("lock.renewed"), &json!(30_000))
    );
    let state = frame(&mut socket, "lock.inspect", lock.clone()).await;
    assert_eq!(state["body"]["fencing_token"], token);

    let reason = json!({"reason": "its holder is gone"});
    let refused = change(&pair, 1, "break", &with(&token, reason.clone())).await;
    assert_eq!(code_of(refused), "forbidden", "an administrator of the home breaks, nobody else");
    let broken = change(&pair, 9, "break", &with(&token, reason)).await.unwrap();
    assert_eq!(broken["status"], "broken", "{broken}");
    let late = change(&pair, 1, "renew", &with(&token, json!({"lease_ms": 1_000}))).await;
    assert!(matches!(code_of(late).as_str(), "lease_expired" | "stale_token" | "not_found"));

    // Renewals may be told as well.
    for wanted in ["held", "free"] {
        loop {
            let told = stream.next().await.unwrap();
            assert_eq!(
                (&*told.event, &told.data["body"]["resource"]),
                ("lock.changed", &json!("r"))
            );
            if told.data["body"]["state"] == wanted {
                break;
            }
        }
        loop {
            let told = watching.next().await;
            assert_eq!(told["t"], "lock.changed", "{told}");
            if told["body"]["resource"] == "r" && told["body"]["state"] == wanted {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_lines_is_stored_at_its_homes() {
    let pair = open().await;
    let events: Vec<Value> =
        (0..600).map(|n| event(if n % 3 == 0 { "default" } else { "far/x" }, n)).collect();
    let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
    let headers = [("content-type", "application/x-ndjson")];
    let answer = pair.edge.raw("POST", "/v1/events", &headers, &lines).await;
    let results = answer.json()["results"].as_array().cloned().unwrap_or_default();
    assert_eq!(results.len(), 600, "{}", answer.body);
    for (sent, result) in events.iter().zip(&results) {
        assert_eq!((&result["id"], &result["status"]), (&sent["id"], &json!("stored")));
    }
    assert_eq!((count(&pair.home, "").await, count(&pair.edge, "").await), (400, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn ephemeral_events_pass_through_and_are_kept_nowhere() {
    let pair = open().await;
    let mut tags = Tags::new();
    tags.push(["ns", "far/x"]);
    let created_at_ns = pair.home.node.clock.wall_ns();
    let draft = Draft { kind: 20_001, created_at_ns, tags, content: "passing".into() };
    let ephemeral: Value = serde_json::from_slice(draft.sign(&key(1)).unwrap().json()).unwrap();
    let (mut near, mut there) = (pair.edge.socket(&[]).await, pair.home.socket(&[]).await);
    let body = json!({"sub": "s", "filters": [{"ns": ["far/x"]}], "after": ""});
    for socket in [&mut near, &mut there] {
        assert_eq!(frame(socket, "stream.subscribe", body.clone()).await["t"], "stream.live");
    }
    let relayed = publish(&pair.edge, &ephemeral).await;
    assert_eq!((relayed.status, &relayed.json()["status"]), (202, &json!("relayed")));
    for socket in [&mut near, &mut there] {
        let told = socket.next().await;
        assert_eq!(
            (&told["t"], &told["body"]["event"]["content"]),
            (&json!("stream.event"), &json!("passing"))
        );
    }
    assert_eq!((count(&pair.home, "ns=far/x").await, count(&pair.edge, "").await), (0, 0));
}

/// The home lets only alice read, and knows her by her grant alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_home_keeps_from_strangers_is_read_by_the_readers_grant() {
    let alice = key(1).node_id();
    let rule =
        format!("[[acl]]\nns = \"far/**\"\nwho = [\"{alice}\"]\nallow = [\"read\", \"write\"]\n");
    let pair = open_with_rules(&rule, "").await;
    for n in 0..3 {
        assert_eq!(publish(&pair.edge, &event("far/x", n)).await.status, 201);
    }
    let path = "/v1/events?ns=far/x&order=seq";
    let stranger = pair.edge.raw("GET", path, &[], "").await;
    assert!(matches!(stranger.status, 401 | 403), "{}", stranger.body);
    let asked = Request::get("/v1/events").query("ns", Some("far/x"));
    let page: Value = client(&pair).call(asked).await.unwrap();
    assert_eq!(page["events"].as_array().unwrap().len(), 3);

    let filter: Filter = serde_json::from_value(json!({"ns": ["far/x"]})).unwrap();
    let wanted =
        Subscription { filters: vec![filter], start: Start::Beginning, ..Subscription::default() };
    let mut stream = EventStream::open(&client(&pair), wanted.clone()).await.unwrap();
    for n in 0..3 {
        let Some(StreamItem::Event { event, .. }) = stream.next().await.unwrap() else {
            panic!("no event {n}")
        };
        assert_eq!(event.content(), format!("event {n}"));
    }
    // A grant that does not help is not made again and again.
    let bob = pair.edge.client().key(key(2)).build().unwrap();
    let mut refused = EventStream::open(&bob, wanted).await.unwrap();
    assert!(matches!(code_of(refused.next().await).as_str(), "forbidden" | "unauthorized"));
}
