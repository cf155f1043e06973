//! A script's publications and locks go to their homes under the service's own key.

use std::time::Duration;

use relay_client::ServiceCall;
use serde_json::{Value, json};

use super::{
    count, event, open_with_rules, publish,
    support::{PATIENCE, pair::Pair},
};

const SCRIPT: &str = r#"
import { service } from "relay";

export default service("keeper", {
    public: true,
    methods: {
        async publish(ctx, { n }) {
            const event = await ctx.publish({ kind: 1, content: `from a script ${n}`, namespace: "far/x" });
            return event.id;
        },
        async hold(ctx) {
            return ctx.lock("nightly", { lease: "30s" }, async ({ token }) => {
                const second = await ctx.lock("nightly", { lease: "1s", wait: "0s" }, async () => "twice")
                    .catch((error) => error.data.code);
                return { token, second };
            });
        },
    },
});
"#;

/// The edge has the home for `default` too, where scripts lock.
const DEFAULT: &str = "[[namespace]]\nmatch = \"default\"\nhome = \"home-b\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn scripts_publish_and_lock_where_the_home_is() {
    let pair = open_with_rules(super::OPEN, DEFAULT).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keeper.rl");
    std::fs::write(&file, SCRIPT).unwrap();
    let options = relay_actors::script::LoadOptions { limits: None, only: None };
    pair.edge.node.services.run_script(file, options, false).await.unwrap();
    let client = pair.edge.operator();
    let call = async |method: &str, args: Value| {
        let to = "keeper".parse().unwrap();
        let mut call = ServiceCall::new(to, method.parse().unwrap(), Some(args));
        call.timeout = Duration::from_secs(15);
        client.call_service(&call).await.unwrap().result
    };
    for n in 0..6 {
        if n == 3 {
            pair.cut();
        }
        let id = call("publish", json!({ "n": n })).await;
        let path = format!("/v1/events/{}", id.as_str().unwrap());
        let stored = pair.home.raw("GET", &path, &[], "").await.json();
        assert_eq!(stored["content"], format!("from a script {n}"));
        assert_ne!(stored["pubkey"], pair.edge.node.identity.node_id().to_string());
    }
    assert_eq!((count(&pair.home, "ns=far/x").await, count(&pair.edge, "ns=far/x").await), (6, 6));

    let held = call("hold", json!({})).await;
    assert_eq!(held, json!({ "token": 1, "second": "lock_held" }));
    let state = pair.home.raw("GET", "/v1/locks/nightly", &[], "").await.json();
    assert_eq!((&state["held"], &state["last_token"]), (&json!(false), &json!(1)));
}

const FOLLOWER: &str = r#"
import { service } from "relay";

export default service("follower", {
    public: true,
    state: { seen: [] },
    methods: { seen(ctx) { return ctx.state.seen; } },
    on: {
        far: { filter: { kinds: [1], namespace: "far/x" }, handle(ctx, event) {
            ctx.state.seen.push(`${event.namespace} ${event.content}`);
        } },
    },
});
"#;

#[tokio::test(flavor = "multi_thread")]
async fn scripts_follow_namespaces_where_the_home_is() {
    let mut pair = open_with_rules(super::OPEN, "").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("follower.rl");
    std::fs::write(&file, FOLLOWER).unwrap();
    let run = async |pair: &Pair| {
        let options = relay_actors::script::LoadOptions { limits: None, only: None };
        pair.edge.node.services.run_script(file.clone(), options, false).await.unwrap();
    };
    let store = async |pair: &Pair, n: u64| {
        assert_eq!(publish(&pair.home, &event("far/x", n)).await.status, 201);
    };
    store(&pair, 100).await;
    run(&pair).await;
    let mut expected = Vec::new();
    for n in 1..=12 {
        match n {
            4 | 7 => pair.cut(),
            // A home that comes back is followed on from where it was.
            5 | 12 => pair = pair.restart_home().await,
            // What comes while the script is away it finds when it is back.
            10 => {
                pair = pair.restart_edge().await;
                store(&pair, 101).await;
                expected.push("far/x event 101".to_owned());
                run(&pair).await;
            }
            _ => {}
        }
        store(&pair, n).await;
        expected.push(format!("far/x event {n}"));
        let operator = pair.edge.operator();
        let seen = async {
            let (to, method) = ("follower".parse().unwrap(), "seen".parse().unwrap());
            let call = ServiceCall::new(to, method, None);
            while operator.call_service(&call).await.unwrap().result != json!(expected) {
                super::pause().await;
            }
        };
        let seen = tokio::time::timeout(PATIENCE, seen).await;
        seen.unwrap_or_else(|_| panic!("not all was seen, of {expected:?}"));
    }
}
