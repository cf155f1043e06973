use std::sync::Barrier;

use relay_proto::SigningKey;
use relay_store::{CommitObserver, Committed, SqliteOptions, SqliteStore, SystemClock, WriteStats};

use super::*;
use crate::fanout::{Item, OutboxLimits};

#[derive(Debug)]
struct NoObserver;

impl CommitObserver for NoObserver {
    fn committed(&self, _: &[Committed]) {}
    fn leases_changed(&self, _: &[relay_proto::lease::LeaseRow]) {}
    fn wrote(&self, _: WriteStats) {}
}

fn caller(n: u8) -> Caller {
    Caller {
        user: SigningKey::from_seed([n; 32]).node_id(),
        device: DeviceId::new("d").unwrap(),
        gateway: "home".to_owned(),
        grant: None,
    }
}

/// What a connection was told last of somebody.
fn last_told(outbox: &Outbox) -> Option<String> {
    let mut items = Vec::new();
    outbox.take(usize::MAX, &mut items);
    let last = items.into_iter().rev().find_map(|item| match item {
        Item::State { frame, .. } => Some(frame),
        _ => None,
    })?;
    let frame: Value = serde_json::from_slice(&last).unwrap();
    Some(frame["body"]["status"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn whoever_connects_while_things_change_ends_up_with_how_they_are() {
    const ROUNDS: usize = 3_000;
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SystemClock);
    let options = SqliteOptions {
        dir: dir.path().to_owned(),
        new_log_id: 1,
        readers: 2,
        lease_limits: relay_proto::lease::LeaseLimits::default(),
        backup_before_migrate: false,
        index_every: None,
    };
    let opened = SqliteStore::open(options, clock.clone(), Arc::new(NoObserver)).await;
    let store = Store::Sqlite(opened.unwrap());
    let config = PresenceConfig { renews_per_min: u32::MAX, ..PresenceConfig::default() };
    let presence = Arc::new(Presence::open(store.clone(), clock, config).await.unwrap());
    let (alice, bob) = (caller(1), caller(2));
    presence.watch(&bob, vec![alice.user], true).await.unwrap();
    // The two meet in the middle of each round. What is wrong is told at the end, since each waits for the other.
    let start = Barrier::new(2);
    let mut wrong = Vec::new();
    std::thread::scope(|scope| {
        let (leases, begin, lessor) = (presence.clone(), &start, bob.clone());
        scope.spawn(move || {
            let mut leased = true;
            for round in 0..ROUNDS {
                begin.wait();
                leased &= leases.lease(&lessor, 60, Some(round % 2 == 1)).is_ok();
                begin.wait();
            }
            assert!(leased);
        });
        for round in 0..ROUNDS {
            let outbox = Arc::new(Outbox::new(OutboxLimits::default()));
            start.wait();
            let guest = presence.guest(alice.user, vec![bob.user], &outbox).unwrap();
            start.wait();
            let status = if round % 2 == 1 { "offline" } else { "online" };
            let told = last_told(&outbox);
            if told.as_deref() != Some(status) {
                wrong.push((round, told));
            }
            drop(guest);
        }
    });
    assert_eq!(wrong, []);
    store.close().await;
}
