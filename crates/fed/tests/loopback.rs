//! The federation over loopback sockets: what the tests in memory show, with real links.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod sockets;
mod support;

use std::{collections::BTreeMap, sync::Arc, sync::atomic::Ordering::SeqCst, time::Duration};

use futures_util::StreamExt;
use relay_fed::{
    LinkEvents,
    link::{ByteStream, Role},
    links::{Hub, Links, Settings, Target, TargetHandle, door},
};
use relay_proto::{
    Caller,
    call::RpcCode,
    link::{
        Encoding, NodeType,
        handshake::{Credential, Expected, FEATURE_PROBE, FEATURE_STANDBY, Identity, Offer, Pin},
    },
};
use serde_json::{Value, json};
use sockets::{Policy, dialing, psk, secret};
use support::{Node, call, hub, id, spoke, until};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A node with links over sockets.
struct Linked {
    node: Node,
    links: Links,
    port: u16,
    door: CancellationToken,
    targets: Vec<TargetHandle>,
}

impl Linked {
    async fn new(node: Node, encoding: Encoding) -> Self {
        let node_type = if node.role == Role::Main { NodeType::Main } else { NodeType::Home };
        let identity = Identity {
            relay: node.relay.clone(),
            node_type,
            key: node.key.clone(),
            version: "0.1.0".into(),
            features: vec![FEATURE_PROBE.into(), FEATURE_STANDBY.into()],
        };
        let policy = Policy {
            psk: Some(b"spokes".to_vec()),
            secret: Some(b"hubs".to_vec()),
            ..Policy::default()
        };
        let offer = if node.role == Role::Main { Offer::MAIN } else { Offer::HOME };
        let settings = Settings { offer, ..Settings::default() };
        let events: Arc<dyn LinkEvents> = Arc::new(node.fed.clone());
        let links = Links::new(identity, settings, dialing(encoding), events, Arc::new(policy));
        let mut linked =
            Self { node, links, port: 0, door: CancellationToken::new(), targets: Vec::new() };
        if linked.node.role == Role::Main {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            linked.port = listener.local_addr().unwrap().port();
            let (links, stop) = (linked.links.clone(), linked.door.clone());
            tokio::spawn(door::serve(listener, links, None, stop));
        }
        linked
    }

    fn way_to(&self, hub: &Self) -> Hub {
        let key = hub.node.key.node_id();
        let credential: Credential =
            if self.node.role == Role::Main { secret("hubs") } else { psk("spokes") };
        Hub {
            url: format!("ws://127.0.0.1:{}/federate", hub.port),
            expected: Expected { relay: Some(hub.node.relay.clone()), pin: Pin::Key(key) },
            credentials: vec![credential],
        }
    }

    fn connect(&mut self, hubs: &[&Self]) {
        let hubs: Vec<Hub> = hubs.iter().map(|hub| self.way_to(hub)).collect();
        let target = Target { quick: true, ..Target::with_fallbacks(hubs) };
        self.targets.push(self.links.connect(target));
    }

    /// Ends at once: nothing that is under way finishes.
    async fn die(self) {
        self.door.cancel();
        self.links.shutdown(Duration::ZERO).await;
    }
}

struct Net {
    a: Linked,
    b: Linked,
    spokes: BTreeMap<&'static str, Linked>,
}

async fn net(encoding: Encoding) -> Net {
    let mut a = Linked::new(hub("hub-a"), encoding).await;
    let b = Linked::new(hub("hub-b"), encoding).await;
    a.connect(&[&b]);
    let mut spokes = BTreeMap::new();
    for (name, services) in [
        ("alice", vec!["alice-service"]),
        ("bob", vec!["bob-service"]),
        ("carol", vec!["carol-service", "shared"]),
        ("dan", vec!["dan-service", "shared"]),
    ] {
        let mut linked = Linked::new(spoke(name, &services), encoding).await;
        let on_a = matches!(name, "alice" | "bob");
        let hubs = if on_a { [&a, &b] } else { [&b, &a] };
        linked.connect(&hubs);
        spokes.insert(name, linked);
    }
    for hub in [&a, &b] {
        until("both hubs know everybody", || {
            (hub.node.fed.registry_size() == (6, 6)).then_some(())
        })
        .await;
    }
    Net { a, b, spokes }
}

#[tokio::test]
async fn calls_cross_two_hubs_in_both_encodings() {
    for encoding in Encoding::ALL {
        let net = net(encoding).await;
        let alice = &net.spokes["alice"].node;
        let answer = alice.ask("carol-service", "echo", &json!({"n": 1})).await.unwrap();
        assert_eq!(answer["node"], "carol");
        assert_eq!(answer["args"], json!({"n": 1}));
        assert_eq!(answer["caller"], json!({"node": "alice@hub-a"}));
        let error = alice.ask("nothing", "echo", &json!([])).await.unwrap_err();
        assert_eq!(error.code, RpcCode::ServiceNotFound);
        let error = alice.ask("carol-service", "fail", &json!([])).await.unwrap_err();
        assert_eq!((error.code, &error.data["why"]), (RpcCode::Other(7), &json!("dice")));
        let mut traced = call("carol-service", "echo", &json!([]));
        traced.timing = true;
        let answer = alice.fed.ask(traced, Caller::local(), None).await.unwrap();
        let nodes: Vec<&str> = answer.hops.iter().map(|hop| hop.node.as_str()).collect();
        assert_eq!(nodes, ["alice", "hub-a", "hub-b", "carol"]);
        let explained =
            alice.fed.explain(&call("dan-service", "echo", &json!([])), &Caller::local()).await;
        assert!(explained.works);
        assert_eq!(explained.steps.len(), 4);
    }
}

#[tokio::test]
async fn bodies_and_results_cross_two_hubs_in_pieces() {
    let net = net(Encoding::Cbor).await;
    let alice = &net.spokes["alice"].node.fed;
    let pieces = (0..300).map(|n: usize| Ok(bytes::Bytes::from(vec![n as u8; 10_000])));
    let body: ByteStream = Box::pin(futures_util::stream::iter(pieces));
    let count = call("carol-service", "count", &json!([]));
    let answer = alice.ask(count, Caller::local(), Some(body)).await.unwrap();
    let value: Value = serde_json::from_str(answer.value.get()).unwrap();
    assert_eq!(value["bytes"], 3_000_000);
    let mut stream = call("carol-service", "stream", &json!([]));
    stream.streaming = true;
    let answer = alice.ask(stream, Caller::local(), None).await.unwrap();
    let pieces: Vec<_> = answer.stream.unwrap().map(Result::unwrap).collect().await;
    assert_eq!(pieces.iter().map(bytes::Bytes::len).sum::<usize>(), 100_000);
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels_over_two_hubs() {
    let net = net(Encoding::Cbor).await;
    let carol = &net.spokes["carol"].node.local;
    let ask = net.spokes["alice"].node.ask("carol-service", "slow", &json!([]));
    tokio::select! {
        _ = ask => panic!("nobody lets it go"),
        () = until("it runs", || (carol.waiting.load(SeqCst) == 1).then_some(())) => {}
    }
    until("the callee is told", || (carol.dropped.load(SeqCst) == 1).then_some(())).await;
}

#[tokio::test]
async fn a_hub_that_dies_takes_no_keyed_call_with_it() {
    let mut net = net(Encoding::Cbor).await;
    until("spare links are up", || {
        let links = |hub: &Linked| hub.node.fed.spokes().len();
        (links(&net.a) == 4 && links(&net.b) == 4).then_some(())
    })
    .await;
    let alice = net.spokes["alice"].node.fed.clone();
    let carol = net.spokes["carol"].node.local.clone();
    let ask = |key: Option<&str>| {
        let mut slow = call("carol-service", "slow", &json!([]));
        slow.idempotency_key = key.map(str::to_owned);
        let alice = alice.clone();
        tokio::spawn(async move { alice.ask(slow, Caller::local(), None).await })
    };
    let (plain, keyed) = (ask(None), ask(Some("k")));
    until("both run", || (carol.waiting.load(SeqCst) == 2).then_some(())).await;
    net.b.die().await;
    let error = plain.await.unwrap().unwrap_err();
    assert_eq!(error.code, RpcCode::NodeUnreachable, "{error}");
    keyed.await.unwrap().unwrap();
    assert_eq!(carol.executed(), 2, "the keyed call ran once");
    for name in ["carol", "dan"] {
        let linked = net.spokes.get_mut(name).unwrap();
        until("it has moved", || (linked.node.fed.status().hub == Some(id("hub-a"))).then_some(()))
            .await;
    }
    let again = net.spokes["bob"].node.ask("dan-service", "echo", &json!([])).await.unwrap();
    assert_eq!(again["node"], "dan");
    assert_eq!(net.a.node.fed.spokes().iter().filter(|spoke| spoke.is_attached).count(), 4);
}
