//! Hubs that die, freeze and start again while calls are under way.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic")]

use std::time::Duration;

use relay_e2e::{
    Relay,
    federation::{
        PATIENCE, Secrets, Service, answers, call, call_keyed, counted, error_of, get, links_of,
        until_attached, until_linked,
    },
    proxy::Proxy,
    until,
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

/// Two hubs; a caller and a service whose first hub is `hub-a` and whose fallback is `hub-b`.
struct Net {
    a: Relay,
    b: Relay,
    alice: Relay,
    carol: Relay,
    blog: Service,
    _spare: Proxy,
    _secrets: Secrets,
}

impl Net {
    async fn start() -> Self {
        let secrets = Secrets::new();
        let a = secrets.hub("hub-a", &[]).await;
        let b = secrets.hub("hub-b", &[links_of(a.address())]).await;
        until_linked(&b, &a).await;
        // The fallback is out of reach until both are where they want to be.
        let spare = Proxy::tcp(b.address()).await;
        spare.part(true);
        let hubs = [links_of(a.address()), links_of(spare.address())];
        let blog = Service::start("blog").await;
        let alice = secrets.spoke("alice.home", &hubs, &[]).await;
        let carol = secrets.spoke("carol.home", &hubs, &[&blog]).await;
        spare.part(false);
        for spoke in [&alice, &carol] {
            until_attached(spoke, "hub-a").await;
            until("a spare link is up", PATIENCE, || async {
                counted(spoke, "dialled", "up").await >= 2
            })
            .await;
        }
        until("the service is called", PATIENCE, || answers(&alice, "blog.echo")).await;
        Self { a, b, alice, carol, blog, _spare: spare, _secrets: secrets }
    }

    /// Calls with keys, each repeated under its key until it has a result.
    fn keyed(&self, count: usize, ms: u64) -> JoinSet<Value> {
        let mut calls = JoinSet::new();
        for n in 0..count {
            let rpc = format!("{}/rpc", self.alice.url());
            calls.spawn(async move {
                let id = format!("keyed-{n}");
                let params = json!({
                    "node_id": "carol.home", "server_name": "blog", "method": "slow",
                    "args": { "id": id, "ms": ms }, "timeout": 20, "idempotency_key": id,
                });
                post_until_result(&rpc, "remote_call", &params).await
            });
        }
        calls
    }

    /// Calls without keys; the answer of each as it comes.
    fn unkeyed(&self, count: usize, ms: u64) -> JoinSet<Value> {
        let mut calls = JoinSet::new();
        for n in 0..count {
            let rpc = format!("{}/rpc", self.alice.url());
            calls.spawn(async move {
                let params = json!({ "id": format!("unkeyed-{n}"), "ms": ms });
                post(&rpc, "blog.slow", &params).await
            });
        }
        calls
    }

    async fn until_under_way(&self, calls: u64) {
        let before = 1;
        until("calls are under way", PATIENCE, || async { self.blog.calls() >= before + calls })
            .await;
    }
}

async fn post(rpc: &str, method: &str, params: &Value) -> Value {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let client = relay_e2e::relay::reqwest_client();
    client.post(rpc).json(&request).send().await.unwrap().json().await.unwrap()
}

async fn post_until_result(rpc: &str, method: &str, params: &Value) -> Value {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let answer = post(rpc, method, params).await;
        if !answer["result"].is_null() || Instant::now() > give_up {
            return answer;
        }
        let typed = (-32006..=-32001).contains(&error_of(&answer));
        assert!(typed, "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyed_calls_survive_a_hub_that_is_killed_and_are_done_once() {
    let mut net = Net::start().await;
    let calls = net.keyed(40, 1_500);
    net.until_under_way(40).await;
    net.a.kill();
    for answer in calls.join_all().await {
        assert_eq!(answer["result"]["ms"], 1_500, "{answer}");
    }
    assert_eq!((net.blog.ids(), net.blog.most_for_one_id()), (40, 1));
    // Whoever asks again under a key gets the first result, through the other hub as well.
    until_attached(&net.alice, "hub-b").await;
    until_attached(&net.carol, "hub-b").await;
    let again = call_keyed(&net.alice, "carol.home", "blog", "keyed-7", 1_500).await;
    assert_eq!(again["result"]["id"], "keyed-7", "{again}");
    assert_eq!(net.blog.most_for_one_id(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_freezes_is_left_and_returned_to() {
    let net = Net::start().await;
    net.a.pause().await;
    until_attached(&net.alice, "hub-b").await;
    until_attached(&net.carol, "hub-b").await;
    until("calls go through the fallback", PATIENCE, || answers(&net.alice, "blog.echo")).await;

    // It goes on with what it knew: that the spokes are its own. Nobody is led astray.
    net.a.resume();
    until_linked(&net.b, &net.a).await;
    until("it learns where they are", PATIENCE, || async {
        let topology = get(&net.a, "/federation/topology").await;
        let spokes = topology["spokes"].as_array().into_iter().flatten();
        let hubs: Vec<_> = spokes.map(|spoke| spoke["hub"].clone()).collect();
        hubs == ["hub-b", "hub-b"]
    })
    .await;
    let mut back = false;
    let give_up = Instant::now() + 3 * PATIENCE;
    while !back {
        for caller in [&net.alice, &net.a, &net.b] {
            let answer = call(caller, "blog.echo", json!({ "n": 1 })).await;
            assert_eq!(answer["result"]["n"], 1, "{}: {answer}", caller.id());
        }
        // When the first hub has been well for a minute, both return to it.
        let at = async |spoke| get(spoke, "/status").await["hub"] == "hub-a";
        back = at(&net.alice).await && at(&net.carol).await;
        assert!(Instant::now() < give_up, "they do not return");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until("the registry follows", PATIENCE, || async {
        let listed = get(&net.b, "/federation/registry").await;
        listed["services"][0]["node_address"]["main_relay"] == "hub-a"
    })
    .await;
    assert!(answers(&net.alice, "blog.echo").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_without_a_key_end_once_when_their_hub_is_killed() {
    let mut net = Net::start().await;
    let calls = net.unkeyed(40, 1_500);
    net.until_under_way(40).await;
    net.a.kill_and_restart().await;
    for answer in calls.join_all().await {
        let done = answer["result"]["ms"] == 1_500;
        assert!(done || error_of(&answer) == -32002, "{answer}");
    }
    assert_eq!((net.blog.ids(), net.blog.most_for_one_id()), (40, 1));
    until("calls go again", PATIENCE, || answers(&net.alice, "blog.echo")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_stopped_lets_calls_finish() {
    let mut net = Net::start().await;
    let calls = net.unkeyed(40, 1_500);
    net.until_under_way(40).await;
    net.a.stop().await;
    net.a.restart().await;
    for answer in calls.join_all().await {
        assert_eq!(answer["result"]["ms"], 1_500, "{answer}");
    }
    assert_eq!((net.blog.ids(), net.blog.most_for_one_id()), (40, 1));
    until("calls go again", PATIENCE, || answers(&net.alice, "blog.echo")).await;
    until_linked(&net.b, &net.a).await;
}
