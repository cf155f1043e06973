//! Sending and following (`gateway.md` 2, 5, 6, 17).

use std::collections::BTreeSet;

use serde_json::json;

use crate::{
    FREE,
    person::{Person, frame, refusal},
    support::House,
};

#[tokio::test]
async fn a_session_from_start_to_end() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "laptop").await;
    let bob = Person::login(&house, 2, "phone").await;
    alice.create(&house, "room", &[&bob]).await;
    let mut socket = house.socket(&[]).await;
    socket.ask("conv.send", "0", json!({})).await;
    assert_eq!(socket.expect("error").await["body"]["code"], "unauthorized");
    socket.ask("session.resume", "1", json!({ "resume_token": alice.resume })).await;
    let ready = socket.expect("session.ready").await;
    assert_eq!(ready["body"]["cursors"], json!([]));
    assert_eq!(ready["body"]["inbox_next_seq"], 1);
    socket.ask("conv.subscribe", "2", json!({ "conv_id": "room" })).await;
    let send = json!({ "conv_id": "room", "msg_id": "m_01", "env": "AAEAAg==" });
    socket.ask("conv.send", "4", send.clone()).await;
    let (mut event, mut acked) = (None, None);
    while event.is_none() || acked.is_none() {
        let next = socket.next().await;
        match next["t"].as_str().unwrap() {
            "conv.event" => event = Some(next),
            "conv.acked" => acked = Some(next),
            other => panic!("{other}"),
        }
    }
    let acked = acked.unwrap();
    assert_eq!(acked["id"], "4");
    assert_eq!(
        acked["body"],
        json!({ "conv_id": "room", "msg_id": "m_01", "seq": 1, "conv_home": "gw_local", "origin_gateway": "gw_local" })
    );
    let event = event.unwrap();
    assert!(event.get("id").is_none());
    let mut body = event["body"].clone();
    assert!(body["ts_ms"].take().as_u64().unwrap() > 1_700_000_000_000);
    assert_eq!(
        body,
        json!({ "conv_id": "room", "seq": 1, "msg_id": "m_01", "env": "AAEAAg==", "sender_device_id": "laptop",
            "sender_user_id": alice.id(), "conv_home": "gw_local", "origin_gateway": "gw_local", "ts_ms": null })
    );
    socket.ask("conv.ack", "3", json!({ "conv_id": "room", "seq": 1 })).await;
    socket.ask("ping", "p", json!({})).await;
    socket.expect("pong").await;
    drop(socket);
    // The connection is lost; the message is sent again, and makes no second event.
    let mut socket = house.socket(&[]).await;
    let resume = ready["body"]["resume_token"].clone();
    socket.ask("session.resume", "5", json!({ "resume_token": resume })).await;
    let ready = socket.expect("session.ready").await;
    let cursor = json!([{ "conv_id": "room", "next_seq": 2 }]);
    if ready["body"]["cursors"] != cursor {
        // The acknowledgement is silent: it may be on its way.
        assert_eq!(ready["body"]["cursors"], json!([]));
    }
    socket.ask("conv.send", "6", send).await;
    assert_eq!(socket.answer("6").await["body"]["seq"], 1);
    // Each resume gave a new token for HTTP, too.
    let token = ready["body"]["session_token"].as_str().unwrap().to_owned();
    let alice = Person { token, ..alice };
    let mut bobs = bob.socket(&house).await;
    bobs.follow("room", 1).await;
    assert_eq!(bobs.seq().await, 1);
    let subscribed = bobs.expect("conv.subscribed").await;
    assert_eq!(subscribed["id"], "follow");
    assert_eq!(subscribed["body"], json!({ "conv_id": "room", "from_seq": 1, "latest_seq": 1 }));
    alice.send(&house, "room", "m_02").await;
    assert_eq!(bobs.seq().await, 2);
    house.close().await;
}

#[tokio::test]
async fn bad_frames_get_an_answer_and_the_connection_lives_on() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    alice.create(&house, "room", &[]).await;
    let mut socket = alice.socket(&house).await;
    let long = "x".repeat(262_145);
    for (text, code) in [
        ("{".to_owned(), "invalid_request"),
        ("[]".to_owned(), "invalid_request"),
        (r#"{"v":2,"t":"conv.send"}"#.to_owned(), "unsupported_version"),
        (r#"{"v":1,"t":"conv.send","body":[]}"#.to_owned(), "invalid_request"),
        (r#"{"v":1,"t":"conv.nothing","body":{}}"#.to_owned(), "invalid_request"),
        (
            frame("session.start", "1", json!({ "auth_token": "x", "device_id": "d" })),
            "invalid_request",
        ),
        (frame("conv.send", "1", json!({ "conv_id": "room", "msg_id": "m" })), "invalid_request"),
        (
            frame("conv.send", "1", json!({ "conv_id": 1, "msg_id": "m", "env": "e" })),
            "invalid_request",
        ),
        (
            frame("conv.send", "1", json!({ "conv_id": "room", "msg_id": "", "env": "e" })),
            "invalid_request",
        ),
        (
            frame("conv.send", "1", json!({ "conv_id": "room", "msg_id": "m", "env": "" })),
            "invalid_request",
        ),
        (
            frame("conv.send", "1", json!({ "conv_id": "room", "msg_id": "m", "env": long })),
            "invalid_request",
        ),
        (
            frame("conv.send", "1", json!({ "conv_id": "nowhere", "msg_id": "m", "env": "e" })),
            "forbidden",
        ),
        (frame("conv.subscribe", "1", json!({ "conv_id": "nowhere" })), "forbidden"),
        (
            frame("conv.subscribe", "1", json!({ "conv_id": "room", "from_seq": 0 })),
            "invalid_request",
        ),
        (
            frame("conv.subscribe", "1", json!({ "conv_id": "room", "from_seq": 1.5 })),
            "invalid_request",
        ),
        (frame("conv.ack", "1", json!({ "conv_id": "room", "seq": -1 })), "invalid_request"),
        (frame("conv.ack", "1", json!({ "conv_id": "room", "seq": true })), "invalid_request"),
        (frame("conv.ack", "1", json!({ "conv_id": "nowhere", "seq": 1 })), "forbidden"),
        (frame("presence.watch", "1", json!({ "contacts": "x" })), "invalid_request"),
    ] {
        socket.send(&text).await;
        let error = socket.expect("error").await;
        assert_eq!(error["body"]["code"], code, "{}: {error}", &text[..text.len().min(99)]);
    }
    assert_eq!(alice.send(&house, "room", "m").await, 1, "nothing took a seq");
    house.close().await;
}

#[tokio::test]
async fn a_start_beyond_the_end_waits_for_that_message() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    alice.create(&house, "room", &[]).await;
    let mut socket = alice.socket(&house).await;
    socket.follow("room", 3).await;
    socket.expect("conv.subscribed").await;
    for n in 1..=4 {
        assert_eq!(alice.send(&house, "room", &format!("m{n}")).await, n);
    }
    assert_eq!(socket.seq().await, 3);
    assert_eq!(socket.seq().await, 4);
    // A second subscription to the same conversation takes the place of the first.
    socket.follow("room", 4).await;
    assert_eq!(socket.seq().await, 4);
    socket.expect("conv.subscribed").await;
    alice.send(&house, "room", "m5").await;
    assert_eq!(socket.seq().await, 5);
    alice.send(&house, "room", "m6").await;
    assert_eq!(socket.seq().await, 6);
    house.close().await;
}

#[tokio::test]
async fn a_long_backlog_comes_whole_while_others_write() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    alice.create(&house, "room", &[]).await;
    let mut writer = alice.socket(&house).await;
    let mut reader = alice.socket(&house).await;
    for n in 0..3_000 {
        let send = json!({ "conv_id": "room", "msg_id": format!("m{n}"), "env": "e" });
        writer.ask("conv.send", &n.to_string(), send).await;
        if n == 1_500 {
            reader.follow("room", 1).await;
        }
        if n % 500 == 499 {
            for _ in 0..500 {
                writer.expect("conv.acked").await;
            }
        }
    }
    let mut expected = 1;
    while expected <= 3_000 {
        let next = reader.next().await;
        if next["t"] == "conv.event" {
            assert_eq!(next["body"]["seq"], expected);
            // One sender's pipelined messages keep their order.
            assert_eq!(next["body"]["msg_id"], format!("m{}", expected - 1));
            expected += 1;
        }
    }
    house.close().await;
}

#[tokio::test]
async fn a_reader_that_stops_reading_loses_nothing() {
    let house = House::open(&format!("{FREE}queue_frames = 16\n")).await;
    let alice = Person::login(&house, 1, "d").await;
    alice.create(&house, "room", &[]).await;
    let mut reader = alice.socket(&house).await;
    reader.follow("room", 1).await;
    reader.expect("conv.subscribed").await;
    let mut writer = alice.socket(&house).await;
    let filler = "x".repeat(50_000);
    for n in 0..300 {
        let send = json!({ "conv_id": "room", "msg_id": format!("m{n}"), "env": filler });
        writer.ask("conv.send", "", send).await;
        writer.expect("conv.acked").await;
    }
    house
        .until("lagging", |node| {
            node.conversations.stats().lagged.load(std::sync::atomic::Ordering::Relaxed) > 0
        })
        .await;
    for n in 1..=300 {
        assert_eq!(reader.seq().await, n);
    }
    alice.send(&house, "room", "last").await;
    assert_eq!(reader.seq().await, 301);
    house.close().await;
}

#[tokio::test]
async fn senders_at_once_share_one_order_and_repeats_make_no_second_event() {
    let house = House::open(FREE).await;
    let people: Vec<Person> = {
        let mut people = Vec::new();
        for n in 1..=4 {
            people.push(Person::login(&house, n, "d").await);
        }
        people
    };
    people[0].create(&house, "room", &people.iter().skip(1).collect::<Vec<_>>()).await;
    let mut sockets = Vec::new();
    for person in &people {
        sockets.push(person.socket(&house).await);
    }
    for round in 0..50 {
        for (n, socket) in sockets.iter_mut().enumerate() {
            let msg = format!("{n}-{round}");
            let send = json!({ "conv_id": "room", "msg_id": msg, "env": "e" });
            socket.ask("conv.send", "a", send.clone()).await;
            socket.ask("conv.send", "b", send).await;
        }
    }
    let mut given = BTreeSet::new();
    for socket in &mut sockets {
        for _ in 0..100 {
            given.insert(socket.expect("conv.acked").await["body"]["seq"].as_u64().unwrap());
        }
    }
    assert_eq!(given, (1..=200).collect());
    // A msg_id belongs to who used it first.
    let stolen = json!({ "v": 1, "t": "conv.send", "body": { "conv_id": "room", "msg_id": "0-0", "env": "e" } });
    let refused = people[1].refused(&house, "/v1/inbox", stolen).await;
    assert_eq!(refused, (400, "invalid_request".into(), "msg_id already used".into()));
    house.close().await;
}

#[tokio::test]
async fn removal_is_told_at_once_and_ends_delivery() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    let bob = Person::login(&house, 2, "d").await;
    alice.create(&house, "room", &[&bob]).await;
    let mut socket = bob.socket(&house).await;
    socket.follow("room", 1).await;
    socket.expect("conv.subscribed").await;
    alice.send(&house, "room", "before").await;
    assert_eq!(socket.seq().await, 1);
    let bobs = json!({ "conv_id": "room", "members": [bob.id()] });
    alice.ok(&house, "/v1/rooms/remove", bobs.clone()).await;
    alice.send(&house, "room", "after").await;
    let error = socket.expect("error").await;
    assert!(error.get("id").is_none());
    assert_eq!(
        error["body"],
        json!({ "code": "forbidden", "message": "membership revoked", "conv_id": "room" })
    );
    socket.ask("conv.subscribe", "again", json!({ "conv_id": "room" })).await;
    assert_eq!(socket.answer("again").await["body"]["message"], "not a member");
    alice.ok(&house, "/v1/rooms/invite", bobs).await;
    socket.follow("room", 1).await;
    assert_eq!((socket.seq().await, socket.seq().await), (1, 2), "history included");
    house.close().await;
}

#[tokio::test]
async fn the_inbox_is_a_socket_without_a_socket() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    alice.create(&house, "room", &[]).await;
    assert_eq!(alice.send(&house, "room", "m").await, 1);
    let ack = json!({ "v": 1, "t": "conv.ack", "body": { "conv_id": "room", "seq": 1 } });
    assert_eq!(alice.ok(&house, "/v1/inbox", ack).await, json!({ "status": "ok" }));
    for (body, status) in [
        (json!([]), 400),
        (json!({ "v": 2, "t": "conv.ack" }), 400),
        (json!({ "v": 1, "t": "conv.subscribe", "body": { "conv_id": "room" } }), 400),
        (json!({ "v": 1, "t": "conv.ack", "body": { "conv_id": "nowhere", "seq": 1 } }), 403),
    ] {
        let refused = alice.post(&house, "/v1/inbox", body.clone()).await;
        assert_eq!(refused.status, status, "{body}: {}", refused.body);
    }
    let stranger = house.raw("POST", "/v1/inbox", &[], "{}").await;
    assert_eq!(refusal(&stranger), (401, "unauthorized".into(), "invalid session_token".into()));
    assert_eq!(stranger.header("www-authenticate"), Some("Bearer"));
    house.close().await;
}

#[tokio::test]
async fn a_flood_is_refused_with_the_rest_of_the_window() {
    let house = House::open("[chat]\nsends_per_min = 3\n").await;
    let alice = Person::login(&house, 1, "d").await;
    alice.create(&house, "room", &[]).await;
    for n in 0..3 {
        alice.send(&house, "room", &format!("m{n}")).await;
    }
    let send = json!({ "v": 1, "t": "conv.send", "body": { "conv_id": "room", "msg_id": "x", "env": "e" } });
    let refused = alice.post(&house, "/v1/inbox", send).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
    let wait = refused.json()["retry_after_s"].as_u64().unwrap();
    assert!((1..=60).contains(&wait));
    assert_eq!(refused.header("retry-after"), Some(wait.to_string().as_str()));
    // Who is not in the room hears that first.
    let bob = Person::login(&house, 2, "d").await;
    for n in 0..5 {
        let send = json!({ "v": 1, "t": "conv.send", "body": { "conv_id": "room", "msg_id": format!("b{n}"), "env": "e" } });
        let refused = bob.refused(&house, "/v1/inbox", send).await;
        assert_eq!(refused, (403, "forbidden".into(), "not a member".into()));
    }
    house.close().await;
}

#[tokio::test]
async fn the_first_handshake_of_an_epoch_wins_where_clients_ask_for_it() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    alice.create(&house, "room", &[]).await;
    let mut socket = alice.socket(&house).await;
    for (msg, epoch, expected) in
        [("a", 17, Ok(1)), ("b", 17, Err(18)), ("c", 18, Ok(2)), ("d", 3, Err(19))]
    {
        let body = json!({ "conv_id": "room", "msg_id": msg, "env": "e", "epoch": epoch, "handshake": true });
        socket.ask("conv.send", msg, body).await;
        let answer = socket.answer(msg).await;
        match expected {
            Ok(seq) => assert_eq!(answer["body"]["seq"], seq, "{answer}"),
            Err(current) => {
                assert_eq!(answer["body"]["code"], "conflict");
                assert_eq!(answer["body"]["current_epoch"], current);
            }
        }
    }
    house.close().await;
}
