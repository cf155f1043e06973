//! Fencing from end to end: what a lock is for (ids: E01, E02).

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use relay_client::{Client, FenceGate, FenceMode, Query};
use relay_e2e::{Backend, Person, Relay, person::key_of, rounds};
use relay_proto::Filter;
use relay_sim::rng::Rng;
use tokio::task::JoinSet;

/// A holder sleeps through its lease, another takes over, then the first one writes: refused by
/// the relay for its pointer, and by a gate in front of any other storage, in both modes.
async fn a_stale_write_is_refused(backend: Backend) {
    let relay = Relay::start(backend).await;
    let (alice, bob) = (Person::at(&relay, 1), Person::at(&relay, 2));
    let gates = [FenceGate::new(FenceMode::PerWrite), FenceGate::new(FenceMode::PerLease)];
    let old = alice.acquire("site/prod", 3000).await.token();
    assert_eq!(alice.publish_fenced("site/prod", old, "v1").await.status, 201);
    assert!(gates.iter().all(|gate| gate.admit("site/prod", old).is_ok()));

    let new = bob.acquire_waiting("site/prod", 60_000, 10_000).await.token();
    assert_eq!(bob.publish_fenced("site/prod", new, "v2").await.status, 201);
    assert!(gates.iter().all(|gate| gate.admit("site/prod", new).is_ok()));

    let stale = alice.publish_fenced("site/prod", old, "v1 again").await;
    assert_eq!((stale.status, stale.code()), (409, "fenced"));
    assert!(gates.iter().all(|gate| gate.admit("site/prod", old).is_err()));
    let (per_write, per_lease) = (&gates[0], &gates[1]);
    assert!(per_write.admit("site/prod", new).is_err(), "one write for each token");
    assert!(per_lease.admit("site/prod", new).is_ok(), "several writes under one token");
    // With the right token but another key, and without the lock at all.
    assert_eq!(alice.publish_fenced("site/prod", new, "v3").await.code(), "fenced");
    assert_eq!(alice.publish_fenced("site/other", new, "v3").await.code(), "fenced");

    let stored = Client::builder(&relay.url()).unwrap().build().unwrap();
    assert_eq!(versions(&stored, 1).await, ["v1"], "nothing of the refused writes is stored");
    assert_eq!(versions(&stored, 2).await, ["v2"]);
}

/// The contents of pointers that an author has stored.
async fn versions(client: &Client, author: u32) -> Vec<String> {
    let filter = Filter {
        authors: vec![key_of(author).node_id()],
        kinds: vec![30_001],
        ..Filter::default()
    };
    let page = client.query(&Query { filter, ..Query::default() }).await.unwrap();
    page.events.iter().map(|event| event.content().to_owned()).collect()
}

/// A set that workers change by reading it, thinking, and writing it back: what object storage is.
/// Reads go through the gate too: else a holder who lost its lock could still write after the next
/// one has read, and the next one's write would undo it.
#[derive(Default)]
struct Storage {
    set: Mutex<BTreeSet<u64>>,
    gate: Option<FenceGate>,
}

impl Storage {
    fn read(&self, token: u64) -> Option<BTreeSet<u64>> {
        let stored = self.set.lock().unwrap();
        self.admits(token).then(|| stored.clone())
    }

    /// Says whether it was written.
    fn write(&self, token: u64, set: BTreeSet<u64>) -> bool {
        let mut stored = self.set.lock().unwrap();
        let admitted = self.admits(token);
        if admitted {
            *stored = set;
        }
        admitted
    }

    fn admits(&self, token: u64) -> bool {
        self.gate.as_ref().is_none_or(|gate| gate.admit("set", token).is_ok())
    }
}

/// Eight workers add to the set under a lock, some sleep through their leases, and the relay dies
/// now and then. Gives how many acknowledged additions were lost.
async fn lost_updates(storage: Arc<Storage>, backend: Backend, length: Duration) -> usize {
    let mut relay = Relay::start(backend).await;
    let give_up = Instant::now() + length;
    let mut workers = JoinSet::new();
    for number in 0..8u32 {
        let (person, storage) = (Person::at(&relay, number), storage.clone());
        workers.spawn(async move {
            let mut rng = Rng::new(number.into());
            let mut added = Vec::new();
            while Instant::now() < give_up {
                let body = serde_json::json!({"resource": "set", "lease_ms": 500, "wait_ms": 2000});
                let Ok(answer) = person.try_post("/v1/locks/acquire", &body).await else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                let Some(token) = answer.body["fencing_token"].as_u64() else { continue };
                let Some(mut set) = storage.read(token) else { continue };
                let item = rng.draw();
                set.insert(item);
                // Most are quick, some sleep through their lease, some die with it.
                match rng.range(0, 10) {
                    0..=1 => tokio::time::sleep(Duration::from_millis(rng.range(600, 900))).await,
                    2 => continue,
                    _ => tokio::time::sleep(Duration::from_millis(rng.range(0, 10))).await,
                }
                if storage.write(token, set) {
                    added.push(item);
                }
                let body = serde_json::json!({"resource": "set", "fencing_token": token});
                let _ = person.try_post("/v1/locks/release", &body).await;
            }
            added
        });
    }
    while Instant::now() + Duration::from_millis(2500) < give_up {
        tokio::time::sleep(Duration::from_secs(2)).await;
        relay.kill_and_restart().await;
    }
    let added: Vec<u64> = workers.join_all().await.into_iter().flatten().collect();
    assert!(!added.is_empty(), "nothing was added");
    let stored = storage.set.lock().unwrap();
    added.iter().filter(|item| !stored.contains(item)).count()
}

fn length() -> Duration {
    Duration::from_secs(8 * rounds(1) as u64)
}

fn fenced() -> Arc<Storage> {
    let gate = Some(FenceGate::new(FenceMode::PerLease));
    Arc::new(Storage { gate, ..Storage::default() })
}

mod sqlite {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn e01_a_stale_write_is_refused() {
        a_stale_write_is_refused(Backend::Sqlite).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn e02_no_update_is_lost_with_fencing() {
        assert_eq!(lost_updates(fenced(), Backend::Sqlite, length()).await, 0);
    }

    /// Proves that the test above bites.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn e02_updates_are_lost_without_fencing() {
        let unguarded = Arc::new(Storage::default());
        assert!(lost_updates(unguarded, Backend::Sqlite, length()).await > 0);
    }
}

mod postgres {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn e01_a_stale_write_is_refused() {
        a_stale_write_is_refused(Backend::Postgres).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn e02_no_update_is_lost_with_fencing() {
        assert_eq!(lost_updates(fenced(), Backend::Postgres, length()).await, 0);
    }
}
