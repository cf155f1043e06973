//! Rooms and direct messages (`gateway.md` 8), and that strangers learn nothing (2.2).

use serde_json::{Value, json};

use crate::{
    FREE,
    person::{Person, id, refusal},
    support::House,
};

fn on(conv: &str, members: &[u8]) -> Value {
    json!({ "conv_id": conv, "members": members.iter().map(|n| id(*n)).collect::<Vec<_>>() })
}

#[tokio::test]
async fn roles_bans_and_mutes() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    let bob = Person::login(&house, 2, "d").await;
    let carol = Person::login(&house, 3, "d").await;
    // The older form of a user id is folded to the one there is.
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let older = URL_SAFE_NO_PAD.encode(bob.id().as_bytes());
    let body = json!({ "conv_id": "room", "members": [older, bob.id(), alice.id()] });
    alice.ok(&house, "/v1/rooms/create", body).await;
    let taken = alice.refused(&house, "/v1/rooms/create", on("room", &[])).await;
    assert_eq!(taken, (400, "invalid_request".into(), "conversation already exists".into()));
    alice.ok(&house, "/v1/rooms/promote", on("room", &[2])).await;
    bob.ok(&house, "/v1/rooms/invite", on("room", &[3])).await;
    let members = bob.get(&house, "/v1/rooms/members?conv_id=room").await.json();
    assert_eq!(
        members,
        json!({ "conv_id": "room", "members": [
            { "user_id": id(1), "role": "owner" },
            { "user_id": id(2), "role": "admin" },
            { "user_id": id(3), "role": "member" },
        ] })
    );
    let forbidden = (403, "forbidden".to_owned(), "forbidden".to_owned());
    for (who, path, body) in [
        (&carol, "/v1/rooms/invite", on("room", &[4])),
        (&carol, "/v1/rooms/remove", on("room", &[2])),
        (&bob, "/v1/rooms/promote", on("room", &[3])),
        (&bob, "/v1/rooms/remove", on("room", &[1])),
        (&carol, "/v1/conversations/title", json!({ "conv_id": "room", "title": "x" })),
    ] {
        assert_eq!(who.refused(&house, path, body).await, forbidden, "{path}");
    }
    bob.ok(&house, "/v1/rooms/mute", on("room", &[3])).await;
    let send = |msg: &str| json!({ "v": 1, "t": "conv.send", "body": { "conv_id": "room", "msg_id": msg, "env": "e" } });
    assert_eq!(carol.refused(&house, "/v1/inbox", send("a")).await.2, "muted");
    let mutes = alice.get(&house, "/v1/rooms/mutes?conv_id=room").await.json();
    assert_eq!(mutes["mutes"][0]["user_id"], json!(id(3)));
    assert_eq!(mutes["mutes"][0]["muted_by_user_id"], json!(id(2)));
    bob.ok(&house, "/v1/rooms/unmute", on("room", &[3])).await;
    carol.send(&house, "room", "b").await;
    bob.ok(&house, "/v1/rooms/ban", on("room", &[3])).await;
    assert_eq!(carol.refused(&house, "/v1/inbox", send("c")).await.2, "not a member");
    assert_eq!(alice.refused(&house, "/v1/rooms/invite", on("room", &[3])).await.2, "banned");
    let bans = alice.get(&house, "/v1/rooms/bans?conv_id=room").await.json();
    assert_eq!(bans["bans"][0]["banned_by_user_id"], json!(id(2)));
    bob.ok(&house, "/v1/rooms/unban", on("room", &[3])).await;
    bob.ok(&house, "/v1/rooms/invite", on("room", &[3])).await;
    // Whoever wants to leaves.
    carol.ok(&house, "/v1/rooms/remove", on("room", &[3])).await;
    assert_eq!(alice.refused(&house, "/v1/rooms/remove", on("room", &[1])).await, forbidden);
    house.close().await;
}

#[tokio::test]
async fn direct_messages() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    let bob = Person::login(&house, 2, "d").await;
    let made = alice.ok(&house, "/v1/dms/create", json!({ "peer_user_id": bob.id() })).await;
    let conv = made["conv_id"].as_str().unwrap();
    assert!(conv.starts_with("dm_") && conv.len() == 19, "{conv}");
    bob.send(&house, conv, "m").await;
    let muted = alice.refused(&house, "/v1/rooms/mute", on(conv, &[2])).await;
    assert_eq!(muted, (400, "invalid_request".into(), "not a room".into()));
    let muted = alice.refused(&house, "/v1/rooms/mute", on("dm_nowhere", &[2])).await;
    assert_eq!(muted.2, "not a room", "before all else");
    for body in [
        json!({}),
        json!({ "peer_user_id": "" }),
        json!({ "peer_user_id": 1 }),
        json!({ "peer_user_id": alice.id() }),
        json!({ "peer_user_id": bob.id(), "conv_id": "dm_ä" }),
        json!({ "peer_user_id": bob.id(), "conv_id": conv }),
    ] {
        assert_eq!(alice.refused(&house, "/v1/dms/create", body.clone()).await.0, 400, "{body}");
    }
    bob.ok(&house, "/v1/presence/block", json!({ "contacts": [alice.id()] })).await;
    let send =
        json!({ "v": 1, "t": "conv.send", "body": { "conv_id": conv, "msg_id": "x", "env": "e" } });
    for who in [&alice, &bob] {
        assert_eq!(who.refused(&house, "/v1/inbox", send.clone()).await.2, "blocked");
    }
    let again = alice.refused(&house, "/v1/dms/create", json!({ "peer_user_id": bob.id() })).await;
    assert_eq!(again, (403, "forbidden".into(), "blocked".into()));
    house.close().await;
}

#[tokio::test]
async fn foreign_and_unknown_conversations_look_the_same() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    let eve = Person::login(&house, 9, "d").await;
    alice.create(&house, "secret", &[]).await;
    alice.send(&house, "secret", "m").await;
    for (path, member) in [
        ("/v1/rooms/invite", true),
        ("/v1/rooms/remove", true),
        ("/v1/rooms/promote", true),
        ("/v1/rooms/ban", true),
        ("/v1/rooms/unban", true),
        ("/v1/rooms/mute", true),
        ("/v1/conversations/mark_read", false),
        ("/v1/conversations/pin", false),
        ("/v1/conversations/title", false),
        ("/v1/conversations/label", false),
        ("/v1/conversations/mute", false),
        ("/v1/conversations/archive", false),
    ] {
        let body = |conv: &str| {
            let mut body = json!({ "conv_id": conv, "pinned": true, "muted": true, "archived": true, "title": "t", "label": "l" });
            if member {
                body["members"] = json!([id(5)]);
            }
            body
        };
        let foreign = eve.refused(&house, path, body("secret")).await;
        assert_eq!(foreign, eve.refused(&house, path, body("nowhere")).await, "{path}");
        assert_eq!(foreign, (403, "forbidden".into(), "forbidden".into()), "{path}");
    }
    for (path, message) in [
        ("/v1/rooms/members", "not a member"),
        ("/v1/rooms/bans", "forbidden"),
        ("/v1/rooms/mutes", "forbidden"),
        ("/v1/conversations/group_info", "forbidden"),
        ("/v1/sse", "not a member"),
    ] {
        let foreign = refusal(&eve.get(&house, &format!("{path}?conv_id=secret")).await);
        let unknown = refusal(&eve.get(&house, &format!("{path}?conv_id=nowhere")).await);
        assert_eq!(foreign, unknown, "{path}");
        assert_eq!(foreign, (403, "forbidden".into(), message.into()), "{path}");
        let missing = refusal(&eve.get(&house, path).await);
        assert_eq!((missing.0, missing.1.as_str()), (400, "invalid_request"), "{path}");
    }
    let mut socket = eve.socket(&house).await;
    for t in ["conv.subscribe", "conv.ack", "conv.send"] {
        for conv in ["secret", "nowhere"] {
            let body = json!({ "conv_id": conv, "seq": 1, "msg_id": "m", "env": "e" });
            socket.ask(t, "x", body).await;
            assert_eq!(socket.answer("x").await["body"]["message"], "not a member", "{t} {conv}");
        }
    }
    house.close().await;
}

#[tokio::test]
async fn members_are_counted_and_named_all_or_not_at_all() {
    let house = House::open(&format!("{FREE}max_members = 3\n")).await;
    let alice = Person::login(&house, 1, "d").await;
    let many = alice.post(&house, "/v1/rooms/create", on("big", &[2, 3, 4])).await;
    assert_eq!((many.status, many.code().as_str()), (429, "limit_exceeded"));
    assert_eq!(
        (many.json()["retry_after_s"].as_u64(), many.header("retry-after")),
        (Some(0), None)
    );
    alice.ok(&house, "/v1/rooms/create", on("room", &[2])).await;
    assert_eq!(alice.refused(&house, "/v1/rooms/invite", on("room", &[3, 4])).await.0, 429);
    let members = alice.get(&house, "/v1/rooms/members?conv_id=room").await.json();
    assert_eq!(members["members"].as_array().unwrap().len(), 2);
    for body in [
        json!({ "conv_id": "x", "members": "y" }),
        json!({ "conv_id": "x", "members": [1] }),
        json!({ "conv_id": "x", "members": ["alice"] }),
        json!({ "members": [] }),
        json!([]),
        json!("text"),
    ] {
        assert_eq!(alice.refused(&house, "/v1/rooms/create", body.clone()).await.0, 400, "{body}");
    }
    alice.ok(&house, "/v1/rooms/create", json!({ "conv_id": "x", "members": null })).await;
    house.close().await;
}
