//! Homes that are killed while other relays forward to them: nothing that was acknowledged is lost, and nothing
//! is done twice.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use relay_client::{Client, LockRequest, Request};
use relay_e2e::{
    Backend, Relay,
    federation::{PATIENCE, Secrets, get, links_of},
    relay::{Setup, reqwest_client},
    until,
};
use relay_proto::{
    SigningKey,
    event::{Draft, Tags},
};
use serde_json::Value;
use tokio::task::JoinSet;

/// How often the home is killed.
const DEATHS: usize = 3;
/// Writers at once.
const WRITERS: u64 = 8;

const FAR: &str = "[[namespace]]\nmatch = \"far/**\"\nhome = \"home-b\"\n";

/// A hub that is the home, and the spoke that everybody asks.
async fn pair(backend: Backend) -> (Relay, Relay, Secrets) {
    let secrets = Secrets::new();
    let config = format!("[hub]\npsk_file = {:?}\n", secrets.psk());
    let home = Relay::with(Setup { id: "home-b".into(), config, ..Setup::new(backend) }).await;
    let edge = secrets.spoke_with("edge-a", &[links_of(home.address())], &[], FAR).await;
    until("the edge is linked", PATIENCE, || async {
        get(&edge, "/status").await["is_attached"] == true
    })
    .await;
    (home, edge, secrets)
}

fn event(writer: u64, n: u64) -> Value {
    let mut tags = Tags::new();
    tags.push(["ns", "far/x"]);
    let created_at_ns = 1_767_000_000_000_000_000 + writer * 1_000_000 + n;
    let draft = Draft { created_at_ns, kind: 1, tags, content: format!("{writer}/{n}") };
    let key = SigningKey::from_seed([writer as u8 + 1; 32]);
    serde_json::from_slice(draft.sign(&key).unwrap().json()).unwrap()
}

/// Publishes one event after the other through the edge, each again until it is acknowledged; their ids.
async fn publish_until(url: String, writer: u64, deaths: Arc<AtomicUsize>) -> Vec<String> {
    let http = reqwest_client();
    let mut acknowledged = Vec::new();
    for n in 0.. {
        if deaths.load(Ordering::Relaxed) > DEATHS {
            break;
        }
        let event = event(writer, n);
        loop {
            let answer = http.post(format!("{url}/v1/events")).json(&event).send().await.unwrap();
            let status = answer.status();
            if status.is_success() {
                acknowledged.push(event["id"].as_str().unwrap().to_owned());
                break;
            }
            assert!(matches!(status.as_u16(), 503 | 504), "{status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    acknowledged
}

/// Takes one lock after the other through the edge, each under one request id until it is granted.
async fn lock_until(url: String, writer: u64, deaths: Arc<AtomicUsize>) -> Vec<String> {
    let key = SigningKey::from_seed([writer as u8 + 101; 32]);
    let client = Client::builder(&url).unwrap().key(key).build().unwrap();
    let (mut taken, mut newest) = (Vec::new(), 0);
    for n in 0.. {
        if deaths.load(Ordering::Relaxed) > DEATHS {
            break;
        }
        let resource = format!("r/{writer}/{n}");
        let mut request = LockRequest::new(&resource).unwrap();
        request.ns = "far/x".parse().unwrap();
        request.lease = Duration::from_secs(600);
        loop {
            match client.acquire(&request).await {
                Ok(grant) => {
                    // Whatever died between: tokens rise.
                    assert!(grant.fencing_token > newest, "{resource}");
                    newest = grant.fencing_token;
                    break;
                }
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        taken.push(resource);
    }
    taken
}

async fn killed_with_requests_in_flight(backend: Backend) {
    let (mut home, edge, _secrets) = pair(backend).await;
    let deaths = Arc::new(AtomicUsize::new(0));
    let (mut events, mut locks) = (JoinSet::new(), JoinSet::new());
    for writer in 0..WRITERS {
        events.spawn(publish_until(edge.url(), writer, deaths.clone()));
    }
    locks.spawn(lock_until(edge.url(), 0, deaths.clone()));
    for death in 0..=DEATHS as u64 {
        // Each time after something has been done since the last.
        let before = count(&home).await;
        until("events are stored", PATIENCE, || async { count(&home).await > before + 20 }).await;
        if death < DEATHS as u64 {
            home.kill_and_restart().await;
        }
        deaths.fetch_add(1, Ordering::Relaxed);
    }
    let acknowledged: Vec<String> = events.join_all().await.concat();
    let taken = locks.join_all().await.concat();
    assert!(acknowledged.len() > 60 && !taken.is_empty(), "{} {}", acknowledged.len(), taken.len());

    // Every one is there, and nothing besides: each id once.
    assert_eq!(count(&home).await, acknowledged.len() as u64);
    let client = Client::builder(&home.url()).unwrap().build().unwrap();
    for id in &acknowledged {
        let _: Value = client.call(Request::get(format!("/v1/events/{id}"))).await.unwrap();
    }
    for resource in &taken {
        let asked = Request::get("/v1/lock-history").query("ns", Some("far/x"));
        let asked = asked.query("resource", Some(resource));
        let history: Value = client.call(asked).await.unwrap();
        assert_eq!(history["items"].as_array().unwrap().len(), 1, "{resource}: {history}");
    }
    // Nothing of it was kept on the way.
    let at_edge = get(&edge, "/v1/events/count").await;
    assert_eq!(at_edge["count"], 0);
}

async fn count(home: &Relay) -> u64 {
    get(home, "/v1/events/count?ns=far/x").await["count"].as_u64().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_that_is_killed_loses_nothing_and_repeats_nothing() {
    killed_with_requests_in_flight(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_on_postgresql_that_is_killed_loses_nothing_and_repeats_nothing() {
    killed_with_requests_in_flight(Backend::Postgres).await;
}
