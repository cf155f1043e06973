//! Connections that say nothing (`gateway.md` 4.1, 6.6).

use relay_node::Node;
use relay_proto::auth::DeviceId;

use crate::{FREE, person::Person, support::House};

async fn impatient() -> House {
    House::open(&format!("{FREE}ping_interval = \"150ms\"\nfirst_frame_within = \"150ms\"\n")).await
}

#[tokio::test]
async fn whoever_comes_without_a_session_and_says_nothing_is_sent_away() {
    let house = impatient().await;
    let mut silent = house.socket(&[]).await;
    assert_eq!(silent.close_code().await, 1008);
    let mut other = house.socket(&[]).await;
    other.send_binary(b"hello").await;
    assert_eq!(other.close_code().await, 1002);
    house.close().await;
}

#[tokio::test]
async fn a_silent_client_is_asked_and_then_left() {
    let house = impatient().await;
    let alice = Person::login(&house, 1, "d").await;
    let mut socket = alice.socket(&house).await;
    // Any frame is a sign of life.
    for _ in 0..4 {
        socket.expect("ping").await;
        socket.send(r#"{"v":1,"t":"pong"}"#).await;
    }
    // Reading would answer the control frames by itself, which is a sign of life, too.
    let device = DeviceId::new("d").unwrap();
    assert!(house.node.connections.is_connected(&alice.id(), &device));
    let left = |node: &Node| !node.connections.is_connected(&alice.id(), &device);
    house.until("the silent one is left", left).await;
    drop(socket);
    house.close().await;
}
