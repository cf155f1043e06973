//! Conversations under the MLS profile (`gateway.md` 15, `mls-profile.md` 6).

use std::time::SystemTime;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use relay_proto::mls::{KeyPackage, decode_base64};
use relay_testkit::mls::{MlsDevice, private_message, welcome};
use serde_json::{Value, json};

use crate::{FREE, person::Person, support::House};

const GROUP: [u8; 32] = [7; 32];

fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// Alice with a conversation of the profile, Bob with two devices in the directory.
struct Scene {
    house: House,
    alice: Person,
    bobs: Vec<Person>,
    conv: String,
}

impl Scene {
    async fn open() -> Self {
        let house = House::open(FREE).await;
        let alice = Person::login(&house, 1, &MlsDevice::new(1, 1).device_id()).await;
        let mut bobs = Vec::new();
        for n in 1..=2 {
            let mut device = MlsDevice::new(2, n);
            let bob = Person::login(&house, 2, &device.device_id()).await;
            let body = json!({
                "device_id": device.device_id(), "profile": "relay-mls/1",
                "key_packages": [device.key_package(now_s())],
            });
            let published = bob.ok(&house, "/v1/keypackages", body).await;
            assert_eq!(published["available"], 1, "{published}");
            bobs.push(bob);
        }
        // Packages of the profile are for contacts.
        bobs[0].ok(&house, "/v1/presence/watch", json!({ "contacts": [alice.id()] })).await;
        let conv = URL_SAFE_NO_PAD.encode(GROUP);
        let room = json!({ "conv_id": conv, "profile": "relay-mls/1", "kind": "room" });
        alice.ok(&house, "/v1/rooms/create", room).await;
        Self { house, alice, bobs, conv }
    }
}

fn commit(conv: &str, msg: &str, epoch: u64) -> Value {
    json!({
        "conv_id": conv, "msg_id": msg, "env": private_message(&GROUP, epoch, 3, msg.as_bytes()),
        "group_info": { "epoch": epoch + 1, "sealed": "AQID" },
    })
}

#[tokio::test]
async fn a_commit_brings_its_welcomes_and_members() {
    let Scene { house, alice, bobs, conv } = Scene::open().await;
    let fetch = json!({ "user_id": bobs[0].id(), "count": 1, "per_device": true });
    let fetched = alice.ok(&house, "/v1/keypackages/fetch", fetch).await;
    let devices = fetched["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 2, "one of each device");
    let to: Vec<Value> = devices
        .iter()
        .map(|device| {
            let bytes = decode_base64(device["keypackages"][0].as_str().unwrap()).unwrap();
            let reference = STANDARD.encode(KeyPackage::parse(&bytes).unwrap().reference);
            json!({ "user_id": bobs[0].id(), "device_id": device["device_id"], "key_package_ref": reference })
        })
        .collect();
    let mut inbox = bobs[1].socket(&house).await;
    inbox.ask("inbox.subscribe", "i", json!({})).await;
    let mut reader = alice.socket(&house).await;
    reader.follow(&conv, 1).await;
    reader.expect("conv.subscribed").await;
    let mut commit = commit(&conv, "add bob", 0);
    commit["members_add"] = json!([bobs[0].id()]);
    commit["welcomes"] = json!([{ "env": welcome(), "to": to }]);
    let mut wrong = commit.clone();
    wrong["welcomes"][0]["to"][0]["key_package_ref"] = STANDARD.encode([9; 32]).into();
    assert_eq!(alice.refused(&house, "/v1/conversations/commit", wrong).await.0, 400);
    let mut socket = alice.socket(&house).await;
    socket.ask("conv.commit", "c", commit.clone()).await;
    let acked = socket.answer("c").await;
    assert_eq!(acked["t"], "conv.acked", "{acked}");
    assert_eq!((&acked["body"]["seq"], &acked["body"]["epoch"]), (&json!(1), &json!(1)));
    let event = reader.expect("conv.event").await;
    assert_eq!((&event["body"]["kind"], &event["body"]["epoch"]), (&json!("commit"), &json!(0)));
    let entry = inbox.expect("inbox.event").await;
    assert_eq!(
        entry["body"],
        json!({ "seq": 1, "kind": "welcome", "conv_id": conv, "conv_home": "gw_local", "conv_seq": 1,
            "inviter": alice.id(), "env": welcome() })
    );
    // Each device has its own; no other device sees it.
    let first = bobs[0].get(&house, "/v1/inbox/events").await.json();
    assert_eq!((&first["items"][0]["seq"], &first["latest_seq"]), (&json!(1), &json!(1)));
    let none = alice.get(&house, "/v1/inbox/events").await.json();
    assert_eq!(none["items"], json!([]));
    let again = alice.ok(&house, "/v1/conversations/commit", commit).await;
    assert_eq!((&again["seq"], &again["duplicate"]), (&json!(1), &json!(true)));
    let info = bobs[0].get(&house, &format!("/v1/conversations/group_info?conv_id={conv}")).await;
    assert_eq!(info.json(), json!({ "epoch": 1, "group_info": "AQID" }));
    let application = |epoch| {
        json!({ "v": 1, "t": "conv.send", "body": {
            "conv_id": conv, "msg_id": "app", "kind": "application",
            "env": private_message(&GROUP, epoch, 1, b"hello"),
        } })
    };
    let stale = bobs[0].post(&house, "/v1/inbox", application(0)).await;
    assert_eq!((stale.status, stale.code().as_str()), (409, "conflict"));
    let body = stale.json();
    assert_eq!(
        (&body["reason"], &body["epoch"], &body["head_seq"]),
        (&json!("stale_epoch"), &json!(1), &json!(1))
    );
    let future = bobs[0].post(&house, "/v1/inbox", application(9)).await;
    assert_eq!(future.json()["reason"], "future_epoch");
    assert_eq!(bobs[0].ok(&house, "/v1/inbox", application(1)).await["seq"], 2);
    let item = bobs[0].get(&house, "/v1/conversations").await.json()["items"][0].clone();
    assert_eq!((&item["profile"], &item["kind"]), (&json!("relay-mls/1"), &json!("room")));
    house.close().await;
}

#[tokio::test]
async fn commits_race_and_one_wins_each_epoch() {
    let scene = Scene::open().await;
    let (house, alice) = (&scene.house, &scene.alice);
    let mut sockets = Vec::new();
    for _ in 0..4 {
        sockets.push(alice.socket(house).await);
    }
    for epoch in 0..10_u64 {
        for (n, socket) in sockets.iter_mut().enumerate() {
            let commit = commit(&scene.conv, &format!("{epoch}-{n}"), epoch);
            socket.ask("conv.commit", "c", commit).await;
        }
        let mut won = 0;
        for socket in &mut sockets {
            let answer = socket.answer("c").await;
            match answer["t"].as_str().unwrap() {
                "conv.acked" => won += 1,
                _ => {
                    assert_eq!(answer["body"]["code"], "conflict", "{answer}");
                    assert_eq!(answer["body"]["reason"], "stale_epoch");
                    assert_eq!(answer["body"]["epoch"], epoch + 1);
                }
            }
        }
        assert_eq!(won, 1, "epoch {epoch}");
    }
    let mut reader = alice.socket(house).await;
    reader.follow(&scene.conv, 1).await;
    for n in 1..=10 {
        assert_eq!(reader.seq().await, n);
    }
    scene.house.close().await;
}

#[tokio::test]
async fn direct_messages_of_the_profile_have_two_members() {
    let Scene { house, alice, bobs, .. } = Scene::open().await;
    let conv = URL_SAFE_NO_PAD.encode([8; 32]);
    let dm = json!({ "peer_user_id": bobs[0].id(), "conv_id": conv, "profile": "relay-mls/1" });
    alice.ok(&house, "/v1/dms/create", dm).await;
    let short =
        json!({ "peer_user_id": bobs[0].id(), "conv_id": "dm_x", "profile": "relay-mls/1" });
    assert_eq!(alice.refused(&house, "/v1/dms/create", short).await.0, 400);
    let body = json!({ "conv_id": conv, "members": [crate::person::id(9)] });
    for path in ["/v1/rooms/invite", "/v1/rooms/mute", "/v1/rooms/promote"] {
        assert_eq!(alice.refused(&house, path, body.clone()).await.2, "not a room", "{path}");
        let stranger = Person::login(&house, 5, "d").await;
        assert_eq!(stranger.refused(&house, path, body.clone()).await.2, "forbidden", "{path}");
    }
    house.close().await;
}
