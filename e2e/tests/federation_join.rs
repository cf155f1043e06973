//! `relay join` on a relay that runs: it becomes somebody's home relay, stays one, and leaves again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic")]

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use relay_client::Request;
use relay_e2e::{
    Backend, Relay,
    federation::{
        PATIENCE, Secrets, Service, answers, call, counted, error_of, get, links_of, operate,
        operator, until_attached,
    },
    relay::{Setup, relay_binary, reqwest_client},
    until,
};
use serde_json::{Value, json};

const JOIN: &str = "/v1/federation/join";

/// A relay that belongs to nobody, with a service.
async fn plain(id: &str, service: &Service) -> Relay {
    let config = format!(
        "[[service]]\nname = {:?}\nhttp = \"http://{}/rpc\"\nvisibility = \"public\"\n",
        service.name, service.address
    );
    Relay::with(Setup { id: id.into(), config, ..Setup::new(Backend::Sqlite) }).await
}

/// A join code of the hub, as its operator gets it.
async fn code(hub: &Relay) -> String {
    let asked = json!({ "for": "spoke", "uses": 1 });
    let made = operate(hub, Request::post("/v1/tokens", &asked)).await;
    let code = made["join_code"].as_str().unwrap();
    // At its local socket the hub does not know under which address it is reached.
    let mut content = read(code);
    content["url"] = hub.url().into();
    write(&content)
}

fn read(code: &str) -> Value {
    let text = code.strip_prefix("relay-join-v1.").unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
}

fn write(content: &Value) -> String {
    format!("relay-join-v1.{}", URL_SAFE_NO_PAD.encode(content.to_string()))
}

async fn join(relay: &Relay, code: &str) -> Result<Value, relay_client::Error> {
    operator(relay).call(Request::post(JOIN, &json!({ "code": code }))).await
}

async fn leave(relay: &Relay) -> Result<Value, relay_client::Error> {
    operator(relay).call(Request::new(reqwest::Method::DELETE, JOIN)).await
}

/// What `relay doctor --from HUB` says of one thing.
fn diagnosed(home: &Relay, hub: &Relay, name: &str) -> String {
    let mut command = std::process::Command::new(relay_binary());
    command.args(["doctor", "--json", "--url", &home.url(), "--from", &hub.url()]);
    let ran = command.env("HOME", home.data_dir()).output().unwrap();
    let told: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let found = told["items"].as_array().unwrap().iter().find(|item| item["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is missing: {told}"))["level"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn until_withdrawn(hub: &Relay, service: &str) {
    until("it is withdrawn", PATIENCE, || async {
        error_of(&call(hub, &format!("{service}.echo"), json!({})).await) == -32001
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_relay_joins_stays_and_leaves() {
    let secrets = Secrets::new();
    let hub = secrets.hub("hub-a", &[]).await;
    let blog = Service::start("blog").await;
    let mut home = plain("home.alice", &blog).await;
    assert_eq!(get(&home, "/status").await["node_type"], "main");

    // Only its operator makes it join.
    let code = code(&hub).await;
    let body = json!({ "code": code });
    let url = format!("{}{JOIN}", home.url());
    let anybody = reqwest_client().post(&url).json(&body).send().await.unwrap();
    assert_eq!(anybody.status(), 401);
    join(&home, &code).await.unwrap();
    until_attached(&home, "hub-a").await;
    assert_eq!(get(&home, "/status").await["node_type"], "home");
    until("its service is called", PATIENCE, || answers(&hub, "blog.echo")).await;
    assert_eq!(diagnosed(&home, &hub, "link"), "ok");
    assert_eq!(diagnosed(&home, &hub, "from hub"), "ok");

    // The token is used up; its key is what lets it in from now on.
    home.kill_and_restart().await;
    until_attached(&home, "hub-a").await;
    until("its service is called", PATIENCE, || answers(&hub, "blog.echo")).await;
    let content = read(&code);
    let token = content["token"].as_str().unwrap();
    assert!(!home.log().contains(token) && !hub.log().contains(token), "no token in a log");

    leave(&home).await.unwrap();
    until_withdrawn(&hub, "blog").await;
    assert_eq!(get(&home, "/status").await["node_type"], "main");
    until("the hub has forgotten it", PATIENCE, || async {
        diagnosed(&home, &hub, "from hub") == "fail"
    })
    .await;
    assert!(answers(&home, "blog.echo").await, "it still serves its own machine");
    assert!(leave(&home).await.is_err(), "there is nothing to leave");
    home.kill_and_restart().await;
    assert_eq!(get(&home, "/status").await["node_type"], "main");
    assert_eq!(error_of(&call(&hub, "blog.echo", json!({})).await), -32001);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_with_another_hubs_key_shows_its_token_to_nobody() {
    let secrets = Secrets::new();
    let (hub, other) = (secrets.hub("hub-a", &[]).await, secrets.hub("hub-b", &[]).await);
    let blog = Service::start("blog").await;
    let home = plain("home.alice", &blog).await;
    let good = code(&hub).await;
    let mut wrong = read(&good);
    wrong["key"] = get(&other, "/status").await["key"].clone();
    join(&home, &write(&wrong)).await.unwrap();
    until("it says what is wrong", PATIENCE, || async {
        get(&home, "/status").await["uplink"]["last_reason"] == "wrong_key"
    })
    .await;
    assert!(counted(&home, "failed", "wrong_key").await > 0);
    until("so does the hub", PATIENCE, || async {
        counted(&hub, "refused", "wrong_key").await > 0
    })
    .await;
    assert_eq!(get(&home, "/status").await["is_attached"], false);
    // The token was not shown, so it is good; and nothing was pinned by the attempt.
    leave(&home).await.unwrap();
    join(&home, &good).await.unwrap();
    until_attached(&home, "hub-a").await;
    // What is no code changes nothing.
    for bad in ["", "relay-join-v1.e30", "hello"] {
        assert!(join(&home, bad).await.is_err(), "{bad}");
    }
    until("its service is called", PATIENCE, || answers(&hub, "blog.echo")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_denied_is_put_out_and_kept_out() {
    let secrets = Secrets::new();
    let mut hub = secrets.hub("hub-a", &[]).await;
    let at = [links_of(hub.address())];
    let (blog, shop) = (Service::start("blog").await, Service::start("shop").await);
    let mut bad = secrets.spoke("bad.home", &at, &[&blog]).await;
    let good = secrets.spoke("good.home", &at, &[&shop]).await;
    until("both are called", PATIENCE, || async {
        answers(&hub, "blog.echo").await && answers(&hub, "shop.echo").await
    })
    .await;

    let decide = |what: Value| Request::post("/federation/spokes", &what);
    let answer = operate(&hub, decide(json!({ "deny": "bad.*" }))).await;
    assert_eq!(answer["closed"], 1, "{answer}");
    until_withdrawn(&hub, "blog").await;
    until("it is told", PATIENCE, || async {
        get(&bad, "/status").await["uplink"]["last_reason"] == "denied"
    })
    .await;
    assert!(counted(&hub, "refused", "denied").await > 0);
    assert!(answers(&good, "shop.echo").await && answers(&hub, "shop.echo").await);
    assert_eq!(get(&good, "/status").await["reconnects"], 0);

    // Also by a hub that was killed and started again, until it is let in.
    hub.kill_and_restart().await;
    until_attached(&good, "hub-a").await;
    bad.kill_and_restart().await;
    until("it is refused again", PATIENCE, || async {
        counted(&hub, "refused", "denied").await > 0
    })
    .await;
    assert_eq!(error_of(&call(&hub, "blog.echo", json!({})).await), -32001);
    operate(&hub, decide(json!({ "allow": "bad.*" }))).await;
    bad.kill_and_restart().await;
    until("it is back", PATIENCE, || answers(&hub, "blog.echo")).await;
    // Only the operator decides, and only on what is a pattern.
    let url = format!("{}/federation/spokes", hub.url());
    let anybody = reqwest_client().post(&url).json(&json!({ "deny": "*" })).send().await.unwrap();
    assert_eq!(anybody.status(), 401);
    let refused: Result<Value, _> = operator(&hub).call(decide(json!({ "deny": "A B" }))).await;
    assert!(refused.is_err());
    assert!(answers(&hub, "shop.echo").await);
}
