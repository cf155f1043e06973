//! Sessions at an edge relay whose users live elsewhere.

use serde_json::json;

use crate::{FREE, person::Person, support::pair::Pair};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_go_on_with_their_sessions_when_the_edge_is_restarted() {
    let pair = Pair::open(FREE, &format!("{FREE}user_home = \"home-b\"\n")).await;
    let alice = Person::login(&pair.edge, 1, "d").await;
    let bare = Person::login_without_grant(&pair.edge, 1, "d").await;
    alice.create(&pair.edge, "room", &[]).await;
    let pair = pair.restart_edge().await;
    assert_eq!(alice.send(&pair.edge, "room", "m1").await, 1);
    let mut reader = alice.socket(&pair.edge).await;
    reader.follow("room", 1).await;
    assert_eq!(reader.seq().await, 1);
    // A session that is resumed without one keeps what it had, over the next restart as well.
    let resume = json!({ "resume_token": alice.resume }).to_string();
    let resumed = pair.edge.raw("POST", "/v1/session/resume", &[], &resume).await;
    assert_eq!(resumed.status, 200, "{}", resumed.body);
    let token = resumed.json()["session_token"].as_str().unwrap().to_owned();
    let alice = Person { token, ..alice };
    drop(reader);
    let pair = pair.restart_edge().await;
    assert_eq!(alice.send(&pair.edge, "room", "m2").await, 2);
    // What was started without has none.
    let message = json!({ "v": 1, "t": "conv.send", "body": {
        "conv_id": "room", "msg_id": "m3", "env": "e" } });
    let refused = bare.post(&pair.edge, "/v1/inbox", message).await;
    assert_eq!((refused.status, &refused.json()["grant_for"]), (401, &json!("edge-a")));
}
