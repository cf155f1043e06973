//! A script's publications and locks go to their homes under the service's own key.

use std::time::Duration;

use relay_client::ServiceCall;
use serde_json::{Value, json};

use super::{count, open_with_rules};

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
