//! Scripts: state that commits with the message, limits, timers, events, locks, reload.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod support;

use std::{sync::Arc, time::Duration};

use relay_actors::script::{
    Commit, LoadOptions, MemoryStore, ScriptFault, ScriptLimits, SqliteState, StateStore, Stored,
};
use relay_proto::{Caller, call::RpcCode};
use serde_json::json;
use support::Node;

const COUNTER: &str = r#"
import { service, RpcError, invalid } from "relay";
export default service("counter", {
    public: true,
    state: { count: 0 },
    methods: {
        add(ctx, { by = 1 } = {}) { ctx.state.count += by; return ctx.state.count; },
        get(ctx) { return ctx.state.count; },
        fail(ctx) { ctx.state.count = 99; throw new Error("after the change"); },
        refuse(ctx) { ctx.state.count = 99; throw invalid("by must be a number", { by: "x" }); },
        own() { throw new RpcError(42, "own error"); },
        who(ctx) { return ctx.caller; },
        async fail_later(ctx) {
            ctx.state.count = 99;
            await ctx.call("counter2", "get", {});
        },
    },
});
"#;

fn limits() -> ScriptLimits {
    ScriptLimits {
        memory: 8 << 20,
        state: 1 << 20,
        cpu: Duration::from_millis(150),
        wall: Duration::from_secs(20),
        ..ScriptLimits::default()
    }
}

fn small() -> Node {
    Node::with(Arc::new(MemoryStore::default()), limits())
}

#[tokio::test]
async fn a_service_answers_and_keeps_state() {
    let node = Node::new();
    node.load(COUNTER).await.unwrap();
    assert_eq!(node.call("counter", "add", json!({})).await.unwrap(), 1);
    assert_eq!(node.call("counter", "add", json!({"by": 4})).await.unwrap(), 5);
    let bob = Caller::remote("bob@hub".parse().unwrap());
    let who = node.call_as(bob, "counter", "who", json!({})).await.unwrap();
    assert_eq!(who, json!({"local": false, "node": "bob@hub"}));
    let missing = node.call("counter", "nothing", json!({})).await.unwrap_err();
    assert_eq!(missing.code, RpcCode::MethodNotFound);
    let hidden = node.call("counter", "constructor", json!({})).await.unwrap_err();
    assert_eq!(hidden.code, RpcCode::MethodNotFound);
}

#[tokio::test]
async fn a_message_that_throws_changes_nothing() {
    let node = Node::new();
    node.load(COUNTER).await.unwrap();
    node.call("counter", "add", json!({})).await.unwrap();
    let thrown = node.call("counter", "fail", json!({})).await.unwrap_err();
    assert_eq!(thrown.code, RpcCode::Internal);
    assert_eq!(thrown.data["file"], "test.rl");
    assert_eq!(thrown.data["line"], 9);
    assert_eq!(thrown.data["detail"], "Error: after the change");
    let bob = Caller::remote("bob@hub".parse().unwrap());
    let outside = node.call_as(bob, "counter", "fail", json!({})).await.unwrap_err();
    assert!(outside.data.is_empty(), "inner texts stay inside: {outside:?}");

    let refused = node.call("counter", "refuse", json!({})).await.unwrap_err();
    assert_eq!(refused.code, RpcCode::InvalidParams);
    assert_eq!(refused.message, "by must be a number");
    assert_eq!(refused.data["by"], "x");
    assert_eq!(node.call("counter", "own", json!({})).await.unwrap_err().code, RpcCode::Other(42));
    let later = node.call("counter", "fail_later", json!({})).await.unwrap_err();
    assert_eq!(later.code, RpcCode::ServiceNotFound, "the callee's error passes through");
    assert_eq!(node.call("counter", "get", json!({})).await.unwrap(), 1);
}

#[tokio::test]
async fn a_script_that_misbehaves_harms_only_its_own_message() {
    let node = small();
    node.load(
        r#"export default service("bad", {
            state: { n: 0 },
            methods: {
                add(ctx) { return ++ctx.state.n; },
                spin(ctx) { ctx.state.n = 99; for (;;) {} },
                spin_caught(ctx) { for (;;) { try { for (;;) {} } catch {} } },
                async spin_later(ctx) { await null; for (;;) {} },
                microtasks(ctx) { const again = () => { Promise.resolve().then(again); }; again(); return new Promise(() => {}); },
                regex() { return /^(a+)+$/.test("a".repeat(40) + "b"); },
                eat(ctx) { const all = []; for (;;) all.push("x".repeat(1000) + all.length); },
                eat_caught() { const all = []; for (;;) try { for (;;) all.push(new Array(1000).fill(all.length)); } catch {} },
                deep() { const f = (n) => f(n + 1) + 1; return f(0); },
                stuck() { return new Promise(() => {}); },
                big(ctx) { ctx.state.n = "x".repeat(1 << 20); },
                circular(ctx) { ctx.state.self = ctx.state; },
                func() { return () => {}; },
            },
        });
        export const other = service("good", { state: { n: 0 }, methods: { add(ctx) { return ++ctx.state.n; } } });"#,
    )
    .await
    .unwrap();
    let mut expected = 0;
    for (method, says) in [
        ("spin", "processor time"),
        ("spin_caught", "processor time"),
        ("spin_later", "processor time"),
        ("microtasks", "processor time"),
        ("regex", "processor time"),
        ("eat", "memory"),
        ("eat_caught", "processor time"),
        ("deep", "call stack"),
        ("stuck", "nothing resolves"),
        ("big", "state has"),
        ("circular", "circular"),
        ("func", "JSON"),
    ] {
        let error = node.call("bad", method, json!({})).await.unwrap_err();
        let text = format!("{} {:?}", error.message, error.data.get("detail"));
        assert_eq!(error.code, RpcCode::Internal, "{method}: {text}");
        // Whichever limit it meets first.
        let memory = method == "eat_caught" && text.contains("memory");
        assert!(text.contains(says) || memory, "{method}: {text}");
        expected += 1;
        assert_eq!(node.call("bad", "add", json!({})).await.unwrap(), expected, "{method}");
        assert_eq!(node.call("good", "add", json!({})).await.unwrap(), expected, "{method}");
    }
    let router = node.supervisor.router();
    assert_eq!(router.actor(&"bad".parse().unwrap()).unwrap().restarts, 0);
}

#[tokio::test]
async fn a_message_ends_with_its_time_and_rolls_back() {
    let node = Node::with(
        Arc::new(MemoryStore::default()),
        ScriptLimits { wall: Duration::from_millis(50), ..limits() },
    );
    node.load(
        r#"export const a = service("a", {
            state: { n: 0 },
            methods: {
                get(ctx) { return ctx.state.n; },
                async wait(ctx) {
                    ctx.state.n = 1;
                    await ctx.lock("db", async () => ctx.call("b", "never", {}));
                },
            },
        });"#,
    )
    .await
    .unwrap();
    // `b` never answers: its mailbox belongs to a service whose thread is busy elsewhere.
    struct Silent;
    impl relay_actors::Service for Silent {
        fn handle(
            &mut self,
            _: relay_actors::Request,
        ) -> futures_util::future::BoxFuture<'_, relay_actors::Handled> {
            Box::pin(std::future::pending())
        }
    }
    let spec = relay_actors::ActorSpec::new(relay_actors::ServiceInfo::new("b".parse().unwrap()));
    node.supervisor.start(spec, || Ok(Silent)).unwrap();
    let error = node.call("a", "wait", json!({})).await.unwrap_err();
    assert_eq!(error.code, RpcCode::Timeout);
    assert_eq!(node.call("a", "get", json!({})).await.unwrap(), 0);
    assert!(node.host.locks.lock().unwrap().is_empty(), "its lock is given back");
    assert_eq!(node.host.grants.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn broken_scripts_are_refused_with_line_and_expectation() {
    let node = small();
    for (text, fault, line, says) in [
        (
            "export default service(\"a\", {\n  methods: { x( }\n});",
            ScriptFault::Syntax,
            Some(2),
            "",
        ),
        ("let a = 1;\nlet a = 2;", ScriptFault::Syntax, Some(2), ""),
        ("\nnothing.here();", ScriptFault::Load, Some(2), "nothing is not defined"),
        ("import fs from \"fs\";", ScriptFault::Syntax, None, "only 'relay'"),
        ("export const x = 1;", ScriptFault::Definition, None, "export default service"),
        ("for (;;) {}", ScriptFault::Load, None, "processor time"),
        ("await new Promise(() => {});", ScriptFault::Load, None, "only in handlers"),
        (
            "\n\nexport default service(\"a\", { methods: { create: 3 } });",
            ScriptFault::Load,
            Some(3),
            "methods.create must be a function, got a number",
        ),
        (
            "export default service(\"a\", { method: {} });",
            ScriptFault::Load,
            Some(1),
            "unknown member 'method'; expected version",
        ),
        ("export default service(\"a b\", {});", ScriptFault::Definition, None, "service name"),
        (
            "export default service(\"a\", {version: \"one\"});",
            ScriptFault::Definition,
            None,
            "1.2.0",
        ),
        (
            "export default service(\"a\", { timers: { t: { every: \"soon\", handle() {} } } });",
            ScriptFault::Load,
            Some(1),
            "like '90s'",
        ),
    ] {
        let error = node.load(text).await.unwrap_err();
        assert_eq!(error.fault, fault, "{text}: {error}");
        assert_eq!(error.line, line, "{text}: {error}");
        assert!(error.message.contains(says), "{text}: {error}");
        assert_eq!(error.file, "test.rl");
    }
    let eats = "const a = []; for (;;) a.push('x'.repeat(999) + a.length);";
    assert!(node.load(eats).await.unwrap_err().message.contains("memory"));
    assert!(node.supervisor.router().actors().is_empty());
}

#[tokio::test]
async fn a_new_version_keeps_state_and_a_broken_one_changes_nothing() {
    let node = Node::new();
    let version =
        |body: &str| format!(r#"export default service("s", {{ state: {{ n: 0 }}, {body} }});"#);
    node.load(&version("methods: { add(ctx) { return ++ctx.state.n; } }")).await.unwrap();
    node.call("s", "add", json!({})).await.unwrap();

    node.load(&version("methods: { add(ctx) { return ctx.state.n += 10; } }")).await.unwrap();
    assert_eq!(node.call("s", "add", json!({})).await.unwrap(), 11);

    for broken in [
        "methods: { add(ctx) { return",
        "state_version: 2, methods: { add() { return 0; } }",
        "state_version: 2, migrate() { throw new Error('no'); }, methods: { add() { return 0; } }",
        "state_version: 2, migrate: (s) => ({ m: s.n }), start() { for (;;) {} }, methods: {}",
        "start() { throw new Error('not today'); }, methods: { add() { return 0; } }",
    ] {
        let error = node.load(&version(broken)).await.unwrap_err();
        assert!(!error.message.is_empty());
        assert_eq!(
            node.call("s", "add", json!({"why": broken})).await.unwrap(),
            11 + 10 * (1 + BROKEN.fetch_add(1, std::sync::atomic::Ordering::SeqCst)),
        );
    }

    let migrated = version(
        "state_version: 2, migrate: (s, from) => ({ m: s.n, from }), methods: { get: (ctx) => ctx.state }",
    );
    node.load(&migrated).await.unwrap();
    assert_eq!(node.call("s", "get", json!({})).await.unwrap(), json!({"m": 61, "from": 1}));
    let info = node.supervisor.router().actor(&"s".parse().unwrap()).unwrap().info;
    assert_eq!(info.methods, ["get"]);

    node.load(r#"export default service("t", { methods: {} });"#).await.unwrap();
    let gone = node.call("s", "get", json!({})).await.unwrap_err();
    assert_eq!(gone.code, RpcCode::ServiceNotFound, "a service no longer exported is stopped");
}

static BROKEN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

#[tokio::test]
async fn a_watched_file_is_taken_over_when_it_changes() {
    let node = Node::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.rl");
    let version =
        |n: u32| format!(r#"export default service("s", {{ methods: {{ v: () => {n} }} }});"#);
    std::fs::write(&path, version(1)).unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let (scripts, watched, watching) = (node.scripts.clone(), path.clone(), stop.clone());
    let watch = tokio::spawn(async move {
        scripts.watch(watched, LoadOptions::default(), Duration::from_millis(5), watching).await;
    });
    let name = "s".parse().unwrap();
    let mut changes = node.supervisor.router().changes();
    while node.supervisor.router().actor(&name).is_none() {
        changes.changed().await.unwrap();
    }
    node.until("s", "v", json!(1)).await;
    std::fs::write(&path, version(2)).unwrap();
    node.until("s", "v", json!(2)).await;
    stop.cancel();
    watch.await.unwrap();
}

#[tokio::test]
async fn timers_are_durable_and_tried_again() {
    let store = Arc::new(MemoryStore::default());
    let script = r#"export default service("t", {
        state: { ticks: 0, fired: [], tries: 0 },
        methods: {
            set(ctx, { name, after, payload }) { ctx.timers.set(name, { after }, payload); },
            set_and_fail(ctx) { ctx.timers.set("once:lost", { after: 1 }); throw new Error("no"); },
            clear(ctx, { name }) { ctx.timers.clear(name); },
            wrong(ctx) { ctx.timers.set("other", { after: 1 }); },
            ticks: (ctx) => ctx.state.ticks,
            fired: (ctx) => ctx.state.fired,
            tries: (ctx) => ctx.state.tries,
        },
        timers: {
            tick: { every: "1m", handle(ctx) { ctx.state.ticks++; } },
            once(ctx, payload) { ctx.state.fired.push(payload); },
            flaky(ctx, payload) {
                if (globalThis.failed !== true) { globalThis.failed = true; throw new Error("first"); }
                ctx.state.tries++;
            },
        },
    });"#;
    {
        let node = Node::with(store.clone(), limits());
        node.load(script).await.unwrap();
        for (name, after) in
            [("once:a", "10s"), ("once:b", "20s"), ("once:c", "30s"), ("flaky", "1s")]
        {
            let set = json!({"name": name, "after": after, "payload": name});
            node.call("t", "set", set).await.unwrap();
        }
        node.call("t", "clear", json!({"name": "once:b"})).await.unwrap();
        node.call("t", "set_and_fail", json!({})).await.unwrap_err();
        let wrong = node.call("t", "wrong", json!({})).await.unwrap_err();
        assert!(wrong.data["detail"].as_str().unwrap().contains("declared under 'timers'"));
        node.host.advance(1_000);
        node.host.until_logged("timer flaky: Error: first").await;
        assert_eq!(node.call("t", "tries", json!({})).await.unwrap(), 0);
        node.host.advance(9_000);
        node.until("t", "fired", json!(["once:a"])).await;
        node.until("t", "tries", json!(1)).await;
        assert!(node.supervisor.shutdown(Duration::from_secs(5)).await);
    }
    // A minute later, in another process: what was missed comes once.
    let node = Node::with(store, limits());
    node.host.advance(200_000);
    node.load(script).await.unwrap();
    node.until("t", "fired", json!(["once:a", "once:c"])).await;
    node.until("t", "ticks", json!(1)).await;
    node.host.advance(60_000);
    node.until("t", "ticks", json!(2)).await;
    assert_eq!(node.call("t", "fired", json!({})).await.unwrap(), json!(["once:a", "once:c"]));
}

#[tokio::test]
async fn too_many_timers_are_refused_and_change_nothing() {
    let node = Node::with(Arc::new(MemoryStore::default()), ScriptLimits { timers: 3, ..limits() });
    node.load(
        r#"export default service("t", {
            state: { n: 0 },
            methods: {
                set(ctx, { count }) {
                    ctx.state.n += 1;
                    for (let i = 0; i < count; i++) ctx.timers.set(`at:${i}`, { after: "1h" });
                },
                get: (ctx) => ctx.state.n,
            },
            timers: { at() {} },
        });"#,
    )
    .await
    .unwrap();
    node.call("t", "set", json!({"count": 3})).await.unwrap();
    let refused = node.call("t", "set", json!({"count": 4})).await.unwrap_err();
    assert!(refused.message.contains("more than 3 timers"), "{refused}");
    assert_eq!(node.call("t", "get", json!({})).await.unwrap(), 1);
    node.call("t", "set", json!({"count": 3})).await.unwrap();
    assert_eq!(node.call("t", "get", json!({})).await.unwrap(), 2);
}

#[tokio::test]
async fn events_are_handled_in_order_and_once_across_restarts() {
    let store = Arc::new(MemoryStore::default());
    let script = r#"export default service("e", {
        state: { seen: [] },
        methods: { seen: (ctx) => ctx.state.seen },
        on: { notes: { filter: { kinds: [1] }, async handle(ctx, event) {
            if (event.content === "poison") throw new Error("cannot read this");
            ctx.state.seen.push(event.content);
            if (event.content === "echo") await ctx.publish({ kind: 2, content: "echoed" });
        } } },
    });"#;
    let node = Node::with(store, limits());
    node.load(script).await.unwrap();
    for content in ["a", "poison", "echo"] {
        node.host.emit(json!({"kind": 1, "content": content}));
        node.host.emit(json!({"kind": 7, "content": "not asked for"}));
    }
    node.until("e", "seen", json!(["a", "echo"])).await;
    node.host.until_logged("an event of 'notes' is passed over").await;
    let echoed = node.host.events().pop().unwrap();
    assert_eq!(echoed, json!({"kind": 2, "content": "echoed", "author": "e"}));

    node.scripts.unload("test.rl").await;
    node.host.emit(json!({"kind": 1, "content": "while away"}));
    node.load(script).await.unwrap();
    node.until("e", "seen", json!(["a", "echo", "while away"])).await;
}

#[tokio::test]
async fn calls_chain_with_the_callers_identity_and_never_wait_for_themselves() {
    let node = Node::new();
    node.load(
        r#"
        export const a = service("a", { methods: {
            relay: (ctx, args) => ctx.call("b", "who", args),
            many: (ctx) => Promise.all([1, 2, 3].map((n) => ctx.call("b", "twice", [n]))),
            loop: (ctx) => ctx.call("b", "back", {}),
            loose(ctx) { ctx.notify("b", "twice", [1]); return "sent"; },
            too_many: (ctx) => Promise.all(Array.from({ length: 65 }, () => ctx.call("b", "twice", [1]))),
            bad: (ctx) => ctx.call("b@@c", "m", {}),
            async caught(ctx) { try { await ctx.call("nobody", "m", {}); } catch (e) { return [e.name, e.code]; } },
        } });
        export const b = service("b", { methods: {
            who: (ctx) => ctx.caller,
            twice: (ctx, [n]) => n * 2,
            back: (ctx) => ctx.call("a", "many", {}),
        } });"#,
    )
    .await
    .unwrap();
    let who = node.call("a", "relay", json!({})).await.unwrap();
    assert_eq!(who, json!({"local": true, "service": "a"}));
    assert_eq!(node.call("a", "many", json!({})).await.unwrap(), json!([2, 4, 6]));
    assert_eq!(node.call("a", "loop", json!({})).await.unwrap_err().code, RpcCode::Loop);
    assert_eq!(node.call("a", "loose", json!({})).await.unwrap(), "sent");
    assert_eq!(*node.host.notified.lock().unwrap(), ["b"]);
    assert_eq!(node.call("a", "too_many", json!({})).await.unwrap_err().code, RpcCode::Internal);
    assert_eq!(node.call("a", "bad", json!({})).await.unwrap_err().code, RpcCode::InvalidParams);
    let caught = node.call("a", "caught", json!({})).await.unwrap();
    assert_eq!(caught, json!(["RpcError", -32001]));
}

#[tokio::test]
async fn the_sandbox_holds_nothing_but_the_language() {
    let node = small();
    node.load(
        r#"export default service("s", { methods: {
            globals: () => ["require", "process", "std", "os", "fetch", "XMLHttpRequest", "native", "setTimeout", "bjson"]
                .filter((name) => name in globalThis),
            async dynamic() { await import("fs"); },
            time: (ctx) => [Date.now(), new Date().getTime(), ctx.now(), new Date(5).getTime()],
            chance: (ctx) => [Math.random(), ctx.uuid()],
            log(ctx) { for (let i = 0; i < 1000; i++) console.log("line", i); },
        } });"#,
    )
    .await
    .unwrap();
    assert_eq!(node.call("s", "globals", json!({})).await.unwrap(), json!([]));
    assert_eq!(node.call("s", "dynamic", json!({})).await.unwrap_err().code, RpcCode::Internal);
    let now = support::START_MS;
    assert_eq!(node.call("s", "time", json!({})).await.unwrap(), json!([now, now, now, 5]));
    let chance = node.call("s", "chance", json!({})).await.unwrap();
    assert!(chance[0].as_f64().unwrap() < 1.0);
    assert_eq!(chance[1], "12345678-9abc-4ef0-9234-56789abcdef0");
    node.call("s", "log", json!({})).await.unwrap();
    let lines = node.host.logs.borrow().iter().filter(|(_, l)| l.starts_with("line")).count();
    assert_eq!(lines, limits().log_lines as usize);
}

#[tokio::test]
async fn state_survives_in_sqlite_and_two_writers_are_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("scripts.db");
    {
        let node = Node::with(Arc::new(SqliteState::open(&path).unwrap()), limits());
        node.load(COUNTER).await.unwrap();
        let calls = (0..50).map(|_| node.call("counter", "add", json!({})));
        let answers = futures_util::future::join_all(calls).await;
        let answers: Vec<u64> = answers.into_iter().map(|a| a.unwrap().as_u64().unwrap()).collect();
        assert_eq!(answers, (1..=50).collect::<Vec<_>>());
        assert!(node.supervisor.shutdown(Duration::from_secs(5)).await);
    }
    let store = Arc::new(SqliteState::open(&path).unwrap());
    let node = Node::with(store.clone(), limits());
    node.load(COUNTER).await.unwrap();
    assert_eq!(node.call("counter", "get", json!({})).await.unwrap(), 50);

    // Somebody else writes: the next change is refused, and the service starts again from what is kept.
    let name: relay_proto::ServiceName = "counter".parse().unwrap();
    let kept: Stored = store.load(&name).await.unwrap();
    let commit = Commit {
        service: name,
        on_revision: kept.revision,
        state_version: 1,
        state: Some(r#"{"count":1000}"#.into()),
        timers: Vec::new(),
        cursor: None,
    };
    store.commit(commit.clone()).await.unwrap();
    store.commit(commit).await.unwrap_err();
    let lost = node.call("counter", "add", json!({})).await.unwrap_err();
    assert_eq!(lost.code, RpcCode::Internal);
    assert_eq!(node.call("counter", "add", json!({})).await.unwrap(), 1001);
}

/// A store whose disk is full.
struct Full;

impl StateStore for Full {
    fn load(
        &self,
        _: &relay_proto::ServiceName,
    ) -> futures_util::future::BoxFuture<'static, Result<Stored, relay_actors::script::StateError>>
    {
        let kept = Stored {
            revision: 1,
            state_version: 1,
            state: Some(r#"{"count":7}"#.into()),
            ..Stored::default()
        };
        Box::pin(std::future::ready(Ok(kept)))
    }

    fn commit(
        &self,
        commit: Commit,
    ) -> futures_util::future::BoxFuture<'static, Result<(), relay_actors::script::StateError>>
    {
        let error = relay_actors::script::StateError::Storage("disk full".into());
        Box::pin(std::future::ready(match commit.state {
            Some(_) => Err(error),
            None => Ok(()),
        }))
    }
}

#[tokio::test]
async fn no_answer_goes_out_before_its_change_is_kept() {
    let node = Node::with(Arc::new(Full), limits());
    node.load(COUNTER).await.unwrap();
    let error = node.call("counter", "add", json!({})).await.unwrap_err();
    assert_eq!(error.code, RpcCode::Internal);
    assert_eq!(node.call("counter", "get", json!({})).await.unwrap(), 7);
}
