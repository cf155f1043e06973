//! The example apps under `examples/scripts/`, each run as it stands.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use futures_util::future::BoxFuture;
use relay_actors::{
    BodyStream, Remote, Reply,
    script::{Commit, MemoryStore, ScriptLimits, StateStore},
};
use relay_proto::{Call, CallError, Caller, call::RpcCode};
use serde_json::{Value, json};
use support::Node;

const BLOG: &str = include_str!("../../../examples/scripts/blog.rl");
const COUNTER: &str = include_str!("../../../examples/scripts/counter.rl");
const CHATBOT: &str = include_str!("../../../examples/scripts/chatbot.rl");
const CRON: &str = include_str!("../../../examples/scripts/cron.rl");
const PIPELINE: &str = include_str!("../../../examples/scripts/pipeline.rl");

const HOUR_MS: u64 = 3_600_000;

#[tokio::test]
async fn counter() {
    let node = Node::new();
    node.load(COUNTER).await.unwrap();
    node.call("counter", "add", json!({"by": 5})).await.unwrap();
    assert_eq!(node.call("counter", "add", json!({})).await.unwrap(), json!({"count": 6}));
    let wrong = node.call("counter", "add", json!({"by": "x"})).await.unwrap_err();
    assert_eq!(wrong.code, RpcCode::InvalidParams);
    assert_eq!(node.call("counter", "reset", json!({})).await.unwrap(), json!({"before": 6}));
    assert_eq!(node.call("counter", "get", json!({})).await.unwrap(), json!({"count": 0}));
}

#[tokio::test]
async fn blog() {
    let node = Node::new();
    node.load(BLOG).await.unwrap();
    let alice = || Caller::remote("alice.home@hub".parse().unwrap());
    let bob = || Caller::remote("bob.home@hub".parse().unwrap());
    let post = json!({"title": " Hello ", "body": "First"});
    let made = node.call_as(alice(), "blog", "create_post", post).await.unwrap();
    assert_eq!(made, json!({"id": 1}));
    let empty = node.call_as(bob(), "blog", "create_post", json!({"title": "x"})).await;
    assert_eq!(empty.unwrap_err().code, RpcCode::InvalidParams);
    let edit = json!({"id": 1, "body": "Changed"});
    let refused = node.call_as(bob(), "blog", "edit_post", edit.clone()).await.unwrap_err();
    assert_eq!(refused.code, RpcCode::Other(403));
    node.call_as(alice(), "blog", "edit_post", edit).await.unwrap();
    let comment = json!({"id": 1, "body": "Nice"});
    node.call_as(bob(), "blog", "comment", comment).await.unwrap();
    let post = node.call_as(bob(), "blog", "get_post", json!({"id": 1})).await.unwrap();
    assert_eq!(post["title"], "Hello");
    assert_eq!(post["body"], "Changed");
    assert_eq!(post["author"], "alice.home@hub");
    assert_eq!(post["comments"][0]["author"], "bob.home@hub");
    let second = json!({"title": "Two", "body": "2"});
    let second = node.call_as(alice(), "blog", "create_post", second).await.unwrap();
    assert_eq!(second, json!({"id": 2}), "a refused post took no number");
    let list = node.call_as(bob(), "blog", "list_posts", json!({"limit": 1})).await.unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["title"], "Two");
    node.call_as(alice(), "blog", "delete_post", json!({"id": 1})).await.unwrap();
    let gone = node.call_as(bob(), "blog", "get_post", json!({"id": 1})).await.unwrap_err();
    assert_eq!(gone.code, RpcCode::Other(404));
}

#[tokio::test]
async fn blog_takes_over_the_state_of_its_first_version() {
    let store = Arc::new(MemoryStore::default());
    let old = r#"{"posts":[{"title":"Old","body":"b","author":"a","created_ms":1,"comments":[]}]}"#;
    let commit = Commit {
        service: "blog".parse().unwrap(),
        on_revision: 0,
        state_version: 1,
        state: Some(old.into()),
        timers: Vec::new(),
        cursor: None,
    };
    store.commit(commit).await.unwrap();
    let node = Node::with(store, ScriptLimits::default());
    node.load(BLOG).await.unwrap();
    let post = node.call("blog", "get_post", json!({"id": 1})).await.unwrap();
    assert_eq!(post["title"], "Old");
    let made = node.call("blog", "create_post", json!({"title": "New", "body": "b"})).await;
    assert_eq!(made.unwrap(), json!({"id": 2}));
}

#[tokio::test]
async fn chatbot() {
    let node = Node::new();
    node.load(CHATBOT).await.unwrap();
    let say = |id: &str, content: &str| {
        node.host.emit(json!({"kind": 1, "id": id, "author": "ed25519:bob", "content": content}));
    };
    let said = |content: &'static str| {
        move |events: &[Value]| events.iter().any(|event| event["content"] == content)
    };
    say("1", "hello all");
    say("2", "!ping");
    node.host.until_events(said("pong")).await;
    let pong = node.host.events().into_iter().find(|event| event["content"] == "pong").unwrap();
    assert_eq!(pong["tags"], json!([["e", "2"], ["p", "ed25519:bob"]]));
    say("3", "!remind 10m drink water");
    node.host.until_events(said("in 10m")).await;
    node.until("chatbot", "stats", json!({"answered": 2, "reminders": 1})).await;
    node.host.advance(10 * 60_000);
    node.host.until_events(said("reminder: drink water")).await;
    say("4", "!what");
    node.host.until_events(said("I know: !ping, !count, !remind <time> <text>")).await;
}

#[tokio::test]
async fn cron() {
    let node = Node::new();
    node.load(CRON).await.unwrap();
    node.host.advance(HOUR_MS);
    node.host.until_events(|events| events.len() == 1).await;
    let report = &node.host.events()[0];
    assert_eq!(report["tags"][1], json!(["fence", "cron/report", "1"]));
    let status =
        async |member: &str| node.call("cron", "status", json!({})).await.unwrap()[member].clone();
    while status("runs").await != 1 {
        tokio::task::yield_now().await;
    }
    assert!(node.host.locks.lock().unwrap().is_empty(), "given back after the run");

    node.host.locks.lock().unwrap().insert("cron/report".to_owned(), 99);
    node.host.advance(HOUR_MS);
    while status("skipped").await != 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(status("runs").await, 1);
    assert_eq!(node.host.events().len(), 1, "who has no lock publishes nothing");
}

/// The services of another node. The store is away at first.
struct OtherNode {
    puts: Arc<AtomicUsize>,
}

impl Remote for OtherNode {
    fn ask(
        &self,
        call: Call,
        caller: Caller,
        _: Option<BodyStream>,
    ) -> BoxFuture<'_, Result<Reply, CallError>> {
        assert_eq!(caller.service.unwrap().as_str(), "pipeline");
        assert!(call.idempotency_key.is_some());
        let args: Value = serde_json::from_str(call.args.unwrap().get()).unwrap();
        let to = call.to.to_string();
        Box::pin(async move {
            match (to.as_str(), call.method.as_str()) {
                ("documents@archive.home", "get") => Reply::json(&json!({"text": "One.\n\nTwo."})),
                ("summariser", "summarise") => {
                    let text = args["text"].as_str().unwrap();
                    Reply::json(&json!({"summary": text.to_uppercase()}))
                }
                ("documents@archive.home", "put") => match self.puts.fetch_add(1, SeqCst) {
                    0 => Err(CallError::unreachable("archive.home")),
                    _ => Reply::json(&args["id"]),
                },
                _ => Err(CallError::service_not_found(to)),
            }
        })
    }

    fn send(&self, _: Call, _: Caller) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[tokio::test]
async fn pipeline() {
    let node = Node::new();
    let puts = Arc::new(AtomicUsize::new(0));
    node.supervisor.router().set_remote(OtherNode { puts: puts.clone() });
    node.load(PIPELINE).await.unwrap();
    let result = node.call("pipeline", "run", json!({"document": "42"})).await.unwrap();
    assert_eq!(result["summary"], "ONE. TWO.");
    assert_eq!(result["parts"], 2);
    assert_eq!(puts.load(SeqCst), 2, "tried again when the archive was away");
    let again = node.call("pipeline", "run", json!({"document": "42"})).await.unwrap();
    assert_eq!(again, result);
    assert_eq!(puts.load(SeqCst), 2, "done is done");
    assert_eq!(node.call("pipeline", "list", json!({})).await.unwrap(), json!(["42"]));
    let wrong = node.call("pipeline", "run", json!({})).await.unwrap_err();
    assert_eq!(wrong.code, RpcCode::InvalidParams);
}
