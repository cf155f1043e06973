//! Presence (`gateway.md` 11).

use serde_json::{Value, json};

use crate::{
    FREE,
    person::{Person, id},
    support::House,
};

fn contacts(users: &[u8]) -> Value {
    json!({ "contacts": users.iter().map(|n| id(*n)).collect::<Vec<_>>() })
}

async fn status(person: &Person, house: &House, of: u8) -> Value {
    person.ok(house, "/v1/presence/status", contacts(&[of])).await["statuses"][0].clone()
}

#[tokio::test]
async fn only_those_who_watch_each_other_see_each_other() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    let bob = Person::login(&house, 2, "d").await;
    let mut alices = alice.socket(&house).await;
    let lease = json!({ "device_id": "d", "ttl_seconds": 60 });
    bob.ok(&house, "/v1/presence/lease", lease.clone()).await;
    alices.ask("presence.watch", "w", contacts(&[2])).await;
    let watching = alices.expect("presence.watching").await;
    assert_eq!((&watching["id"], &watching["body"]), (&json!("w"), &json!({ "watching": 1 })));
    let mut unavailable = status(&alice, &house, 2).await;
    assert!(unavailable["expires_at"].take().is_u64());
    for other in [1, 9] {
        let mut same = status(&alice, &house, other).await;
        same["expires_at"].take();
        same["user_id"] = unavailable["user_id"].clone();
        assert_eq!(same, unavailable, "strangers and oneself look alike");
    }
    assert_eq!(
        (&unavailable["status"], &unavailable["last_seen_bucket"]),
        (&json!("unavailable"), &json!("7d"))
    );
    bob.ok(&house, "/v1/presence/watch", contacts(&[1])).await;
    assert_eq!(status(&alice, &house, 2).await["status"], "online");
    let renewed =
        bob.ok(&house, "/v1/presence/renew", json!({ "device_id": "d", "ttl_seconds": 999 })).await;
    let update = alices.expect("presence.update").await;
    assert_eq!(
        update["body"],
        json!({ "user_id": id(2), "status": "online", "expires_at": renewed["expires_at"], "last_seen_bucket": "now" })
    );
    let hidden = json!({ "device_id": "d", "ttl_seconds": 60, "invisible": true });
    bob.ok(&house, "/v1/presence/renew", hidden).await;
    assert_eq!(alices.expect("presence.update").await["body"]["status"], "offline");
    bob.ok(&house, "/v1/presence/renew", lease.clone()).await;
    alices.ask("ping", "p", json!({})).await;
    alices.expect("pong").await;
    bob.ok(&house, "/v1/presence/lease", lease).await;
    assert_eq!(alices.expect("presence.update").await["body"]["status"], "online");
    bob.ok(&house, "/v1/presence/block", contacts(&[1])).await;
    assert_eq!(status(&alice, &house, 2).await["status"], "unavailable");
    let blocked = bob.get(&house, "/v1/presence/blocklist").await;
    assert_eq!(blocked.json(), json!({ "blocked": [id(1)] }));
    assert_eq!(blocked.header("cache-control"), Some("no-store"));
    house.close().await;
}

#[tokio::test]
async fn leases_end_and_blocklists_do_not() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    let bob = Person::login(&house, 2, "d").await;
    alice.ok(&house, "/v1/presence/watch", contacts(&[2])).await;
    bob.ok(&house, "/v1/presence/watch", contacts(&[1])).await;
    alice.ok(&house, "/v1/presence/block", contacts(&[7])).await;
    let house = house.reopen(FREE).await;
    let blocked = alice.get(&house, "/v1/presence/blocklist").await.json();
    assert_eq!(blocked, json!({ "blocked": [id(7)] }));
    // Watchlists were kept as well.
    let lease = json!({ "device_id": "d", "ttl_seconds": 1 });
    let mut socket = alice.socket(&house).await;
    let ends = bob.ok(&house, "/v1/presence/lease", lease).await["expires_at"].as_u64().unwrap();
    assert_eq!(socket.expect("presence.update").await["body"]["status"], "online");
    // A lease is at least 15 s, as the patience of this test is at least.
    let offline = socket.expect("presence.update").await;
    assert_eq!(
        (&offline["body"]["status"], &offline["body"]["expires_at"]),
        (&json!("offline"), &json!(ends))
    );
    house.close().await;
}

#[tokio::test]
async fn scraping_is_throttled_and_lists_are_bounded() {
    let house = House::open("[presence]\nstatus_per_min = 2\nwatchlist_max = 3\n").await;
    let alice = Person::login(&house, 1, "d").await;
    for _ in 0..2 {
        alice.ok(&house, "/v1/presence/status", contacts(&[2, 2, 3])).await;
    }
    let refused = alice.post(&house, "/v1/presence/status", contacts(&[2])).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
    assert_eq!(refused.header("cache-control"), Some("no-store"));
    alice.ok(&house, "/v1/presence/watch", contacts(&[2, 3])).await;
    let many = alice.refused(&house, "/v1/presence/watch", contacts(&[4, 5])).await;
    assert_eq!((many.0, many.1.as_str()), (429, "limit_exceeded"));
    let fewer = alice.ok(&house, "/v1/presence/unwatch", contacts(&[2])).await;
    assert_eq!(fewer, json!({ "status": "ok", "watching": 1 }));
    for body in [json!({}), json!({ "contacts": "x" }), json!({ "contacts": [1] }), json!([])] {
        assert_eq!(
            alice.refused(&house, "/v1/presence/watch", body.clone()).await.0,
            400,
            "{body}"
        );
    }
    let foreign = json!({ "device_id": "other", "ttl_seconds": 60 });
    assert_eq!(alice.refused(&house, "/v1/presence/lease", foreign).await.0, 401);
    let bad = json!({ "device_id": "d", "ttl_seconds": "60" });
    assert_eq!(alice.refused(&house, "/v1/presence/lease", bad).await.0, 400);
    house.close().await;
}
