//! Hundreds of homes whose hub dies come back together, and each is there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic")]

use std::{net::SocketAddr, time::Duration};

use relay_e2e::{
    Relay,
    federation::{Secrets, call, get},
    foreign::Foreign,
    until,
};
use serde_json::json;
use tokio::task::JoinSet;

/// How long all may take to come.
const LIMIT: Duration = Duration::from_secs(120);
/// What a hub may have resident by itself, and for each home of a storm, their handshakes and calls included.
const HUB_KIB: u64 = 160 << 10;
const HOME_KIB: u64 = 160;
/// Longest pause between two attempts of a home.
const PAUSE_MS: u64 = 2_000;

/// A home that keeps itself linked to its hub, as a program of another's would.
async fn home(hub: SocketAddr, number: u32) {
    let name = format!("home-{number}");
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    let mut attempt = 0_u64;
    loop {
        if let Ok(mut link) = Foreign::link(hub, &name, seed).await
            && link.register(&format!("echo-{number}")).await.is_ok()
        {
            attempt = 0;
            link.serve(Duration::from_secs(15)).await;
        }
        attempt += 1;
        // Spread, and the same in each run.
        let spread =
            (u64::from(number) * 7_919 + attempt * 104_729) % PAUSE_MS.min(200 << attempt.min(4));
        tokio::time::sleep(Duration::from_millis(50 + spread)).await;
    }
}

async fn until_all_there(hub: &Relay, homes: usize) {
    until(&format!("{homes} homes are attached"), LIMIT, || async {
        let health = get(hub, "/federation/health").await;
        health["spokes"] == homes && health["services"] == homes
    })
    .await;
}

/// One call to each home; every one is answered, by the home that was meant.
async fn call_each(hub: &Relay, homes: u32) {
    for some in (0..homes).collect::<Vec<_>>().chunks(32) {
        let calls = some.iter().map(|number| async move {
            let to = format!("echo-{number}@home-{number}.echo");
            let answer = call(hub, &to, json!({ "number": number })).await;
            assert_eq!(answer["result"]["number"], *number, "{to}: {answer}");
        });
        futures_util::future::join_all(calls).await;
    }
}

async fn storm(homes: u32) {
    let secrets = Secrets::new();
    let mut hub = secrets.hub("hub-a", &[]).await;
    let mut all = JoinSet::new();
    for number in 0..homes {
        all.spawn(home(hub.address(), number));
    }
    until_all_there(&hub, homes as usize).await;
    call_each(&hub, homes).await;
    for _ in 0..2 {
        hub.kill_and_restart().await;
        until_all_there(&hub, homes as usize).await;
        call_each(&hub, homes).await;
    }
    // What it holds for them is bounded, whatever the crowd.
    let most = HUB_KIB + HOME_KIB * u64::from(homes);
    assert!(hub.peak_kib() < most, "{} KiB resident", hub.peak_kib());
    // None of them ended by itself.
    assert_eq!(all.len(), homes as usize);
    assert!(all.try_join_next().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_homes_come_back_to_their_hub() {
    storm(300).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a soak: make soak"]
async fn a_thousand_homes_come_back_to_their_hub() {
    storm(1_000).await;
}
