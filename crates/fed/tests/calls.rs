//! Calls over two hubs and four spokes, linked in memory.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod support;

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use futures_util::StreamExt;
use relay_fed::{
    link::{ByteStream, Role},
    local::Forward,
};
use relay_proto::{Caller, ServiceRecord, SigningKey, call::RpcCode, error::Code};
use serde_json::json;
use support::*;

#[tokio::test]
async fn a_call_goes_spoke_hub_hub_spoke_and_comes_back() {
    let net = two().await;
    let alice = &net.spokes["alice"];
    for to in ["carol-service", "carol-service@carol", "carol-service@carol@hub-b"] {
        let answer = alice.ask(to, "echo", &json!({"n": 1})).await.unwrap();
        assert_eq!(answer["node"], "carol");
        assert_eq!(answer["args"], json!({"n": 1}));
        assert_eq!(answer["caller"], json!({"node": "alice@hub-a"}), "the proven address");
        let left = answer["timeout_ms"].as_u64().unwrap();
        assert!((1..=20_000).contains(&left), "{left}");
    }
    let answer = alice.ask("bob-service", "echo", &json!([])).await.unwrap();
    assert_eq!(answer["node"], "bob");
    let answer = net.a.ask("dan-service", "echo", &json!([])).await.unwrap();
    assert_eq!(answer["caller"], json!({"node": "hub-a"}), "a hub calls too");
}

#[tokio::test]
async fn refusals_come_at_once_and_name_what_is_missing() {
    let net = two().await;
    let alice = &net.spokes["alice"];
    for (to, code, text) in [
        ("nothing", RpcCode::ServiceNotFound, "there is no service 'nothing'"),
        ("x@nobody", RpcCode::NodeUnreachable, "no hub knows it"),
        ("x@nobody@hub-a", RpcCode::NodeUnreachable, "not linked to this hub"),
        ("x@nobody@hub-b", RpcCode::NodeUnreachable, "no hub knows it"),
        ("x@nobody@hub-z", RpcCode::NodeUnreachable, "no link to its hub 'hub-z'"),
        ("x@bob", RpcCode::ServiceNotFound, "there is no service 'x'"),
    ] {
        let error = alice.ask(to, "echo", &json!([])).await.unwrap_err();
        assert_eq!(error.code, code, "{to}: {error}");
        assert!(error.message.contains(text) || to.ends_with("hub-b"), "{to}: {error}");
    }
    let error = alice.ask("bob-service", "fail", &json!([])).await.unwrap_err();
    assert_eq!((error.code, &*error.message), (RpcCode::Other(7), "no luck"));
    assert_eq!(error.data["why"], "dice", "an error of the service comes as it is");
    let lone = spoke("lone", &[]);
    let error = lone.ask("x", "echo", &json!([])).await.unwrap_err();
    assert_eq!(error.code, RpcCode::NodeUnreachable);
}

#[tokio::test]
async fn the_callers_patience_ends_a_call_everywhere() {
    let net = two().await;
    let alice = &net.spokes["alice"];
    let mut slow = call("carol-service", "slow", &json!([]));
    slow.timeout = Duration::from_millis(150);
    let error = alice.ask_call(slow).await.unwrap_err();
    assert_eq!(error.code, RpcCode::Timeout);
    let carol = &net.spokes["carol"].local;
    until("the callee stops", || (carol.dropped.load(SeqCst) == 1).then_some(())).await;
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels_at_the_callee() {
    let net = two().await;
    let carol = &net.spokes["carol"].local;
    let ask = net.spokes["alice"].ask("carol-service", "slow", &json!([]));
    tokio::select! {
        _ = ask => panic!("nobody lets it go"),
        () = until("it runs", || (carol.waiting.load(SeqCst) == 1).then_some(())) => {}
    }
    until("the callee is told", || (carol.dropped.load(SeqCst) == 1).then_some(())).await;
    for hub in [&net.a, &net.b] {
        until("nothing is left under way", || (hub.fed.health().pending == 0).then_some(())).await;
    }
    assert_eq!(
        net.a
            .fed
            .services(&Default::default())
            .services
            .iter()
            .map(|s| s.load_metrics.in_flight)
            .sum::<u32>(),
        0
    );
}

#[tokio::test]
async fn bodies_and_results_pass_in_pieces() {
    let net = two().await;
    let alice = &net.spokes["alice"];
    let pieces = (0..50).map(|n| Ok(bytes::Bytes::from(vec![n; 777])));
    let body: ByteStream = Box::pin(futures_util::stream::iter(pieces));
    let count = call("carol-service", "count", &json!([]));
    let answer = alice.fed.ask(count, Caller::local(), Some(body)).await.unwrap();
    let value: serde_json::Value = serde_json::from_str(answer.value.get()).unwrap();
    assert_eq!(value["bytes"], 50 * 777);
    let mut stream = call("carol-service", "stream", &json!([]));
    stream.streaming = true;
    let answer = alice.fed.ask(stream, Caller::local(), None).await.unwrap();
    let pieces: Vec<_> = answer.stream.unwrap().map(Result::unwrap).collect().await;
    assert_eq!(pieces.iter().map(bytes::Bytes::len).sum::<usize>(), 100_000);
}

#[tokio::test]
async fn a_message_without_answer_is_taken_or_refused() {
    let net = two().await;
    let alice = &net.spokes["alice"].fed;
    let to = |to: &str| call(to, "note", &json!([]));
    alice.send(to("dan-service"), Caller::local()).await.unwrap();
    assert_eq!(net.spokes["dan"].local.notified.load(SeqCst), 1);
    assert_eq!(net.spokes["dan"].local.executed(), 0);
    let error = alice.send(to("nothing"), Caller::local()).await.unwrap_err();
    assert_eq!(error.code, RpcCode::ServiceNotFound);
}

#[tokio::test]
async fn a_traced_call_says_where_its_time_went() {
    let net = two().await;
    let mut traced = call("carol-service", "echo", &json!([]));
    traced.timing = true;
    let answer = net.spokes["alice"].fed.ask(traced, Caller::local(), None).await.unwrap();
    let nodes: Vec<&str> = answer.hops.iter().map(|hop| hop.node.as_str()).collect();
    assert_eq!(nodes, ["alice", "hub-a", "hub-b", "carol"]);
    assert!(answer.hops.windows(2).all(|pair| pair[0].total_us >= pair[1].total_us));
    assert_eq!(answer.hops[0].rtt_us, Some(100));
    assert_eq!(answer.hops[3].rtt_us, None);
}

#[tokio::test]
async fn the_way_is_explained_without_calling() {
    let net = two().await;
    let alice = &net.spokes["alice"].fed;
    let explain = |to: &str| {
        let call = call(to, "echo", &json!([]));
        async move { alice.explain(&call, &Caller::local()).await }
    };
    let explained = explain("carol-service").await;
    assert!(explained.works);
    let says: Vec<(&str, &str)> =
        explained.steps.iter().map(|step| (step.node.as_str(), &*step.says)).collect();
    assert_eq!(
        says,
        [
            ("alice", "asks its hub 'hub-a'"),
            ("hub-a", "sends to the hub 'hub-b' for 'carol@hub-b'"),
            ("hub-b", "sends to its spoke 'carol'"),
            ("carol", "serves 'carol-service'"),
        ]
    );
    for (to, node, code) in [
        ("x@carol", "carol", -32001),
        ("nothing", "hub-a", -32001),
        ("x@nobody@hub-b", "hub-b", -32002),
    ] {
        let explained = explain(to).await;
        assert!(!explained.works);
        let last = explained.steps.last().unwrap();
        assert_eq!((last.node.as_str(), last.rpc_code), (node, Some(code)), "{to}: {last:?}");
    }
    assert!(net.spokes.values().all(|node| node.local.executed() == 0), "nothing was called");
}

#[tokio::test]
async fn versions_are_chosen_by_range() {
    let net = two().await;
    let versions = [("carol", "1.4.0"), ("dan", "2.0.0")];
    for (node, version) in versions {
        let record = ServiceRecord::new("shared".parse().unwrap(), version);
        net.spokes[node].local.set_services(vec![record]);
    }
    let alice = &net.spokes["alice"];
    until("both versions are known", || {
        let known = net.a.fed.services(&Default::default()).services;
        versions.iter().all(|(_, v)| known.iter().any(|s| s.version == *v)).then_some(())
    })
    .await;
    for (range, node) in [("^1", "carol"), (">=2", "dan"), ("=1.4.0", "carol")] {
        for _ in 0..5 {
            let mut ranged = call("shared", "echo", &json!([]));
            ranged.version = Some(range.into());
            assert_eq!(alice.ask_call(ranged).await.unwrap()["node"], node);
        }
    }
    let mut none = call("shared", "echo", &json!([]));
    none.version = Some("^3".into());
    let error = alice.ask_call(none).await.unwrap_err();
    assert_eq!(error.code, RpcCode::ServiceNotFound);
    assert_eq!(error.data["versions"], json!(["1.4.0", "2.0.0"]));
}

#[tokio::test]
async fn what_certainly_did_not_start_goes_to_another_instance() {
    let net = two().await;
    let alice = &net.spokes["alice"];
    net.spokes["carol"].local.full.store(true, SeqCst);
    for _ in 0..20 {
        assert_eq!(alice.ask("shared", "echo", &json!([])).await.unwrap()["node"], "dan");
    }
    assert_eq!(net.spokes["carol"].local.executed(), 0);
    net.spokes["dan"].local.full.store(true, SeqCst);
    let error = alice.ask("shared", "echo", &json!([])).await.unwrap_err();
    assert_eq!(error.code, RpcCode::Overloaded);
    // A named node has no other.
    let before = net.a.fed.counters().retries.load(SeqCst);
    let error = alice.ask("shared@dan", "echo", &json!([])).await.unwrap_err();
    assert_eq!(error.code, RpcCode::Overloaded);
    assert_eq!(net.a.fed.counters().retries.load(SeqCst), before);
}

#[tokio::test]
async fn retries_are_at_most_a_tenth() {
    let net = two().await;
    for node in ["carol", "dan"] {
        net.spokes[node].local.full.store(true, SeqCst);
    }
    for _ in 0..200 {
        net.spokes["alice"].ask("shared", "echo", &json!([])).await.unwrap_err();
    }
    let retries = net.a.fed.counters().retries.load(SeqCst);
    assert!((10..=10 + 20 + 2).contains(&retries), "{retries}");
    assert!(net.a.fed.counters().retries_refused.load(SeqCst) > 100);
}

#[tokio::test]
async fn at_least_nine_in_ten_calls_go_to_the_faster_instance() {
    let net = two().await;
    *net.spokes["dan"].local.delay.lock().unwrap() = Duration::from_millis(20);
    let alice = &net.spokes["alice"];
    let ask = |_| async { alice.ask("shared", "echo", &json!([])).await.unwrap() };
    futures_util::stream::iter(0..1000).map(ask).buffer_unordered(8).collect::<Vec<_>>().await;
    let (fast, slow) = (net.spokes["carol"].local.executed(), net.spokes["dan"].local.executed());
    assert_eq!(fast + slow, 1000);
    assert!(fast >= 900, "{fast} of 1000");
}

#[tokio::test]
async fn slots_bound_what_one_instance_gets() {
    let net = two().await;
    let mut record = service("carol-service");
    record.metadata.insert("slots".into(), 2.into());
    net.spokes["carol"].local.set_services(vec![record]);
    until("the slots are known", || {
        let known = net.a.fed.services(&Default::default()).services;
        known.iter().any(|service| service.metadata.contains_key("slots")).then_some(())
    })
    .await;
    let (alice, carol) = (&net.spokes["alice"], &net.spokes["carol"].local);
    let two_calls = async {
        let slow = || alice.ask("carol-service", "slow", &json!([]));
        let (a, b) = tokio::join!(slow(), slow());
        a.unwrap();
        b.unwrap();
    };
    let third = async {
        until("both run", || (carol.waiting.load(SeqCst) == 2).then_some(())).await;
        for to in ["carol-service", "carol-service@carol"] {
            let error = alice.ask(to, "echo", &json!([])).await.unwrap_err();
            assert_eq!(error.code, RpcCode::Overloaded, "{to}");
            assert!(error.data.contains_key("retry_after_ms"));
        }
        carol.gate.notify_waiters();
    };
    tokio::join!(two_calls, third);
    alice.ask("carol-service", "echo", &json!([])).await.unwrap();
}

#[tokio::test]
async fn requests_under_way_are_bounded() {
    let a = node_with("hub-a", Role::Main, &[], |config| config.pending_per_link = 3);
    let (alice, bob) = (spoke("alice", &[]), spoke("bob", &["bob-service"]));
    let _wires = [link(&alice, &a), link(&bob, &a)];
    until("bob is known", || (a.fed.registry_size() == (3, 1)).then_some(())).await;
    let many = async {
        let slow = || alice.ask("bob-service", "slow", &json!([]));
        let answers = tokio::join!(slow(), slow(), slow());
        assert!(answers.0.is_ok() && answers.1.is_ok() && answers.2.is_ok());
    };
    let more = async {
        until("three run", || (bob.local.waiting.load(SeqCst) == 3).then_some(())).await;
        let error = alice.ask("bob-service", "echo", &json!([])).await.unwrap_err();
        assert_eq!(error.code, RpcCode::Overloaded);
        bob.local.gate.notify_waiters();
    };
    tokio::join!(many, more);
    alice.ask("bob-service", "echo", &json!([])).await.unwrap();
}

#[tokio::test]
async fn a_users_key_is_taken_from_hubs_and_from_spokes_that_are_trusted_with_it() {
    let user = SigningKey::from_seed([7; 32]).node_id();
    let caller = Caller { key: Some(user), ..Caller::local() };
    let net = two().await;
    let ask = |node: &Node| {
        let (fed, caller) = (node.fed.clone(), caller.clone());
        async move {
            let answer = fed.ask(call("carol-service", "echo", &json!([])), caller, None).await;
            serde_json::from_str::<serde_json::Value>(answer.unwrap().value.get()).unwrap()
        }
    };
    let answer = ask(&net.a).await;
    assert_eq!(answer["caller"], json!({"node": "hub-a", "key": user}));
    let answer = ask(&net.spokes["alice"]).await;
    assert_eq!(answer["caller"], json!({"node": "alice@hub-a"}), "any spoke could say so");
    let erin = node_with("erin", Role::Home, &["erin-service"], |config| {
        config.key_vouchers = vec!["alice".into()];
    });
    let _wire = link(&erin, &net.b);
    until("erin is known", || net.a.fed.registry_size().1.eq(&7).then_some(())).await;
    let alice = &net.spokes["alice"].fed;
    let answer = alice.ask(call("erin-service", "echo", &json!([])), caller, None).await.unwrap();
    assert!(answer.value.get().contains(&user.to_string()));
}

#[tokio::test]
async fn a_home_is_asked_over_two_hubs_and_its_own_problem_comes_back() {
    let net = two().await;
    let forward = |operation: &str| Forward {
        operation: operation.into(),
        request: raw(&json!({"resource": "db/main"})),
        caller: Caller::local(),
        grant: None,
    };
    let alice = &net.spokes["alice"].fed;
    let patience = Duration::from_secs(5);
    let (answer, _) =
        alice.forward(id("carol"), forward("event.query"), None, patience).await.unwrap();
    let answer: serde_json::Value = serde_json::from_str(answer.get()).unwrap();
    assert_eq!(answer["home"], "carol");
    assert_eq!(answer["from"], "alice", "by its proven name");
    assert_eq!(answer["request"], json!({"resource": "db/main"}));
    let problem =
        alice.forward(id("dan"), forward("lock.acquire"), None, patience).await.err().unwrap();
    assert_eq!((problem.code, problem.message.as_str()), (Code::LockHeld, "held"));
    assert_eq!(problem.extra["owner"], "bob");
    let problem = alice.forward(id("nobody"), forward("x"), None, patience).await.err().unwrap();
    assert_eq!(problem.code, Code::HomeUnreachable);
}

#[tokio::test]
async fn a_node_stops_with_calls_under_way() {
    let mut net = two().await;
    let carol = net.spokes["carol"].local.clone();
    let alice = net.spokes["alice"].fed.clone();
    let ask = tokio::spawn(async move {
        alice.ask(call("carol-service", "slow", &json!([])), Caller::local(), None).await
    });
    until("it runs", || (carol.waiting.load(SeqCst) == 1).then_some(())).await;
    net.spokes.remove("carol").unwrap().stop().await;
    let error = ask.await.unwrap().unwrap_err();
    assert_eq!(error.code, RpcCode::NodeUnreachable);
}
