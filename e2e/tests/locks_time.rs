//! Time at a real relay and at the SDK (ids: T01…T07).

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use relay_client::{Error, LockGuard, LockOptions, LockRequest, ManualClock};
use relay_e2e::{
    Backend, Person, Relay, Witness, postgres::Database, proxy::Proxy, relay::Setup, until,
};
use relay_proto::Code;
use relay_sim::{Ask, Outcome};

const HOUR: i64 = 3600;

async fn shimmed(backend: Backend) -> Relay {
    Relay::with(Setup { shim: true, ..Setup::new(backend) }).await
}

/// Nobody loses a lease early, and nobody keeps one after its end, whatever the wall clock does.
async fn wall_clock_steps(backend: Backend) {
    let relay = shimmed(backend).await;
    let witness = Witness::default();
    let (alice, _) = Person::at(&relay, 1).signed_in().await;
    let (bob, _) = Person::at(&relay, 2).signed_in().await;
    let (a, b) = (witness.owner(&alice.id().to_string()), witness.owner(&bob.id().to_string()));
    for (round, shift) in [HOUR, -HOUR, 10, 20, 30, -10, 0].into_iter().enumerate() {
        let (kept, dead) = (format!("kept-{round}"), format!("dead-{round}"));
        let lease = |lease_ms| Ask::Acquire { owner: a, lease_ms, request: None };
        let got = alice.act(&witness, &kept, lease(60_000), 0).await;
        let Outcome::Granted { token } = got else { panic!("{got:?}") };
        let got = alice.act(&witness, &dead, lease(600), 0).await;
        assert!(matches!(got, Outcome::Granted { .. }), "{got:?}");
        relay.shim().shift_wall(shift);
        let ask = Ask::Renew { owner: a, token, lease_ms: 60_000 };
        assert_eq!(alice.act(&witness, &kept, ask, 0).await, Outcome::Done, "{shift}");
        let began = Instant::now();
        let ask = Ask::Acquire { owner: b, lease_ms: 500, request: None };
        let got = bob.act(&witness, &dead, ask.clone(), 10_000).await;
        assert!(matches!(got, Outcome::Granted { .. }), "{got:?}");
        assert!(began.elapsed() < Duration::from_millis(600 + 1000), "kept too long");
        assert_eq!(bob.act(&witness, &kept, ask, 0).await, Outcome::Held { owner: a });
    }
    witness.judge("t01");
}

/// The relay stands still for three leases; then all that waited in its sockets is served at once.
async fn the_relay_stands_still(backend: Backend) {
    const LEASES: u64 = 24;
    let relay = Relay::start(backend).await;
    let witness = Witness::default();
    let (alice, bob) = (Person::at(&relay, 1), Person::at(&relay, 2));
    let (a, b) = (witness.owner(&alice.id().to_string()), witness.owner(&bob.id().to_string()));
    let mut tokens = Vec::new();
    for number in 0..LEASES {
        // Every second lease outlives the stop.
        let lease_ms = if number % 2 == 0 { 600 } else { 60_000 };
        let ask = Ask::Acquire { owner: a, lease_ms, request: None };
        let got = alice.act(&witness, &format!("t02-{number}"), ask, 0).await;
        let Outcome::Granted { token } = got else { panic!("{got:?}") };
        tokens.push(token);
    }
    relay.pause().await;
    let (alice, bob, witness) = (&alice, &bob, &witness);
    let queued = tokens.iter().enumerate().map(|(number, token)| async move {
        let name = format!("t02-{number}");
        let renew = Ask::Renew { owner: a, token: *token, lease_ms: 600 };
        let acquire = Ask::Acquire { owner: b, lease_ms: 60_000, request: None };
        tokio::join!(alice.act(witness, &name, renew, 0), bob.act(witness, &name, acquire, 0))
    });
    let resume = async {
        tokio::time::sleep(Duration::from_millis(1800)).await;
        relay.resume();
    };
    let (outcomes, ()) = tokio::join!(join_all(queued), resume);
    for (number, (renewed, acquired)) in outcomes.iter().enumerate() {
        let story = format!("{number}: {renewed:?} {acquired:?}");
        if number % 2 == 0 {
            assert!(matches!(renewed, Outcome::Expired | Outcome::Stale), "{story}");
            assert!(matches!(acquired, Outcome::Granted { .. }), "{story}");
        } else {
            assert_eq!(*renewed, Outcome::Done, "{story}");
            assert_eq!(*acquired, Outcome::Held { owner: a }, "{story}");
        }
    }
    witness.judge("t02");
}

/// The host slept: boot time went on, monotonic time did not. The leases are over.
async fn the_host_was_suspended(backend: Backend) {
    let relay = shimmed(backend).await;
    let (alice, bob) = (Person::at(&relay, 1), Person::at(&relay, 2));
    let short = alice.acquire("t05", 60_000).await.token();
    let long = alice.acquire("t05-long", 3_600_000).await.token();
    relay.shim().suspend(Duration::from_secs(61));
    alice.renew("t05", short, 60_000).await.assert_code("lease_expired");
    assert!(bob.acquire("t05", 1000).await.token() > short);
    assert_eq!(alice.renew("t05-long", long, 1000).await.token(), long);
}

mod sqlite {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn t01_wall_clock_steps() {
        wall_clock_steps(Backend::Sqlite).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn t02_the_relay_stands_still() {
        the_relay_stands_still(Backend::Sqlite).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn t05_the_host_was_suspended() {
        the_host_was_suspended(Backend::Sqlite).await;
    }
}

mod postgres {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn t01_wall_clock_steps() {
        wall_clock_steps(Backend::Postgres).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn t02_the_relay_stands_still() {
        the_relay_stands_still(Backend::Postgres).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn t05_the_host_was_suspended() {
        the_host_was_suspended(Backend::Postgres).await;
    }

    /// The database's clock is an hour off, in both directions, while leases live.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn t06_the_clock_of_the_database_is_wrong() {
        let database = Some(Database::private(true).await);
        let mut relay = Relay::with(Setup { database, ..Setup::new(Backend::Postgres) }).await;
        let (alice, bob) = (Person::at(&relay, 1), Person::at(&relay, 2));
        for shift in [HOUR, -HOUR] {
            let kept = alice.acquire("t06", 60_000).await.token();
            let dead = alice.acquire("t06-dead", 2500).await.token();
            let began = Instant::now();
            relay.database.as_mut().unwrap().cluster().shim().shift_wall(shift);
            bob.acquire("t06-dead", 500).await.assert_code("lock_held");
            let taken = bob.acquire_waiting("t06-dead", 60_000, 10_000).await.token();
            assert!(taken > dead);
            assert!(began.elapsed() < Duration::from_millis(2500 + 1000), "kept too long");
            assert_eq!(alice.renew("t06", kept, 60_000).await.token(), kept);
            assert_eq!(alice.release("t06", kept).await.status, 200);
            assert_eq!(bob.release("t06-dead", taken).await.status, 200);
        }
    }

    /// The writer waits for a lock of the database: expiry is judged after the wait.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn t07_the_database_makes_the_writer_wait() {
        let relay = Relay::start(Backend::Postgres).await;
        let (alice, bob) = (Person::at(&relay, 1), Person::at(&relay, 2));
        let token = alice.acquire("t07", 600).await.token();
        let mut blocker = relay.database.as_ref().unwrap().connect().await;
        let transaction = blocker.transaction().await.unwrap();
        transaction
            .batch_execute("LOCK TABLE lock_history IN ACCESS EXCLUSIVE MODE")
            .await
            .unwrap();
        let blocked = tokio::spawn({
            let bob = bob.clone();
            async move { bob.acquire("t07-other", 60_000).await }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!blocked.is_finished(), "the writer did not wait");
        let renewed = tokio::spawn({
            let alice = alice.clone();
            async move { alice.renew("t07", token, 60_000).await }
        });
        tokio::time::sleep(Duration::from_millis(700)).await;
        transaction.rollback().await.unwrap();
        renewed.await.unwrap().assert_code("lease_expired");
        assert!(bob.acquire("t07", 1000).await.token() > token);
        blocked.await.unwrap().token();
    }
}

mod sdk {
    use super::*;

    fn request(resource: &str, lease: Duration) -> LockRequest {
        LockRequest { lease, ..LockRequest::new(resource).unwrap() }
    }

    /// The holder is cut off for longer than its lease. Its guard says so before it can go on, and
    /// what it writes all the same is refused.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn t03_a_holder_that_was_paused_knows_it() {
        let relay = Relay::start(Backend::Sqlite).await;
        let proxy = Proxy::tcp(relay.address()).await;
        let (alice, bob) = (Person::at(&relay, 1), Person::at(&relay, 2));
        let client = alice.through(&proxy.url()).sdk();
        let lease = Duration::from_millis(1000);
        let guard = LockGuard::acquire(&client, request("t03", lease), LockOptions::default())
            .await
            .unwrap();
        assert!(guard.is_held());
        proxy.hold_requests(true);
        tokio::time::timeout(Duration::from_secs(5), guard.lost()).await.unwrap();
        assert!(!guard.is_held());
        bob.acquire_waiting("t03", 60_000, 5000).await.token();
        proxy.hold_requests(false);
        let late = alice.publish_fenced("t03", guard.fencing_token(), "late").await;
        assert_eq!((late.status, late.code()), (409, "fenced"));
    }

    /// By an injected clock: the deadline counts from the sending, minus the margin.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn t03_t05_the_guard_counts_with_the_clock_that_counts_suspend() {
        let relay = Relay::start(Backend::Sqlite).await;
        let client = Person::at(&relay, 1).sdk();
        let clock = ManualClock::default();
        let options = LockOptions { clock: Arc::new(clock.clone()), margin: None };
        let lease = Duration::from_secs(60);
        let guard = LockGuard::acquire(&client, request("t05", lease), options).await.unwrap();
        clock.advance(Duration::from_millis(53_999));
        assert!(guard.is_held(), "before the margin");
        clock.advance(Duration::from_secs(61));
        assert!(!guard.is_held(), "the machine slept through its lease");
    }

    /// The answer comes when the lease is over: the SDK does not say that the lock is held.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn t04_a_grant_that_comes_too_late() {
        let relay = Relay::start(Backend::Sqlite).await;
        let proxy = Proxy::tcp(relay.address()).await;
        let (alice, bob) = (Person::at(&relay, 1), Person::at(&relay, 2));
        let client = alice.through(&proxy.url()).sdk();
        proxy.hold_answers(true);
        let acquiring = tokio::spawn(async move {
            let lease = Duration::from_millis(500);
            LockGuard::acquire(&client, request("t04", lease), LockOptions::default()).await
        });
        until("the relay has granted it", Duration::from_secs(5), || async {
            bob.inspect("t04").await.body["held"] == true
        })
        .await;
        bob.acquire_waiting("t04", 60_000, 5000).await.token();
        proxy.hold_answers(false);
        match acquiring.await.unwrap() {
            Ok(guard) => assert!(!guard.is_held(), "held although it is over"),
            Err(Error::LeaseOver) => {}
            Err(other) => {
                let lost = [Code::LeaseExpired, Code::StaleToken, Code::Conflict, Code::LockHeld];
                assert!(other.code().is_some_and(|code| lost.contains(&code)), "{other}");
            }
        }
    }
}
