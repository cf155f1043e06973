//! Retention (`gateway.md` 6.4, 12.1).

use serde_json::json;

use crate::{FREE, person::Person, support::House};

#[tokio::test]
async fn pruned_history_is_told_and_numbers_go_on() {
    let house =
        House::open(&format!("{FREE}retention_max_events = 5\nretention_hard_limits = true\n"))
            .await;
    let alice = Person::login(&house, 1, "d").await;
    alice.create(&house, "room", &[]).await;
    for n in 1..=12 {
        alice.send(&house, "room", &format!("m{n}")).await;
    }
    house
        .until("pruning", |node| {
            node.conversations.stats().pruned.load(std::sync::atomic::Ordering::Relaxed) == 7
        })
        .await;
    let mut socket = alice.socket(&house).await;
    // Also where the start came from the device's cursor.
    for body in [json!({ "conv_id": "room" }), json!({ "conv_id": "room", "from_seq": 1 })] {
        socket.ask("conv.subscribe", "s", body).await;
        assert_eq!(
            socket.answer("s").await["body"],
            json!({ "code": "replay_window_exceeded", "message": "requested_from_seq=1 earliest_seq=8",
                "requested_from_seq": 1, "earliest_seq": 8, "latest_seq": 12 })
        );
    }
    let gone = alice.get(&house, "/v1/sse?conv_id=room&from_seq=1").await;
    assert_eq!((gone.status, gone.code().as_str()), (410, "replay_window_exceeded"));
    assert_eq!(gone.json()["message"], "requested history has been pruned");
    assert_eq!((&gone.json()["earliest_seq"], &gone.json()["latest_seq"]), (&json!(8), &json!(12)));
    socket.follow("room", 8).await;
    for n in 8..=12 {
        assert_eq!(socket.seq().await, n);
    }
    let list = alice.get(&house, "/v1/conversations").await.json();
    let item = &list["items"][0];
    assert_eq!((&item["earliest_seq"], &item["unread_count"]), (&json!(8), &json!(5)));
    // The same message again is still known.
    assert_eq!(alice.send(&house, "room", "m1").await, 1);
    house.close().await;
}

#[tokio::test]
async fn a_sweep_during_a_replay_leaves_no_hole() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    alice.create(&house, "room", &[]).await;
    let mut writer = alice.socket(&house).await;
    for n in 0..2_000 {
        let send = json!({ "conv_id": "room", "msg_id": format!("m{n}"), "env": "x".repeat(400) });
        writer.ask("conv.send", "", send).await;
        if n % 500 == 499 {
            for _ in 0..500 {
                writer.expect("conv.acked").await;
            }
        }
    }
    let mut reader = alice.socket(&house).await;
    reader.follow("room", 1).await;
    let first = reader.seq().await;
    assert_eq!(first, 1);
    let conv: relay_proto::conv::ConvId = "room".parse().unwrap();
    let rules = relay_store::chat::ConversationRetention {
        max_events: Some(10),
        before_ms: None,
        hard: true,
        stale_before_ms: 0,
        now_ms: 0,
        batch: 5_000,
    };
    house.node.store.prune_conversation(conv, rules).await.unwrap();
    let mut expected = 2;
    loop {
        let next = reader.next().await;
        match next["t"].as_str().unwrap() {
            "conv.event" => {
                assert_eq!(next["body"]["seq"], expected);
                expected += 1;
            }
            "error" => {
                assert_eq!(next["body"]["code"], "replay_window_exceeded");
                assert_eq!(next["body"]["earliest_seq"], 1_991);
                assert!(next.get("id").is_none());
                break;
            }
            // Everything had left the store before the sweep came.
            "conv.subscribed" => {
                assert_eq!(expected, 2_001);
                break;
            }
            other => panic!("{other}"),
        }
    }
    house.close().await;
}
