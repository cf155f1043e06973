//! Pushes to users whose conversations are homed elsewhere than they are.

use std::collections::HashSet;

use relay_proto::auth::DeviceId;
use serde_json::json;

use crate::{
    FREE,
    person::Person,
    push::{ON, next, push_service, set},
    support::{House, pair::Pair},
};

/// Somebody at `near` makes a room with somebody at `far`, who is not connected and is pushed to.
async fn pushes(near: &House, far: &House, cut: impl Fn()) {
    let (url, mut told) = push_service().await;
    let bob = Person::login(far, 2, "phone").await;
    let alice = Person::login(near, 1, "d").await;
    alice.create(near, "ours", &[&bob]).await;
    assert_eq!(set(&bob, far, &format!("{url}/bob")).await, 200);
    let find = async {
        while bob.get(far, "/v1/rooms/members?conv_id=ours").await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, find).await.unwrap();
    alice.send(near, "ours", "m1").await;
    let request = next(&mut told).await;
    assert!(request.starts_with("post /bob http/1.1"), "{request}");
    assert!(!request.contains("ours") && !request.contains(&alice.id().to_string()), "{request}");
    // What happens while the way is broken is told when it is there again.
    cut();
    alice.send(near, "ours", "m2").await;
    assert!(next(&mut told).await.starts_with("post /bob http/1.1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_a_hub_are_pushed_to_for_conversations_of_a_spoke() {
    let pair = Pair::open(&format!("{FREE}{ON}"), FREE).await;
    pushes(&pair.edge, &pair.home, || pair.cut()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_a_spoke_are_pushed_to_for_conversations_of_their_hub() {
    let pair = Pair::open(FREE, &format!("{FREE}{ON}")).await;
    pushes(&pair.home, &pair.edge, || pair.cut()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_who_come_in_by_an_edge_are_pushed_to_by_their_home_unless_they_are_there() {
    let at_edge = format!("{FREE}user_home = \"home-b\"\n");
    let pair = Pair::open(&format!("{FREE}{ON}"), &at_edge).await;
    let (url, mut told) = push_service().await;
    let laptop = Person::login(&pair.edge, 2, "laptop").await;
    let phone = Person::login(&pair.edge, 2, "phone").await;
    let alice = Person::login(&pair.home, 1, "d").await;
    let about = phone.get(&pair.edge, "/v1/push").await.json();
    assert_eq!(about["enabled"], true, "the edge does not push, the home does");
    assert_eq!(set(&phone, &pair.edge, &format!("{url}/phone")).await, 200);
    assert_eq!(set(&laptop, &pair.edge, &format!("{url}/laptop")).await, 200);
    alice.create(&pair.home, "ours", &[&laptop]).await;
    alice.send(&pair.home, "ours", "m1").await;
    let first: HashSet<bool> = [next(&mut told).await, next(&mut told).await]
        .iter()
        .map(|request| request.starts_with("post /phone"))
        .collect();
    assert_eq!(first.len(), 2, "both devices are told");
    // The laptop reads its inbox through the edge: it is there.
    let mut socket = laptop.socket(&pair.edge).await;
    socket.ask("inbox.subscribe", "i", json!({})).await;
    let device = DeviceId::new("laptop").unwrap();
    pair.home.until("laptop", |node| node.connections.is_connected(&laptop.id(), &device)).await;
    for n in 2..5 {
        alice.send(&pair.home, "ours", &format!("m{n}")).await;
        assert!(next(&mut told).await.starts_with("post /phone"));
    }
    drop(socket);
    pair.home.until("nobody", |node| !node.connections.is_connected(&laptop.id(), &device)).await;
    alice.send(&pair.home, "ours", "m5").await;
    while !next(&mut told).await.starts_with("post /laptop") {}
}
