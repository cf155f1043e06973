//! Actors, supervisors and the router, without scripts or bridges.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use relay_actors::{
    ActorSpec, BodyStream, Handled, Life, Random, Remote, Reply, Request, Router, RouterConfig,
    Service, ServiceInfo, Supervisor,
};
use relay_proto::{
    Call, CallError, Caller, ServiceName,
    call::{AccessRules, Effect, RpcCode, Rule},
};
use serde_json::value::RawValue;
use tokio::sync::{Notify, Semaphore};

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

fn node() -> Supervisor {
    let router = Router::new(RouterConfig::new("home-a".parse().unwrap()));
    Supervisor::new(router, Random::new(|| 0.5))
}

fn call(to: &str, method: &str, args: &str) -> Call {
    let args = RawValue::from_string(args.to_owned()).unwrap();
    Call::new(to.parse().unwrap(), method.parse().unwrap(), Some(args))
}

fn public(text: &str) -> ActorSpec {
    ActorSpec::new(ServiceInfo::new(name(text)).public())
}

fn far(text: &str) -> Caller {
    Caller::remote(text.parse().unwrap())
}

async fn until(router: &Router, actor: &str, life: Life) {
    let mut changes = router.changes();
    while router.actor(&name(actor)).unwrap().life != life {
        changes.changed().await.unwrap();
    }
}

/// What the test service shares with its test.
#[derive(Default)]
struct Probe {
    starts: AtomicUsize,
    handled: AtomicUsize,
    dropped: AtomicUsize,
    running: AtomicUsize,
    most_running: AtomicUsize,
    entered: Notify,
}

/// `hold` waits for a permit, `panic` panics, `echo` answers its arguments, `count` counts.
struct Probing {
    probe: Arc<Probe>,
    gate: Arc<Semaphore>,
    count: u64,
}

struct OnDrop<'a>(&'a Probe, bool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
        if !self.1 {
            self.0.dropped.fetch_add(1, SeqCst);
        }
    }
}

impl Service for Probing {
    fn handle(&mut self, request: Request) -> BoxFuture<'_, Handled> {
        Box::pin(async move {
            let running = self.probe.running.fetch_add(1, SeqCst) + 1;
            self.probe.most_running.fetch_max(running, SeqCst);
            let mut finished = OnDrop(&self.probe, false);
            self.probe.entered.notify_one();
            let result = match request.method.as_str() {
                "echo" => Ok(request.args.unwrap().into()),
                "count" => {
                    self.count += 1;
                    Reply::json(&self.count)
                }
                "who" => Reply::json(&request.caller),
                "panic" => panic!("told to"),
                _ => {
                    self.gate.acquire().await.unwrap().forget();
                    Ok(Reply::null())
                }
            };
            self.probe.handled.fetch_add(1, SeqCst);
            finished.1 = true;
            Handled::Now(result)
        })
    }
}

fn start(node: &Supervisor, spec: ActorSpec) -> (Arc<Probe>, Arc<Semaphore>) {
    let probe = Arc::new(Probe::default());
    let gate = Arc::new(Semaphore::new(0));
    let (p, g) = (probe.clone(), gate.clone());
    node.start(spec, move || {
        p.starts.fetch_add(1, SeqCst);
        Ok(Probing { probe: p.clone(), gate: g.clone(), count: 0 })
    })
    .unwrap();
    (probe, gate)
}

#[tokio::test]
async fn an_ask_is_answered_and_one_message_runs_at_a_time() {
    let node = node();
    let (probe, gate) = start(&node, public("s"));
    let router = node.router().clone();
    let asks = (0..20).map(|_| router.ask(call("s", "hold", "{}"), Caller::local()));
    gate.add_permits(20);
    for answer in futures_util::future::join_all(asks).await {
        assert_eq!(answer.unwrap().value.get(), "null");
    }
    assert_eq!(probe.most_running.load(SeqCst), 1);
    assert_eq!(router.actor(&name("s")).unwrap().handled, 20);
    assert!(node.shutdown(Duration::from_secs(5)).await);
    let gone = router.ask(call("s", "echo", "1"), Caller::local()).await.unwrap_err();
    assert_eq!(gone.code, RpcCode::ServiceNotFound);
}

#[tokio::test]
async fn a_full_mailbox_answers_overloaded_at_once() {
    let node = node();
    let mut spec = public("s");
    spec.mailbox = NonZeroUsize::new(2).unwrap();
    let (probe, gate) = start(&node, spec);
    let router = node.router();
    let first = router.send(call("s", "hold", "{}"), Caller::local());
    first.await.unwrap();
    probe.entered.notified().await;
    for _ in 0..2 {
        router.send(call("s", "hold", "{}"), Caller::local()).await.unwrap();
    }
    let error = router.ask(call("s", "echo", "1"), Caller::local()).await.unwrap_err();
    assert_eq!(error.code, RpcCode::Overloaded);
    assert!(error.data["retry_after_ms"].as_u64().unwrap() >= 10);
    assert_eq!(router.actor(&name("s")).unwrap().overloaded, 1);
    gate.add_permits(3);
    while router.actor(&name("s")).unwrap().waiting > 0 {
        tokio::task::yield_now().await;
    }
    router.ask(call("s", "echo", "1"), Caller::local()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_wait_and_the_work() {
    let node = node();
    let (probe, _gate) = start(&node, public("s"));
    let mut slow = call("s", "hold", "{}");
    slow.timeout = Duration::from_millis(50);
    let error = node.router().ask(slow.clone(), Caller::local()).await.unwrap_err();
    assert_eq!(error.code, RpcCode::Timeout);
    // A message without an answer ends at its deadline too, and the actor goes on.
    node.router().send(slow, Caller::local()).await.unwrap();
    let echo = node.router().ask(call("s", "echo", "7"), Caller::local()).await.unwrap();
    assert_eq!(echo.value.get(), "7");
    assert_eq!(probe.dropped.load(SeqCst), 2);
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels_its_call() {
    let node = node();
    let (probe, _gate) = start(&node, public("s"));
    {
        let ask = node.router().ask(call("s", "hold", "{}"), Caller::local());
        tokio::select! {
            _ = ask => panic!("it holds"),
            () = probe.entered.notified() => {}
        }
    }
    let echo = node.router().ask(call("s", "echo", "7"), Caller::local()).await.unwrap();
    assert_eq!(echo.value.get(), "7");
    assert_eq!(probe.dropped.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_harms_its_own_message_and_restarts_the_actor_alone() {
    let node = node();
    let (probe, _) = start(&node, public("s"));
    let (other, _) = start(&node, public("t"));
    let ask = |to: &'static str, method: &'static str| {
        node.router().ask(call(to, method, "{}"), Caller::local())
    };
    assert_eq!(ask("s", "count").await.unwrap().value.get(), "1");
    assert_eq!(ask("t", "count").await.unwrap().value.get(), "1");
    let (crash, waiting) = tokio::join!(ask("s", "panic"), ask("s", "count"));
    let crash = crash.unwrap_err();
    assert_eq!(crash.code, RpcCode::Internal);
    assert!(!crash.message.contains("told to"), "no inner text to callers");
    assert_eq!(waiting.unwrap().value.get(), "1", "the mailbox survives, the state is new");
    assert_eq!(ask("t", "count").await.unwrap().value.get(), "2", "one for one");
    assert_eq!((probe.starts.load(SeqCst), other.starts.load(SeqCst)), (2, 1));
    let status = node.router().actor(&name("s")).unwrap();
    assert_eq!((status.restarts, status.last_crash.as_deref()), (1, Some("told to")));
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_only_crashes_is_given_up_until_restarted_by_hand() {
    let node = node();
    let starts = Arc::new(AtomicUsize::new(0));
    let mut spec = public("s");
    spec.restarts.give_up_after = 3;
    let probe = Arc::new(Probe::default());
    let (count, p) = (starts.clone(), probe.clone());
    node.start(spec, move || {
        if count.fetch_add(1, SeqCst) < 4 {
            return Err("no such program".to_owned());
        }
        Ok(Probing { probe: p.clone(), gate: Arc::default_gate(), count: 0 })
    })
    .unwrap();
    let waiting = node.router().ask(call("s", "echo", "1"), Caller::local());
    assert_eq!(waiting.await.unwrap_err().code, RpcCode::ServiceNotFound);
    until(node.router(), "s", Life::GaveUp).await;
    assert_eq!(starts.load(SeqCst), 4, "one start and three restarts");
    assert!(!node.router().actor(&name("s")).unwrap().is_healthy);
    let refused = node.router().ask(call("s", "echo", "1"), Caller::local()).await.unwrap_err();
    assert_eq!(refused.code, RpcCode::ServiceNotFound);

    assert!(node.restart(&name("s")));
    until(node.router(), "s", Life::Running).await;
    assert!(node.router().ask(call("s", "echo", "1"), Caller::local()).await.is_ok());
    assert!(node.shutdown(Duration::from_secs(5)).await);
}

trait DefaultGate {
    fn default_gate() -> Self;
}

impl DefaultGate for Arc<Semaphore> {
    fn default_gate() -> Self {
        Self::new(Semaphore::new(0))
    }
}

#[tokio::test]
async fn private_services_do_not_exist_for_others() {
    let node = node();
    start(&node, ActorSpec::new(ServiceInfo::new(name("s"))));
    let ask = |caller| node.router().receive(call("s", "echo", "1"), caller, None);
    assert!(ask(Caller::local()).await.is_ok());
    let refused = ask(far("bob@hub")).await.unwrap_err();
    assert_eq!(refused, CallError::service_not_found("s").not_started());
}

#[tokio::test]
async fn access_is_decided_by_the_owner_over_the_proven_caller() {
    let node = node();
    start(&node, public("s"));
    node.router().set_access(AccessRules {
        rules: vec![
            Rule::new(Effect::Deny, "s", "count", "bob@hub"),
            Rule::new(Effect::Allow, "s", "*", "*@hub"),
        ],
        otherwise: Effect::Deny,
    });
    let ask = |method: &'static str, caller: &'static str| {
        node.router().receive(call("s", method, "1"), far(caller), None)
    };
    assert_eq!(ask("count", "bob@hub").await.unwrap_err().code, RpcCode::Forbidden);
    assert_eq!(ask("echo", "eve@other").await.unwrap_err().code, RpcCode::Forbidden);
    let who = ask("who", "bob@hub").await.unwrap();
    assert_eq!(who.value.get(), r#"{"node":"bob@hub"}"#);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_key_runs_once_and_gets_the_first_result() {
    let node = node();
    let (probe, gate) = start(&node, public("s"));
    let keyed = |method: &str, key: &str| {
        let mut call = call("s", method, "{}");
        call.idempotency_key = Some(key.to_owned());
        call
    };
    let ask = |call| node.router().ask(call, Caller::local());
    assert_eq!(ask(keyed("count", "k1")).await.unwrap().value.get(), "1");
    assert_eq!(ask(keyed("count", "k1")).await.unwrap().value.get(), "1");
    assert_eq!(ask(keyed("count", "k2")).await.unwrap().value.get(), "2");
    let other = node.router().ask(keyed("count", "k1"), far("bob")).await.unwrap();
    assert_eq!(other.value.get(), "3", "another caller's key is another key");
    assert_eq!(ask(keyed("echo", "k1")).await.unwrap_err().code, RpcCode::InvalidParams);
    assert_eq!(ask(keyed("count", "a b")).await.unwrap_err().code, RpcCode::InvalidParams);

    // A caller that goes does not end its call; a repeat meets the running one.
    let before = probe.handled.load(SeqCst);
    tokio::select! {
        _ = ask(keyed("hold", "k3")) => panic!("it holds"),
        () = async { while probe.running.load(SeqCst) == 0 { tokio::task::yield_now().await } } => {}
    }
    let (repeat, ()) = tokio::join!(ask(keyed("hold", "k3")), async { gate.add_permits(1) });
    repeat.unwrap();
    assert_eq!(probe.handled.load(SeqCst) - before, 1);
    assert_eq!(probe.dropped.load(SeqCst), 0);

    // After ten minutes the key is free again.
    tokio::time::advance(Duration::from_secs(601)).await;
    assert_eq!(ask(keyed("count", "k1")).await.unwrap().value.get(), "4");
}

#[tokio::test]
async fn kept_results_are_bounded() {
    let mut config = RouterConfig::new("home-a".parse().unwrap());
    config.results.entries = 2;
    let node = Supervisor::new(Router::new(config), Random::new(|| 0.5));
    start(&node, public("s"));
    let ask = |key: &str| {
        let mut call = call("s", "count", "{}");
        call.idempotency_key = Some(key.to_owned());
        node.router().ask(call, Caller::local())
    };
    for (key, count) in [("a", "1"), ("b", "2"), ("c", "3"), ("c", "3"), ("a", "4")] {
        assert_eq!(ask(key).await.unwrap().value.get(), count, "{key}");
    }
}

/// A far node that notes what it is asked.
#[derive(Clone, Default)]
struct FarNode(Arc<Mutex<Vec<String>>>);

impl Remote for FarNode {
    fn ask(
        &self,
        call: Call,
        _: Caller,
        _: Option<BodyStream>,
    ) -> BoxFuture<'_, Result<Reply, CallError>> {
        self.0.lock().unwrap().push(format!("ask {}", call.to));
        Box::pin(async { Reply::json("far") })
    }

    fn send(&self, call: Call, _: Caller) -> BoxFuture<'_, Result<(), CallError>> {
        self.0.lock().unwrap().push(format!("send {}", call.to));
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn local_delivery_comes_first_and_the_rest_goes_to_the_remote() {
    let node = node();
    start(&node, public("s"));
    let router = node.router();
    let ask = |to: &'static str| router.ask(call(to, "echo", "1"), Caller::local());
    assert_eq!(ask("s@far").await.unwrap_err().code, RpcCode::NodeUnreachable);
    assert_eq!(ask("t").await.unwrap_err().code, RpcCode::ServiceNotFound);

    let remote = FarNode::default();
    router.set_remote(remote.clone());
    router.set_hub(Some("hub-a".parse().unwrap()));
    for here in ["s", "s@home-a", "s@home-a@hub-a"] {
        assert_eq!(ask(here).await.unwrap().value.get(), "1", "{here}");
    }
    assert_eq!(ask("t@home-a").await.unwrap_err().code, RpcCode::ServiceNotFound);
    for there in ["t", "s@far", "s@home-a@hub-b"] {
        assert_eq!(ask(there).await.unwrap().value.get(), "\"far\"", "{there}");
    }
    router.send(call("t", "note", "1"), Caller::local()).await.unwrap();
    assert_eq!(*remote.0.lock().unwrap(), ["ask t", "ask s@far", "ask s@home-a@hub-b", "send t"]);
    let bounced = router.receive(call("t", "echo", "1"), far("bob"), None).await.unwrap_err();
    assert_eq!(bounced.code, RpcCode::ServiceNotFound, "what came over a link is not sent on");
}

#[tokio::test]
async fn versions_and_loops_are_refused_before_the_start() {
    let node = node();
    let (probe, _) = start(&node, public("s"));
    let mut newer = call("s", "echo", "1");
    newer.version = Some(">=2".into());
    let ask = |call, caller| node.router().ask(call, caller);
    assert_eq!(ask(newer, Caller::local()).await.unwrap_err().code, RpcCode::ServiceNotFound);
    let inner = Caller::service(name("s"), None);
    let outer = Caller::service(name("t"), Some(&inner));
    assert_eq!(ask(call("s", "echo", "1"), outer).await.unwrap_err().code, RpcCode::Loop);
    assert_eq!(probe.handled.load(SeqCst), 0);
}
