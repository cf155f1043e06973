//! Connections that come and go while others write; a full room.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;

use crate::{FREE, person::Person, support::House};

/// Cycles of connecting, reading a little and being cut off; `RELAY_CHURN_CYCLES` sets another number.
fn cycles() -> usize {
    std::env::var("RELAY_CHURN_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forced_disconnects_lose_nothing_and_repeat_nothing() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    alice.create(&house, "room", &[]).await;
    let total = cycles() as u64;
    let writing = {
        let mut socket = alice.socket(&house).await;
        async move {
            for n in 0..total {
                let send = json!({ "conv_id": "room", "msg_id": format!("m{n}"), "env": "e" });
                socket.ask("conv.send", "w", send).await;
                socket.expect("conv.acked").await;
            }
        }
    };
    let reading = async {
        let mut resume = Person::login(&house, 1, "reader").await.resume;
        let mut seen = 0;
        let mut cut = 0;
        while seen < total || cut < cycles() {
            let mut socket = house.socket(&[]).await;
            socket.ask("session.resume", "r", json!({ "resume_token": resume })).await;
            let ready = socket.expect("session.ready").await;
            resume = ready["body"]["resume_token"].as_str().unwrap().to_owned();
            let known = ready["body"]["cursors"][0]["next_seq"].as_u64().unwrap_or(1);
            assert!(known <= seen + 1, "the cursor never runs ahead");
            socket
                .ask("conv.subscribe", "s", json!({ "conv_id": "room", "after_seq": seen }))
                .await;
            // A few messages, then the connection is cut without a word; at the end there may be none left.
            for _ in 0..cut % 4 {
                if seen == total {
                    break;
                }
                let seq = socket.seq().await;
                assert_eq!(seq, seen + 1);
                seen = seq;
            }
            socket.ask("conv.ack", "a", json!({ "conv_id": "room", "seq": seen })).await;
            cut += 1;
        }
        seen
    };
    let ((), seen) = tokio::join!(writing, reading);
    assert_eq!(seen, total);
    house.close().await;
}

/// A room of a thousand, of which some listen, while a hundred messages a second are sent. `RELAY_ROOM_SECONDS` sets
/// how long, `RELAY_ROOM_LISTENERS` how many; both ends of each connection are files of this process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_of_a_thousand_hears_everything_in_order() {
    const MEMBERS: usize = 1_000;
    let number = |variable: &str, default: u64| -> u64 {
        std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let seconds = number("RELAY_ROOM_SECONDS", 60);
    let listening = number("RELAY_ROOM_LISTENERS", 200) as usize;
    let messages = seconds * 100;
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    // Members are keys, listeners are connections: a few people listen many times each.
    let mut listeners = Vec::new();
    let mut people = Vec::new();
    for n in 2..=21 {
        people.push(Person::login(&house, n, "d").await);
    }
    let extra: Vec<_> = (0..MEMBERS - people.len() - 1)
        .map(|n| {
            let mut seed = [9; 32];
            seed[..8].copy_from_slice(&(n as u64).to_le_bytes());
            relay_proto::SigningKey::from_seed(seed).node_id()
        })
        .collect();
    alice.create(&house, "room", &people.iter().collect::<Vec<_>>()).await;
    alice.ok(&house, "/v1/rooms/invite", json!({ "conv_id": "room", "members": extra })).await;
    for n in 0..listening {
        let mut socket = people[n % people.len()].socket(&house).await;
        socket.follow("room", 1).await;
        socket.expect("conv.subscribed").await;
        listeners.push(tokio::spawn(async move {
            for n in 1..=messages {
                assert_eq!(socket.seq().await, n);
            }
        }));
    }
    let mut writer = alice.socket(&house).await;
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    let env = "x".repeat(512);
    for n in 0..messages {
        pace.tick().await;
        let send = json!({ "conv_id": "room", "msg_id": format!("m{n}"), "env": env });
        writer.ask("conv.send", "", send).await;
    }
    let mut acked = BTreeMap::new();
    for _ in 0..messages {
        let ack = writer.expect("conv.acked").await;
        let seq = ack["body"]["seq"].as_u64().unwrap();
        acked.insert(seq, ack["body"]["msg_id"].clone());
    }
    assert_eq!(acked.len() as u64, messages);
    for listener in listeners {
        listener.await.unwrap();
    }
    house.close().await;
}
