//! What hubs know of spokes, and what they make of lies and losses.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod support;

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use relay_fed::{
    federation::views::ServiceQuery,
    link::{Lane, Role},
};
use relay_proto::{Caller, call::RpcCode, link::MessageType};
use serde_json::json;
use support::*;

fn registration(services: &serde_json::Value, id: &str) -> relay_proto::link::Message {
    message(json!({
        "type": "registration", "message_id": id,
        "source_node": {"type": "home", "id": "somebody-else"},
        "data": {"services": services, "full": true}
    }))
}

#[tokio::test]
async fn a_foreign_spoke_registers_is_called_and_calls() {
    let net = two().await;
    let mut gopher = foreign(&net.b, "gopher", Role::Home);
    let services = json!([{"service_name": "blog_service", "version": "1.2.0", "methods": ["create_post"],
        "metadata": {}, "visibility": "public", "is_healthy": true}]);
    let answered = gopher.link.request(registration(&services, "m1"), None).await.unwrap();
    assert_eq!(answered.message.message_type, MessageType::Response);
    until("it is known on the other hub", || {
        let query = ServiceQuery { name: Some("blog_service".parse().unwrap()), own: false };
        let found = net.a.fed.services(&query).services;
        found.first().map(|service| {
            assert_eq!(service.node_address.id, id("gopher"), "by its proven name");
            assert_eq!(service.node_address.main_relay, Some(id("hub-b")));
        })
    })
    .await;
    let serve = async {
        let (request, answering) = gopher.requests.recv().await.unwrap();
        assert_eq!(request.message_type, MessageType::Request);
        assert_eq!(request.server_name.as_deref(), Some("blog_service"));
        assert_eq!(request.method.as_deref(), Some("create_post"));
        assert_eq!(request.destination_node.unwrap().id, id("gopher"));
        assert_eq!(request.source_node.unwrap().id, id("alice"));
        assert_eq!(request.routing_path, [id("alice"), id("hub-a")]);
        assert!(request.deadline_ms.unwrap() <= 20_000 && request.timeout_seconds.is_some());
        let rpc: serde_json::Value =
            serde_json::from_str(request.jsonrpc_request.unwrap().get()).unwrap();
        assert_eq!(rpc["method"], "create_post");
        assert_eq!(rpc["params"], json!({"title": "Hi"}));
        let message = message(json!({"type": "response",
            "data": {"jsonrpc_response": {"jsonrpc": "2.0", "id": rpc["id"], "result": {"id": 3}}}}));
        answering.answer(relay_fed::link::Answered { message, stream: None });
    };
    let alice = &net.spokes["alice"];
    let ask = alice.ask("blog_service", "create_post", &json!({"title": "Hi"}));
    let (answer, ()) = tokio::join!(ask, serve);
    assert_eq!(answer.unwrap(), json!({"id": 3}));
    // It calls with what the specification shows and nothing else.
    let request = message(json!({
        "type": "request", "message_id": "m2", "server_name": "alice-service", "method": "echo",
        "jsonrpc_request": {"jsonrpc": "2.0", "id": 1, "method": "echo", "params": [1]},
        "timeout_seconds": 5
    }));
    let answered = gopher.link.request(request, None).await.unwrap();
    let data: serde_json::Value =
        serde_json::from_str(answered.message.data.unwrap().get()).unwrap();
    let result = &data["jsonrpc_response"]["result"];
    assert_eq!(result["node"], "alice");
    assert_eq!(result["caller"], json!({"node": "gopher@hub-b"}));
    // Gone with its link.
    gopher.wire.cut().await;
    until("it is withdrawn everywhere", || {
        let gone = |hub: &Node| {
            let query = ServiceQuery { name: Some("blog_service".parse().unwrap()), own: false };
            hub.fed.services(&query).services.is_empty()
        };
        (gone(&net.a) && gone(&net.b)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn bad_registrations_are_refused_and_change_nothing() {
    let net = two().await;
    let gopher = foreign(&net.b, "gopher", Role::Home);
    for services in [
        json!([{"service_name": "no name", "version": "1.0.0", "methods": []}]),
        json!([{"service_name": "x", "version": "one", "methods": []}]),
        json!([{"service_name": "x", "version": "1.0.0", "methods": [], "visibility": "private"}]),
        json!("services"),
    ] {
        let answered = gopher.link.request(registration(&services, "m"), None).await.unwrap();
        assert_eq!(answered.message.message_type, MessageType::Error, "{services}");
        let data: serde_json::Value =
            serde_json::from_str(answered.message.data.unwrap().get()).unwrap();
        assert_eq!(data["code"], "invalid_request", "{services}");
    }
    assert_eq!(net.b.fed.services(&ServiceQuery::default()).services.len(), 6);
    // A hub does not register services.
    let hub = foreign(&net.b, "hub-x", Role::Main);
    let answered = hub.link.request(registration(&json!([]), "m"), None).await.unwrap();
    assert_eq!(answered.message.message_type, MessageType::Error);
}

#[tokio::test]
async fn forged_senders_and_paths_are_overwritten() {
    let net = two().await;
    let mallory = foreign(&net.a, "mallory", Role::Home);
    let forged = |path: serde_json::Value, ttl: u8| {
        message(json!({
            "type": "request", "message_id": "m", "server_name": "carol-service", "method": "echo",
            "source_node": {"type": "main", "id": "hub-b"}, "routing_path": path, "ttl": ttl,
            "jsonrpc_request": {"jsonrpc": "2.0", "id": 1, "method": "echo"},
            "data": {"caller": {"node": "hub-b"}, "node": "hub-b"}
        }))
    };
    let ask = |path, ttl| {
        let request = mallory.link.request(forged(path, ttl), None);
        async {
            let message = request.await.unwrap().message;
            serde_json::from_str::<serde_json::Value>(message.data.unwrap().get()).unwrap()
        }
    };
    let data = ask(json!(["hub-x", "alice"]), 4).await;
    let caller = &data["jsonrpc_response"]["result"]["caller"];
    assert_eq!(*caller, json!({"node": "mallory@hub-a"}));
    assert_eq!(ask(json!(["hub-a"]), 4).await["code"], "loop_detected");
    assert_eq!(ask(json!([]), 0).await["code"], "loop_detected");
    // Two hops are not enough for three.
    assert_eq!(ask(json!([]), 2).await["code"], "loop_detected");
    assert!(net.a.fed.counters().loops.load(SeqCst) >= 2);
}

#[tokio::test]
async fn a_misconfigured_or_lying_hub_makes_no_loops_and_carries_nothing_on() {
    let net = two().await;
    let evil = foreign(&net.a, "hub-evil", Role::Main);
    let ask = |to: serde_json::Value, path: serde_json::Value| {
        let request = message(json!({
            "type": "request", "message_id": "m", "server_name": "carol-service", "method": "echo",
            "source_node": {"type": "home", "id": "alice", "main_relay": "hub-a"},
            "destination_node": to, "routing_path": path, "ttl": 200,
            "jsonrpc_request": {"jsonrpc": "2.0", "id": 1, "method": "echo"},
        }));
        let request = evil.link.request(request, None);
        async {
            let message = request.await.unwrap().message;
            serde_json::from_str::<serde_json::Value>(message.data.unwrap().get()).unwrap()
        }
    };
    let carol = json!({"type": "home", "id": "carol", "main_relay": "hub-b"});
    let data = ask(carol.clone(), json!([])).await;
    assert_eq!(data["code"], "home_unreachable");
    assert!(data["message"].as_str().unwrap().contains("carries nothing"), "{data}");
    assert_eq!(ask(serde_json::Value::Null, json!([])).await["code"], "home_unreachable");
    assert_eq!(ask(carol, json!(["x", "hub-a"])).await["code"], "loop_detected");
    // What it says it is: a spoke of hub-a. It is a hub, and that is what the callee hears.
    let alice = json!({"type": "home", "id": "alice"});
    let request = message(json!({
        "type": "request", "message_id": "m", "server_name": "alice-service", "method": "echo",
        "source_node": {"type": "home", "id": "bob", "main_relay": "hub-a"},
        "destination_node": alice,
        "jsonrpc_request": {"jsonrpc": "2.0", "id": 1, "method": "echo"},
    }));
    let message = evil.link.request(request, None).await.unwrap().message;
    let data: serde_json::Value = serde_json::from_str(message.data.unwrap().get()).unwrap();
    assert_eq!(data["jsonrpc_response"]["result"]["caller"], json!({"node": "hub-evil"}));
}

#[tokio::test]
async fn a_spoke_that_moves_takes_its_services_along_and_the_old_claim_dies() {
    let net = two().await;
    // Alice turns up at hub-b; hub-a's link to her is frozen, not ended.
    net.wires["alice"].freeze();
    let alice = &net.spokes["alice"];
    let _spare = link(alice, &net.b);
    let goaway = message(json!({"type": "goaway"}));
    let first: std::sync::Arc<dyn relay_fed::Link> = net.wires["alice"].ends[0].clone();
    relay_fed::LinkEvents::message(&alice.fed, &first, goaway);
    until("both hubs know her on hub-b", || {
        let on_b = |hub: &Node| {
            let services = hub.fed.services(&ServiceQuery::default()).services;
            let hers: Vec<_> =
                services.iter().filter(|s| s.service_name.as_str() == "alice-service").collect();
            hers.len() == 1 && hers[0].node_address.main_relay == Some(id("hub-b"))
        };
        (on_b(&net.a) && on_b(&net.b)).then_some(())
    })
    .await;
    let answer = net.spokes["bob"].ask("alice-service", "echo", &json!([])).await.unwrap();
    assert_eq!(answer["node"], "alice");
    assert_eq!(alice.fed.status().address, "alice@hub-b");
}

#[tokio::test]
async fn a_stale_epoch_is_refused_and_raised() {
    let net = two().await;
    let old = foreign(&net.a, "carol", Role::Home);
    let stale = message(json!({
        "type": "registration", "message_id": "m",
        "data": {"services": [], "full": true, "attach_epoch": 1}
    }));
    let answered = old.link.request(stale, None).await.unwrap();
    let data: serde_json::Value =
        serde_json::from_str(answered.message.data.unwrap().get()).unwrap();
    assert_eq!(data["code"], "conflict");
    assert!(data["newest_epoch"].as_u64().unwrap() > 1);
    let answer = net.spokes["bob"].ask("carol-service", "echo", &json!([])).await.unwrap();
    assert_eq!(answer["node"], "carol", "nothing was disturbed");
    // A spoke whose clock went back goes on above what its hub remembers.
    let ahead = foreign(&net.b, "erin", Role::Home);
    let registered = message(json!({
        "type": "registration", "message_id": "m",
        "data": {"services": [], "full": true, "attach_epoch": 1_u64 << 50}
    }));
    ahead.link.request(registered, None).await.unwrap();
    ahead.wire.cut().await;
    let erin = spoke("erin", &["erin-service"]);
    let _wire = link(&erin, &net.b);
    until("she is attached", || erin.fed.status().is_attached.then_some(())).await;
    let answer = net.spokes["bob"].ask("erin-service", "echo", &json!([])).await.unwrap();
    assert_eq!(answer["node"], "erin");
}

#[tokio::test]
async fn a_lost_hub_fails_calls_fast_and_keyed_calls_survive_it() {
    let mut net = two().await;
    // Carol has a spare link to hub-a, alice one to hub-b.
    let _spares = [link(&net.spokes["carol"], &net.a), link(&net.spokes["alice"], &net.b)];
    let (alice, carol) = (net.spokes["alice"].fed.clone(), net.spokes["carol"].local.clone());
    let ask = |key: Option<&str>| {
        let mut slow = call("carol-service", "slow", &json!([]));
        slow.idempotency_key = key.map(str::to_owned);
        let alice = alice.clone();
        tokio::spawn(async move { alice.ask(slow, Caller::local(), None).await })
    };
    let (plain, keyed) = (ask(None), ask(Some("k1")));
    until("both run", || (carol.waiting.load(SeqCst) == 2).then_some(())).await;
    // Hub b dies: carol moves to hub-a.
    net.wires.remove("carol").unwrap().cut().await;
    net.between.cut().await;
    let error = plain.await.unwrap().unwrap_err();
    assert_eq!(error.code, RpcCode::NodeUnreachable);
    assert!(error.message.contains("may or may not"), "{error}");
    let answer = keyed.await.unwrap().unwrap();
    assert!(answer.value.get().contains("\"carol\""));
    assert_eq!(carol.executed(), 2, "the keyed call ran once");
}

#[tokio::test]
async fn the_callers_own_hub_dies_and_a_keyed_call_goes_on_over_the_spare() {
    let mut net = two().await;
    let _spare = link(&net.spokes["alice"], &net.b);
    let (alice, carol) = (net.spokes["alice"].fed.clone(), net.spokes["carol"].local.clone());
    let mut slow = call("carol-service", "slow", &json!([]));
    slow.idempotency_key = Some("k2".into());
    let keyed = tokio::spawn(async move { alice.ask(slow, Caller::local(), None).await });
    until("it runs", || (carol.waiting.load(SeqCst) == 1).then_some(())).await;
    net.wires.remove("alice").unwrap().cut().await;
    let answer = keyed.await.unwrap().unwrap();
    assert!(answer.value.get().contains("\"carol\""));
    assert_eq!(carol.executed(), 1);
    until("she is attached to the other hub", || {
        let status = net.spokes["alice"].fed.status();
        (status.is_attached && status.hub == Some(id("hub-b"))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn hubs_that_are_cut_from_each_other_serve_their_own_and_heal() {
    let net = two().await;
    net.between.cut().await;
    let (alice, bob) = (&net.spokes["alice"], &net.spokes["bob"]);
    assert_eq!(alice.ask("bob-service", "echo", &json!([])).await.unwrap()["node"], "bob");
    let error = alice.ask("carol-service", "echo", &json!([])).await.unwrap_err();
    assert_eq!(error.code, RpcCode::NodeUnreachable, "{error}");
    bob.local.set_services(vec![service("bob-service"), service("bob-news")]);
    until("hub-a knows", || {
        let services = net.a.fed.services(&ServiceQuery::default()).services;
        services.iter().any(|s| s.service_name.as_str() == "bob-news").then_some(())
    })
    .await;
    let _again = link(&net.a, &net.b);
    until("hub-b knows what changed meanwhile", || {
        let services = net.b.fed.services(&ServiceQuery::default()).services;
        services.iter().any(|s| s.service_name.as_str() == "bob-news").then_some(())
    })
    .await;
    assert_eq!(alice.ask("carol-service", "echo", &json!([])).await.unwrap()["node"], "carol");
}

#[tokio::test]
async fn views_say_who_is_where() {
    let net = two().await;
    let own = net.a.fed.services(&ServiceQuery { name: None, own: true });
    let names: Vec<&str> = own.services.iter().map(|s| s.service_name.as_str()).collect();
    assert_eq!(names, ["alice-service", "bob-service"]);
    let all = net.a.fed.services(&ServiceQuery::default());
    assert_eq!(all.services.len(), 6);
    let value = serde_json::to_value(&all.services[0]).unwrap();
    assert_eq!(
        value["node_address"],
        json!({"type": "home", "id": "alice", "main_relay": "hub-a"})
    );
    assert!(value["last_seen"].as_str().unwrap().ends_with('Z'));
    assert_eq!(value["is_healthy"], true);
    let peers = net.a.fed.peers();
    assert_eq!((peers.len(), &peers[0].id, peers[0].spokes), (1, &id("hub-b"), 2));
    assert!(peers[0].is_connected && !peers[0].is_suspect);
    let spokes = net.b.fed.spokes();
    assert_eq!(spokes.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), ["carol", "dan"]);
    assert_eq!(spokes[0].services.len(), 2);
    let topology = net.a.fed.topology();
    assert_eq!(
        topology.hubs.iter().map(|h| h.state.as_str()).collect::<Vec<_>>(),
        ["self", "connected"]
    );
    assert_eq!(topology.spokes.len(), 4);
    assert_eq!(topology.links.len(), 3);
    assert_eq!(net.a.fed.health().status, "ok");
    let status = net.spokes["alice"].fed.status();
    assert_eq!((status.address.as_str(), status.is_attached), ("alice@hub-a", true));
    assert_eq!(status.link.unwrap().rtt_us, Some(100));
    // Watching: a change of services is a change.
    let mut changes = net.a.fed.changes();
    changes.mark_unchanged();
    net.spokes["dan"].local.set_services(vec![]);
    tokio::time::timeout(Duration::from_secs(10), changes.changed()).await.unwrap().unwrap();
    // An operator throws a spoke out, and a peer.
    assert!(net.b.fed.kick(&id("dan")) && !net.b.fed.kick(&id("nobody")));
    until("dan is gone", || (net.b.fed.spokes().len() == 1).then_some(())).await;
    assert!(net.a.fed.drop_peer(&id("hub-b")) && !net.a.fed.drop_peer(&id("hub-b")));
    assert!(net.a.fed.peers().is_empty());
    assert_eq!(net.a.fed.registry_size().1, 2);
}

#[tokio::test]
async fn a_heartbeat_carries_load_and_health() {
    let net = two().await;
    let gopher = foreign(&net.a, "gopher", Role::Home);
    let services = json!([{"service_name": "blog", "version": "1.0.0", "methods": []}]);
    gopher.link.request(registration(&services, "m"), None).await.unwrap();
    let heartbeat = message(json!({"type": "heartbeat",
        "data": {"load": {"in_flight": 7}, "health": {"blog": false}}}));
    gopher.link.send(Lane::Control, heartbeat).unwrap();
    let view = until("both hubs know that it is not well", || {
        let query = ServiceQuery { name: Some("blog".parse().unwrap()), own: false };
        let ill =
            |hub: &Node| hub.fed.services(&query).services.into_iter().find(|s| !s.is_healthy);
        ill(&net.b).and_then(|_| ill(&net.a))
    })
    .await;
    assert_eq!(view.load_metrics.node.unwrap().in_flight, 7);
    // A heartbeat that says nothing we know changes nothing.
    gopher
        .link
        .send(Lane::Control, message(json!({"type": "heartbeat", "data": "alive"})))
        .unwrap();
    gopher.link.send(Lane::Control, message(json!({"type": "heartbeat"}))).unwrap();
}

#[tokio::test]
async fn spokes_ask_their_hub() {
    use relay_fed::federation::{
        Query,
        views::{RegistryView, TopologyView},
    };
    let net = two().await;
    let alice = &net.spokes["alice"].fed;
    let query = ServiceQuery { name: Some("shared".parse().unwrap()), own: false };
    let view: RegistryView = alice.ask_hub(Query::Services(query)).await.unwrap();
    assert_eq!((view.relay, view.services.len()), (id("hub-a"), 2));
    let view: TopologyView = alice.ask_hub(Query::Topology).await.unwrap();
    assert_eq!(view.hubs.len(), 2);
    assert_eq!(view.spokes.len(), 1, "a spoke sees itself");
    assert_eq!(alice.registry_size(), (0, 0), "nothing is pushed to spokes");
    let error = spoke("lone", &[]).fed.ask_hub::<TopologyView>(Query::Topology).await.unwrap_err();
    assert_eq!(error.code, RpcCode::NodeUnreachable);
}
