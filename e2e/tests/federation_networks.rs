//! Networks that part and heal, and one that is slow.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic")]

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use relay_e2e::{
    federation::{
        PATIENCE, Secrets, Service, answers, call, error_of, get, links_of, names, until_attached,
        until_linked,
    },
    proxy::Proxy,
    relay::reqwest_client,
    until,
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hubs_that_are_parted_serve_their_own_and_heal() {
    let secrets = Secrets::new();
    let a = secrets.hub("hub-a", &[]).await;
    let between = Proxy::tcp(a.address()).await;
    let b = secrets.hub("hub-b", &[links_of(between.address())]).await;
    let (at_a, at_b) = ([links_of(a.address())], [links_of(b.address())]);
    let (blog, shop, late) =
        (Service::start("blog").await, Service::start("shop").await, Service::start("late").await);
    let alice = secrets.spoke("alice.home", &at_a, &[&blog]).await;
    let mut carol = secrets.spoke("carol.home", &at_b, &[&shop]).await;
    for relay in [&alice, &carol] {
        for service in ["blog.echo", "shop.echo"] {
            until(service, PATIENCE, || answers(relay, service)).await;
        }
    }

    between.part(true);
    for hub in [&a, &b] {
        until("the hub notices", PATIENCE, || async {
            get(hub, "/federation/health").await["status"] == "degraded"
        })
        .await;
    }
    // Across: told at once, by the hub that cannot go on, not by a time-out. And nothing is done.
    let (before_shop, before_blog) = (shop.calls(), blog.calls());
    for (caller, to) in [(&alice, "shop"), (&a, "shop"), (&carol, "blog"), (&b, "blog")] {
        let answer = call(caller, &format!("{to}.echo"), json!({ "n": 1 })).await;
        assert_eq!(error_of(&answer), -32002, "{} → {to}: {answer}", caller.id());
    }
    assert_eq!((shop.calls(), blog.calls()), (before_shop, before_blog));
    // On each side life goes on: calls, somebody who comes, somebody who goes.
    for (caller, to) in [(&alice, "blog"), (&a, "blog"), (&carol, "shop"), (&b, "shop")] {
        assert!(answers(caller, &format!("{to}.echo")).await, "{} → {to}", caller.id());
    }
    let erin = secrets.spoke("erin.home", &at_b, &[&late]).await;
    carol.stop().await;

    between.part(false);
    until_linked(&a, &b).await;
    for hub in [&a, &b] {
        until("the registry is whole", PATIENCE, || async {
            names(hub, "/federation/registry").await == ["blog", "late"]
        })
        .await;
    }
    carol.restart().await;
    until_attached(&carol, "hub-b").await;
    for caller in [&alice, &carol, &erin, &a, &b] {
        for to in ["blog", "shop", "late"] {
            let method = format!("{to}.echo");
            until(&method, PATIENCE, || answers(caller, &method)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_calls_are_answered_beside_a_bulk_transfer() {
    /// 15 Mbit/s.
    const UPLINK: u64 = 15_000_000 / 8;
    let secrets = Secrets::new();
    let hub = secrets.hub("hub-a", &[]).await;
    let uplink = Proxy::tcp(hub.address()).await;
    uplink.throttle(UPLINK);
    let blog = Service::start("blog").await;
    let files = format!(
        "[[service]]\nname = \"files\"\nproxy = \"http://{}\"\nvisibility = \"public\"\n",
        blog.address
    );
    let home =
        secrets.spoke_with("alice.home", &[links_of(uplink.address())], &[&blog], &files).await;
    until_attached(&home, "hub-a").await;
    until("the service is called", PATIENCE, || answers(&hub, "blog.echo")).await;

    // A body of several megabytes leaves through the uplink, and large results of calls.
    const BODY: usize = 6 << 20;
    let large = json!({ "filler": "x".repeat(300 << 10) });
    let done = AtomicBool::new(false);
    let transfer = async {
        let body = async {
            let url = format!("{}/svc/files/bytes/{BODY}", hub.url());
            let answer = reqwest_client().get(url).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.bytes().await.unwrap().len(), BODY);
        };
        let (answer, ()) = tokio::join!(call(&hub, "blog.echo", large.clone()), body);
        assert_eq!(answer["result"], large, "{}", error_of(&answer));
        done.store(true, SeqCst);
    };
    let small = async {
        let mut beside = 0;
        while !done.load(SeqCst) {
            let answer = call(&hub, "blog.echo", json!({ "n": beside })).await;
            assert_eq!(answer["result"]["n"], beside, "{answer}");
            beside += 1;
        }
        beside
    };
    let ((), beside) = tokio::join!(transfer, small);
    assert!(beside > 4, "small calls pass between the pieces of the body: {beside}");
    assert_eq!(get(&home, "/status").await["reconnects"], 0, "the link held");
}
