//! Conversations and users of other homes, through an edge relay (`federation.md`, Homes).

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use relay_proto::mls::{KeyPackage, decode_base64};
use relay_testkit::mls::{MlsDevice, private_message, welcome};
use serde_json::{Value, json};

use crate::{
    FREE,
    person::{Person, hears},
    support::{House, pair::Pair},
};

/// An edge whose users live at the hub.
async fn edge_of_home() -> Pair {
    Pair::open(FREE, &format!("{FREE}user_home = \"home-b\"\n")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_is_made_and_served_at_its_home_through_an_edge() {
    let pair = edge_of_home().await;
    let alice = Person::login(&pair.edge, 1, "d").await;
    let bob = Person::login(&pair.home, 2, "d").await;
    alice.create(&pair.edge, "room", &[&bob]).await;
    // It is the home's, and nothing of it lies at the edge.
    assert_eq!(
        alice.refused(&pair.edge, "/v1/rooms/create", json!({ "conv_id": "room" })).await.0,
        400
    );
    let mut near = alice.socket(&pair.edge).await;
    near.follow("room", 1).await;
    near.expect("conv.subscribed").await;
    let mut far = bob.socket(&pair.home).await;
    far.follow("room", 1).await;
    far.expect("conv.subscribed").await;

    near.ask("conv.send", "s", json!({ "conv_id": "room", "msg_id": "m1", "env": "e1" })).await;
    let mut seen = (None, None);
    while seen.0.is_none() || seen.1.is_none() {
        let frame = near.next().await;
        match frame["t"].as_str() {
            Some("conv.acked") => seen.0 = Some(frame["body"].clone()),
            Some("conv.event") => seen.1 = Some(frame["body"].clone()),
            _ => panic!("{frame}"),
        }
    }
    for body in [seen.0.unwrap(), seen.1.unwrap(), far.expect("conv.event").await["body"].clone()] {
        assert_eq!(body["seq"], 1);
        assert_eq!(
            (&body["conv_home"], &body["origin_gateway"]),
            (&json!("home-b"), &json!("edge-a"))
        );
    }
    assert_eq!(bob.send(&pair.home, "room", "m2").await, 2);
    let event = near.expect("conv.event").await;
    assert_eq!(
        (&event["body"]["seq"], &event["body"]["origin_gateway"]),
        (&json!(2), &json!("home-b"))
    );
    // The same message again, through either relay, has its first number.
    assert_eq!(alice.send(&pair.edge, "room", "m1").await, 1);
    assert_eq!(alice.send(&pair.edge, "room", "m3").await, 3);
    // Cursors, marks and lists are the home's.
    near.expect("conv.event").await;
    near.ask("conv.ack", "a", json!({ "conv_id": "room", "seq": 2 })).await;
    let marked =
        alice.ok(&pair.edge, "/v1/conversations/mark_read", json!({ "conv_id": "room" })).await;
    assert_eq!(marked["last_read_seq"], 3);
    let list = alice.get(&pair.edge, "/v1/conversations").await.json();
    assert_eq!(list["items"][0]["home_gateway"], "home-b");
    assert_eq!(list["items"][0]["unread_count"], 0);
    let members = alice.get(&pair.edge, "/v1/rooms/members?conv_id=room").await.json();
    assert_eq!(members["members"].as_array().unwrap().len(), 2);
    let again = Person::login(&pair.edge, 1, "d").await;
    let mut socket = pair.edge.socket(&[]).await;
    socket.ask("session.resume", "r", json!({ "resume_token": again.resume })).await;
    let ready = socket.expect("session.ready").await;
    assert_eq!(ready["body"]["cursors"], json!([{ "conv_id": "room", "next_seq": 3 }]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_listeners_of_an_edge_are_one_stream_of_the_home() {
    let pair = edge_of_home().await;
    let alice = Person::login(&pair.home, 1, "d").await;
    let mut people = Vec::new();
    for n in 2..=4 {
        people.push(Person::login(&pair.edge, n, "d").await);
    }
    alice.create(&pair.home, "room", &people.iter().collect::<Vec<_>>()).await;
    let mut sockets = Vec::new();
    for n in 0..9 {
        let mut socket = people[n % 3].socket(&pair.edge).await;
        socket.follow("room", 1).await;
        socket.expect("conv.subscribed").await;
        sockets.push(socket);
    }
    assert_eq!(pair.edge.node.followed_afar(), 1);
    for n in 1..=20 {
        alice.send(&pair.home, "room", &format!("m{n}")).await;
    }
    for socket in &mut sockets {
        for n in 1..=20 {
            assert_eq!(socket.seq().await, n);
        }
    }
    // Whoever is removed hears it at once, and nothing after it; the others go on.
    let gone = json!({ "conv_id": "room", "members": [people[0].id()] });
    alice.ok(&pair.home, "/v1/rooms/remove", gone).await;
    alice.send(&pair.home, "room", "m21").await;
    for (n, socket) in sockets.iter_mut().enumerate() {
        if n % 3 == 0 {
            let error = socket.expect("error").await;
            assert_eq!(error["body"]["message"], "membership revoked");
            socket.ask("ping", "p", json!({})).await;
            socket.expect("pong").await;
        } else {
            assert_eq!(socket.seq().await, 21);
        }
    }
    drop(sockets);
    pair.edge.until("end of the stream", |node| node.followed_afar() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_that_are_cut_cost_followers_and_senders_nothing() {
    const MESSAGES: u64 = 120;
    let pair = edge_of_home().await;
    let alice = Person::login(&pair.edge, 1, "d").await;
    let bob = Person::login(&pair.home, 2, "d").await;
    alice.create(&pair.edge, "room", &[&bob]).await;
    let mut reader = alice.socket(&pair.edge).await;
    reader.follow("room", 1).await;
    reader.expect("conv.subscribed").await;
    let near = async {
        for n in 0..MESSAGES {
            if n % 40 == 20 {
                pair.cut();
            }
            let frame = json!({ "v": 1, "t": "conv.send", "body": {
                "conv_id": "room", "msg_id": format!("a{n}"), "env": "e" } });
            loop {
                let answer = alice.post(&pair.edge, "/v1/inbox", frame.clone()).await;
                match answer.code().as_str() {
                    "home_unreachable" | "timeout" => pause().await,
                    _ => {
                        assert_eq!(answer.status, 200, "{}", answer.body);
                        break;
                    }
                }
            }
        }
    };
    let far = async {
        for n in 0..MESSAGES {
            bob.send(&pair.home, "room", &format!("b{n}")).await;
            tokio::task::yield_now().await;
        }
    };
    let reading = async {
        let mut seen = std::collections::HashSet::new();
        for n in 1..=2 * MESSAGES {
            let event = reader.expect("conv.event").await;
            assert_eq!(event["body"]["seq"], n);
            assert!(seen.insert(event["body"]["msg_id"].as_str().unwrap().to_owned()));
        }
    };
    tokio::join!(near, far, reading);
}

async fn pause() {
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_at_a_users_home_is_reached_through_the_edge() {
    let pair = edge_of_home().await;
    let alice = Person::login(&pair.edge, 1, "d").await;
    let packages: Vec<String> = (0..3_u32).map(|n| STANDARD.encode(n.to_be_bytes())).collect();
    let body = json!({ "device_id": "d", "keypackages": packages });
    let published = alice.ok(&pair.edge, "/v1/keypackages", body).await;
    assert_eq!(
        (&published["user_home_gateway"], &published["available"]),
        (&json!("home-b"), &json!(3))
    );
    let pool = alice.get(&pair.edge, "/v1/keypackages/pool").await.json();
    assert_eq!(pool["devices"][0]["available"], 3);
    let bob = Person::login(&pair.home, 2, "d").await;
    let carol = Person::login(&pair.edge, 3, "d").await;
    let fetch = json!({ "user_id": alice.id(), "count": 1 });
    let mut given = Vec::new();
    for (who, house) in [(&bob, &pair.home), (&carol, &pair.edge)] {
        let fetched = who.ok(house, "/v1/keypackages/fetch", fetch.clone()).await;
        assert_eq!(fetched["user_home_gateway"], "home-b");
        given.push(fetched["keypackages"][0].clone());
    }
    assert_eq!(given, [json!(packages[0]), json!(packages[1])]);

    let vault = alice.get(&pair.edge, "/v1/vault").await.json();
    let body = json!({ "version": vault["version"], "blob": "AQID" });
    let bearer = format!("Bearer {}", alice.token);
    let headers = [("authorization", bearer.as_str())];
    let put = pair.edge.raw("PUT", "/v1/vault", &headers, &body.to_string()).await;
    assert_eq!(put.status, 200, "{}", put.body);
    assert_eq!(alice.get(&pair.edge, "/v1/vault").await.json()["blob"], "AQID");
    assert_eq!(pair.edge.node.store.user(alice.id()).await.unwrap().key_packages, 0);
    assert_eq!(pair.home.node.store.user(alice.id()).await.unwrap().key_packages, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_way_nothing_is_stored_and_without_a_grant_nothing_is_forwarded() {
    let lonely = format!("{FREE}user_home = \"nobody\"\n");
    let edge = House::open(&lonely).await;
    let alice = Person::login(&edge, 1, "d").await;
    let (status, code, _) =
        alice.refused(&edge, "/v1/rooms/create", json!({ "conv_id": "r" })).await;
    assert_eq!((status, code.as_str()), (503, "home_unreachable"));
    let frame =
        json!({ "v": 1, "t": "conv.send", "body": { "conv_id": "r", "msg_id": "m", "env": "e" } });
    let refused = alice.post(&edge, "/v1/inbox", frame.clone()).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "home_unreachable"));
    assert!(refused.header("retry-after").is_some());
    let mut socket = alice.socket(&edge).await;
    socket.follow("r", 1).await;
    assert_eq!(socket.expect("error").await["body"]["code"], "home_unreachable");

    let pair = edge_of_home().await;
    let alice = Person::login(&pair.edge, 1, "d").await;
    alice.create(&pair.edge, "room", &[]).await;
    let bare = Person::login_without_grant(&pair.edge, 1, "d").await;
    let refused = bare
        .post(
            &pair.edge,
            "/v1/inbox",
            json!({ "v": 1, "t": "conv.send", "body": {
        "conv_id": "room", "msg_id": "m", "env": "e" } }),
        )
        .await;
    assert_eq!((refused.status, &refused.json()["grant_for"]), (401, &json!("edge-a")));
    let stranger = Person::login(&pair.edge, 9, "d").await;
    let message = |answer: &Value| (answer["code"].clone(), answer["message"].clone());
    let mine = stranger.get(&pair.edge, "/v1/rooms/members?conv_id=room").await.json();
    let none = stranger.get(&pair.edge, "/v1/rooms/members?conv_id=nothing").await.json();
    assert_eq!(message(&mine), message(&none));
    assert_eq!(alice.send(&pair.edge, "room", "m").await, 1);
}

/// Two relays that are each the home of those who first came to them.
async fn two_homes() -> Pair {
    Pair::open(FREE, FREE).await
}

/// Asks until the answer is as it should be.
async fn until(
    person: &Person,
    house: &House,
    path: &str,
    holds: impl Fn(&Value) -> bool,
) -> Value {
    let wait = async {
        loop {
            let answer = person.get(house, path).await.json();
            if holds(&answer) {
                return answer;
            }
            pause().await;
        }
    };
    let patience = std::time::Duration::from_secs(20);
    tokio::time::timeout(patience, wait).await.unwrap_or_else(|_| panic!("{path} stays as it is"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invited_user_of_another_home_finds_the_conversation_there() {
    let pair = two_homes().await;
    let bob = Person::login(&pair.home, 2, "d").await;
    let alice = Person::login(&pair.edge, 1, "d").await;
    alice.create(&pair.edge, "ours", &[&bob]).await;
    bob.create(&pair.home, "mine", &[]).await;
    // The list has those of all homes.
    let list = until(&bob, &pair.home, "/v1/conversations", |list| {
        list["items"].as_array().unwrap().len() == 2
    });
    let homes: Vec<Value> = list.await["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["home_gateway"].clone())
        .collect();
    assert!(homes.contains(&json!("edge-a")) && homes.contains(&json!("home-b")), "{homes:?}");
    let mut reader = bob.socket(&pair.home).await;
    reader.follow("ours", 1).await;
    reader.expect("conv.subscribed").await;
    assert_eq!(alice.send(&pair.edge, "ours", "a").await, 1);
    assert_eq!(bob.send(&pair.home, "ours", "b").await, 2);
    for seq in 1..=2 {
        let event = reader.expect("conv.event").await;
        assert_eq!(
            (&event["body"]["seq"], &event["body"]["conv_home"]),
            (&json!(seq), &json!("edge-a"))
        );
    }
    let marked = bob.ok(&pair.home, "/v1/conversations/mark_all_read", json!({})).await;
    assert_eq!(marked["updated_conv_ids"], json!(["ours"]));
    // A home that is out of reach is named, and the rest is there.
    let edge_gone = pair.edge;
    edge_gone.close().await;
    let list = bob.get(&pair.home, "/v1/conversations").await.json();
    assert_eq!(
        (&list["unreachable"], &list["items"][0]["conv_id"]),
        (&json!(["edge-a"]), &json!("mine"))
    );
    let frame = json!({ "v": 1, "t": "conv.send", "body": { "conv_id": "ours", "msg_id": "c", "env": "e" } });
    assert_eq!(bob.post(&pair.home, "/v1/inbox", frame).await.code(), "home_unreachable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_whom_nobody_knows_hold_up_nobody_elses_mail() {
    const UNKNOWN: u16 = 400;
    let pair = two_homes().await;
    let alice = Person::login(&pair.edge, 1, "d").await;
    let bob = Person::login(&pair.home, 2, "d").await;
    let nobody = |n: u16| {
        let mut seed = [7; 32];
        seed[..2].copy_from_slice(&n.to_be_bytes());
        relay_proto::SigningKey::from_seed(seed).node_id()
    };
    let members: Vec<_> = (0..UNKNOWN).map(nobody).collect();
    let room = json!({ "conv_id": "ours", "members": members });
    alice.ok(&pair.edge, "/v1/rooms/create", room).await;
    let invite = json!({ "conv_id": "ours", "members": [bob.id()] });
    alice.ok(&pair.edge, "/v1/rooms/invite", invite).await;
    until(&bob, &pair.home, "/v1/conversations", |list| list["items"][0]["conv_id"] == "ours")
        .await;
    // Theirs waits for them.
    let waiting = async || pair.edge.node.store.mail_users(None, 1_000).await.unwrap().len();
    let only_theirs = async {
        while waiting().await != usize::from(UNKNOWN) {
            pause().await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, only_theirs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_removed_is_not_listed_any_longer() {
    let pair = two_homes().await;
    let bob = Person::login(&pair.home, 2, "d").await;
    let alice = Person::login(&pair.edge, 1, "d").await;
    alice.create(&pair.edge, "ours", &[]).await;
    let target = json!({ "conv_id": "ours", "members": [bob.id()] });
    for round in 0..3 {
        alice.ok(&pair.edge, "/v1/rooms/invite", target.clone()).await;
        until(&bob, &pair.home, "/v1/conversations", |list| list["items"][0]["conv_id"] == "ours")
            .await;
        if round == 1 {
            pair.cut();
        }
        alice.ok(&pair.edge, "/v1/rooms/remove", target.clone()).await;
        until(&bob, &pair.home, "/v1/conversations", |list| list["items"] == json!([])).await;
    }
    // An invitation of somebody whom no relay knows yet waits for them.
    let carol = json!({ "conv_id": "ours", "members": [crate::person::id(3)] });
    alice.ok(&pair.edge, "/v1/rooms/invite", carol).await;
    let carol = Person::login(&pair.home, 3, "d").await;
    until(&carol, &pair.home, "/v1/conversations", |list| list["items"][0]["conv_id"] == "ours")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_welcome_travels_to_the_home_of_the_invited() {
    let pair = two_homes().await;
    let now_s = || pair.home.node.clock.wall_ns() / 1_000_000_000;
    let mut device = MlsDevice::new(2, 1);
    let bob = Person::login(&pair.home, 2, &device.device_id()).await;
    let body = json!({
        "device_id": device.device_id(), "profile": "relay-mls/1",
        "key_packages": [device.key_package(now_s())],
    });
    bob.ok(&pair.home, "/v1/keypackages", body).await;
    let alice = Person::login(&pair.edge, 1, &MlsDevice::new(1, 1).device_id()).await;
    let fetch = json!({ "user_id": bob.id(), "count": 1, "per_device": true });
    // Strangers get nothing.
    let nothing = alice.ok(&pair.edge, "/v1/keypackages/fetch", fetch.clone()).await;
    assert_eq!((&nothing["keypackages"], &nothing["served_by"]), (&json!([]), &json!("home-b")));
    let watch = json!({ "contacts": [alice.id()] });
    bob.ok(&pair.home, "/v1/presence/watch", watch).await;
    let fetched = alice.ok(&pair.edge, "/v1/keypackages/fetch", fetch).await;
    let package = decode_base64(fetched["keypackages"][0].as_str().unwrap()).unwrap();
    let reference = STANDARD.encode(KeyPackage::parse(&package).unwrap().reference);

    let conv = URL_SAFE_NO_PAD.encode([7; 32]);
    let room = json!({ "conv_id": conv, "profile": "relay-mls/1", "kind": "room" });
    alice.ok(&pair.edge, "/v1/rooms/create", room).await;
    let mut inbox = bob.socket(&pair.home).await;
    inbox.ask("inbox.subscribe", "i", json!({})).await;
    // The way is cut when the welcome sets out.
    pair.cut();
    let commit = json!({
        "conv_id": conv, "msg_id": "add bob", "env": private_message(&[7; 32], 0, 3, b"add bob"),
        "group_info": { "epoch": 1, "sealed": "AQID" }, "members_add": [bob.id()],
        "welcomes": [{ "env": welcome(), "to": [{
            "user_id": bob.id(), "device_id": device.device_id(), "key_package_ref": reference }] }],
    });
    alice.ok(&pair.edge, "/v1/conversations/commit", commit).await;
    let entry = inbox.expect("inbox.event").await;
    assert_eq!(
        entry["body"],
        json!({ "seq": 1, "kind": "welcome", "conv_id": conv, "conv_home": "edge-a", "conv_seq": 1,
            "inviter": alice.id(), "env": welcome() })
    );
    let info = bob.get(&pair.home, &format!("/v1/conversations/group_info?conv_id={conv}")).await;
    assert_eq!(info.json(), json!({ "epoch": 1, "group_info": "AQID" }));
    let send = json!({ "v": 1, "t": "conv.send", "body": { "conv_id": conv, "msg_id": "app",
        "kind": "application", "env": private_message(&[7; 32], 1, 1, b"hello") } });
    assert_eq!(bob.ok(&pair.home, "/v1/inbox", send).await["seq"], 2);
    // A device that has lost everything asks the others, wherever they live.
    let asked = alice
        .ok(
            &pair.edge,
            "/v1/conversations/rejoin_request",
            json!({
        "conv_id": conv, "members": [bob.id()] }),
        )
        .await;
    assert_eq!(asked["asked"], 1);
    let entry = inbox.expect("inbox.event").await;
    assert_eq!(
        (&entry["body"]["seq"], &entry["body"]["kind"]),
        (&json!(2), &json!("rejoin_request"))
    );
    assert_eq!(
        (&entry["body"]["user_id"], &entry["body"]["conv_home"]),
        (&json!(alice.id()), &json!("edge-a"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contacts_of_other_homes_see_each_other() {
    let pair = two_homes().await;
    let alice = Person::login(&pair.edge, 1, "d").await;
    let bob = Person::login(&pair.home, 2, "d").await;
    let carol = Person::login(&pair.edge, 3, "d").await;
    let watch = |who: &Person| json!({ "contacts": [who.id()] });
    alice.ok(&pair.edge, "/v1/presence/watch", watch(&bob)).await;
    carol.ok(&pair.edge, "/v1/presence/watch", watch(&bob)).await;
    bob.ok(&pair.home, "/v1/presence/watch", watch(&alice)).await;
    let mut near = alice.socket(&pair.edge).await;
    let mut stranger = carol.socket(&pair.edge).await;
    let lease = json!({ "device_id": "d", "ttl_seconds": 60 });
    bob.ok(&pair.home, "/v1/presence/lease", lease.clone()).await;
    hears(&mut near, &bob, "online").await;
    let status = alice.ok(&pair.edge, "/v1/presence/status", watch(&bob)).await;
    assert_eq!(status["statuses"][0]["status"], "online");
    let status = carol.ok(&pair.edge, "/v1/presence/status", watch(&bob)).await;
    assert_eq!(status["statuses"][0]["status"], "unavailable");
    // After the way was broken the news come again.
    pair.cut();
    pair.linked().await;
    let invisible = json!({ "device_id": "d", "ttl_seconds": 60, "invisible": true });
    bob.ok(&pair.home, "/v1/presence/lease", invisible).await;
    hears(&mut near, &bob, "offline").await;
    bob.ok(&pair.home, "/v1/presence/block", watch(&alice)).await;
    bob.ok(
        &pair.home,
        "/v1/presence/lease",
        json!({ "device_id": "d", "ttl_seconds": 60, "invisible": false }),
    )
    .await;
    let status = alice.ok(&pair.edge, "/v1/presence/status", watch(&bob)).await;
    assert_eq!(status["statuses"][0]["status"], "unavailable");
    // The way back may have told once more how it was before.
    near.ask("ping", "p", json!({})).await;
    loop {
        let frame = near.next().await;
        if frame["t"] == "pong" {
            break;
        }
        assert_eq!(
            (&frame["t"], &frame["body"]["status"]),
            (&json!("presence.update"), &json!("offline"))
        );
    }
    stranger.ask("ping", "p", json!({})).await;
    stranger.expect("pong").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_that_are_restarted_at_random_lose_nothing() {
    const ROUNDS: u64 = 6;
    const EACH: u64 = 15;
    let mut pair = two_homes().await;
    let bob = Person::login(&pair.home, 2, "d").await;
    let alice = Person::login(&pair.edge, 1, "d").await;
    alice.create(&pair.edge, "ours", &[&bob]).await;
    until(&bob, &pair.home, "/v1/conversations", |list| list["items"][0]["conv_id"] == "ours")
        .await;
    let mut seen = [0, 0];
    // The same on each run, and like chance.
    let mut dice = 7_u64;
    for round in 0..ROUNDS {
        let send = |house: &House, who: &Person, n: u64| {
            let msg = format!("{}-{round}-{n}", who.n);
            let frame = json!({ "v": 1, "t": "conv.send", "body": { "conv_id": "ours", "msg_id": msg, "env": "e" } });
            let bearer = format!("Bearer {}", who.token);
            house.try_send("POST", "/v1/inbox", &[("authorization", &bearer)], &frame.to_string())
        };
        let mut under_way = tokio::task::JoinSet::new();
        for n in 0..EACH {
            under_way.spawn(send(&pair.edge, &alice, n));
            under_way.spawn(send(&pair.home, &bob, n));
        }
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if dice >> 63 == 0 {
            pair = pair.restart_home().await;
        } else {
            pair = pair.restart_edge().await;
        }
        under_way.join_all().await;
        // Whatever happened to them: sent again, each has its effect once.
        for (house, who) in [(&pair.edge, &alice), (&pair.home, &bob)] {
            for n in 0..EACH {
                loop {
                    match send(house, who, n).await {
                        Some(answer) if answer.status == 200 => break,
                        Some(answer) => {
                            assert_eq!(answer.code(), "home_unreachable", "{}", answer.body)
                        }
                        None => {}
                    }
                    pause().await;
                }
            }
        }
        for (at, (house, who)) in [(&pair.edge, &alice), (&pair.home, &bob)].into_iter().enumerate()
        {
            let mut socket = who.socket(house).await;
            socket.follow("ours", seen[at] + 1).await;
            while seen[at] < (round + 1) * 2 * EACH {
                let event = socket.next().await;
                if event["t"] == "conv.event" {
                    assert_eq!(event["body"]["seq"], seen[at] + 1);
                    seen[at] += 1;
                }
            }
        }
    }
    let list = alice.get(&pair.edge, "/v1/conversations").await.json();
    assert_eq!(list["items"][0]["latest_seq"], ROUNDS * 2 * EACH);
}
