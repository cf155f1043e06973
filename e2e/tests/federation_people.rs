//! What operators do about links, and what they are told of them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic")]

use relay_client::Request;
use relay_e2e::{
    Backend, Relay,
    federation::{
        HUB_SECRET, PATIENCE, Secrets, Service, counted, get, links_of, operate, operator,
        until_attached, until_linked,
    },
    relay::Setup,
    until,
};
use relay_fed::{DirectoryEntry, DirectoryFile};
use relay_proto::SigningKey;
use serde_json::{Value, json};

async fn until_told(relay: &Relay, words: &str) {
    until(&format!("'{words}' is told"), PATIENCE, || async { relay.log().contains(words) }).await;
}

fn told(relay: &Relay, words: &str) -> usize {
    relay.log().matches(words).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_tells_of_its_link_in_one_line_each() {
    let secrets = Secrets::new();
    let mut hub = secrets.hub("hub-a", &[]).await;
    let blog = Service::start("blog").await;
    let alice = secrets.spoke("alice.home", &[links_of(hub.address())], &[&blog]).await;
    until_told(&alice, "1 service public: blog").await;
    let log = alice.log();
    let line = log.lines().find(|line| line.contains("linked to hub-a in ")).expect("the line");
    assert!(line.contains(" ms (rtt ") && line.contains("), 1 service public: blog"), "{line}");
    assert!(log.contains("  home  alice.home  "), "{log}");

    hub.kill();
    until_told(&alice, "link to hub-a lost: ").await;
    // Long enough away for several attempts.
    until("the spoke dials in vain", PATIENCE, || async {
        get(&alice, "/status").await["uplink"]["last_reason"] == "connect"
    })
    .await;
    hub.restart().await;
    until_told(&alice, "linked to hub-a again after ").await;
    assert_eq!(
        (
            told(&alice, "link to hub-a lost"),
            told(&alice, "again after"),
            told(&alice, "no link to")
        ),
        (1, 1, 0),
        "{}",
        alice.log()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hubs_that_were_added_by_hand_stay_and_are_in_the_directory() {
    let secrets = Secrets::new();
    let mut a = secrets.hub("hub-a", &[]).await;
    let b = secrets.hub("hub-b", &[]).await;
    let url = links_of(b.address());
    operate(&a, Request::post("/federation/peers/add", &json!({ "url": url }))).await;
    until_linked(&a, &b).await;
    let entry = get(&a, "/v1/gateways/resolve?gateway_id=hub-b").await;
    let key = get(&b, "/v1/info").await["key"].clone();
    assert_eq!((&entry["gateway_url"], &entry["node_id"]), (&json!(b.url()), &key));
    let named = get(&a, &format!("/v1/gateways/resolve?node_id={}", key.as_str().unwrap())).await;
    assert_eq!(named["gateway_id"], "hub-b");

    a.stop().await;
    a.restart().await;
    until_linked(&a, &b).await;
    until_told(&a, "linked to hub-b in ").await;

    let request = Request::new(reqwest::Method::DELETE, "/federation/peers/hub-b");
    let removed: Value = operator(&a).call(request).await.unwrap();
    assert_eq!(removed["id"], "hub-b");
    a.stop().await;
    a.restart().await;
    assert_eq!(get(&a, "/federation/peers").await["peers"], json!([]));
    assert_eq!(get(&a, "/v1/gateways/resolve?gateway_id=hub-b").await["gateway_id"], Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spare_link_is_shown() {
    let secrets = Secrets::new();
    let a = secrets.hub("hub-a", &[]).await;
    let b = secrets.hub("hub-b", &[links_of(a.address())]).await;
    let hubs = [links_of(a.address()), links_of(b.address())];
    let alice = secrets.spoke("alice.home", &hubs, &[]).await;
    until("both links are up", PATIENCE, || async {
        get(&alice, "/status").await["standby"].as_array().is_some_and(|spare| spare.len() == 1)
    })
    .await;
    let status = get(&alice, "/status").await;
    // Which of the two was there within the first second is the machine's choice.
    let (used, spare) = (status["hub"].as_str().unwrap(), status["standby"][0].as_str().unwrap());
    assert!(matches!((used, spare), ("hub-a", "hub-b") | ("hub-b", "hub-a")), "{status}");
    if used == "hub-a" {
        drop(a);
        until_attached(&alice, "hub-b").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_with_another_key_than_the_directorys_is_not_linked_to() {
    let secrets = Secrets::new();
    let b = secrets.hub("hub-b", &[]).await;
    let operators = SigningKey::from_seed([9; 32]);
    let entry = DirectoryEntry {
        gateway_id: "hub-b".parse().unwrap(),
        gateway_url: b.url(),
        node_id: SigningKey::from_seed([10; 32]).node_id(),
        expires_at: 4_000_000_000_000,
    };
    let file = DirectoryFile::sign(vec![entry], &operators).unwrap().to_text();
    let config = format!(
        "[federation]\npeers = [{:?}]\npeer_secret_file = {:?}\n\
         directory_files = [{:?}]\ndirectory_keys = [\"{}\"]\n",
        links_of(b.address()),
        secrets.file("same-secret", HUB_SECRET),
        secrets.file("directory.json", &file),
        operators.node_id(),
    );
    let setup = Setup { id: "hub-a".into(), config, ..Setup::new(Backend::Sqlite) };
    let a = Relay::with(setup).await;
    until("the key is refused", PATIENCE, || async {
        counted(&a, "failed", "wrong_key").await > 0
    })
    .await;
    until_told(&a, "(wrong_key); trying again").await;
    assert_eq!(get(&a, "/federation/peers").await["peers"], json!([]));
    assert_eq!(get(&b, "/federation/peers").await["peers"], json!([]));
}
