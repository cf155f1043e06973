//! Namespaces that have their home at another relay: publish, read, follow and lock through an edge.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod scripts;
mod streams;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use relay_client::{Client, LockRequest};
use relay_proto::{
    RelayId,
    auth::{DeviceId, GrantClaims},
    event::{Draft, Tags},
};
use serde_json::{Value, json};
use support::{House, key, pair::Pair};

const OPEN: &str = "[[acl]]\nns = \"**\"\nwho = [\"*\"]\nallow = [\"read\", \"write\", \"lock\"]\n";
const FAR: &str = "[[namespace]]\nmatch = \"far/**\"\nhome = \"home-b\"\n";

/// A hub that is the home of `far`, and a spoke through which it is asked.
async fn open() -> Pair {
    open_with("").await
}

async fn open_with(at_home: &str) -> Pair {
    open_with_rules(&format!("{OPEN}{at_home}"), "").await
}

/// A home with these rules, and an edge with more lines of configuration.
async fn open_with_rules(at_home: &str, at_edge: &str) -> Pair {
    Pair::open(at_home, &format!("{OPEN}{FAR}{at_edge}")).await
}

fn client(pair: &Pair) -> Client {
    pair.edge.client().key(key(1)).build().unwrap()
}

fn event(ns: &str, n: u64) -> Value {
    let mut tags = Tags::new();
    tags.push(["ns", ns]);
    let created_at_ns = 1_767_000_000_000_000_000 + n;
    let draft = Draft { created_at_ns, kind: 1, tags, content: format!("event {n}") };
    let event = draft.sign(&key(1)).unwrap();
    serde_json::from_slice(event.json()).unwrap()
}

fn grant(user: u8, signed_by: u8, edge: &str, iat: u64, exp: u64) -> String {
    let claims = GrantClaims {
        v: 1,
        user_id: key(user).node_id(),
        device_id: DeviceId::new("d").unwrap(),
        edge: edge.parse().unwrap(),
        iat,
        exp,
    };
    claims.sign(&key(signed_by))
}

async fn publish(house: &House, body: &Value) -> support::Raw {
    house.raw("POST", "/v1/events", &[], &body.to_string()).await
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

async fn count(house: &House, query: &str) -> u64 {
    let answer = house.raw("GET", &format!("/v1/events/count?{query}"), &[], "").await;
    answer.json()["count"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_published_and_read_at_their_home_through_another_relay() {
    let pair = open().await;
    let one = event("far/x", 1);
    let answer = publish(&pair.edge, &one).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(answer.header("relay-home"), Some("home-b"));
    assert_eq!(answer.json()["seq"], 1);
    // A retry is the same event, there and here.
    assert_eq!(publish(&pair.edge, &one).await.json()["status"], "duplicate");
    assert_eq!(publish(&pair.home, &one).await.json()["status"], "duplicate");

    // A batch is split by home, and its answers are in the order of the events.
    let mut forged = event("far/x", 5);
    forged["content"] = "another".into();
    let batch = json!([event("far/y", 2), event("default", 3), forged, event("far/x", 4)]);
    let results = publish(&pair.edge, &batch).await.json()["results"].clone();
    let status = |n: usize| results[n]["status"].as_str().unwrap().to_owned();
    assert_eq!(
        [status(0), status(1), status(2), status(3)],
        ["stored", "stored", "error", "stored"]
    );
    for (n, sent) in batch.as_array().unwrap().iter().enumerate() {
        assert_eq!(results[n]["id"], sent["id"]);
    }
    assert_eq!(count(&pair.home, "").await, 3);
    assert_eq!(count(&pair.edge, "").await, 1);
    assert_eq!(count(&pair.edge, "ns=far/x").await, 2);

    let page = pair.edge.raw("GET", "/v1/events?ns=far/x&order=seq&limit=1", &[], "").await;
    assert_eq!(page.json()["events"][0]["id"], one["id"]);
    assert_eq!(page.header("relay-home"), Some("home-b"));
    // The cursor is the home's: it goes on there and through any relay.
    let rest =
        format!("/v1/events?ns=far/x&order=seq&cursor={}", page.json()["cursor"].as_str().unwrap());
    for house in [&pair.edge, &pair.home] {
        assert_eq!(
            house.raw("GET", &rest, &[], "").await.json()["events"].as_array().unwrap().len(),
            1
        );
    }
    let path = format!("/v1/events/{}", one["id"].as_str().unwrap());
    let found = pair.edge.raw("GET", &path, &[], "").await;
    assert_eq!(found.json(), one);
    let tag = found.header("etag").unwrap().to_owned();
    assert_eq!(pair.edge.raw("GET", &path, &[("if-none-match", &tag)], "").await.status, 304);
    let unknown = format!("/v1/events/{}", "0".repeat(64));
    assert_eq!(pair.edge.raw("GET", &unknown, &[], "").await.status, 404);
    let several = pair.edge.raw("GET", "/v1/events?ns=far/x,default", &[], "").await;
    assert_eq!(several.code(), "invalid_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_publish_to_the_home_in_the_order_sent() {
    let pair = open().await;
    let mut socket = pair.edge.socket(&[]).await;
    for n in 0..20 {
        let body = json!({"event": event("far/x", n)});
        let frame = json!({"v":1,"t":"event.publish","id":n.to_string(),"body":body});
        socket.send(&frame.to_string()).await;
    }
    for _ in 0..20 {
        let answer = socket.next().await;
        assert_eq!(answer["t"], "event.ok", "{answer}");
        let n: u64 = answer["id"].as_str().unwrap().parse().unwrap();
        assert_eq!(answer["body"]["seq"], n + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_taken_at_its_home_by_the_users_grant() {
    let pair = open().await;
    let client = client(&pair);
    let mut ask = LockRequest::new("site/prod").unwrap();
    ask.ns = "far/x".parse().unwrap();
    let got = client.acquire(&ask).await.unwrap();
    assert_eq!(got.owner, key(1).node_id());
    // The answer was lost, and the request comes again: the same grant.
    assert_eq!(client.acquire(&ask).await.unwrap().fencing_token, got.fencing_token);
    for house in [&pair.home, &pair.edge] {
        let state = house.raw("GET", "/v1/locks/site/prod?ns=far/x", &[], "").await.json();
        assert_eq!(
            (&state["held"], &state["fencing_token"]),
            (&json!(true), &json!(got.fencing_token))
        );
    }
    let other = pair.edge.client().key(key(2)).build().unwrap();
    let mut taken = LockRequest::new("site/prod").unwrap();
    taken.ns = ask.ns.clone();
    assert_eq!(support::code_of(other.acquire(&taken).await), "lock_held");
    // Who waits in line through the edge gets it as soon as it is free.
    taken.wait = Duration::from_secs(10);
    let waiting = tokio::spawn(async move { other.acquire(&taken).await });
    let path = "/v1/locks/site/prod?ns=far/x";
    while pair.home.raw("GET", path, &[], "").await.json()["waiting"] != 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let body = json!({"ns": "far/x", "resource": "site/prod", "fencing_token": got.fencing_token});
    let released: Value =
        client.call(relay_client::Request::post("/v1/locks/release", &body)).await.unwrap();
    assert_eq!(released["status"], "released");
    let next = waiting.await.unwrap().unwrap();
    assert!(next.fencing_token > got.fencing_token);
    assert_eq!(next.owner, key(2).node_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_brings_its_grant_along() {
    let pair = open().await;
    let session = client(&pair).login("d_laptop", None).await.unwrap();
    let bearer = format!("Bearer {}", session.session_token);
    let body = json!({"ns": "far/x", "resource": "r", "lease_ms": 5000}).to_string();
    let headers = [("authorization", bearer.as_str())];
    let taken = pair.edge.raw("POST", "/v1/locks/acquire", &headers, &body).await;
    assert_eq!(taken.status, 200, "{}", taken.body);
    let mut socket = pair.edge.socket(&[("authorization", bearer.clone())]).await;
    let token = taken.json()["fencing_token"].clone();
    let body = json!({"ns": "far/x", "resource": "r", "fencing_token": token});
    socket.send(&json!({"v":1,"t":"lock.release","id":"1","body":body}).to_string()).await;
    let answer = socket.next().await;
    assert_eq!(answer["t"], "lock.released", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_expired_and_foreign_grants_are_refused_and_nothing_is_taken() {
    let pair = open().await;
    let now = pair.edge.node.clock.wall_ns() / 1_000_000;
    let home: RelayId = "home-b".parse().unwrap();
    let request = json!({
        "method": "POST", "target": "/v1/locks/acquire",
        "body": {"ns": "far/x", "resource": "r", "lease_ms": 5000},
    });
    let bad = [
        None,
        Some(grant(1, 2, "edge-a", now, now + 60_000)),
        Some(grant(1, 1, "edge-c", now, now + 60_000)),
        Some(grant(1, 1, "edge-a", now - 60_000, now - 1)),
        Some(grant(1, 1, "edge-a", now, now + 25 * 3_600_000)),
        Some("nonsense".to_owned()),
    ];
    for grant in bad {
        // As an edge would that does not look at what it forwards.
        let request = serde_json::value::to_raw_value(&request).unwrap();
        let patience = Duration::from_secs(5);
        let answered = pair
            .edge
            .node
            .forward(&home, "lock.change", request, None, grant.clone(), patience)
            .await;
        let code = match answered {
            Ok((answer, _)) => {
                let answer: Value = serde_json::from_str(answer.get()).unwrap();
                answer["body"]["code"].as_str().unwrap().to_owned()
            }
            Err(problem) => problem.code.to_string(),
        };
        assert_eq!(code, "unauthorized", "{grant:?}");
    }
    let state = pair.home.raw("GET", "/v1/locks/r?ns=far/x", &[], "").await.json();
    assert_eq!((&state["held"], &state["last_token"]), (&json!(false), &json!(0)));
    // The edge itself says what is missing, and which relay the grant has to name.
    let forged = grant(2, 1, "edge-a", now, now + 60_000);
    let session = client(&pair).login("d", None).await.unwrap();
    let bearer = format!("Bearer {}", session.session_token);
    let headers = [("authorization", bearer.as_str()), ("relay-grant", forged.as_str())];
    let body = json!({"ns": "far/x", "resource": "r", "lease_ms": 5000}).to_string();
    let refused = pair.edge.raw("POST", "/v1/locks/acquire", &headers, &body).await;
    assert_eq!((refused.status, &refused.json()["grant_for"]), (401, &json!("edge-a")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_survives_cut_links_and_neither_misses_nor_repeats() {
    let pair = open().await;
    let mut socket = pair.edge.socket(&[]).await;
    let body = json!({"sub": "s", "filters": [{"ns": ["far/x"]}, {"ns": ["far/y"]}], "after": ""});
    socket.send(&json!({"v":1,"t":"stream.subscribe","id":"1","body":body}).to_string()).await;
    assert_eq!(socket.next().await["t"], "stream.live");
    let total = 60;
    for n in 0..total {
        if n % 20 == 10 {
            pair.cut();
        }
        let ns = if n % 2 == 0 { "far/x" } else { "far/y" };
        let stored = publish(&pair.home, &event(ns, n)).await;
        assert_eq!(stored.status, 201, "{}", stored.body);
    }
    let mut last = Value::Null;
    for n in 0..total {
        let frame = socket.next().await;
        assert_eq!(frame["t"], "stream.event", "{frame}");
        assert_eq!(frame["body"]["event"]["content"], format!("event {n}"));
        last = frame["body"]["cursor"].clone();
    }
    // The cursor is the home's: a new stream goes on after it, at the home itself.
    publish(&pair.home, &event("far/x", total)).await;
    let mut direct = pair.home.socket(&[]).await;
    let body = json!({"sub": "t", "filters": [{"ns": ["far/x"]}], "after": last});
    direct.send(&json!({"v":1,"t":"stream.subscribe","id":"1","body":body}).to_string()).await;
    assert_eq!(direct.next().await["body"]["event"]["content"], format!("event {total}"));
    assert_eq!(socket.next().await["body"]["event"]["content"], format!("event {total}"));
    // After its end nothing more comes of it.
    socket.send(r#"{"v":1,"t":"stream.unsubscribe","id":"2","body":{"sub":"s"}}"#).await;
    publish(&pair.home, &event("far/x", total + 1)).await;
    socket.send(r#"{"v":1,"t":"ping","id":"3"}"#).await;
    assert_eq!(socket.next().await["t"], "pong");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_out_of_reach_says_so_and_a_ring_of_homes_ends() {
    let edge = House::open(
        "[[namespace]]\nmatch = \"far/**\"\nhome = \"nobody\"\n\
         [[acl]]\nns = \"**\"\nwho = [\"*\"]\nallow = [\"read\", \"write\", \"lock\"]\n",
    )
    .await;
    let refused = publish(&edge, &event("far/x", 1)).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "home_unreachable"));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(count(&edge, "").await, 0);
    let mut socket = edge.socket(&[]).await;
    let body = json!({"sub": "s", "filters": [{"ns": ["far/x"]}]});
    socket.send(&json!({"v":1,"t":"stream.subscribe","id":"1","body":body}).to_string()).await;
    let frame = socket.next().await;
    assert_eq!((&frame["id"], &frame["body"]["code"]), (&json!("1"), &json!("home_unreachable")));

    let ring = "[[namespace]]\nmatch = \"far/**\"\nhome = \"edge-a\"\n";
    let pair = open_with(ring).await;
    for house in [&pair.edge, &pair.home] {
        let refused = publish(house, &event("far/x", 1)).await;
        assert_eq!((refused.status, refused.code().as_str()), (508, "loop_detected"));
        let refused = house.raw("GET", "/v1/events?ns=far/x", &[], "").await;
        assert_eq!(refused.code(), "loop_detected");
        let mut socket = house.socket(&[]).await;
        socket.send(&json!({"v":1,"t":"stream.subscribe","id":"1","body":body}).to_string()).await;
        assert_eq!(socket.next().await["body"]["code"], "loop_detected");
        assert_eq!(count(house, "").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_retried_over_breaking_links_is_done_once() {
    let pair = open().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let cutting = async {
        let mut cuts = 0;
        // A spoke that is thrown out often waits longer each time.
        while cuts < 4 && stop.run_until_cancelled(pair.linked()).await.is_some() {
            // Not at once: now before a request, now in the middle of it, now after it.
            tokio::time::sleep(Duration::from_millis(7 * cuts)).await;
            pair.cut();
            cuts += 1;
        }
    };
    let total = 25;
    let working = async {
        let client = client(&pair);
        for n in 0..total {
            let event = event("far/x", n);
            let sent = loop {
                let answer = publish(&pair.edge, &event).await;
                match answer.code().as_str() {
                    "home_unreachable" | "timeout" => pause().await,
                    _ => break answer,
                }
            };
            assert!(sent.status < 300, "{}", sent.body);
            let mut ask = LockRequest::new(format!("r/{n}")).unwrap();
            ask.ns = "far/x".parse().unwrap();
            let grant = loop {
                match client.acquire(&ask).await {
                    Err(error) if error.is_transient() => pause().await,
                    done => break done.unwrap(),
                }
            };
            // The home counts its grants: none was given twice.
            assert_eq!(grant.fencing_token, n + 1);
        }
        stop.cancel();
    };
    tokio::join!(cutting, working);
    assert_eq!(count(&pair.home, "ns=far/x").await, total);
    let mut history = 0;
    for n in 0..total {
        let path = format!("/v1/lock-history?ns=far/x&resource=r/{n}");
        history +=
            pair.home.raw("GET", &path, &[], "").await.json()["items"].as_array().unwrap().len();
    }
    assert_eq!(history as u64, total);
}
