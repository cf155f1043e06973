//! Blocks, contacts and presence of users whose homes are different relays.

use std::{cell::Cell, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use relay_core::fanout::{Item, Outbox, OutboxLimits};
use serde_json::{Value, json};

use crate::{
    FREE,
    person::{Person, hears},
    support::{
        House, PATIENCE,
        pair::{Pair, Trio},
    },
};

fn contacts(who: &[&Person]) -> Value {
    json!({ "contacts": who.iter().map(|who| who.id()).collect::<Vec<_>>() })
}

/// Asks again until the answer is as it should be: what homes tell each other takes a moment.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not so: {what}"));
}

async fn publish(who: &Person, house: &House) {
    let packages: Vec<String> = (0..40_u32).map(|n| STANDARD.encode(n.to_be_bytes())).collect();
    let body = json!({ "device_id": "d", "keypackages": packages });
    who.ok(house, "/v1/keypackages", body).await;
}

/// Whether somebody gets a KeyPackage of another.
async fn gets(who: &Person, house: &House, of: &Person) -> bool {
    let fetch = json!({ "user_id": of.id(), "count": 1 });
    let fetched = who.ok(house, "/v1/keypackages/fetch", fetch).await;
    !fetched["keypackages"].as_array().unwrap().is_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_blocked_is_blocked_at_every_home() {
    let pair = Pair::open(FREE, FREE).await;
    let alice = Person::login(&pair.edge, 1, "d").await;
    let bob = Person::login(&pair.home, 2, "d").await;
    publish(&alice, &pair.edge).await;
    publish(&bob, &pair.home).await;
    let dm =
        |with: &Person, n: u64| json!({ "peer_user_id": with.id(), "conv_id": format!("dm_{n}") });
    alice.ok(&pair.edge, "/v1/dms/create", dm(&bob, 1)).await;
    until("bob finds it", async || {
        bob.get(&pair.home, "/v1/rooms/members?conv_id=dm_1").await.status == 200
    })
    .await;
    assert_eq!(bob.send(&pair.home, "dm_1", "hello").await, 1);
    assert!(gets(&alice, &pair.edge, &bob).await && gets(&bob, &pair.home, &alice).await);
    // The conversation, and Alice's KeyPackages, are at another home than Bob's list.
    bob.ok(&pair.home, "/v1/presence/block", contacts(&[&alice])).await;
    let is_blocked = async |who: &Person, house: &House, path: &str, body: Value| {
        let answer = who.post(house, path, body).await;
        answer.status == 403 && answer.json()["message"] == "blocked"
    };
    let message = |n: u64| {
        json!({ "v": 1, "t": "conv.send", "body": {
        "conv_id": "dm_1", "msg_id": format!("m{n}"), "env": "e" } })
    };
    let n = Cell::new(0);
    until("she is blocked where the conversation is", async || {
        n.set(n.get() + 1);
        is_blocked(&alice, &pair.edge, "/v1/inbox", message(n.get())).await
    })
    .await;
    assert!(is_blocked(&bob, &pair.home, "/v1/inbox", message(1_000_000)).await);
    assert!(!gets(&alice, &pair.edge, &bob).await, "he gives her none");
    assert!(!gets(&bob, &pair.home, &alice).await, "and gets none of hers");
    assert!(is_blocked(&alice, &pair.edge, "/v1/dms/create", dm(&bob, 2)).await);
    assert!(is_blocked(&bob, &pair.home, "/v1/dms/create", dm(&alice, 3)).await);
    let room = json!({ "conv_id": "room", "members": [bob.id()] });
    assert!(is_blocked(&alice, &pair.edge, "/v1/rooms/create", room).await);
    alice.create(&pair.edge, "room", &[]).await;
    let target = json!({ "conv_id": "room", "members": [bob.id()] });
    assert!(is_blocked(&alice, &pair.edge, "/v1/rooms/invite", target.clone()).await);
    // It outlives the relay that was told and the one that told it, and ends when he says so.
    let pair = pair.restart_edge().await;
    assert!(is_blocked(&alice, &pair.edge, "/v1/rooms/invite", target.clone()).await);
    let pair = pair.restart_home().await;
    assert!(is_blocked(&alice, &pair.edge, "/v1/rooms/invite", target.clone()).await);
    assert!(is_blocked(&bob, &pair.home, "/v1/dms/create", dm(&alice, 4)).await);
    pair.holds().await;
    pair.cut();
    bob.ok(&pair.home, "/v1/presence/unblock", contacts(&[&alice])).await;
    until("she may invite him", async || {
        alice.post(&pair.edge, "/v1/rooms/invite", target.clone()).await.status == 200
    })
    .await;
    assert!(gets(&bob, &pair.home, &alice).await && gets(&alice, &pair.edge, &bob).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_blocked_brings_nobody_into_a_room_of_a_third_home() {
    let trio = Trio::open(FREE, FREE, FREE).await;
    let alice = Person::login(&trio.edge, 1, "d").await;
    let bob = Person::login(&trio.other, 2, "d").await;
    let carol = Person::login(&trio.home, 3, "d").await;
    carol.create(&trio.home, "third", &[&alice]).await;
    carol
        .ok(&trio.home, "/v1/rooms/promote", json!({ "conv_id": "third", "members": [alice.id()] }))
        .await;
    bob.ok(&trio.other, "/v1/presence/block", contacts(&[&alice])).await;
    // Carol's relay does not know; Bob's does.
    until("alice finds it", async || {
        let invite = json!({ "conv_id": "third", "members": [bob.id()] });
        alice.post(&trio.edge, "/v1/rooms/invite", invite).await.status == 200
    })
    .await;
    carol.create(&trio.home, "hers", &[&bob]).await;
    let found = async || {
        let list = bob.get(&trio.other, "/v1/conversations").await.json();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|item| item["conv_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    until("bob is told of what came later", async || found().await.contains(&"hers".into())).await;
    until("he is out of the room again", async || {
        let members = carol.get(&trio.home, "/v1/rooms/members?conv_id=third").await.json();
        !members.to_string().contains(&bob.id().to_string())
    })
    .await;
    assert_eq!(found().await, ["hers"]);
    let message = json!({ "v": 1, "t": "conv.send", "body": {
        "conv_id": "third", "msg_id": "m", "env": "e" } });
    assert_eq!(bob.post(&trio.other, "/v1/inbox", message).await.status, 403);
}

async fn lease(who: &Person, house: &House, invisible: bool) {
    let lease = json!({ "device_id": "d", "ttl_seconds": 60, "invisible": invisible });
    who.ok(house, "/v1/presence/lease", lease).await;
}

async fn status(who: &Person, house: &House, about: &Person) -> Value {
    let answer = who.ok(house, "/v1/presence/status", contacts(&[about])).await;
    answer["statuses"][0]["status"].clone()
}

/// Two who watch each other, each at their relay: both hear of both, and of nothing once one blocks the other.
async fn see_each_other((alice, near): (&Person, &House), (bob, far): (&Person, &House)) {
    let mut sockets = (alice.socket(near).await, bob.socket(far).await);
    alice.ok(near, "/v1/presence/watch", contacts(&[bob])).await;
    bob.ok(far, "/v1/presence/watch", contacts(&[alice])).await;
    lease(alice, near, false).await;
    lease(bob, far, false).await;
    hears(&mut sockets.0, bob, "online").await;
    hears(&mut sockets.1, alice, "online").await;
    assert_eq!(status(alice, near, bob).await, "online");
    assert_eq!(status(bob, far, alice).await, "online");
    lease(bob, far, true).await;
    hears(&mut sockets.0, bob, "offline").await;
    lease(bob, far, false).await;
    hears(&mut sockets.0, bob, "online").await;
    alice.ok(near, "/v1/presence/block", contacts(&[bob])).await;
    until("neither is there for the other", async || {
        let statuses = (status(alice, near, bob).await, status(bob, far, alice).await);
        statuses == (json!("unavailable"), json!("unavailable"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contacts_of_two_edges_see_each_other_over_their_hub() {
    let trio = Trio::open(FREE, FREE, FREE).await;
    let alice = Person::login(&trio.edge, 1, "d").await;
    let bob = Person::login(&trio.other, 2, "d").await;
    see_each_other((&alice, &trio.edge), (&bob, &trio.other)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contacts_see_each_other_whichever_relay_they_come_in_by() {
    // Alice lives at the hub and comes in by an edge; Bob lives at the other edge.
    let trio = Trio::open(FREE, &format!("{FREE}user_home = \"home-b\"\n"), FREE).await;
    let alice = Person::login(&trio.edge, 1, "d").await;
    let bob = Person::login(&trio.other, 2, "d").await;
    see_each_other((&alice, &trio.edge), (&bob, &trio.other)).await;
    // Carol lives at the hub as well, and comes in by Bob's relay.
    let at_hub = Person::login(&trio.home, 3, "d").await;
    drop(at_hub);
    let carol = Person::login(&trio.other, 3, "d").await;
    see_each_other((&carol, &trio.other), (&bob, &trio.other)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_speaks_for_those_who_live_there_alone() {
    // Alice and Carol live at the hub, and Alice comes in by an edge; Bob lives at the other edge.
    let trio = Trio::open(FREE, &format!("{FREE}user_home = \"home-b\"\n"), FREE).await;
    let alice = Person::login(&trio.edge, 1, "d").await;
    let bob = Person::login(&trio.other, 2, "d").await;
    let carol = Person::login(&trio.home, 3, "d").await;
    alice.ok(&trio.edge, "/v1/presence/watch", contacts(&[&bob, &carol])).await;
    bob.ok(&trio.other, "/v1/presence/watch", contacts(&[&alice])).await;
    carol.ok(&trio.home, "/v1/presence/watch", contacts(&[&alice])).await;
    lease(&carol, &trio.home, false).await;
    let _connected = bob.socket(&trio.other).await;
    let hub = &trio.home.node;
    until("Bob's relay asks the hub for Alice", async || {
        hub.presence.watchlist(&bob.id()).contains(&alice.id())
    })
    .await;
    let outbox = Arc::new(Outbox::new(OutboxLimits::default()));
    let _guest = hub.listen_elsewhere(alice.id(), None, &outbox).await.unwrap();
    let mut told = Vec::new();
    outbox.take(usize::MAX, &mut told);
    let about = told.iter().map(|item| match item {
        Item::State { about, .. } => *about,
        other => panic!("{other:?}"),
    });
    assert_eq!(about.collect::<Vec<_>>(), [carol.id()], "of Bob the hub knows nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_watched_before_they_first_came_is_seen_once_they_do() {
    let pair = Pair::open(FREE, FREE).await;
    let alice = Person::login(&pair.edge, 1, "d").await;
    let bob = crate::person::id(2);
    alice.ok(&pair.edge, "/v1/presence/watch", json!({ "contacts": [bob] })).await;
    lease(&alice, &pair.edge, false).await;
    let mut near = alice.socket(&pair.edge).await;
    // No relay knows him now.
    let asked = alice.ok(&pair.edge, "/v1/presence/status", json!({ "contacts": [bob] })).await;
    assert_eq!(asked["statuses"][0]["status"], "unavailable");
    let bob = Person::login(&pair.home, 2, "d").await;
    bob.ok(&pair.home, "/v1/presence/watch", contacts(&[&alice])).await;
    lease(&bob, &pair.home, false).await;
    let mut far = bob.socket(&pair.home).await;
    hears(&mut far, &alice, "online").await;
    hears(&mut near, &bob, "online").await;
}
