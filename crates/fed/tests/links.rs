//! Links over loopback sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic")]

mod sockets;

use std::time::Duration;

use futures_util::StreamExt;
use relay_fed::{
    link::{Lane, LinkError},
    links::{Hub, Settings, Target, running, target::Status},
};
use relay_proto::{
    NodeId,
    link::{
        Encoding, Message, MessageType, NodeType,
        handshake::{Credential, Expected, Pin},
    },
};
use sockets::{
    Node, Policy, Proxy, identity, number, pieces, psk, read_all, request, secret, token,
};

use relay_fed::links::Kind;

/// A spoke linked to a hub.
async fn pair(encoding: Encoding) -> (Node, Node, relay_fed::links::TargetHandle) {
    let hub = Node::hub("hub-a", Policy::with_tokens(&["ot_1"])).await;
    let spoke = Node::spoke("alice.home", encoding);
    let target = spoke.links.connect(Target::one(hub.as_hub(token("ot_1")), false));
    spoke.app.link_to("hub-a").await;
    hub.app.link_to("alice.home").await;
    (hub, spoke, target)
}

/// The status once it says so.
async fn status(target: &relay_fed::links::TargetHandle, says: impl Fn(&Status) -> bool) -> Status {
    let mut status = target.status();
    let waiting = status.wait_for(|status| says(status));
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("in time").unwrap().clone()
}

#[tokio::test]
async fn requests_go_both_ways_in_both_encodings() {
    for encoding in Encoding::ALL {
        let (hub, spoke, _target) = pair(encoding).await;
        let up = spoke.app.link_to("hub-a").await;
        let down = hub.app.link_to("alice.home").await;
        assert!(up.peer().dialled && !down.peer().dialled);
        assert_eq!(down.peer().key, spoke.identity.key.node_id());
        let asked = (0..50).map(|at| up.request(request("echo", at), None));
        let answers = futures_util::future::join_all(asked).await;
        for (at, answer) in answers.into_iter().enumerate() {
            assert_eq!(number(&answer.unwrap().message), at as u64);
        }
        assert_eq!(number(&down.request(request("echo", 7), None).await.unwrap().message), 7);
        let stats = up.stats();
        assert!(stats.messages_out >= 51 && stats.bytes_in > 0 && !stats.draining);
    }
}

#[tokio::test]
async fn bodies_and_results_stream() {
    let (_hub, spoke, _target) = pair(Encoding::Cbor).await;
    let link = spoke.app.link_to("hub-a").await;
    let counted = link.request(request("count", 0), Some(pieces(300, 10_000))).await.unwrap();
    assert_eq!(number(&counted.message), 3_000_000);
    let mirrored = link.request(request("mirror", 0), Some(pieces(200, 10_000))).await.unwrap();
    let bytes = read_all(mirrored.stream.unwrap()).await;
    assert_eq!(bytes.len(), 2_000_000);
    assert!(
        bytes.chunks(10_000).enumerate().all(|(at, piece)| piece.iter().all(|b| *b == at as u8))
    );
}

#[tokio::test]
async fn a_result_that_nobody_reads_stops_at_its_sender() {
    let (_hub, spoke, _target) = pair(Encoding::Cbor).await;
    let link = spoke.app.link_to("hub-a").await;
    let mirrored = link.request(request("mirror", 0), Some(pieces(100_000, 10_000))).await.unwrap();
    let mut stream = mirrored.stream.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    // The rest of the gigabyte is not sent: the link is free for others.
    let answer = link.request(request("echo", 5), None).await.unwrap();
    assert_eq!(number(&answer.message), 5);
    assert!(link.stats().bytes_in < 100_000_000);
}

#[tokio::test]
async fn who_asked_and_left_is_known_to_who_answers() {
    let (hub, spoke, _target) = pair(Encoding::Cbor).await;
    let link = spoke.app.link_to("hub-a").await;
    let asked = link.request(request("never", 0), None);
    hub.app.until(|book| (book.requests == 1).then_some(())).await;
    drop(asked);
    hub.app.until(|book| (book.abandoned == 1).then_some(())).await;

    let message = Message { deadline_ms: Some(50), ..request("never", 0) };
    assert_eq!(link.request(message, None).await.unwrap_err(), LinkError::Timeout);
    hub.app.until(|book| (book.abandoned == 2).then_some(())).await;

    // Dropped unanswered, the caller learns it at once.
    let answer = link.request(request("drop", 0), None).await.unwrap();
    assert_eq!(answer.message.message_type, MessageType::Error);
}

#[tokio::test]
async fn what_is_refused_has_a_typed_reason_on_both_sides() {
    let mut policy = Policy::with_tokens(&["ot_1", "ot_2"]);
    policy.denied.push("mallory".parse().unwrap());
    policy.psk = Some(b"shared".to_vec());
    policy.secret = Some(b"s3cret".to_vec());
    let owner = identity("owner", NodeType::Home).key.node_id();
    let other: NodeId = identity("another", NodeType::Home).key.node_id();
    policy.pins.lock().unwrap().insert("borrowed".parse().unwrap(), owner);
    let hub = Node::hub("hub-a", policy).await;
    let good = || hub.as_hub(token("ot_1"));
    let with = |credential: Credential| Hub { credentials: vec![credential], ..good() };
    let expecting = |expected: Expected| Hub { expected, ..good() };
    let pin = |pin| Expected { relay: None, pin };
    // Who, how, what both sides call it.
    let cases = [
        ("alice", with(token("ot_wrong")), "bad_token"),
        ("alice", with(Credential::Known), "unknown_relay"),
        ("alice", with(psk("guess")), "bad_proof"),
        ("alice", with(secret("guess")), "bad_proof"),
        ("alice", with(Credential::Mtls), "bad_certificate"),
        ("mallory", good(), "denied"),
        ("borrowed", good(), "borrowed_id"),
        ("hub-a", good(), "itself"),
        ("alice", expecting(pin(Pin::Key(other))), "wrong_key"),
        ("alice", expecting(pin(Pin::None)), "not_pinned"),
    ];
    for (relay, at, reason) in cases {
        let (failed, refused) = {
            let spoke = Node::spoke(relay, Encoding::Cbor);
            let before = hub.links.counters().get(Kind::Refused, reason);
            let target = spoke.links.connect(Target::one(at, false));
            let status = status(&target, |status| status.last_reason.is_some()).await;
            assert_eq!(status.last_reason, Some(reason), "{relay}: {:?}", status.last_error);
            spoke.links.shutdown(Duration::ZERO).await;
            (spoke.links.counters().get(Kind::Failed, reason), before)
        };
        assert!(failed >= 1);
        // The hub counts when it has read the other's last word.
        while hub.links.counters().get(Kind::Refused, reason) == refused {
            tokio::task::yield_now().await;
        }
    }
    // Nothing of that used up the tokens or bound a name; the right ones still get in.
    let spoke = Node::spoke("alice", Encoding::Cbor);
    let target = spoke.links.connect(Target::one(good(), false));
    status(&target, |status| status.relay.is_some()).await;
    // A token is good once; a known key needs none.
    let second = Node::spoke("bob", Encoding::Cbor);
    let refused = second.links.connect(Target::one(good(), false));
    let refused = status(&refused, |status| status.refused.is_some()).await;
    assert!(refused.refused.unwrap().contains("used up"));
    drop(target);
    let again = spoke.links.connect(Target::one(with(Credential::Known), false));
    status(&again, |status| status.relay.is_some()).await;
}

#[tokio::test]
async fn keys_and_secrets_that_fit_are_taken() {
    let policy = Policy {
        psk: Some(b"shared".to_vec()),
        secret: Some(b"s3cret".to_vec()),
        ..Policy::default()
    };
    let hub = Node::hub("hub-a", policy).await;
    for (relay, credential) in [("a", psk("shared")), ("b", secret("s3cret"))] {
        let spoke = Node::spoke(relay, Encoding::Cbor);
        let first_use = Expected { relay: None, pin: Pin::FirstUse };
        let at = Hub { expected: first_use, ..hub.as_hub(credential) };
        let target = spoke.links.connect(Target::one(at, false));
        let status = status(&target, |status| status.relay.is_some()).await;
        // To be pinned from here on.
        assert_eq!(status.key, Some(hub.identity.key.node_id()));
    }
}

#[tokio::test]
async fn plain_text_stays_on_this_machine() {
    let spoke = Node::spoke("alice", Encoding::Cbor);
    let expected = Expected { relay: None, pin: Pin::FirstUse };
    for (url, reason) in
        [("http://127.0.0.1:1/", "bad_url"), ("ws://127.0.0.1:1/federate", "connect")]
    {
        let hub =
            Hub { url: url.into(), expected: expected.clone(), credentials: vec![token("t")] };
        let target = spoke.links.connect(Target::one(hub, false));
        let status = status(&target, |status| status.last_reason.is_some()).await;
        assert_eq!(status.last_reason, Some(reason), "{:?}", status.last_error);
    }
}

#[tokio::test]
async fn a_full_hub_says_so() {
    let settings = Settings { max_accepted: 1, ..Settings::default() };
    let hub = Node::hub_with("hub-a", Policy::with_tokens(&["1", "2"]), settings).await;
    let first = Node::spoke("a", Encoding::Cbor);
    let _first = first.links.connect(Target::one(hub.as_hub(token("1")), false));
    hub.app.link_to("a").await;
    let refused = hub.links.admit().unwrap_err();
    assert!(refused.extra.contains_key("retry_after_ms"));
    assert_eq!(hub.links.counters().get(Kind::Refused, "full"), 1);
}

#[tokio::test]
async fn accepting_is_limited_per_second() {
    let settings = Settings { accepts_per_second: 3, ..Settings::default() };
    let hub = Node::hub_with("hub-a", Policy::default(), settings).await;
    let tickets: Vec<_> = (0..5).map(|_| hub.links.admit()).collect();
    assert_eq!(tickets.iter().filter(|ticket| ticket.is_ok()).count(), 3);
    assert_eq!(hub.links.counters().get(Kind::Refused, "accept_rate"), 2);
}

#[tokio::test]
async fn a_relay_that_comes_again_replaces_its_older_link() {
    let hub = Node::hub("hub-a", Policy::with_tokens(&["1"])).await;
    let spoke = Node::spoke("alice", Encoding::Cbor);
    let _first = spoke.links.connect(Target::one(hub.as_hub(token("1")), false));
    let old = hub.app.link_to("alice").await;
    let again = Node::spoke("alice", Encoding::Cbor);
    let _second = again.links.connect(Target::one(hub.as_hub(Credential::Known), false));
    assert_eq!(spoke.app.lost("hub-a").await, "closed");
    let new =
        hub.app.until(|book| book.up.iter().find(|link| link.id() != old.id()).cloned()).await;
    let answer = new.request(request("echo", 3), None).await.unwrap();
    assert_eq!(number(&answer.message), 3);
}

#[tokio::test]
async fn the_relay_dials_again_when_its_hub_closes() {
    let (hub, spoke, target) = pair(Encoding::Cbor).await;
    let link = spoke.app.link_to("hub-a").await;
    let waiting = link.request(request("never", 0), None);
    hub.app.until(|book| (book.requests == 1).then_some(())).await;
    hub.app.link_to("alice.home").await.close("test");
    assert_eq!(waiting.await.unwrap_err(), LinkError::Closed { sent: true });
    hub.app.until(|book| (book.abandoned == 1).then_some(())).await;
    status(&target, |status| status.reconnects == 1).await;
    let refused = link.send(Lane::Call, request("echo", 0)).unwrap_err();
    assert_eq!(refused, LinkError::Closed { sent: false });
}

/// Two hubs, a spoke with a warm standby.
async fn with_standby(
    proxied: Option<&Proxy>,
    hubs: &[Node; 2],
) -> (Node, relay_fed::links::TargetHandle) {
    let spoke = Node::spoke("alice", Encoding::Cbor);
    let mut first = hubs[0].as_hub(token("1"));
    if let Some(proxy) = proxied {
        first.url = format!("ws://127.0.0.1:{}/federate", proxy.port);
    }
    let target = Target::with_fallbacks(vec![first, hubs[1].as_hub(token("1"))]);
    let target = spoke.links.connect(Target { stable: Duration::from_millis(200), ..target });
    status(&target, |status| status.relay.as_ref().is_some_and(|relay| relay.as_str() == "hub-a"))
        .await;
    let standby = hubs[1].app.link_to("alice").await;
    assert!(
        standby.peer().features.iter().any(|f| f == "standby")
            || !standby.peer().features.is_empty()
    );
    (spoke, target)
}

async fn two_hubs() -> [Node; 2] {
    [
        Node::hub("hub-a", Policy::with_tokens(&["1"])).await,
        Node::hub("hub-b", Policy::with_tokens(&["1"])).await,
    ]
}

fn uses<'a>(relay: &'a str) -> impl Fn(&Status) -> bool + 'a {
    move |status| status.relay.as_ref().is_some_and(|used| used.as_str() == relay)
}

#[tokio::test]
async fn a_standby_takes_over_and_the_first_hub_gets_its_spoke_back() {
    let hubs = two_hubs().await;
    let (spoke, target) = with_standby(None, &hubs).await;
    hubs[0].app.link_to("alice").await.close("test");
    status(&target, uses("hub-b")).await;
    let link = spoke.app.link_to("hub-b").await;
    let answer = link.request(request("echo", 1), None).await.unwrap();
    assert_eq!(number(&answer.message), 1);
    // The first hub is up all the while: the spoke returns, and leaves the other by draining.
    status(&target, uses("hub-a")).await;
    assert_eq!(spoke.app.lost("hub-b").await, "drained");
}

#[tokio::test]
async fn a_hub_that_freezes_is_noticed_by_its_silence() {
    let hubs = two_hubs().await;
    let proxy = Proxy::to(hubs[0].port).await;
    let (spoke, target) = with_standby(Some(&proxy), &hubs).await;
    proxy.freeze();
    status(&target, uses("hub-b")).await;
    assert_eq!(spoke.app.lost("hub-a").await, "silent");
    assert_eq!(spoke.links.counters().get(Kind::Ended, "silent"), 1);
}

/// Both are dialled at once; the fallback answers, and is used only when the first hub had its time.
#[tokio::test]
async fn a_fallback_waits_for_the_first_hub_at_the_start() {
    let hubs = two_hubs().await;
    let proxy = Proxy::to(hubs[0].port).await;
    proxy.freeze();
    let mut first = hubs[0].as_hub(token("1"));
    first.url = format!("ws://127.0.0.1:{}/federate", proxy.port);
    let spoke = Node::spoke("alice", Encoding::Cbor);
    let began = std::time::Instant::now();
    let target = Target::with_fallbacks(vec![first, hubs[1].as_hub(token("1"))]);
    let target = spoke.links.connect(target);
    // Up at the other side, and not yet told at this one.
    hubs[1].app.link_to("alice").await;
    status(&target, uses("hub-b")).await;
    assert!(began.elapsed() >= relay_proto::link::dialer::HEAD_START, "{:?}", began.elapsed());
    let link = spoke.app.link_to("hub-b").await;
    assert_eq!(number(&link.request(request("echo", 1), None).await.unwrap().message), 1);
}

#[tokio::test]
async fn shutdown_lets_finish_and_awaits_everything() {
    let hubs = two_hubs().await;
    let (spoke, target) = with_standby(None, &hubs).await;
    let link = spoke.app.link_to("hub-a").await;
    let counted = link.request(request("count", 0), Some(pieces(50, 10_000)));
    hubs[0].app.until(|book| (book.requests == 1).then_some(())).await;
    let (counted, ()) = tokio::join!(counted, hubs[0].links.shutdown(Duration::from_secs(10)));
    assert_eq!(number(&counted.unwrap().message), 500_000);
    // Told to move, the spoke went to the other hub.
    status(&target, uses("hub-b")).await;
    assert!(hubs[0].links.admit().is_err());
    drop(target);
    spoke.links.shutdown(Duration::from_secs(5)).await;
    assert_eq!(hubs[1].app.lost("alice").await, "drained");
}

/// The reason words of ends are part of what operators build alerts on.
#[test]
fn reasons_are_words() {
    let end = running::End::Asked("x".into());
    assert_eq!(end.reason(), "asked");
}
