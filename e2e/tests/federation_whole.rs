//! Two hubs and four spokes as processes: everybody calls everybody, and everybody sees the same.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic")]

use relay_client::{Client, Request, ServiceCall};
use relay_e2e::{
    Relay,
    federation::{
        PATIENCE, Secrets, Service, answers, call, error_of, get, links_of, names, operate,
        operator, until_attached, until_linked,
    },
    relay::{admin_key, reqwest_client},
    until,
};
use serde_json::{Value, json};

/// The spokes, and which hub each has.
const HOMES: [(&str, usize); 4] = [("alice", 0), ("bob", 0), ("carol", 1), ("dave", 1)];

struct Whole {
    /// `hub-a`, `hub-b`.
    hubs: [Relay; 2],
    /// In the order of [`HOMES`].
    spokes: Vec<Relay>,
    services: Vec<Service>,
    secrets: Secrets,
}

impl Whole {
    async fn start() -> Self {
        let secrets = Secrets::new();
        let a = secrets.hub("hub-a", &[]).await;
        let b = secrets.hub("hub-b", &[links_of(a.address())]).await;
        let hubs = [a, b];
        let (mut spokes, mut services) = (Vec::new(), Vec::new());
        for (name, hub) in HOMES {
            let service = Service::start(&format!("blog-{name}")).await;
            let own = format!(
                "[[service]]\nname = \"own-{name}\"\nhttp = \"http://{}/rpc\"\nvisibility = \"private\"\n",
                service.address
            );
            let at = [links_of(hubs[hub].address())];
            let id = format!("{name}.home");
            spokes.push(secrets.spoke_with(&id, &at, &[&service], &own).await);
            services.push(service);
        }
        for (spoke, (_, hub)) in spokes.iter().zip(HOMES) {
            until_attached(spoke, hubs[hub].id()).await;
        }
        until_linked(&hubs[0], &hubs[1]).await;
        let whole = Self { hubs, spokes, services, secrets };
        whole.until_listed(&["blog-alice", "blog-bob", "blog-carol", "blog-dave"]).await;
        whole
    }

    async fn until_listed(&self, services: &[&str]) {
        for hub in &self.hubs {
            until(&format!("{services:?} on {}", hub.id()), PATIENCE, || async {
                names(hub, "/federation/registry").await == services
            })
            .await;
        }
    }

    fn everybody(&self) -> impl Iterator<Item = &Relay> {
        self.hubs.iter().chain(&self.spokes)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_calls_everybody() {
    let whole = Whole::start().await;
    for caller in whole.everybody() {
        for (name, hub) in HOMES {
            let hub = whole.hubs[hub].id();
            for to in [
                format!("blog-{name}"),
                format!("blog-{name}@{name}.home"),
                format!("blog-{name}@{name}.home@{hub}"),
            ] {
                let args = json!({ "to": to });
                let answer = call(caller, &format!("{to}.echo"), args.clone()).await;
                assert_eq!(answer["result"], args, "{} → {to}: {answer}", caller.id());
            }
            let explicit = json!({
                "node_id": format!("{name}.home@{hub}"), "server_name": format!("blog-{name}"),
                "method": "echo", "args": [name], "timeout": 60,
            });
            let answer = call(caller, "remote_call", explicit).await;
            assert_eq!(answer["result"], json!([name]), "{} → {name}: {answer}", caller.id());
        }
    }
    // Each service did what its callers asked, and nothing more.
    for service in &whole.services {
        assert_eq!(service.calls(), 6 * 4, "{}", service.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_learns_who_calls_only_as_it_was_proven() {
    let whole = Whole::start().await;
    // The spoke is named by the hub that it proved itself to, whatever its caller says.
    let asked = json!({ "jsonrpc": "2.0", "id": 1, "method": "blog-carol.who", "params": {} });
    let sent = reqwest_client()
        .post(format!("{}/rpc", whole.spokes[0].url()))
        .header("x-relay-caller-node", "hub-b")
        .header("x-relay-caller-key", admin_key().node_id().to_string())
        .header("x-relay-caller-service", "blog-dave")
        .json(&asked)
        .send()
        .await;
    let answer: Value = sent.unwrap().json().await.unwrap();
    let nobody = json!({ "node": "alice.home@hub-a", "key": null, "service": null });
    assert_eq!(answer["result"], nobody, "{answer}");

    // A person's key comes along from a hub, and from a spoke only where the service trusts it.
    let who = || ServiceCall::new("blog-dave".parse().unwrap(), "who".parse().unwrap(), None);
    let key = admin_key();
    for (door, node, told) in [
        (&whole.hubs[0], "hub-a", json!(key.node_id())),
        (&whole.spokes[0], "alice.home@hub-a", Value::Null),
    ] {
        let client = Client::builder(&door.url()).unwrap().key(key.clone()).build().unwrap();
        let seen = client.call_service(&who()).await.unwrap().result;
        assert_eq!((&seen["node"], &seen["key"]), (&json!(node), &told), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_services_stay_on_their_node() {
    let whole = Whole::start().await;
    for caller in whole.everybody() {
        for to in ["own-alice", "own-alice@alice.home", "own-alice@alice.home@hub-a"] {
            let answer = call(caller, &format!("{to}.echo"), json!({ "n": 1 })).await;
            assert_eq!(error_of(&answer), -32001, "{} → {to}: {answer}", caller.id());
        }
        assert!(!get(caller, "/services").await.to_string().contains("own-"));
    }
    for hub in &whole.hubs {
        for path in ["/registry", "/federation/registry", "/federation/topology"] {
            assert!(!get(hub, path).await.to_string().contains("own-"), "{path}");
        }
    }
    assert_eq!(whole.services[0].calls(), 0);
    // Its own operator reaches it.
    let echo = ServiceCall::new(
        "own-alice".parse().unwrap(),
        "echo".parse().unwrap(),
        Some(json!({ "n": 1 })),
    );
    let answer = operator(&whole.spokes[0]).call_service(&echo).await.unwrap();
    assert_eq!(answer.result, json!({ "n": 1 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_and_goes_is_seen_on_every_hub() {
    let mut whole = Whole::start().await;
    let hub_b = links_of(whole.hubs[1].address());
    // One that stops is withdrawn, and one that is killed.
    whole.spokes[2].stop().await;
    whole.until_listed(&["blog-alice", "blog-bob", "blog-dave"]).await;
    whole.spokes[3].kill();
    whole.until_listed(&["blog-alice", "blog-bob"]).await;
    assert_eq!(error_of(&call(&whole.spokes[0], "blog-carol.echo", json!({})).await), -32001);
    let to_node = call(&whole.spokes[0], "blog-carol@carol.home.echo", json!({})).await;
    assert_eq!(error_of(&to_node), -32002, "{to_node}");
    // Both come again, and one more with a second instance of a service that there is.
    whole.spokes[2].restart().await;
    whole.spokes[3].restart().await;
    let erin = whole.secrets.spoke("erin.home", &[hub_b], &[&whole.services[0]]).await;
    whole.until_listed(&["blog-alice", "blog-alice", "blog-bob", "blog-carol", "blog-dave"]).await;
    for caller in whole.everybody().chain([&erin]) {
        for (name, _) in HOMES {
            assert!(answers(caller, &format!("blog-{name}.echo")).await, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_see_who_is_where() {
    let whole = Whole::start().await;
    let [a, b] = &whole.hubs;
    assert_eq!(names(a, "/registry").await, ["blog-alice", "blog-bob"]);
    assert_eq!(names(b, "/registry").await, ["blog-carol", "blog-dave"]);
    assert_eq!(names(a, "/federation/registry?name=blog-dave").await, ["blog-dave"]);
    let listed = get(a, "/federation/registry").await;
    let dave = &listed["services"][3];
    let address = json!({ "type": "home", "id": "dave.home", "main_relay": "hub-b" });
    assert_eq!((&dave["node_address"], &dave["is_healthy"]), (&address, &json!(true)), "{dave}");

    for (hub, other) in [(a, b), (b, a)] {
        let peers = get(hub, "/federation/peers").await;
        assert_eq!(peers["peers"].as_array().unwrap().len(), 1, "{peers}");
        let peer = &peers["peers"][0];
        assert_eq!((&peer["id"], &peer["is_connected"]), (&json!(other.id()), &json!(true)));
        assert_eq!((&peer["spokes"], &peer["services"]), (&json!(2), &json!(2)), "{peer}");

        let topology = get(hub, "/federation/topology").await;
        let ids = |list: &str, field: &str| -> Vec<String> {
            let list = topology[list].as_array().unwrap().iter();
            list.map(|one| one[field].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(ids("hubs", "id"), ["hub-a", "hub-b"]);
        assert_eq!(ids("spokes", "id"), ["alice.home", "bob.home", "carol.home", "dave.home"]);
        assert_eq!(ids("spokes", "hub"), ["hub-a", "hub-a", "hub-b", "hub-b"]);
        // Two spokes and the other hub.
        assert_eq!(ids("links", "from").len(), 3, "{topology}");
        assert_eq!(get(hub, "/federation/health").await["status"], "ok");
        let spokes = operate(hub, Request::get("/federation/spokes")).await;
        assert_eq!(spokes["spokes"].as_array().unwrap().len(), 2, "{spokes}");
    }

    let status = get(&whole.spokes[2], "/status").await;
    for (field, value) in [
        ("relay", json!("carol.home")),
        ("node_type", json!("home")),
        ("hub", json!("hub-b")),
        ("address", json!("carol.home@hub-b")),
        ("is_attached", json!(true)),
        ("reconnects", json!(0)),
    ] {
        assert_eq!(status[field], value, "{field}: {status}");
    }
    assert!(status["link"]["since_ms"].as_u64().unwrap() > 0, "{status}");
    assert_eq!(names(&whole.spokes[2], "/services").await, ["blog-carol"]);
    assert_eq!(get(a, "/status").await["node_type"], "main");
}
