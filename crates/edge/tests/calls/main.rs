//! Calls through the public doors: who calls, what is answered, what is refused, and what a bad
//! service or a bad caller does to others (nothing).

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod pass_through;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use relay_client::{Error, Served, ServiceCall, ServiceOffer};
use relay_proto::call::RpcCode;
use serde_json::{Value, json};
use support::{House, Raw, code_of, key};

const SCRIPT: &str = r##"
import { service, invalid, RpcError } from "relay";

export const counter = service("counter", {
    public: true,
    version: "1.2.0",
    state: { count: 0 },
    methods: {
        add(ctx, { by = 1 } = {}) {
            if (!Number.isInteger(by)) throw invalid("by must be a whole number");
            ctx.state.count += by;
            return { count: ctx.state.count };
        },
        who(ctx) { return ctx.caller; },
        fail() { throw new RpcError(404, "nothing there", { id: 7 }); },
        crash() { undefined.member; },
        loop() { for (;;); },
        eat() { const all = []; for (;;) all.push(new Array(10000).fill(0)); },
        say(ctx, { text }) { ctx.log.warn(text); },
        async slow(ctx) { await ctx.call("hole", "fall"); },
    },
});

export const secret = service("secret", { methods: { get() { return 42; } } });

export const bot = service("bot", {
    public: true,
    state: { seen: [] },
    on: {
        notes: {
            filter: { kinds: [1], "tag.t": ["ask"] },
            async handle(ctx, event) {
                ctx.state.seen.push(event.content);
                await ctx.publish({ kind: 1, content: "re: " + event.content, tags: [["t", "answer"]] });
            },
        },
    },
    methods: {
        seen(ctx) { return ctx.state.seen; },
        async guarded(ctx) {
            return ctx.lock("bot/one", { lease: "5s" }, async ({ token }) => token);
        },
    },
});
"##;

/// A relay with the script above, and `config` besides.
async fn house(config: &str) -> (House, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("test.rl");
    std::fs::write(&file, SCRIPT).unwrap();
    let script = format!("[[script]]\nfile = {:?}\ncpu = \"200ms\"\n", file.display().to_string());
    (House::open(&format!("{script}{config}")).await, dir)
}

async fn rpc(house: &House, headers: &[(&str, &str)], body: &Value) -> Raw {
    house.raw("POST", "/rpc", headers, &body.to_string()).await
}

fn request(method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })
}

/// The result of a call as nobody in particular.
async fn ask(house: &House, method: &str, params: Value) -> Value {
    let raw = rpc(house, &[], &request(method, params)).await;
    assert_eq!(raw.status, 200, "{}", raw.body);
    raw.json()["result"].clone()
}

async fn number_of(house: &House, body: &str) -> i64 {
    let raw = house.raw("POST", "/rpc", &[], body).await;
    assert_eq!(raw.status, 200, "{}", raw.body);
    raw.json()["error"]["code"].as_i64().unwrap()
}

fn service_call(to: &str, method: &str, args: Value) -> ServiceCall {
    ServiceCall::new(to.parse().unwrap(), method.parse().unwrap(), Some(args))
}

fn rpc_code<T: std::fmt::Debug>(outcome: Result<T, Error>) -> RpcCode {
    match outcome.unwrap_err() {
        Error::Call(error) => error.code,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn both_forms_reach_a_service_and_each_fault_has_its_number() {
    let (house, _dir) = house("").await;
    assert_eq!(ask(&house, "counter.add", json!({"by": 2})).await, json!({"count": 2}));
    let explicit = json!({"server_name": "counter", "method": "add", "args": {"by": 3}});
    assert_eq!(ask(&house, "remote_call", explicit).await, json!({"count": 5}));
    let here = json!({"node_id": "gw_local", "server_name": "counter", "method": "add"});
    assert_eq!(ask(&house, "remote_call", here).await, json!({"count": 6}));
    for (body, number) in [
        ("{", -32700),
        ("[]", -32600),
        (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"counter.nothing"}"#, -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"alone"}"#, -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"counter.add","params":{"by":"x"}}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"counter.crash"}"#, -32603),
        (r#"{"jsonrpc":"2.0","id":1,"method":"nobody.get"}"#, -32001),
        (r#"{"jsonrpc":"2.0","id":1,"method":"x@far.home.get"}"#, -32002),
        (r#"{"jsonrpc":"2.0","id":1,"method":"counter.fail"}"#, 404),
    ] {
        assert_eq!(number_of(&house, body).await, number, "{body}");
    }
    let own = rpc(&house, &[], &request("counter.fail", json!({}))).await.json();
    assert_eq!(own["error"]["data"], json!({"id": 7}));
    house.close().await;
}

#[tokio::test]
async fn notifications_are_not_answered_and_batches_are_in_order() {
    let (house, _dir) = house("").await;
    let note = json!({"jsonrpc": "2.0", "method": "counter.add", "params": {"by": 1}});
    let raw = rpc(&house, &[], &note).await;
    assert_eq!((raw.status, raw.body.as_str()), (204, ""));
    let refused = json!({"jsonrpc": "2.0", "method": "nobody.get"});
    assert_eq!(rpc(&house, &[], &json!([note, refused])).await.status, 204);
    house
        .until("notifications", |node| {
            node.services.router.actor(&"counter".parse().unwrap()).unwrap().handled == 2
        })
        .await;
    let batch = json!([
        {"jsonrpc": "2.0", "id": "a", "method": "counter.who"},
        {"jsonrpc": "2.0", "method": "counter.add"},
        7,
        {"jsonrpc": "2.0", "id": null, "method": "nobody.get"},
    ]);
    let answers = rpc(&house, &[], &batch).await.json();
    let ids: Vec<_> = answers.as_array().unwrap().iter().map(|one| one["id"].clone()).collect();
    assert_eq!(ids, [json!("a"), Value::Null, Value::Null]);
    assert_eq!(answers[1]["error"]["code"], -32600);
    assert_eq!(answers[2]["error"]["code"], -32001);
    house.close().await;
}

#[tokio::test]
async fn a_service_learns_who_calls_and_only_what_was_proven() {
    let (house, _dir) = house("").await;
    let spoof = [("x-relay-caller-key", "ed25519:00"), ("x-relay-caller-node", "evil")];
    let raw = rpc(&house, &spoof, &request("counter.who", json!({}))).await.json();
    assert_eq!(raw["result"], json!({"local": false, "node": "gw_local"}));

    let signed = house.client().key(key(1)).build().unwrap();
    let who = service_call("counter", "who", json!({}));
    let seen = signed.call_service(&who).await.unwrap().result;
    assert_eq!(seen["key"], key(1).node_id().to_string());
    assert_eq!(seen["local"], false);

    let session = signed.login("d_test1", None).await.unwrap();
    let client = house.client().token(session.session_token).build().unwrap();
    let seen = client.call_service(&who).await.unwrap().result;
    assert_eq!(seen["key"], key(1).node_id().to_string());

    let seen = house.operator().call_service(&who).await.unwrap().result;
    assert_eq!(seen, json!({"local": true}));

    // What is private is there for the operator alone.
    let secret = service_call("secret", "get", json!({}));
    assert_eq!(rpc_code(signed.call_service(&secret).await), RpcCode::ServiceNotFound);
    assert_eq!(house.operator().call_service(&secret).await.unwrap().result, 42);
    let public: Value = house.raw("GET", "/services", &[], "").await.json();
    let names: Vec<_> = public["services"].as_array().unwrap().iter().collect();
    assert!(names.iter().all(|item| item["service_name"] != "secret"), "{public}");
    house.close().await;
}

#[tokio::test]
async fn rules_decide_who_may_call_what() {
    let owner = key(1).node_id();
    let config = format!(
        "[calls]\nanonymous = \"never\"\n\
         [[calls.rule]]\nservice = \"counter\"\nmethod = \"add\"\ncaller = \"{owner}\"\neffect = \"allow\"\n\
         [[calls.rule]]\nservice = \"counter\"\nmethod = \"add\"\n",
    );
    let (house, _dir) = house(&config).await;
    let add = service_call("counter", "add", json!({}));
    let client = |n: u8| house.client().key(key(n)).build().unwrap();
    assert_eq!(client(1).call_service(&add).await.unwrap().result, json!({"count": 1}));
    assert_eq!(rpc_code(client(2).call_service(&add).await), RpcCode::Forbidden);
    let who = service_call("counter", "who", json!({}));
    client(2).call_service(&who).await.unwrap();
    let nobody = house.client().build().unwrap();
    assert_eq!(code_of(nobody.call_service(&who).await), "unauthorized");
    house.close().await;
}

#[tokio::test]
async fn a_key_makes_a_call_happen_once_also_across_a_restart() {
    let (house, _dir) = house("").await;
    let script =
        format!("[[script]]\nfile = {:?}\n", _dir.path().join("test.rl").display().to_string());
    let once = [("idempotency-key", "k1")];
    let add = request("counter.add", json!({"by": 5}));
    for _ in 0..3 {
        assert_eq!(rpc(&house, &once, &add).await.json()["result"], json!({"count": 5}));
    }
    let house = house.reopen(&script).await;
    assert_eq!(rpc(&house, &once, &add).await.json()["result"], json!({"count": 5}));
    assert_eq!(ask(&house, "counter.add", json!({"by": 1})).await, json!({"count": 6}));
    let other = request("counter.add", json!({"by": 6}));
    assert_eq!(rpc(&house, &once, &other).await.json()["error"]["code"], -32602);
    // An error of the service's own is a result too; a refusal before the start is not.
    let fail = request("counter.fail", json!({}));
    for _ in 0..2 {
        let failed = rpc(&house, &[("idempotency-key", "k2")], &fail).await.json();
        assert_eq!(failed["error"]["code"], 404);
    }
    // Somebody else's key of the same name is another key.
    let mut call = service_call("counter", "add", json!({"by": 5}));
    call.idempotency_key = Some("k1".into());
    let client = house.client().key(key(1)).build().unwrap();
    assert_eq!(client.call_service(&call).await.unwrap().result, json!({"count": 11}));
    house.close().await;
}

#[tokio::test]
async fn a_bad_script_harms_its_own_message_only() {
    let (house, _dir) = house("").await;
    ask(&house, "counter.add", json!({})).await;
    for method in ["counter.loop", "counter.eat", "counter.crash"] {
        let refused = rpc(&house, &[], &request(method, json!({}))).await.json();
        assert_eq!(refused["error"]["code"], -32603, "{method}: {refused}");
        // Callers elsewhere learn nothing of its insides.
        assert!(refused["error"]["data"].get("line").is_none(), "{refused}");
        assert_eq!(ask(&house, "bot.seen", json!({})).await, json!([]));
    }
    assert_eq!(ask(&house, "counter.add", json!({})).await, json!({"count": 2}));
    // The operator is told where it broke.
    let broken = house.operator().call_service(&service_call("counter", "crash", json!({}))).await;
    match broken.unwrap_err() {
        Error::Call(error) => assert!(error.data["line"].as_u64().unwrap() > 1, "{error:?}"),
        other => panic!("{other}"),
    }
    house.close().await;
}

#[tokio::test]
async fn scripts_use_the_nodes_events_and_locks_under_a_key_of_their_own() {
    let (house, _dir) = house("").await;
    let client = house.client().key(key(1)).build().unwrap();
    let draft = |content: &str| relay_proto::event::Draft {
        kind: 1,
        created_at_ns: relay_client::unix_ns(),
        tags: {
            let mut tags = relay_proto::event::Tags::new();
            tags.push(["t", "ask"]);
            tags
        },
        content: content.to_owned(),
    };
    let event = draft("hello").sign(&key(1)).unwrap();
    house.raw("POST", "/v1/events", &[], std::str::from_utf8(event.json()).unwrap()).await;
    let mut answer = Value::Null;
    for _ in 0..400 {
        let found = house.raw("GET", "/v1/events?tag.t=answer", &[], "").await.json();
        if let Some(first) = found["events"].as_array().and_then(|items| items.first()) {
            answer = first.clone();
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let text = answer.to_string();
    assert!(text.contains("re: hello"), "{text}");
    let relay = house.node.identity.node_id().to_string();
    let ours = key(1).node_id().to_string();
    assert!(!text.contains(&relay) && !text.contains(&ours), "a key of its own: {text}");
    assert_eq!(ask(&house, "bot.seen", json!({})).await, json!(["hello"]));

    let lock = service_call("bot", "guarded", json!({}));
    let first = client.call_service(&lock).await.unwrap().result;
    assert!(first.as_u64().unwrap() > 0);
    let mut held = relay_client::LockRequest::new("bot/one").unwrap();
    held.lease = Duration::from_secs(30);
    client.acquire(&held).await.unwrap();
    match client.call_service(&lock).await.unwrap_err() {
        Error::Call(error) => assert_eq!(error.data["code"], "lock_held", "{error:?}"),
        other => panic!("{other}"),
    }
    house.close().await;
}

#[tokio::test]
async fn calls_on_a_socket() {
    let (house, _dir) = house("").await;
    let mut stranger = house.socket(&[]).await;
    stranger.send(r#"{"v":1,"t":"rpc.call","id":"1","body":{"method":"counter.who"}}"#).await;
    let refused = stranger.next().await;
    assert_eq!(
        (&refused["t"], &refused["body"]["code"]),
        (&json!("error"), &json!("unauthorized"))
    );
    stranger.send(r#"{"v":1,"t":"ping","id":"2"}"#).await;
    assert_eq!(stranger.next().await["t"], "pong", "the socket stays open");

    let session = house.client().key(key(1)).build().unwrap().login("d_test1", None).await.unwrap();
    let token = ("authorization", format!("Bearer {}", session.session_token));
    let mut socket = house.socket(&[token]).await;
    let who = json!({"v": 1, "t": "rpc.call", "id": "1", "body": {"method": "counter.who"}});
    socket.send(&who.to_string()).await;
    let answer = socket.next().await;
    assert_eq!((&answer["t"], &answer["id"]), (&json!("rpc.result"), &json!("1")));
    assert_eq!(answer["body"]["result"]["key"], key(1).node_id().to_string());

    socket.send(r#"{"v":1,"t":"rpc.call","id":"2","body":{"method":"nobody.get"}}"#).await;
    let answer = socket.next().await;
    assert_eq!((&answer["t"], &answer["body"]["code"]), (&json!("rpc.error"), &json!(-32001)));

    socket.send(r#"{"v":1,"t":"rpc.notify","id":"3","body":{"method":"counter.add"}}"#).await;
    assert_eq!(socket.next().await["t"], "rpc.result");
    let batch = json!({"v": 1, "t": "rpc.call", "id": "4", "body": {"batch": [
        {"jsonrpc": "2.0", "id": 1, "method": "counter.add"},
        {"jsonrpc": "2.0", "id": 2, "method": "nobody.get"},
    ]}});
    socket.send(&batch.to_string()).await;
    let answer = socket.next().await;
    assert_eq!(answer["body"]["batch"][0]["result"], json!({"count": 2}));
    assert_eq!(answer["body"]["batch"][1]["error"]["code"], -32001);
    for bad in [
        r#"{"v":1,"t":"rpc.call","body":{"method":"counter.add"}}"#,
        r#"{"v":1,"t":"rpc.dance","id":"5","body":{}}"#,
    ] {
        socket.send(bad).await;
        assert_eq!(socket.next().await["body"]["code"], "invalid_request", "{bad}");
    }
    house.close().await;
}

#[tokio::test]
async fn a_program_on_this_machine_serves_calls_while_it_is_attached() {
    let (house, _dir) = house("").await;
    let far = house.client().key(key(1)).build().unwrap();
    assert_eq!(code_of(far.attach().await.map(drop)), "forbidden");

    let mut program = house.operator().attach().await.unwrap();
    let offer = ServiceOffer {
        service_name: "hole".parse().unwrap(),
        version: Some("2.0.1".into()),
        methods: vec!["fall".into()],
        visibility: "public",
        http: None,
        proxy: None,
        health: None,
        log: false,
    };
    program.register(&offer).await.unwrap();
    assert_eq!(code_of(program.register(&offer).await), "conflict");

    let call = service_call("hole", "fall", json!({"n": 1}));
    let asking = tokio::spawn({
        let far = far.clone();
        async move { far.call_service(&call).await }
    });
    let Served::Call(passed) = program.next().await.unwrap() else { panic!("a call") };
    assert_eq!((passed.method.as_str(), passed.args.unwrap().get()), ("fall", r#"{"n":1}"#));
    assert_eq!(passed.caller.key, Some(key(1).node_id()));
    let result = serde_json::value::to_raw_value("deep").unwrap();
    program.answer(&passed.id, Ok(result)).await.unwrap();
    assert_eq!(asking.await.unwrap().unwrap().result, "deep");

    // A caller that goes is told to the program, and its time-out to the caller.
    let mut short = service_call("hole", "fall", json!({}));
    short.timeout = Duration::from_millis(50);
    assert_eq!(rpc_code(far.call_service(&short).await), RpcCode::Timeout);
    let Served::Call(passed) = program.next().await.unwrap() else { panic!("a call") };
    let Served::Cancel(id) = program.next().await.unwrap() else { panic!("cancelled") };
    assert_eq!(id, passed.id);

    // On a socket the caller can cancel by itself.
    let session = far.login("d_test1", None).await.unwrap();
    let token = ("authorization", format!("Bearer {}", session.session_token));
    let mut socket = house.socket(&[token]).await;
    socket.send(r#"{"v":1,"t":"rpc.call","id":"9","body":{"method":"hole.fall"}}"#).await;
    let Served::Call(passed) = program.next().await.unwrap() else { panic!("a call") };
    socket.send(r#"{"v":1,"t":"rpc.cancel","body":{"call":"9"}}"#).await;
    let Served::Cancel(id) = program.next().await.unwrap() else { panic!("cancelled") };
    assert_eq!(id, passed.id);

    // Versions are chosen by range.
    let mut old = service_call("hole", "fall", json!({}));
    old.version = Some("^1".into());
    assert_eq!(rpc_code(far.call_service(&old).await), RpcCode::ServiceNotFound);

    // A program that goes leaves nobody waiting.
    let asking =
        tokio::spawn(
            async move { far.call_service(&service_call("hole", "fall", json!({}))).await },
        );
    let Served::Call(_) = program.next().await.unwrap() else { panic!("a call") };
    drop(program);
    assert_eq!(rpc_code(asking.await.unwrap()), RpcCode::NodeUnreachable);
    house
        .until("withdrawal", |node| node.services.router.actor(&"hole".parse().unwrap()).is_none())
        .await;
    house.close().await;
}

#[tokio::test]
async fn a_script_runs_while_its_program_is_attached_and_a_broken_version_changes_nothing() {
    let house = House::open("").await;
    let mut program = house.operator().attach().await.unwrap();
    let version = |answer: &str| {
        format!(
            "export default service(\"v\", {{ public: true, state: {{ n: 0 }},\n\
             methods: {{ get(ctx) {{ ctx.log.info(\"asked\"); return [{answer}, ++ctx.state.n]; }} }} }});"
        )
    };
    let names = program.script("v.rl", &version("1"), None).await.unwrap();
    assert_eq!(names, ["v".parse().unwrap()]);
    assert_eq!(ask(&house, "v.get", json!({})).await, json!([1, 1]));
    let Served::Log(line) = program.next().await.unwrap() else { panic!("a line") };
    assert_eq!((line.service_name.as_str(), line.message.as_str()), ("v", "asked"));
    match program.script("v.rl", "let a b;", None).await.unwrap_err() {
        Error::Refused { problem, .. } => {
            assert_eq!(
                (&problem.extra["file"], &problem.extra["line"]),
                (&json!("v.rl"), &json!(1))
            );
        }
        other => panic!("{other}"),
    }
    assert_eq!(ask(&house, "v.get", json!({})).await, json!([1, 2]), "the old one goes on");
    program.script("v.rl", &version("2"), None).await.unwrap();
    assert_eq!(ask(&house, "v.get", json!({})).await, json!([2, 3]), "with its state");
    let mut other = house.operator().attach().await.unwrap();
    assert_eq!(code_of(other.script("v.rl", &version("3"), None).await), "conflict");
    house.close().await;
}

#[tokio::test]
async fn actors_are_looked_after_by_the_operator() {
    let (house, _dir) = house("").await;
    assert_eq!(house.raw("GET", "/v1/actors", &[], "").await.status, 401);
    let client = house.operator();
    let all: Value = client.call(relay_client::Request::get("/v1/actors")).await.unwrap();
    assert_eq!(all["items"].as_array().unwrap().len(), 3);
    client.call_service(&service_call("counter", "say", json!({"text": "hm"}))).await.unwrap();
    let log = relay_client::Request::get("/v1/actors/counter/log");
    let lines: Value = client.call(log.clone()).await.unwrap();
    assert_eq!(lines["items"][0]["message"], "hm");
    let mut tail = client.sse(log.query("follow", Some(true))).await.unwrap();
    assert!(tail.next().await.unwrap().unwrap().data.contains("\"hm\""));
    client.call_service(&service_call("counter", "say", json!({"text": "new"}))).await.unwrap();
    assert!(tail.next().await.unwrap().unwrap().data.contains("\"new\""));
    ask(&house, "counter.add", json!({})).await;
    let restart = relay_client::Request::post("/v1/actors/counter/restart", &json!({}));
    let _: Value = client.call(restart).await.unwrap();
    assert_eq!(ask(&house, "counter.add", json!({})).await, json!({"count": 2}), "state is kept");
    let nobody = relay_client::Request::get("/v1/actors/nobody");
    assert_eq!(code_of(client.call::<Value>(nobody).await), "not_found");
    let metrics = house.node.metrics_text();
    assert!(metrics.contains("relay_calls_total{result=\"ok\"}"), "{metrics}");
    house.close().await;
}
