//! What a lock promises when the disk fails, fills, forgets, or goes back in time (ids: D02…D06).

use std::time::Duration;

use nix::errno::Errno;
use relay_e2e::{Backend, Person, Relay, relay::Setup, rounds, until};
use serde_json::json;

async fn shimmed() -> Relay {
    Relay::with(Setup { shim: true, ..Setup::new(Backend::Sqlite) }).await
}

/// Grants some locks and cuts the power; says whether all that was told is still true.
async fn power_cut_keeps_promises(relay: &mut Relay, round: usize) -> bool {
    let (alice, bob) = (Person::at(relay, 1), Person::at(relay, 2));
    let mut highest = 0;
    let kept = alice.acquire(&format!("kept-{round}"), 60_000).await.token();
    for _ in 0..5 {
        let token = alice.acquire("again", 60_000).await.token();
        assert!(token > highest);
        highest = token;
        assert_eq!(alice.release("again", token).await.status, 200);
    }
    relay.cut_power().await;
    let held = alice.renew(&format!("kept-{round}"), kept, 60_000).await.status == 200;
    let next = bob.acquire("again", 60_000).await.token();
    assert_eq!(bob.release("again", next).await.status, 200);
    held && next > highest
}

/// Of everything that was told, nothing is lost when un-synced writes are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d02_power_cut() {
    let mut relay = shimmed().await;
    for round in 0..rounds(3) {
        assert!(power_cut_keeps_promises(&mut relay, round).await, "round {round}");
    }
}

/// Proves that the test above bites: with a store that does not sync, promises break.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d02_power_cut_without_sync_breaks_promises() {
    let mut relay = shimmed().await;
    relay.shim().forget_syncs(true);
    assert!(!power_cut_keeps_promises(&mut relay, 0).await);
}

/// No space: no grant is told, readers go on, and with space again everything works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d03_disk_full() {
    let relay = shimmed().await;
    let alice = Person::at(&relay, 1);
    let before = alice.acquire("before", 60_000).await.token();
    relay.shim().fail_writes(Some(Errno::ENOSPC));
    for _ in 0..3 {
        let refused = alice.acquire("full", 60_000).await;
        assert!(refused.status >= 500, "{refused:?}");
    }
    relay.shim().fail_writes(None);
    until("it grants again", Duration::from_secs(10), || async {
        alice.acquire("after", 60_000).await.status == 200
    })
    .await;
    assert_eq!(alice.inspect("full").await.body["held"], false, "a grant that nobody was told of");
    assert_eq!(alice.renew("before", before, 60_000).await.status, 200);
}

/// A write or a sync fails: nobody knows what is on the disk, so nothing is granted until a new start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d03_disk_error() {
    for on_sync in [false, true] {
        let mut relay = shimmed().await;
        let (alice, bob) = (Person::at(&relay, 1), Person::at(&relay, 2));
        let before = alice.acquire("before", 60_000).await.token();
        let fail = |error| match on_sync {
            true => relay.shim().fail_syncs(error),
            false => relay.shim().fail_writes(error),
        };
        fail(Some(Errno::EIO));
        let refused = alice.acquire("broken", 60_000).await;
        assert!(refused.status >= 500, "{refused:?}");
        fail(None);
        if on_sync {
            let refused = alice.acquire("still", 60_000).await;
            assert!(refused.status >= 500, "granted after a failed sync: {refused:?}");
        }
        relay.kill_and_restart().await;
        let after = bob.acquire("after", 60_000).await.token();
        assert!(after > before);
        assert_eq!(alice.renew("before", before, 60_000).await.status, 200);
        bob.acquire("before", 60_000).await.assert_code("lock_held");
    }
}

/// Another process holds the database: the relay says to come back, and never a false yes or no.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d04_another_process_holds_the_database() {
    let relay = Relay::start(Backend::Sqlite).await;
    let (alice, bob) = (Person::at(&relay, 1), Person::at(&relay, 2));
    let token = alice.acquire("d04", 60_000).await.token();
    let other = rusqlite::Connection::open(relay.data_dir().join("relay.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = bob.acquire("d04-free", 60_000).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.retry_after.is_some() && refused.body["retry_after_ms"].is_u64());
    other.execute_batch("ROLLBACK").unwrap();
    until("it grants again", Duration::from_secs(10), || async {
        bob.acquire("d04-free", 60_000).await.status == 200
    })
    .await;
    assert_eq!(alice.renew("d04", token, 60_000).await.token(), token);
}

/// The history is replayed into the same locks after a clean stop and after a kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d08_locks_survive_stop_and_kill() {
    let mut relay = Relay::start(Backend::Sqlite).await;
    let alice = Person::at(&relay, 1);
    let meta = json!({"host": "one", "why": ["a", 1]});
    let body = json!({"resource": "d08", "lease_ms": 60_000, "meta": meta});
    let token = alice.post("/v1/locks/acquire", body).await.token();
    let freed = alice.acquire("d08-freed", 60_000).await.token();
    assert_eq!(alice.release("d08-freed", freed).await.status, 200);
    for clean in [true, false] {
        if clean {
            relay.stop().await;
        } else {
            relay.kill();
        }
        relay.restart().await;
        let state = alice.inspect("d08").await.body;
        assert_eq!((&state["fencing_token"], &state["meta"]), (&json!(token), &meta));
        let state = alice.inspect("d08-freed").await.body;
        assert_eq!((&state["held"], &state["last_token"]), (&json!(false), &json!(freed)));
    }
}
