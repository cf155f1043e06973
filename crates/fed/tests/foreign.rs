//! A foreign client that speaks only `+json`, by hand, as the specification describes it; and others
//! that do not keep to it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic")]

mod sockets;

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::{SinkExt, StreamExt};
use relay_fed::links::Kind;
use relay_proto::{SigningKey, link::NodeType};
use serde_json::{Value, json};
use sockets::{Node, Policy, identity, number, request};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

/// Nothing of this project but its keys.
struct Foreign {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    key: SigningKey,
    relay: String,
}

impl Foreign {
    async fn connect(hub: &Node, relay: &str, subprotocol: Option<&'static str>) -> Self {
        let mut request = hub.url().into_client_request().unwrap();
        if let Some(subprotocol) = subprotocol {
            request.headers_mut().insert("Sec-WebSocket-Protocol", subprotocol.parse().unwrap());
        }
        let (socket, _) = connect_async(request).await.unwrap();
        let key = identity(relay, NodeType::Home).key;
        Self { socket, key, relay: relay.into() }
    }

    async fn say(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.unwrap();
    }

    /// The next message, or the close code.
    async fn hear(&mut self) -> Result<Value, u16> {
        let hearing = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Text(text))) => {
                        return Ok(serde_json::from_str(&text).unwrap());
                    }
                    Some(Ok(Message::Close(frame))) => {
                        return Err(frame.map_or(0, |f| f.code.into()));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Err(1006),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), hearing).await.expect("an answer")
    }

    /// The code of the `error`, and the close code behind it.
    async fn refusal(&mut self) -> (String, u16) {
        let error = self.hear().await.unwrap();
        assert_eq!(error["type"], "error", "{error}");
        let closed = self.hear().await.unwrap_err();
        (error["data"]["code"].as_str().unwrap().to_owned(), closed)
    }

    fn hello(&self) -> Value {
        json!({"type": "hello", "data": {
            "v": 1, "relay_id": self.relay, "node_type": "home", "key": self.key.node_id(),
            "nonce": URL_SAFE_NO_PAD.encode([5; 32]), "version": "foreign 3.1", "features": ["unheard-of"],
            "extra": {"deep": [1, 2]},
        }})
    }

    /// The `auth` that answers the hub's `hello`.
    fn auth(&self, theirs: &Value, proof: &str) -> Value {
        let theirs = &theirs["data"];
        let text = |name: &str| theirs[name].as_str().unwrap().to_owned();
        let signed = format!(
            "relay-link-v1\ninitiator\n{}\n{}\n{}\n{}\n{}\n{}",
            self.relay,
            self.key.node_id(),
            text("relay_id"),
            text("key"),
            URL_SAFE_NO_PAD.encode([5; 32]),
            text("nonce"),
        );
        let sig = hex::encode(self.key.sign(signed.as_bytes()));
        json!({"type": "auth", "data": {"sig": sig, "method": "token", "proof": proof}})
    }

    async fn link(hub: &Node, relay: &str, proof: &str) -> (Self, Value) {
        let mut foreign = Self::connect(hub, relay, Some("relay.link.v1+json")).await;
        foreign.say(foreign.hello()).await;
        let hello = foreign.hear().await.unwrap();
        foreign.say(foreign.auth(&hello, proof)).await;
        let welcome = foreign.hear().await.unwrap();
        (foreign, welcome)
    }
}

async fn hub() -> Node {
    Node::hub("hub-a", Policy::with_tokens(&["t1", "t2", "t3"])).await
}

#[tokio::test]
async fn a_client_of_seven_messages_is_a_full_spoke() {
    let hub = hub().await;
    let (mut foreign, welcome) = Foreign::link(&hub, "foreign", "t1").await;
    assert_eq!(welcome["type"], "welcome");
    assert_eq!(welcome["data"]["heartbeat_ms"], 15_000);
    assert_eq!(welcome["data"]["main_relay"], "hub-a");
    assert!(welcome["data"]["max_message_bytes"].is_u64() && welcome["data"]["credit"].is_u64());

    // registration, answered by a response with the same correlation_id
    let services = json!([{"service_name": "blog", "version": "1.0.0", "methods": [], "metadata": {},
        "visibility": "public", "is_healthy": true}]);
    let registration = json!({"type": "registration", "message_id": "r-1", "source_node":
        {"type": "home", "id": "foreign"}, "data": {"services": services, "full": true}});
    foreign.say(registration).await;
    let answer = foreign.hear().await.unwrap();
    assert_eq!((&answer["type"], &answer["correlation_id"]), (&json!("response"), &json!("r-1")));
    assert_eq!(answer["data"]["services"], services);

    // heartbeat, with and without a wish for an answer
    foreign.say(json!({"type": "heartbeat", "data": {"load": 0.1}})).await;
    foreign.say(json!({"type": "heartbeat", "message_id": "h-1"})).await;
    let answer = foreign.hear().await.unwrap();
    assert_eq!((&answer["type"], &answer["correlation_id"]), (&json!("heartbeat"), &json!("h-1")));

    // a request from the hub, answered; an answer to nothing does no harm
    let link = hub.app.link_to("foreign").await;
    let asked = tokio::spawn(link.request(request("read", 41), None));
    let arrived = foreign.hear().await.unwrap();
    assert_eq!((&arrived["type"], &arrived["method"]), (&json!("request"), &json!("read")));
    foreign.say(json!({"type": "response", "correlation_id": "nothing", "data": {}})).await;
    foreign.say(json!({"type": "later", "data": {}})).await;
    foreign
        .say(json!({"type": "response", "correlation_id": arrived["message_id"], "data": 42}))
        .await;
    assert_eq!(number(&asked.await.unwrap().unwrap().message), 42);

    // a request of its own
    foreign.say(json!({"type": "request", "message_id": "q", "method": "echo", "data": 9})).await;
    let answer = foreign.hear().await.unwrap();
    assert_eq!((&answer["correlation_id"], &answer["data"]), (&json!("q"), &json!(9)));
}

#[tokio::test]
async fn a_client_without_a_subprotocol_speaks_json() {
    let hub = hub().await;
    let mut foreign = Foreign::connect(&hub, "foreign", None).await;
    foreign.say(foreign.hello()).await;
    assert_eq!(foreign.hear().await.unwrap()["type"], "hello");
}

#[tokio::test]
async fn refusals_have_their_close_codes() {
    let hub = hub().await;
    // a wrong token
    let mut foreign = Foreign::connect(&hub, "foreign", Some("relay.link.v1+json")).await;
    foreign.say(foreign.hello()).await;
    let hello = foreign.hear().await.unwrap();
    foreign.say(foreign.auth(&hello, "wrong")).await;
    assert_eq!(foreign.refusal().await, ("unauthorized".into(), 4401));
    // a borrowed id: the first one bound it to its key
    let (_first, welcome) = Foreign::link(&hub, "owned", "t1").await;
    assert_eq!(welcome["type"], "welcome");
    let mut thief = Foreign::connect(&hub, "thief", Some("relay.link.v1+json")).await;
    thief.relay = "owned".into();
    thief.say(thief.hello()).await;
    let hello = thief.hear().await.unwrap();
    thief.say(thief.auth(&hello, "t2")).await;
    assert_eq!(thief.refusal().await, ("conflict".into(), 4409));
    // an auth signed for another handshake
    let mut replay = Foreign::connect(&hub, "owned", Some("relay.link.v1+json")).await;
    replay.say(replay.hello()).await;
    replay.hear().await.unwrap();
    let recorded = replay.auth(&hello, "t2");
    replay.say(recorded).await;
    assert_eq!(replay.refusal().await, ("unauthorized".into(), 4401));
    // an old version of the protocol
    let mut old = Foreign::connect(&hub, "old", Some("relay.link.v1+json")).await;
    let mut hello = old.hello();
    hello["data"]["v"] = 0.into();
    old.say(hello).await;
    assert_eq!(old.refusal().await, ("unsupported_version".into(), 4400));
    for (reason, count) in
        [("bad_token", 1), ("borrowed_id", 1), ("bad_signature", 1), ("unsupported_version", 1)]
    {
        assert_eq!(hub.links.counters().get(Kind::Refused, reason), count, "{reason}");
    }
}

#[tokio::test]
async fn a_newer_client_is_answered_with_what_both_know() {
    let hub = hub().await;
    let mut newer = Foreign::connect(&hub, "newer", Some("relay.link.v1+json")).await;
    let mut hello = newer.hello();
    hello["data"]["v"] = 2.into();
    newer.say(hello).await;
    let answer = newer.hear().await.unwrap();
    assert_eq!((&answer["type"], &answer["data"]["v"]), (&json!("hello"), &json!(1)));
    newer.say(newer.auth(&answer, "t1")).await;
    assert_eq!(newer.hear().await.unwrap()["type"], "welcome");
}

#[tokio::test]
async fn whoever_breaks_the_protocol_is_cut_off_and_nobody_else() {
    let hub = hub().await;
    let (mut honest, _) = Foreign::link(&hub, "honest", "t1").await;
    let long = "x".repeat(1 << 20);
    let cases = [
        (json!("no object"), "malformed", 4400),
        (json!({"type": "hello", "data": {}}), "unexpected_message", 4400),
        (json!({"type": "request", "message_id": "x".repeat(200)}), "malformed", 4400),
        (json!({"type": "stream", "stream_id": 7, "data": "AAAA"}), "bad_stream", 4400),
        (json!({"type": "request", "message_id": "1", "data": long}), "too_large", 4413),
    ];
    for (at, (message, reason, code)) in cases.into_iter().enumerate() {
        let name = format!("bad-{at}");
        let (mut bad, welcome) = Foreign::link(&hub, "bad", if at == 0 { "t2" } else { "" }).await;
        assert_eq!(welcome["type"], "welcome", "{name}: {welcome}");
        bad.say(message).await;
        let (_, closed) = bad.refusal().await;
        assert_eq!(closed, code, "{reason}");
        hub.app
            .until(|book| {
                let cut = book.down.iter().filter(|(peer, _)| peer.as_str() == "bad").count();
                (cut > at).then_some(())
            })
            .await;
        assert!(hub.links.counters().get(Kind::Ended, reason) >= 1, "{reason}");
    }
    honest.say(json!({"type": "request", "message_id": "q", "method": "echo", "data": 1})).await;
    assert_eq!(honest.hear().await.unwrap()["data"], 1);
}

#[tokio::test]
async fn binary_on_a_text_link_is_refused() {
    let hub = hub().await;
    let (mut foreign, _) = Foreign::link(&hub, "foreign", "t1").await;
    foreign.socket.send(Message::binary(vec![0xa0])).await.unwrap();
    assert_eq!(foreign.refusal().await, ("invalid_request".into(), 4400));
}

/// Two links at once: what one client says nobody takes for the other's.
#[tokio::test]
async fn links_do_not_mix() {
    let hub = hub().await;
    let (mut a, _) = Foreign::link(&hub, "a", "t1").await;
    let (mut b, _) = Foreign::link(&hub, "b", "t2").await;
    let asked = tokio::spawn(hub.app.link_to("a").await.request(request("read", 0), None));
    let arrived = a.hear().await.unwrap();
    // The other answers in its place.
    b.say(json!({"type": "response", "correlation_id": arrived["message_id"], "data": 666})).await;
    b.say(json!({"type": "error", "message_id": arrived["message_id"], "data": {}})).await;
    b.say(json!({"type": "request", "message_id": "sync", "method": "echo", "data": 0})).await;
    b.hear().await.unwrap();
    a.say(json!({"type": "response", "correlation_id": arrived["message_id"], "data": 1})).await;
    assert_eq!(number(&asked.await.unwrap().unwrap().message), 1);
}
