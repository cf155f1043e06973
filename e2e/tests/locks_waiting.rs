//! Those who wait in line (ids: Q01…Q04).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use relay_e2e::{
    Person, Relay, Witness, on_both,
    person::{Answer, NoAnswer},
    rounds, until,
};
use relay_sim::{Ask, Outcome, rng::Rng};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

/// Waits until so many stand in line for a lock.
async fn line_of(person: &Person, resource: &str, waiting: u64) {
    until("the line has formed", Duration::from_secs(10), || async {
        person.inspect(resource).await.body["waiting"] == waiting
    })
    .await;
}

type Waiting = tokio::task::JoinHandle<Result<Answer, NoAnswer>>;

fn queue(person: &Person, resource: &str) -> Waiting {
    let body = json!({"resource": resource, "lease_ms": 60_000, "wait_ms": 60_000});
    let person = person.clone();
    tokio::spawn(async move { person.try_post("/v1/locks/acquire", &body).await })
}

on_both! {
    /// First come, first served; those who are gone, or whose session is, are passed over.
    async fn q01_q02_the_gone_are_passed_over(relay: Relay) {
        let holder = Person::at(&relay, 0);
        let token = holder.acquire("q01", 60_000).await.token();
        let gone = Person::at(&relay, 1);
        let (revoked, _) = Person::at(&relay, 2).signed_in().await;
        let (third, fourth) = (Person::at(&relay, 3), Person::at(&relay, 4));
        let leaving = queue(&gone, "q01");
        line_of(&holder, "q01", 1).await;
        let loser = queue(&revoked, "q01");
        line_of(&holder, "q01", 2).await;
        let next = queue(&third, "q01");
        line_of(&holder, "q01", 3).await;
        let last = queue(&fourth, "q01");
        line_of(&holder, "q01", 4).await;

        leaving.abort();
        let _ = leaving.await;
        assert_eq!(revoked.post("/v1/session/logout", json!({})).await.status, 200);
        // What the relay has to notice, it notices within a second.
        tokio::time::sleep(Duration::from_millis(1000)).await;
        assert_eq!(holder.release("q01", token).await.status, 200);
        let granted = next.await.unwrap().unwrap().token();
        assert!(granted > token);
        let lost = loser.await.unwrap();
        assert!(!lost.is_ok_and(|answer| answer.status == 200), "granted to a dead session");
        assert_eq!(third.release("q01", granted).await.status, 200);
        assert!(last.await.unwrap().unwrap().token() > granted);
    }

    /// Waits run out at the very time of hand-overs: who was told no does not hold the lock.
    async fn q02_waits_run_out_while_locks_are_handed_over(relay: Relay) {
        let witness = Witness::default();
        let mut races = JoinSet::new();
        let (alice, bob) = (Arc::new(Person::at(&relay, 1)), Arc::new(Person::at(&relay, 2)));
        let (a, b) = (witness.owner(&alice.id().to_string()), witness.owner(&bob.id().to_string()));
        for race in 0..30 * rounds(1) {
            let (alice, bob, witness) = (alice.clone(), bob.clone(), witness.clone());
            races.spawn(async move {
                let name = format!("q02-{race}");
                let mut rng = Rng::new(race as u64);
                let ask = Ask::Acquire { owner: a, lease_ms: 60_000, request: None };
                let got = alice.act(&witness, &name, ask, 0).await;
                let Outcome::Granted { token } = got else { panic!("{got:?}") };
                let release = async {
                    tokio::time::sleep(Duration::from_millis(rng.range(280, 310))).await;
                    alice.act(&witness, &name, Ask::Release { owner: a, token }, 0).await
                };
                let ask = Ask::Acquire { owner: b, lease_ms: 60_000, request: None };
                let waiting = bob.act(&witness, &name, ask, 290);
                let (released, waited) = tokio::join!(release, waiting);
                assert_eq!(released, Outcome::Done);
                let seen = alice.act(&witness, &name, Ask::Inspect, 0).await;
                match waited {
                    Outcome::Granted { token } => {
                        assert_eq!(seen, Outcome::Seen { owner: b, token });
                    }
                    Outcome::Held { .. } => {
                        assert_eq!(seen, Outcome::SeenFree { last_token: token });
                    }
                    other => panic!("{other:?}"),
                }
            });
        }
        races.join_all().await;
        witness.judge("q02");
    }

    /// Many leases end at about the same time; renewals of others go on among them.
    async fn q03_many_leases_end_at_once(relay: Relay) {
        let leases = 1500 * rounds(1);
        let mut people = Person::crowd(&relay, 33);
        let keeper = people.pop().unwrap();
        let kept = keeper.acquire("q03-kept", 20_000).await.token();
        let mut crowd = JoinSet::new();
        for (worker, person) in people.into_iter().enumerate() {
            crowd.spawn(async move {
                let mut tokens = Vec::new();
                for lease in 0..leases / 32 {
                    let name = format!("q03-{worker}-{lease}");
                    tokens.push((name.clone(), person.acquire(&name, 1000).await.token()));
                }
                (person, tokens)
            });
        }
        let mut taken = Vec::new();
        let began = Instant::now();
        while taken.len() < 32 || began.elapsed() < Duration::from_millis(1500) {
            assert_eq!(keeper.renew("q03-kept", kept, 20_000).await.status, 200);
            if let Some(done) = crowd.try_join_next() {
                taken.push(done.unwrap());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The sweep has ended them all, with a row each, nobody asking.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        for (person, tokens) in &taken {
            for (name, token) in tokens.iter().take(3) {
                let rows = person.history(name).await;
                let actions: Vec<_> = rows.iter().map(|row| row["action"].as_str().unwrap()).collect();
                assert_eq!(actions, ["acquire", "expire"], "{name}");
                person.renew(name, *token, 1000).await.assert_code("lease_expired");
            }
        }
        let listed = keeper.get("/v1/locks?ns=default&prefix=q03&limit=1000").await.body;
        assert_eq!(listed["items"].as_array().unwrap().len(), 1, "only the kept one is held");
        assert_eq!(keeper.renew("q03-kept", kept, 20_000).await.status, 200);
    }

    /// The holder's socket drops: the lock stays its own until the lease ends.
    async fn q04_the_socket_of_the_holder_drops(relay: Relay) {
        let (alice, bob) = (Person::at(&relay, 1), Person::at(&relay, 2));
        let (_, resume_token) = alice.signed_in().await;
        let url = format!("ws://{}/v1/ws", relay.address());
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let mut call = async |t: &str, body: Value| -> Value {
            let frame = json!({"v": 1, "t": t, "id": "1", "body": body}).to_string();
            socket.send(Message::text(frame)).await.unwrap();
            loop {
                let Message::Text(text) = socket.next().await.unwrap().unwrap() else { continue };
                let frame: Value = serde_json::from_str(&text).unwrap();
                if frame["id"] == "1" {
                    return frame;
                }
            }
        };
        let ready = call("session.resume", json!({"resume_token": resume_token})).await;
        assert_eq!(ready["t"], "session.ready", "{ready}");
        let began = Instant::now();
        let acquired = call("lock.acquire", json!({"resource": "q04", "lease_ms": 3000})).await;
        assert_eq!(acquired["t"], "lock.acquired", "{acquired}");
        let token = acquired["body"]["fencing_token"].as_u64().unwrap();
        drop(socket);
        bob.acquire("q04", 1000).await.assert_code("lock_held");
        let taken = bob.acquire_waiting("q04", 1000, 10_000).await.token();
        assert!(taken > token);
        assert!(began.elapsed() >= Duration::from_millis(3000), "freed with the socket");
    }
}
