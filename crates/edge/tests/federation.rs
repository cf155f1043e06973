//! Hubs and home relays as whole nodes in one process, through their public doors.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod support;

use std::{os::unix::fs::PermissionsExt, path::PathBuf};

use relay_client::{Error, Request, ServiceCall};
use relay_proto::call::RpcCode;
use serde_json::{Value, json};
use support::{House, key};

const ECHO: &str = r#"
import { service } from "relay";
export const echo = service("NAME", {
    public: true,
    state: { calls: 0 },
    methods: {
        echo(ctx, args) { return args; },
        who(ctx) { return ctx.caller; },
        once(ctx) { return ++ctx.state.calls; },
        relay(ctx, { to, method, args }) { return ctx.call(to, method, args); },
    },
});
export const own = service("NAME-own", { methods: { get() { return 1; } } });
"#;

/// Files that the nodes of one test share.
struct Shared {
    dir: tempfile::TempDir,
}

impl Shared {
    fn new() -> Self {
        let shared = Self { dir: tempfile::tempdir().unwrap() };
        shared.secret("psk", "a key shared by a hub and its spokes");
        shared.secret("peers", "a secret of all hubs");
        shared
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn secret(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    async fn hub(&self, id: &str) -> House {
        let (psk, peers) = (self.path("psk"), self.path("peers"));
        House::open_as(
            id,
            &format!("[federation]\npeer_secret_file = {peers:?}\n[hub]\npsk_file = {psk:?}\n"),
        )
        .await
    }

    /// A home relay of `hub` with a service called `service`.
    async fn spoke(&self, id: &str, hub: &House, service: &str) -> House {
        let file = self.path(&format!("{service}.rl"));
        std::fs::write(&file, ECHO.replace("NAME", service)).unwrap();
        let (url, psk) = (hub.url().replace("http://", "ws://"), self.path("psk"));
        let config = format!(
            "[federation]\nconnect = \"{url}\"\npsk_file = {psk:?}\n[[script]]\nfile = {file:?}\n"
        );
        let spoke = House::open_as(id, &config).await;
        spoke.until("hub", |node| node.federated().federation.status().is_attached).await;
        spoke
    }
}

fn call(to: &str, method: &str, args: Value) -> ServiceCall {
    ServiceCall::new(to.parse().unwrap(), method.parse().unwrap(), Some(args))
}

async fn ask(house: &House, call: &ServiceCall) -> Result<Value, Error> {
    house.client().key(key(1)).build().unwrap().call_service(call).await.map(|found| found.result)
}

fn number(outcome: Result<Value, Error>) -> RpcCode {
    match outcome.unwrap_err() {
        Error::Call(error) => error.code,
        other => panic!("{other}"),
    }
}

async fn until_known(house: &House, service: &str) {
    let name = service.parse().unwrap();
    house
        .until(service, |node| {
            let found = node.federated().federation.services(&Default::default());
            found.services.iter().any(|entry| entry.service_name == name)
        })
        .await;
}

#[tokio::test]
async fn spokes_call_each_other_through_hubs() {
    let shared = Shared::new();
    let hub_a = shared.hub("hub-a").await;
    let hub_b = shared.hub("hub-b").await;
    let add = json!({ "url": hub_b.url().replace("http://", "ws://") });
    let refused = hub_a.raw("POST", "/federation/peers/add", &[], &add.to_string()).await;
    assert_eq!(refused.status, 401);
    let _: Value =
        hub_a.operator().call(Request::post("/federation/peers/add", &add)).await.unwrap();
    let alice = shared.spoke("alice.home", &hub_a, "blog").await;
    let bob = shared.spoke("bob.home", &hub_b, "shop").await;
    for house in [&hub_a, &hub_b] {
        until_known(house, "blog").await;
        until_known(house, "shop").await;
    }

    // hub → spoke, hub → hub → spoke, spoke → hub → hub → spoke.
    let echo = |to: &str| call(to, "echo", json!({ "n": 1 }));
    assert_eq!(ask(&hub_a, &echo("blog")).await.unwrap(), json!({ "n": 1 }));
    assert_eq!(ask(&hub_a, &echo("shop")).await.unwrap(), json!({ "n": 1 }));
    assert_eq!(ask(&alice, &echo("shop@bob.home@hub-b")).await.unwrap(), json!({ "n": 1 }));
    let through = call("blog", "relay", json!({ "to": "shop", "method": "who", "args": {} }));
    let seen = ask(&alice, &through).await.unwrap();
    assert_eq!(seen["service"], "blog");
    assert!(seen["node"].as_str().unwrap().starts_with("alice.home"), "{seen}");
    assert_eq!(seen["local"], false);

    // The way is told, nearest first.
    let mut timed = echo("shop");
    timed.timing = true;
    let client = alice.client().key(key(1)).build().unwrap();
    let hops = client.call_service(&timed).await.unwrap().hops;
    let nodes: Vec<_> = hops.iter().map(|hop| hop.node.to_string()).collect();
    assert!(nodes.contains(&"bob.home".to_owned()), "{nodes:?}");
    let why: Value = alice
        .operator()
        .call(Request::post("/v1/calls/explain", &json!({ "method": "shop.echo" })))
        .await
        .unwrap();
    assert_eq!(why["works"], true, "{why}");

    // Refusals come at once, with their number.
    assert_eq!(number(ask(&alice, &echo("nobody")).await), RpcCode::ServiceNotFound);
    assert_eq!(number(ask(&alice, &echo("shop-own")).await), RpcCode::ServiceNotFound);
    assert_eq!(number(ask(&alice, &echo("x@carol.home")).await), RpcCode::NodeUnreachable);
    assert_eq!(
        number(ask(&alice, &call("shop", "nothing", json!({}))).await),
        RpcCode::MethodNotFound
    );

    // A repeated key has its effect once, whichever hub it comes through.
    let mut once = call("shop@bob.home", "once", json!({}));
    once.idempotency_key = Some("k".into());
    assert_eq!(ask(&alice, &once).await.unwrap(), 1);
    assert_eq!(ask(&alice, &once).await.unwrap(), 1);

    // What people see.
    let own = hub_a.raw("GET", "/registry", &[], "").await.json();
    let names = |list: &Value| -> Vec<String> {
        let services = list["services"].as_array().unwrap();
        services.iter().map(|s| s["service_name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&own), ["blog"]);
    let all = hub_a.raw("GET", "/federation/registry", &[], "").await.json();
    assert_eq!(names(&all), ["blog", "shop"]);
    let status = alice.raw("GET", "/status", &[], "").await.json();
    assert_eq!((&status["hub"], &status["node_type"]), (&json!("hub-a"), &json!("home")));
    assert_eq!(hub_a.raw("GET", "/federation/health", &[], "").await.json()["status"], "ok");
    let topology = hub_a.raw("GET", "/federation/topology", &[], "").await.json();
    assert_eq!(topology["hubs"].as_array().unwrap().len(), 2, "{topology}");
    let peers = hub_a.raw("GET", "/federation/peers", &[], "").await.json();
    assert_eq!(peers["peers"][0]["id"], "hub-b");
    assert_eq!(hub_a.raw("GET", "/v1/gateways/resolve", &[], "").await.status, 400);
    let unknown = hub_a.raw("GET", "/v1/gateways/resolve?gateway_id=nobody", &[], "").await;
    assert_eq!(unknown.status, 404);
    let itself = hub_a.raw("GET", "/v1/gateways/resolve?gateway_id=hub-a", &[], "").await.json();
    assert_eq!(
        (&itself["gateway_id"], &itself["node_id"]),
        (&json!("hub-a"), &json!(hub_a.node.identity.node_id()))
    );
    assert_eq!(itself["gateway_url"], hub_a.url());

    // A spoke that ends is withdrawn at once.
    bob.close().await;
    let name = "shop".parse().unwrap();
    hub_a
        .until("withdrawal", |node| {
            let found = node.federated().federation.services(&Default::default());
            !found.services.iter().any(|entry| entry.service_name == name)
        })
        .await;
    assert_eq!(number(ask(&alice, &echo("shop")).await), RpcCode::ServiceNotFound);
    let remove = Request::new(reqwest_delete(), "/federation/peers/hub-b");
    let _: Value = hub_a.operator().call(remove).await.unwrap();
    for house in [alice, hub_a, hub_b] {
        house.close().await;
    }
}

fn reqwest_delete() -> http::Method {
    http::Method::DELETE
}

#[tokio::test]
async fn who_may_not_link_is_told_why() {
    let shared = Shared::new();
    let hub = shared.hub("hub-a").await;
    let alice = shared.spoke("alice.home", &hub, "blog").await;

    // A borrowed name: another key under a name that is taken.
    let psk = shared.path("psk");
    let url = hub.url().replace("http://", "ws://");
    let config = format!("[federation]\nconnect = \"{url}\"\npsk_file = {psk:?}\n");
    let thief = House::open_as("alice.home", &config).await;
    let refused = |node: &relay_node::Node, word: &str| {
        let status = node.federated().uplink().unwrap();
        status.refused.is_some_and(|why| why.contains(word))
    };
    thief.until("refusal", |node| refused(node, "another key")).await;

    // No token and an unknown key.
    let stranger =
        House::open_as("eve.home", &format!("[federation]\nconnect = \"{url}\"\n")).await;
    stranger.until("refusal", |node| refused(node, "token")).await;

    // A join token lets it in, and its key is known from then on.
    let asked = json!({ "for": "spoke", "uses": 1 });
    let made: Value = hub.operator().call(Request::post("/v1/tokens", &asked)).await.unwrap();
    shared.secret("token", made["token"].as_str().unwrap());
    let token = shared.path("token");
    let joined = format!("[federation]\nconnect = \"{url}\"\njoin_token_file = {token:?}\n");
    let stranger = stranger.reopen_as("eve.home", &joined).await;
    stranger.until("hub", |node| node.federated().federation.status().is_attached).await;
    let stranger =
        stranger.reopen_as("eve.home", &format!("[federation]\nconnect = \"{url}\"\n")).await;
    stranger.until("hub", |node| node.federated().federation.status().is_attached).await;

    let metrics = hub.node.metrics_text();
    assert!(metrics.contains("reason=\"borrowed_id\""), "{metrics}");
    assert!(ask(&hub, &call("blog", "echo", json!({}))).await.is_ok(), "nobody else is disturbed");
    let home = alice.raw("GET", "/federate", &[], "").await;
    assert_eq!(home.status, 403, "a home relay takes no links");
    for house in [alice, thief, stranger, hub] {
        house.close().await;
    }
}
