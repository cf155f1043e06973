//! Federations in one process: nodes that count what they execute, linked in memory.
#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared by tests, each of which uses a part"
)]

mod links;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture};
pub use links::{End, Foreign, Wire, foreign, link, link_as, link_events, message};
use relay_fed::{
    Federation, FederationConfig, LocalNode,
    link::{ByteStream, Peer, Role},
    local::{Answer, Forward, ServiceRecord},
};
use relay_proto::{
    Address, Call, CallError, Caller, Problem, RelayId, ServiceName, SigningKey,
    call::{Json, RpcCode},
    error::Code,
};
use serde_json::{Value, json, value::to_raw_value};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub fn id(text: &str) -> RelayId {
    text.parse().unwrap()
}

pub fn raw(value: &Value) -> Json {
    to_raw_value(value).unwrap()
}

pub fn call(to: &str, method: &str, args: &Value) -> Call {
    let to: Address = to.parse().unwrap();
    let mut call = Call::new(to, method.parse().unwrap(), Some(raw(args)));
    call.timeout = Duration::from_secs(20);
    call
}

/// Waits until `look` finds what it waits for.
pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"))
}

/// A node whose services answer with what they were asked.
///
/// Methods: `echo`; `slow` waits until it is let go; `fail`; `count` a body's bytes;
/// `stream` a result in pieces. Calls with keys are answered from what is kept.
pub struct Local {
    pub relay: RelayId,
    services: Mutex<Vec<ServiceRecord>>,
    changes: watch::Sender<u64>,
    pub executed: AtomicU64,
    pub notified: AtomicU64,
    pub dropped: Arc<AtomicU64>,
    pub gate: Notify,
    /// Refuses everything as overloaded.
    pub full: AtomicBool,
    pub waiting: AtomicU64,
    pub delay: Mutex<Duration>,
    kept: Mutex<HashMap<String, Json>>,
}

impl Local {
    pub fn set_services(&self, services: Vec<ServiceRecord>) {
        *self.services.lock().unwrap() = services;
        self.changes.send_modify(|n| *n += 1);
    }

    pub fn executed(&self) -> u64 {
        self.executed.load(SeqCst)
    }
}

pub fn service(name: &str) -> ServiceRecord {
    ServiceRecord::new(name.parse().unwrap(), "1.0.0")
}

struct OnDrop(Arc<AtomicU64>, bool);

impl Drop for OnDrop {
    fn drop(&mut self) {
        if self.1 {
            self.0.fetch_add(1, SeqCst);
        }
    }
}

/// What the test's own service is handed; kept alive by the returned future.
#[derive(Clone)]
pub struct Handle(pub Arc<Local>);

impl LocalNode for Handle {
    fn services(&self) -> Vec<ServiceRecord> {
        self.0.services.lock().unwrap().clone()
    }

    fn services_changed(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn has_service(&self, name: &ServiceName) -> bool {
        self.services().iter().any(|service| service.service_name == *name)
    }

    fn call(
        &self,
        call: Call,
        caller: Caller,
        body: Option<ByteStream>,
    ) -> BoxFuture<'static, Result<Answer, CallError>> {
        let local = self.0.clone();
        let has = self.has_service(&call.to.service);
        Box::pin(async move {
            if !has {
                return Err(CallError::service_not_found(&call.to.service).not_started());
            }
            if let Some(key) = &call.idempotency_key {
                let kept = local.kept.lock().unwrap().get(key).cloned();
                if let Some(value) = kept {
                    return Ok(Answer { value, stream: None, hops: vec![] });
                }
            }
            if local.full.load(SeqCst) {
                return Err(CallError::overloaded("full", 10).not_started());
            }
            local.executed.fetch_add(1, SeqCst);
            let delay = *local.delay.lock().unwrap();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let mut value = json!({
                "node": local.relay, "method": call.method, "args": call.args, "caller": caller,
                "timeout_ms": u64::try_from(call.timeout.as_millis()).unwrap(),
            });
            let mut stream: Option<ByteStream> = None;
            match call.method.as_str() {
                "slow" => {
                    let mut gone = OnDrop(local.dropped.clone(), true);
                    // A keyed call runs on whether or not its caller stays.
                    if let Some(key) = call.idempotency_key.clone() {
                        let value = raw(&value);
                        local.kept.lock().unwrap().insert(key, value);
                    }
                    local.waiting.fetch_add(1, SeqCst);
                    local.gate.notified().await;
                    gone.1 = false;
                }
                "fail" => {
                    return Err(CallError::new(RpcCode::Other(7), "no luck").with("why", "dice"));
                }
                "count" => {
                    let mut bytes = 0;
                    let mut body = body.expect("a body");
                    while let Some(piece) = body.next().await {
                        bytes += piece?.len();
                    }
                    value["bytes"] = bytes.into();
                }
                "stream" => {
                    let pieces = (0..100).map(|n| Ok(Bytes::from(vec![n; 1000])));
                    stream = Some(Box::pin(futures_util::stream::iter(pieces)));
                }
                _ => {}
            }
            Ok(Answer { value: raw(&value), stream, hops: vec![] })
        })
    }

    fn notify(&self, call: Call, _caller: Caller) -> Result<(), CallError> {
        if !self.has_service(&call.to.service) {
            return Err(CallError::service_not_found(&call.to.service).not_started());
        }
        self.0.notified.fetch_add(1, SeqCst);
        Ok(())
    }

    fn forwarded(
        &self,
        from: RelayId,
        forward: Forward,
        _: Option<ByteStream>,
    ) -> BoxFuture<'static, Result<(Json, Option<ByteStream>), Problem>> {
        let home = self.0.relay.clone();
        Box::pin(async move {
            match forward.operation.as_str() {
                "lock.acquire" => {
                    let problem = Problem::new(Code::LockHeld, "held").with("owner", "bob");
                    Err(problem)
                }
                _ => Ok((
                    raw(&json!({"home": home, "from": from, "request": forward.request})),
                    None,
                )),
            }
        })
    }
}

pub struct Node {
    pub relay: RelayId,
    pub key: SigningKey,
    pub role: Role,
    pub local: Arc<Local>,
    pub fed: Federation,
    stop: CancellationToken,
    run: tokio::task::JoinHandle<()>,
}

impl Node {
    pub fn ask<'a>(
        &'a self,
        to: &str,
        method: &str,
        args: &Value,
    ) -> impl Future<Output = Result<Value, CallError>> + use<'a> {
        self.ask_call(call(to, method, args))
    }

    pub async fn ask_call(&self, call: Call) -> Result<Value, CallError> {
        let answer = self.fed.ask(call, Caller::local(), None).await?;
        Ok(serde_json::from_str(answer.value.get()).unwrap())
    }

    pub fn knows(&self, other: &Node) -> Peer {
        Peer {
            relay: other.relay.clone(),
            key: other.key.node_id(),
            role: other.role,
            version: "0".into(),
            features: vec![],
            dialled: false,
        }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.run.await.unwrap();
    }
}

pub fn node_with(
    relay: &str,
    role: Role,
    services: &[&str],
    configure: impl FnOnce(&mut FederationConfig),
) -> Node {
    let relay = id(relay);
    let seed = *blake3::hash(relay.as_str().as_bytes()).as_bytes();
    let key = SigningKey::from_seed(seed);
    let local = Arc::new(Local {
        relay: relay.clone(),
        services: Mutex::new(services.iter().map(|name| service(name)).collect()),
        changes: watch::Sender::new(0),
        executed: AtomicU64::new(0),
        notified: AtomicU64::new(0),
        dropped: Arc::default(),
        gate: Notify::new(),
        full: AtomicBool::new(false),
        waiting: AtomicU64::new(0),
        delay: Mutex::default(),
        kept: Mutex::default(),
    });
    static SEED: AtomicU64 = AtomicU64::new(1);
    let seed = SEED.fetch_add(1, SeqCst);
    let mut config = FederationConfig::new(relay.clone(), role, key.clone(), seed);
    configure(&mut config);
    let fed = Federation::new(config, Arc::new(Handle(local.clone())));
    let stop = CancellationToken::new();
    let run = tokio::spawn({
        let (fed, stop) = (fed.clone(), stop.clone());
        async move { fed.run(stop).await }
    });
    Node { relay, key, role, local, fed, stop, run }
}

pub fn hub(relay: &str) -> Node {
    node_with(relay, Role::Main, &[], |_| {})
}

pub fn spoke(relay: &str, services: &[&str]) -> Node {
    node_with(relay, Role::Home, services, |_| {})
}

/// Two hubs that are peers, and two spokes on each.
pub struct Two {
    pub a: Node,
    pub b: Node,
    pub spokes: BTreeMap<&'static str, Node>,
    pub wires: HashMap<&'static str, Wire>,
    pub between: Wire,
}

/// `alice` and `bob` on `hub-a`, `carol` and `dan` on `hub-b`; each offers a service of its name,
/// and carol and dan both `shared`.
pub async fn two() -> Two {
    let (a, b) = (hub("hub-a"), hub("hub-b"));
    let between = link(&a, &b);
    let mut spokes = BTreeMap::new();
    let mut wires = HashMap::new();
    for (name, services, to) in [
        ("alice", vec!["alice-service"], &a),
        ("bob", vec!["bob-service"], &a),
        ("carol", vec!["carol-service", "shared"], &b),
        ("dan", vec!["dan-service", "shared"], &b),
    ] {
        let node = spoke(name, &services);
        wires.insert(name, link(&node, to));
        spokes.insert(name, node);
    }
    for hub in [&a, &b] {
        until("both hubs know all four", || (hub.fed.registry_size().0 == 6).then_some(())).await;
    }
    Two { a, b, spokes, wires, between }
}
