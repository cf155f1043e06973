//! Locks on a PostgreSQL that is cut off, slow, cancelled or contradicts (ids: P03, P05…P07).

use std::time::Duration;

use relay_e2e::{
    Backend, Person, Relay, Witness, postgres::Database, proxy::Proxy, relay::Setup, until,
};
use relay_sim::{Ask, Outcome};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Asks until the relay grants: it may have to find its database again first.
async fn granted_at_last(person: &Person, body: &Value) -> u64 {
    for _ in 0..1000 {
        let answer = person.post("/v1/locks/acquire", body.clone()).await;
        if answer.status == 200 {
            return answer.token();
        }
        assert!(answer.status >= 500, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the relay has not recovered")
}

/// A commit that waits for its standby and is cancelled is visible here and may vanish there:
/// nobody may be told that it is a grant, nor may anybody read it before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p03_cancelled_while_waiting_for_the_standby() {
    let database = Some(Database::private(false).await);
    let relay = Relay::with(Setup { database, ..Setup::new(Backend::Postgres) }).await;
    let (alice, bob) = (Person::at(&relay, 1), Person::at(&relay, 2));
    let before = alice.acquire("before", 60_000).await.token();
    let database = relay.database.as_ref().unwrap();
    let standbys = async |names: &str| {
        database.execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'")).await;
        database.execute("SELECT pg_reload_conf()").await;
    };
    for (round, end) in ["pg_cancel_backend", "pg_terminate_backend"].into_iter().enumerate() {
        let resource = format!("p03-{round}");
        standbys("nobody").await;
        let asking = tokio::spawn({
            let (alice, resource) = (alice.clone(), resource.clone());
            let body = json!({"resource": resource, "lease_ms": 60_000, "request_id": resource});
            async move { alice.try_post("/v1/locks/acquire", &body).await }
        });
        let admin = database.connect().await;
        until("the commit waits for its standby", Duration::from_secs(10), || async {
            let waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            admin.query_opt(waiting, &[]).await.unwrap().is_some()
        })
        .await;
        assert!(!asking.is_finished(), "told before it was replicated");
        let seen = tokio::time::timeout(Duration::from_millis(300), bob.inspect(&resource)).await;
        if let Ok(seen) = seen {
            assert_ne!(seen.body["held"], true, "read before it was replicated");
        }
        let end = format!("SELECT {end}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
        // Others of the relay's connections may wait as well: go on until it was the writer's.
        until("the request is answered", Duration::from_secs(30), || async {
            database.execute(&end).await;
            asking.is_finished()
        })
        .await;
        let answer = asking.await.unwrap();
        assert!(answer.as_ref().is_ok_and(|answer| answer.status >= 500), "{answer:?}");
        standbys("").await;
        // Known again: the retry is the same grant or a new one, and tokens rise.
        let body = json!({"resource": resource, "lease_ms": 60_000, "request_id": resource});
        let token = granted_at_last(&alice, &body).await;
        assert!(token > before);
        assert_eq!(bob.inspect(&resource).await.body["fencing_token"], token);
    }
}

/// The link breaks after COMMIT was sent and before its answer came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p05_the_answer_to_the_commit_is_lost() {
    let database = Database::create().await;
    let proxy = Proxy::postgres(database.host()).await;
    let host = Some(proxy.socket_dir().to_owned());
    let setup =
        Setup { database: Some(database), database_host: host, ..Setup::new(Backend::Postgres) };
    let relay = Relay::with(setup).await;
    let alice = Person::at(&relay, 1);
    let mut last = alice.acquire("first", 60_000).await.token();
    for round in 0..3 {
        let resource = format!("p05-{round}");
        let body = json!({"resource": resource, "lease_ms": 60_000, "request_id": resource});
        proxy.hold_answers(true);
        let asking = tokio::spawn({
            let (alice, body) = (alice.clone(), body.clone());
            async move { alice.try_post("/v1/locks/acquire", &body).await }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.cut();
        let answer = asking.await.unwrap();
        assert!(answer.as_ref().is_ok_and(|answer| answer.status >= 500), "{answer:?}");
        proxy.hold_answers(false);
        let token = granted_at_last(&alice, &body).await;
        let again = alice.post("/v1/locks/acquire", body).await.token();
        assert_eq!(again, token);
        assert!(token > last);
        last = token;
        let rows = alice.history(&resource).await;
        assert_eq!(rows.len(), 1, "one grant, one row: {rows:?}");
    }
}

/// Many race to take over one expired lock, over and over: one wins, and its token is the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p06_many_take_over_one_expired_lock() {
    let relay = Relay::start(Backend::Postgres).await;
    let witness = Witness::default();
    let people = Person::crowd(&relay, 64);
    for round in 0..3 {
        let mut racers = JoinSet::new();
        for person in &people {
            let (person, witness) = (person.clone(), witness.clone());
            racers.spawn(async move {
                let owner = witness.owner(&person.id().to_string());
                let ask = Ask::Acquire { owner, lease_ms: 500, request: None };
                person.act(&witness, "p06", ask, 0).await
            });
        }
        let outcomes = racers.join_all().await;
        let granted = outcomes.iter().filter(|o| matches!(o, Outcome::Granted { .. })).count();
        // On a busy machine the race may outlast the lease; the checker tells that from two holders.
        assert!(granted >= 1, "round {round}: {outcomes:?}");
        tokio::time::sleep(Duration::from_millis(510)).await;
    }
    witness.judge("p06");
}

/// The database refuses to serialise: the grant is not told, or was tried again, and all goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p07_serialization_failure() {
    let relay = Relay::start(Backend::Postgres).await;
    let alice = Person::at(&relay, 1);
    let before = alice.acquire("before", 60_000).await.token();
    let database = relay.database.as_ref().unwrap();
    database
        .execute(
            "CREATE SEQUENCE failures;
             CREATE FUNCTION refuse_once() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF nextval('failures') <= 1 THEN
                     RAISE EXCEPTION 'could not serialize access' USING ERRCODE = '40001';
                 END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON lock_history
                 FOR EACH STATEMENT EXECUTE FUNCTION refuse_once()",
        )
        .await;
    let body = json!({"resource": "p07", "lease_ms": 60_000, "request_id": "p07"});
    let token = granted_at_last(&alice, &body).await;
    assert!(token > before);
    assert_eq!(alice.history("p07").await.len(), 1);
    assert_eq!(alice.renew("before", before, 60_000).await.token(), before);
}
