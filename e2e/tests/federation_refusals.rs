//! Who lies, borrows, guesses or breaks the protocol: refused in words that both sides can read, with
//! its link closed where it must be, and nobody else disturbed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic")]

use relay_client::Request;
use relay_e2e::{
    Relay,
    federation::{
        PATIENCE, Secrets, Service, answers, counted, get, links_of, operate, until_attached,
    },
    foreign::{Foreign, Gone},
    until,
};
use relay_proto::SigningKey;
use serde_json::{Value, json};

/// A hub with an honest spoke that must not notice anything.
struct Net {
    hub: Relay,
    alice: Relay,
    blog: Service,
    secrets: Secrets,
}

impl Net {
    async fn start() -> Self {
        let secrets = Secrets::new();
        let hub = secrets.hub("hub-a", &[]).await;
        let blog = Service::start("blog").await;
        let at = [links_of(hub.address())];
        let alice = secrets.spoke("alice.home", &at, &[&blog]).await;
        until("the service is called", PATIENCE, || answers(&hub, "blog.echo")).await;
        Self { hub, alice, blog, secrets }
    }

    async fn foreign(&self, name: &str, seed: u8) -> Foreign {
        Foreign::connect(self.hub.address(), name, [seed; 32]).await.unwrap()
    }

    async fn link(&self, name: &str, seed: u8) -> Foreign {
        Foreign::link(self.hub.address(), name, [seed; 32]).await.unwrap()
    }

    /// The hub counted a refusal, and its log names it.
    async fn hub_says(&self, event: &str, reason: &str) {
        until(&format!("{event} {reason} is counted"), PATIENCE, || async {
            counted(&self.hub, event, reason).await > 0
        })
        .await;
        let log = self.hub.log();
        let named = log
            .lines()
            .any(|line| line.contains(&format!("link {event}")) && line.contains(reason));
        assert!(named, "'link {event}' and '{reason}' in\n{log}");
    }

    async fn nobody_else_noticed(&self) {
        assert!(answers(&self.hub, "blog.echo").await);
        assert_eq!(get(&self.alice, "/status").await["reconnects"], 0);
    }

    async fn token(&self, asked: Value) -> Value {
        operate(&self.hub, Request::post("/v1/tokens", &asked)).await
    }
}

/// Waits until a spoke's status says why there is no link, and its log and counters too.
async fn spoke_says(spoke: &Relay, reason: &str, words: &str) {
    until(&format!("the spoke says {reason}"), PATIENCE, || async {
        let status = get(spoke, "/status").await;
        let told = status["uplink"]["last_error"].as_str().unwrap_or_default();
        status["uplink"]["last_reason"] == reason && told.contains(words)
    })
    .await;
    assert!(counted(spoke, "failed", reason).await > 0, "{reason} is counted");
    let log = spoke.log();
    assert!(log.lines().any(|line| line.contains("no link") && line.contains(reason)), "{log}");
    assert_eq!(get(spoke, "/status").await["is_attached"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_homes_that_may_not_link_are_told_why() {
    let net = Net::start().await;
    let used = net.token(json!({ "for": "spoke", "uses": 1 })).await;
    let used = used["token"].as_str().unwrap();
    let mut guest = net.foreign("guest.home", 1).await;
    let hello = guest.greet().await.unwrap();
    let auth = guest.auth_token(&hello, used);
    guest.say(&auth).await.unwrap();
    assert_eq!(guest.hear().await.unwrap()["type"], "welcome");

    let refused = |code: &str, close| Gone::Refused(code.into(), close);
    // A token that was used up, one that nobody made, none at all.
    for (name, seed, token) in
        [("late.home", 2, used), ("eve.home", 3, "relay_spoke_guessed"), ("eve.home", 3, "")]
    {
        let mut foreign = net.foreign(name, seed).await;
        let hello = foreign.greet().await.unwrap();
        let mut auth = foreign.auth_token(&hello, token);
        if token.is_empty() {
            auth["data"]["proof"] = Value::Null;
        }
        foreign.say(&auth).await.unwrap();
        assert_eq!(foreign.ending().await, refused("unauthorized", 4401), "{name} {token}");
    }
    net.hub_says("refused", "bad_token").await;
    net.hub_says("refused", "unknown_relay").await;
    // A pre-shared key that is another one.
    let mut foreign = net.foreign("eve.home", 3).await;
    let hello = foreign.greet().await.unwrap();
    let auth = foreign.auth_psk(&hello, "guessed");
    foreign.say(&auth).await.unwrap();
    assert_eq!(foreign.ending().await, refused("unauthorized", 4401));
    net.hub_says("refused", "bad_proof").await;
    // Alice's name, with a key that is not hers; what she signed for another handshake would not help.
    let mut thief = net.foreign("alice.home", 4).await;
    let hello = thief.greet().await.unwrap();
    let auth = thief.auth_psk(&hello, relay_e2e::federation::PSK);
    thief.say(&auth).await.unwrap();
    assert_eq!(thief.ending().await, refused("conflict", 4409));
    net.hub_says("refused", "borrowed_id").await;
    let mut replay = net.foreign("guest.home", 1).await;
    replay.greet().await.unwrap();
    replay.say(&auth).await.unwrap();
    assert_eq!(replay.ending().await, refused("unauthorized", 4401));
    net.hub_says("refused", "bad_signature").await;
    // A program of before the first version, and one that says nothing readable.
    let mut old = net.foreign("old.home", 5).await;
    let mut hello = old.hello();
    hello["data"]["v"] = 0.into();
    old.say(&hello).await.unwrap();
    assert_eq!(old.ending().await, refused("unsupported_version", 4400));
    net.hub_says("refused", "unsupported_version").await;
    for said in ["no message", "{\"type\":\"hello\",\"data\":{\"v\":1}}", &"x".repeat(20_000)] {
        let mut broken = net.foreign("broken.home", 6).await;
        broken.say_text(said.to_owned()).await.unwrap();
        assert_eq!(broken.ending().await, refused("invalid_request", 4400), "{said:.20}");
    }
    net.hub_says("refused", "malformed").await;

    net.nobody_else_noticed().await;
    let spokes = operate(&net.hub, Request::get("/federation/spokes")).await;
    let spokes = spokes["spokes"].as_array().unwrap().iter().map(|spoke| spoke["id"].clone());
    assert_eq!(spokes.collect::<Vec<_>>(), ["alice.home", "guest.home"]);
    // A newer program is answered with the version that both know.
    let mut newer = net.foreign("newer.home", 8).await;
    let mut hello = newer.hello();
    hello["data"]["v"] = 9.into();
    newer.say(&hello).await.unwrap();
    assert_eq!(newer.hear().await.unwrap()["data"]["v"], 1);
    assert!(!net.hub.log().contains(used), "no token in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_that_may_not_link_say_so_themselves() {
    let net = Net::start().await;
    let at = [links_of(net.hub.address())];
    // Another relay under a name that is taken.
    let thief = net.secrets.spoke_with("alice.home", &at, &[], "").await;
    spoke_says(&thief, "borrowed_id", "the id is bound to another key").await;
    net.hub_says("refused", "borrowed_id").await;
    // Another key than the hub's.
    let wrong = net.secrets.file("wrong-psk", "guessed");
    let config = |more: &str| format!("[federation]\nconnect = {:?}\n{more}", at[0]);
    let guessing = plain("eve.home", config(&format!("psk_file = {wrong:?}\n"))).await;
    spoke_says(&guessing, "bad_proof", "does not fit").await;
    net.hub_says("refused", "bad_proof").await;
    // A token that was used up.
    let token = net.token(json!({ "for": "spoke", "uses": 1 })).await;
    let token = net.secrets.file("token", token["token"].as_str().unwrap());
    let joins = config(&format!("join_token_file = {token:?}\n"));
    let first = plain("first.home", joins.clone()).await;
    until_attached(&first, "hub-a").await;
    let late = plain("late.home", joins).await;
    spoke_says(&late, "bad_token", "used up").await;
    net.hub_says("refused", "bad_token").await;
    // Nothing to show.
    let stranger = plain("stranger.home", config("")).await;
    spoke_says(&stranger, "unknown_relay", "a join token is needed").await;
    net.hub_says("refused", "unknown_relay").await;
    net.nobody_else_noticed().await;
    assert!(answers(&first, "blog.echo").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_with_another_key_than_the_pinned_one_learns_nothing() {
    let mut net = Net::start().await;
    // Another relay answers at the hub's address: the same name and secrets, and not its key.
    net.hub.kill();
    std::fs::remove_dir_all(net.hub.data_dir()).unwrap();
    std::fs::create_dir(net.hub.data_dir()).unwrap();
    net.hub.restart().await;
    spoke_says(&net.alice, "wrong_key", "is pinned for it").await;
    // The impostor is told as well.
    net.hub_says("refused", "wrong_key").await;
    assert!(!answers(&net.hub, "blog.echo").await);
    assert_eq!(net.blog.calls(), 1, "only the call of before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_breaks_the_protocol_loses_its_own_link_only() {
    let net = Net::start().await;
    let mut honest = net.link("honest.home", 20).await;
    honest.register("honest").await.unwrap();
    let long = "x".repeat(1 << 20);
    for (at, (said, reason, close)) in [
        ("{\"type\":".to_owned(), "malformed", 4400),
        (json!({"type": "hello", "data": {}}).to_string(), "unexpected_message", 4400),
        (json!({"type": "stream", "stream_id": 7, "data": "AAAA"}).to_string(), "bad_stream", 4400),
        (
            json!({"type": "request", "message_id": "1", "data": long}).to_string(),
            "too_large",
            4413,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let mut bad = net.link("bad.home", 21).await;
        bad.register(&format!("bad-{at}")).await.unwrap();
        bad.say_text(said).await.unwrap();
        let gone = bad.ending().await;
        assert!(matches!(gone, Gone::Refused(_, code) if code == close), "{reason}: {gone:?}");
        net.hub_says("ended", reason).await;
        // With its link its service is gone.
        until("it is withdrawn", PATIENCE, || async {
            !get(&net.hub, "/registry").await.to_string().contains("bad-")
        })
        .await;
    }
    // A registration that is wrong is refused, and the link goes on with what it had.
    let wrong = json!({"type": "registration", "message_id": "w", "data": {"full": true,
        "services": [{"service_name": "no name", "version": "1.0.0", "methods": []}]}});
    honest.say(&wrong).await.unwrap();
    let answer = honest.hear().await.unwrap();
    assert_eq!((&answer["type"], &answer["correlation_id"]), (&json!("error"), &json!("w")));
    assert_eq!(answer["data"]["code"], "invalid_request");
    assert!(get(&net.hub, "/registry").await.to_string().contains("honest"));
    net.nobody_else_noticed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_senders_and_paths_are_not_believed() {
    let net = Net::start().await;
    let mut mallory = net.link("mallory.home", 30).await;
    let forged = |id: &str, path: Value, ttl: u8| {
        json!({"type": "request", "message_id": id, "server_name": "blog", "method": "who",
            "source_node": {"type": "main", "id": "hub-a"}, "routing_path": path, "ttl": ttl,
            "jsonrpc_request": {"jsonrpc": "2.0", "id": 1, "method": "who", "params": {}},
            "timeout_seconds": 10, "data": {"caller": {"node": "hub-a"},
                "key": SigningKey::from_seed([250; 32]).node_id()}})
    };
    let before = net.blog.calls();
    mallory.say(&forged("m1", json!(["hub-x", "bob.home"]), 4)).await.unwrap();
    let answer = mallory.hear().await.unwrap();
    let who = &answer["data"]["jsonrpc_response"]["result"];
    assert_eq!(
        (&who["node"], &who["key"]),
        (&json!("mallory.home@hub-a"), &Value::Null),
        "{answer}"
    );
    for (id, path, ttl) in [("m2", json!(["hub-a"]), 4), ("m3", json!([]), 0)] {
        mallory.say(&forged(id, path, ttl)).await.unwrap();
        let answer = mallory.hear().await.unwrap();
        assert_eq!(answer["correlation_id"], id);
        let told = answer["data"].to_string();
        assert!(told.contains("loop_detected") || told.contains("-32006"), "{answer}");
    }
    assert_eq!(net.blog.calls(), before + 1);
    let health = get(&net.hub, "/federation/health").await;
    assert!(health["counters"]["loops"].as_u64().unwrap() >= 2, "{health}");
    net.nobody_else_noticed().await;
}

/// A relay with this configuration alone.
async fn plain(id: &str, config: String) -> Relay {
    use relay_e2e::{Backend, relay::Setup};
    Relay::with(Setup { id: id.into(), config, ..Setup::new(Backend::Sqlite) }).await
}
