//! KeyPackages and the vault (`gateway.md` 10, 15).

use std::{collections::HashSet, time::SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use relay_testkit::mls::MlsDevice;
use serde_json::json;

use crate::{FREE, person::Person, support::House};

fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn a_storm_of_fetches_gets_each_package_once() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    let packages: Vec<String> = (0..200_u32).map(|n| STANDARD.encode(n.to_be_bytes())).collect();
    let body = json!({ "device_id": "d", "keypackages": packages, "last_resort": "bGFzdA==" });
    let published = alice.ok(&house, "/v1/keypackages", body).await;
    assert_eq!(
        (&published["served_by"], &published["available"]),
        (&json!("gw_local"), &json!(200))
    );
    let mut fetchers = Vec::new();
    for n in 10..18 {
        fetchers.push(Person::login(&house, n, "d").await);
    }
    let fetch = json!({ "user_id": alice.id(), "count": 3 }).to_string();
    let mut tasks = tokio::task::JoinSet::new();
    for round in 0..80 {
        let bearer = format!("Bearer {}", fetchers[round % fetchers.len()].token);
        let path = "/v1/keypackages/fetch";
        tasks.spawn(house.send("POST", path, &[("authorization", &bearer)], &fetch));
    }
    let mut given = HashSet::new();
    for answer in tasks.join_all().await {
        assert_eq!(answer.status, 200, "{}", answer.body);
        for package in answer.json()["keypackages"].as_array().unwrap() {
            if *package != "bGFzdA==" {
                assert!(given.insert(package.as_str().unwrap().to_owned()), "handed out twice");
            }
        }
    }
    assert_eq!(given, packages.iter().cloned().collect());
    let bob = &fetchers[0];
    let late =
        bob.ok(&house, "/v1/keypackages/fetch", json!({ "user_id": alice.id(), "count": 1 })).await;
    assert_eq!(
        (&late["keypackages"], &late["last_resort_used"]),
        (&json!(["bGFzdA=="]), &json!(true))
    );
    let pool = alice.get(&house, "/v1/keypackages/pool").await.json();
    assert_eq!(
        pool,
        json!({ "devices": [{ "device_id": "d", "available": 0, "last_resort": true }] })
    );
    let rotate = json!({ "device_id": "d", "revoke": true, "replacement": ["AAAA", packages[0]] });
    alice.ok(&house, "/v1/keypackages/rotate", rotate).await;
    let fetched =
        bob.ok(&house, "/v1/keypackages/fetch", json!({ "user_id": alice.id(), "count": 9 })).await;
    assert_eq!(fetched["keypackages"], json!(["AAAA"]), "what was handed out stays handed out");
    for (body, status) in [
        (json!({ "user_id": alice.id(), "count": -1 }), 400),
        (json!({ "user_id": alice.id(), "count": "1" }), 400),
        (json!({ "user_id": "nobody", "count": 1 }), 400),
        (json!({ "user_id": crate::person::id(77), "count": 1 }), 200),
        (json!({ "user_id": alice.id(), "count": 0 }), 200),
    ] {
        let answer = bob.post(&house, "/v1/keypackages/fetch", body.clone()).await;
        assert_eq!(answer.status, status, "{body}");
    }
    let foreign = json!({ "device_id": "other", "keypackages": [] });
    assert_eq!(alice.refused(&house, "/v1/keypackages", foreign).await.0, 401);
    let bad = json!({ "device_id": "d", "keypackages": ["!"] });
    assert_eq!(alice.refused(&house, "/v1/keypackages", bad).await.0, 400);
    house.close().await;
}

#[tokio::test]
async fn devices_of_the_profile_hand_in_what_verifies() {
    let house = House::open(FREE).await;
    let mut device = MlsDevice::new(1, 2);
    let alice = Person::login(&house, 1, &device.device_id()).await;
    let good = device.key_package(now_s());
    let mut other = MlsDevice::new(3, 2);
    let old = STANDARD.encode(device.key_package_with(1_000, 2_000, now_s()));
    let body = json!({
        "device_id": device.device_id(), "profile": "relay-mls/1",
        "key_packages": [good, other.key_package(now_s()), old, "AAAA", "!"],
        "last_resort": device.key_package(now_s()),
    });
    let published = alice.ok(&house, "/v1/keypackages", body).await;
    assert_eq!(published["available"], 1);
    let refused: Vec<u64> = published["refused"]
        .as_array()
        .unwrap()
        .iter()
        .map(|refused| refused["index"].as_u64().unwrap())
        .collect();
    assert_eq!(refused, [1, 2, 3, 4]);
    let mut socket = alice.socket(&house).await;
    socket.ask("session.start", "x", json!({})).await;
    socket.expect("error").await;
    let resumed = house
        .raw(
            "POST",
            "/v1/session/resume",
            &[],
            &json!({ "resume_token": alice.resume }).to_string(),
        )
        .await
        .json();
    assert_eq!(resumed["key_packages_left"], 1);
    assert_eq!(resumed["relay"]["features"], json!(["relay-mls/1"]));
    house.close().await;
}

#[tokio::test]
async fn a_device_hears_that_its_pool_runs_low() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    let bob = Person::login(&house, 2, "d").await;
    let packages: Vec<String> = (0..22_u32).map(|n| STANDARD.encode(n.to_be_bytes())).collect();
    alice.ok(&house, "/v1/keypackages", json!({ "device_id": "d", "keypackages": packages })).await;
    let mut socket = alice.socket(&house).await;
    socket.ask("inbox.subscribe", "i", json!({})).await;
    socket.ask("ping", "p", json!({})).await;
    socket.answer("p").await;
    let fetch = json!({ "user_id": alice.id(), "count": 2 });
    bob.ok(&house, "/v1/keypackages/fetch", fetch.clone()).await;
    bob.ok(&house, "/v1/keypackages/fetch", fetch.clone()).await;
    let event = socket.expect("inbox.event").await;
    assert_eq!(
        event["body"],
        json!({ "seq": 1, "kind": "key_packages_low", "key_packages_left": 18 })
    );
    bob.ok(&house, "/v1/keypackages/fetch", fetch).await;
    let page = alice.get(&house, "/v1/inbox/events").await.json();
    assert_eq!(page["items"].as_array().unwrap().len(), 1, "told once");
    socket.ask("inbox.ack", "", json!({ "seq": 1 })).await;
    socket.ask("ping", "q", json!({})).await;
    socket.answer("q").await;
    while !alice.get(&house, "/v1/inbox/events").await.json()["items"]
        .as_array()
        .unwrap()
        .is_empty()
    {}
    house.close().await;
}

#[tokio::test]
async fn vaults_are_compared_and_swapped() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    let bearer = format!("Bearer {}", alice.token);
    assert_eq!(alice.get(&house, "/v1/vault").await.json(), json!({ "version": 0, "blob": "" }));
    for (body, status, version) in [
        (json!({ "version": 0, "blob": "AAAA" }), 200, 1),
        (json!({ "version": 0, "blob": "BBBB" }), 409, 1),
        (json!({ "version": 1, "blob": "CCCC" }), 200, 2),
    ] {
        let put =
            house.raw("PUT", "/v1/vault", &[("authorization", &bearer)], &body.to_string()).await;
        assert_eq!((put.status, put.json()["version"].as_u64()), (status, Some(version)));
    }
    assert_eq!(
        alice.get(&house, "/v1/vault").await.json(),
        json!({ "version": 2, "blob": "CCCC" })
    );
    let large = json!({ "version": 2, "blob": STANDARD.encode(vec![0; (1 << 20) + 1]) });
    let refused =
        house.raw("PUT", "/v1/vault", &[("authorization", &bearer)], &large.to_string()).await;
    assert_eq!(refused.status, 413);
    house.close().await;
}
