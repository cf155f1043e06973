//! Recorded histories of a real relay that is killed and restarted, judged by the checker, on both
//! stores (ids: L01…L04, D01, D05, D08).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use relay_e2e::{Person, Relay, Witness, on_both, rounds};
use relay_sim::{Ask, Outcome, rng::Rng};
use tokio::task::JoinSet;

/// A client that does random things to a few locks until it is told to stop or has done enough.
async fn wander(
    person: Person,
    seed: u64,
    witness: Witness,
    stop: Arc<AtomicBool>,
    operations: usize,
    keys: u64,
) {
    let mut rng = Rng::new(seed);
    let owner = witness.owner(&person.id().to_string());
    let mut tokens = vec![Vec::<u64>::new(); keys as usize];
    let mut requests = seed << 32;
    for _ in 0..operations {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = rng.range(0, keys) as usize;
        let resource = format!("wander-{key}");
        let lease_ms = rng.range(500, 700);
        let newest = tokens[key].last().copied();
        let any = match tokens[key].len() as u64 {
            0 => 1,
            count => tokens[key][rng.range(count.saturating_sub(3), count) as usize],
        };
        let (ask, wait_ms) = match (rng.range(0, 20), newest) {
            (0..=1, _) => (Ask::Inspect, 0),
            (2, _) => (Ask::Release { owner, token: any }, 0),
            (3..=5, Some(token)) => (Ask::Renew { owner, token, lease_ms }, 0),
            (6..=9, Some(token)) => (Ask::Release { owner, token }, 0),
            (10..=11, Some(token)) => (Ask::Fenced { owner, token }, 0),
            (kind, _) => {
                // A new request half of the time, else the last one again.
                requests += u64::from(kind % 2 == 0);
                let wait_ms = if rng.one_in(3) { rng.range(10, 700) } else { 0 };
                (Ask::Acquire { owner, lease_ms, request: Some(requests) }, wait_ms)
            }
        };
        let outcome = person.act(&witness, &resource, ask, wait_ms).await;
        match outcome {
            Outcome::Granted { token } => tokens[key].push(token),
            Outcome::Nothing | Outcome::Unknown => {
                tokio::time::sleep(Duration::from_millis(20)).await
            }
            _ => tokio::time::sleep(Duration::from_millis(rng.range(0, 15))).await,
        }
    }
}

on_both! {
    /// 16 clients on 4 locks, without faults.
    async fn l01_random_operations_are_linearizable(relay: Relay) {
        let witness = Witness::default();
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for (seed, person) in Person::crowd(&relay, 16).into_iter().enumerate() {
            let operations = rounds(1) * 120;
            clients.spawn(wander(person, seed as u64, witness.clone(), stop.clone(), operations, 4));
        }
        clients.join_all().await;
        assert!(witness.len() >= 1500, "{}", witness.len());
        witness.judge("l01");
    }

    /// The same, with SIGKILL at random moments: in the middle of requests, commits and sweeps.
    async fn l02_d01_histories_over_kill_and_restart(relay: Relay) {
        let witness = Witness::default();
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for (seed, person) in Person::crowd(&relay, 8).into_iter().enumerate() {
            let seed = 100 + seed as u64;
            clients.spawn(wander(person, seed, witness.clone(), stop.clone(), usize::MAX, 4));
        }
        let mut rng = Rng::new(1);
        for _ in 0..rounds(10) {
            tokio::time::sleep(Duration::from_millis(rng.range(50, 500))).await;
            let down = witness.now();
            relay.kill();
            relay.restart().await;
            witness.restarted(down);
        }
        stop.store(true, Ordering::Relaxed);
        clients.join_all().await;
        witness.judge("l02, d01");
    }

    /// One lock, 64 clients that wait for it: one at a time, each in turn.
    async fn l03_one_lock_many_clients(relay: Relay) {
        let witness = Witness::default();
        let inside = Arc::new(AtomicBool::new(false));
        let people = Person::crowd(&relay, 64);
        let mut clients = JoinSet::new();
        for person in people {
            let (witness, inside) = (witness.clone(), inside.clone());
            clients.spawn(async move {
                let owner = witness.owner(&person.id().to_string());
                let mut waits = Vec::new();
                for _ in 0..4 * rounds(1) {
                    let began = Instant::now();
                    let ask = Ask::Acquire { owner, lease_ms: 60_000, request: None };
                    let got = person.act(&witness, "hot", ask, 60_000).await;
                    let Outcome::Granted { token } = got else { panic!("{got:?}") };
                    waits.push(began.elapsed());
                    assert!(!inside.swap(true, Ordering::SeqCst), "two holders at once");
                    tokio::task::yield_now().await;
                    inside.store(false, Ordering::SeqCst);
                    let ask = Ask::Release { owner, token };
                    assert_eq!(person.act(&witness, "hot", ask, 0).await, Outcome::Done);
                }
                waits
            });
        }
        let each: Vec<Vec<Duration>> = clients.join_all().await;
        let mut waits: Vec<Duration> = each.into_iter().flatten().collect();
        waits.sort_unstable();
        let (median, worst) = (waits[waits.len() / 2], waits[waits.len() - 1]);
        assert!(worst < 20 * median, "median {median:?}, worst {worst:?}");
        witness.judge("l03");
    }

    /// A renewal and acquires race for the deadline: one wins, and then the renewal says lost.
    async fn l04_renew_races_acquire_at_the_deadline(relay: Relay) {
        let people = Arc::new(Person::crowd(&relay, 4));
        let witness = Witness::default();
        let mut races = JoinSet::new();
        for race in 0..40 * rounds(1) {
            let (people, witness) = (people.clone(), witness.clone());
            races.spawn(async move {
                let resource = format!("race-{race}");
                let mut rng = Rng::new(race as u64);
                let owner = witness.owner(&people[0].id().to_string());
                let ask = Ask::Acquire { owner, lease_ms: 500, request: None };
                let got = people[0].act(&witness, &resource, ask, 0).await;
                let Outcome::Granted { token } = got else { panic!("{got:?}") };
                tokio::time::sleep(Duration::from_millis(rng.range(480, 505))).await;
                let renew = async {
                    let ask = Ask::Renew { owner, token, lease_ms: 60_000 };
                    people[0].act(&witness, &resource, ask, 0).await
                };
                let acquires = people[1..].iter().map(|person| {
                    let owner = witness.owner(&person.id().to_string());
                    let ask = Ask::Acquire { owner, lease_ms: 60_000, request: None };
                    person.act(&witness, &resource, ask, 0)
                });
                let acquires = futures_util::future::join_all(acquires);
                let (renewed, acquired) = tokio::join!(renew, acquires);
                let winners = acquired.iter().filter(|o| matches!(o, Outcome::Granted { .. })).count()
                    + usize::from(renewed == Outcome::Done);
                // None wins where the renewal was too late and told so before an acquire came in.
                assert!(winners <= 1, "{renewed:?} {acquired:?}");
            });
        }
        races.join_all().await;
        witness.judge("l04");
    }

    /// After a restart the holder goes on with its token, and nobody else comes in before its
    /// full lease has passed.
    async fn d05_restart_with_a_held_lock(relay: Relay) {
        let (alice, bob) = (Person::at(&relay, 1), Person::at(&relay, 2));
        let token = alice.acquire("d05", 1500).await.token();
        let dead = alice.acquire("d05-dead", 1500).await.token();
        tokio::time::sleep(Duration::from_millis(700)).await;
        relay.kill();
        let down = Instant::now();
        relay.restart().await;
        let up = Instant::now();
        assert_eq!(alice.renew("d05", token, 60_000).await.token(), token);
        bob.acquire("d05", 1000).await.assert_code("lock_held");
        let taken = bob.acquire_waiting("d05-dead", 1000, 10_000).await;
        assert!(taken.token() > dead);
        assert!(down.elapsed() >= Duration::from_millis(1500), "too early: {:?}", down.elapsed());
        assert!(up.elapsed() <= Duration::from_millis(2500), "too late: {:?}", up.elapsed());
    }

    /// An expiry that was told to anybody is not undone by a crash.
    async fn d05_an_expiry_that_was_told_stays(relay: Relay) {
        let alice = Person::at(&relay, 1);
        for round in 0..rounds(5) {
            let resource = format!("d05-told-{round}");
            let token = alice.acquire(&resource, 500).await.token();
            tokio::time::sleep(Duration::from_millis(510)).await;
            alice.renew(&resource, token, 500).await.assert_code("lease_expired");
            relay.kill_and_restart().await;
            alice.renew(&resource, token, 500).await.assert_code("lease_expired");
            assert_eq!(alice.publish_fenced(&resource, token, "dead").await.code(), "fenced");
        }
    }

    /// The history tells every change of state once, and its end is the present state.
    async fn d08_history_is_the_table(relay: Relay) {
        let witness = Witness::default();
        let stop = Arc::new(AtomicBool::new(false));
        let people = Person::crowd(&relay, 6);
        let mut clients = JoinSet::new();
        for (seed, person) in people.iter().cloned().enumerate() {
            let seed = 300 + seed as u64;
            clients.spawn(wander(person, seed, witness.clone(), stop.clone(), 60, 2));
        }
        clients.join_all().await;
        for key in 0..2 {
            let resource = format!("wander-{key}");
            let state = people[0].inspect(&resource).await.body;
            let rows = people[0].history(&resource).await;
            let mut held: Option<u64> = None;
            let mut last = 0;
            for row in &rows {
                let token = row["fencing_token"].as_u64().unwrap();
                match row["action"].as_str().unwrap() {
                    "acquire" | "take_over" => {
                        assert!(held.is_none() && token > last, "{row}");
                        held = Some(token);
                        last = token;
                    }
                    "renew" => assert_eq!(held, Some(token)),
                    "release" | "expire" | "break" => assert_eq!(held.take(), Some(token), "{row}"),
                    other => panic!("unknown action {other}"),
                }
            }
            assert_eq!(state["held"].as_bool().unwrap(), held.is_some());
            let shown = state.get("fencing_token").or(state.get("last_token"));
            assert_eq!(shown.and_then(|token| token.as_u64()), Some(last));
        }
    }
}
