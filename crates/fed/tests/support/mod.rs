//! Federations in one process: nodes that count what they execute, linked in memory.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared by tests, each of which uses a part"
)]

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
use relay_fed::{
    Federation, FederationConfig, Link, LinkEvents, LocalNode,
    link::{Answered, Answering, ByteStream, Lane, LinkError, LinkStats, Peer, Role},
    local::{Answer, Forward, ServiceRecord},
};
use relay_proto::{
    Address, Call, CallError, Caller, Problem, RelayId, ServiceName, SigningKey,
    call::{Json, RpcCode},
    error::Code,
    link::Message,
};
use serde_json::{Value, json, value::to_raw_value};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

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

// === nodes ===

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

// === links ===

enum Item {
    Message(Message),
    Request(Message, Option<ByteStream>, oneshot::Sender<Answered>),
}

/// One end of a link in memory. Each message goes through JSON, as on a wire.
pub struct End {
    id: u64,
    /// Who this end sees.
    peer: Peer,
    to: mpsc::Sender<Item>,
    closed: CancellationToken,
    pub rtt: Mutex<Option<Duration>>,
    draining: AtomicBool,
    received: AtomicU64,
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "End({} to {})", self.id, self.peer.relay)
    }
}

fn through_json(message: &Message) -> Message {
    serde_json::from_str(&serde_json::to_string(message).unwrap()).unwrap()
}

impl Link for End {
    fn id(&self) -> u64 {
        self.id
    }

    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn stats(&self) -> LinkStats {
        LinkStats {
            since_ms: 0,
            rtt: *self.rtt.lock().unwrap(),
            messages_in: self.received.load(SeqCst),
            messages_out: 0,
            bytes_in: 0,
            bytes_out: 0,
            queued: 0,
            draining: self.draining.load(SeqCst),
        }
    }

    fn send(&self, _lane: Lane, message: Message) -> Result<(), LinkError> {
        if self.closed.is_cancelled() {
            return Err(LinkError::Closed { sent: false });
        }
        self.to.try_send(Item::Message(through_json(&message))).map_err(|_| LinkError::Full)
    }

    fn request(
        &self,
        message: Message,
        body: Option<ByteStream>,
    ) -> BoxFuture<'static, Result<Answered, LinkError>> {
        let (to, closed) = (self.to.clone(), self.closed.clone());
        let message = through_json(&message);
        let patience = Duration::from_millis(message.deadline_ms.unwrap_or(60_000));
        Box::pin(async move {
            if closed.is_cancelled() {
                return Err(LinkError::Closed { sent: false });
            }
            let (reply, answer) = oneshot::channel();
            to.try_send(Item::Request(message, body, reply)).map_err(|_| LinkError::Full)?;
            tokio::select! {
                answer = answer => {
                    let answered = answer.map_err(|_| LinkError::Closed { sent: true })?;
                    Ok(Answered { message: through_json(&answered.message), stream: answered.stream })
                }
                () = closed.cancelled() => Err(LinkError::Closed { sent: true }),
                () = tokio::time::sleep(patience) => Err(LinkError::Timeout),
            }
        })
    }

    fn drain(&self, _reason: &str, _within: Duration, _reconnect_after: Duration) {
        self.draining.store(true, SeqCst);
    }

    fn close(&self, _reason: &str) {
        self.closed.cancel();
    }
}

struct Reply(Option<oneshot::Sender<Answered>>);

impl Answering for Reply {
    fn answer(mut self: Box<Self>, answer: Answered) {
        if let Some(reply) = self.0.take() {
            let _ = reply.send(answer);
        }
    }

    fn abandoned(&mut self) -> BoxFuture<'_, ()> {
        match &mut self.0 {
            Some(reply) => Box::pin(reply.closed()),
            None => Box::pin(std::future::pending()),
        }
    }
}

/// A link between two nodes, to be cut.
pub struct Wire {
    closed: CancellationToken,
    pub ends: [Arc<End>; 2],
    tasks: TaskTracker,
    frozen: Arc<[AtomicBool; 2]>,
}

impl Wire {
    /// Ends the link, for both at once.
    pub async fn cut(self) {
        self.closed.cancel();
        self.tasks.wait().await;
    }

    /// Keeps the link up and delivers nothing to the second end any more.
    pub fn freeze(&self) {
        self.frozen[1].store(true, SeqCst);
        self.frozen[0].store(true, SeqCst);
    }
}

static IDS: AtomicU64 = AtomicU64::new(1);

/// Links two nodes that see each other as `seen` says.
pub fn link_as(a: &Node, b: &Node, seen_by_b: Peer) -> Wire {
    let seen_by_a = a.knows(b);
    link_events(&[Arc::new(a.fed.clone()), Arc::new(b.fed.clone())], seen_by_a, seen_by_b)
}

pub fn link(a: &Node, b: &Node) -> Wire {
    link_as(a, b, b.knows(a))
}

pub fn link_events(events: &[Arc<dyn LinkEvents>; 2], seen_by_a: Peer, seen_by_b: Peer) -> Wire {
    let closed = CancellationToken::new();
    let (to_b, from_a) = mpsc::channel(4096);
    let (to_a, from_b) = mpsc::channel(4096);
    let end = |peer, to| {
        Arc::new(End {
            id: IDS.fetch_add(1, SeqCst),
            peer,
            to,
            closed: closed.clone(),
            rtt: Mutex::new(Some(Duration::from_micros(100))),
            draining: AtomicBool::new(false),
            received: AtomicU64::new(0),
        })
    };
    let ends = [end(seen_by_a, to_b), end(seen_by_b, to_a)];
    let tasks = TaskTracker::new();
    let frozen: Arc<[AtomicBool; 2]> = Arc::default();
    for (n, inbox) in [(0, from_b), (1, from_a)] {
        events[n].up(ends[n].clone());
        let (events, end) = (events[n].clone(), ends[n].clone());
        tasks.spawn(pump(events, end, inbox, closed.clone(), frozen.clone(), n));
    }
    tasks.close();
    Wire { closed, ends, tasks, frozen }
}

async fn pump(
    events: Arc<dyn LinkEvents>,
    end: Arc<End>,
    mut inbox: mpsc::Receiver<Item>,
    closed: CancellationToken,
    frozen: Arc<[AtomicBool; 2]>,
    n: usize,
) {
    let link: Arc<dyn Link> = end.clone();
    // Answers that a frozen link never gives.
    let mut held = Vec::new();
    loop {
        let item = tokio::select! {
            biased;
            () = closed.cancelled() => break,
            item = inbox.recv() => item,
        };
        let Some(item) = item else { break };
        if frozen[n].load(SeqCst) {
            held.push(item);
            continue;
        }
        end.received.fetch_add(1, SeqCst);
        match item {
            Item::Message(message) => events.message(&link, message),
            Item::Request(message, body, reply) => {
                events.request(&link, message, body, Box::new(Reply(Some(reply))));
            }
        }
    }
    closed.cancel();
    events.down(&link, "cut");
}

/// A program that speaks the messages by hand over a link to a node.
pub struct Foreign {
    pub link: Arc<dyn Link>,
    /// What came that wants no answer.
    pub messages: mpsc::UnboundedReceiver<Message>,
    /// Requests that came, to be answered.
    pub requests: mpsc::UnboundedReceiver<(Message, Box<dyn Answering>)>,
    pub wire: Wire,
}

struct Hands {
    messages: mpsc::UnboundedSender<Message>,
    requests: mpsc::UnboundedSender<(Message, Box<dyn Answering>)>,
}

impl LinkEvents for Hands {
    fn up(&self, _link: Arc<dyn Link>) {}

    fn message(&self, _link: &Arc<dyn Link>, message: Message) {
        let _ = self.messages.send(message);
    }

    fn request(
        &self,
        _link: &Arc<dyn Link>,
        message: Message,
        _body: Option<ByteStream>,
        answering: Box<dyn Answering>,
    ) {
        let _ = self.requests.send((message, answering));
    }

    fn down(&self, _link: &Arc<dyn Link>, _reason: &str) {}
}

/// Links a foreign program, whose name and role are proven, to a node.
pub fn foreign(node: &Node, relay: &str, role: Role) -> Foreign {
    let (messages, got_messages) = mpsc::unbounded_channel();
    let (requests, got_requests) = mpsc::unbounded_channel();
    let key = SigningKey::from_seed(*blake3::hash(relay.as_bytes()).as_bytes()).node_id();
    let seen_by_node = Peer {
        relay: id(relay),
        key,
        role,
        version: "foreign".into(),
        features: vec![],
        dialled: false,
    };
    let seen_by_foreign = Peer {
        relay: node.relay.clone(),
        key: node.key.node_id(),
        role: node.role,
        version: "0".into(),
        features: vec![],
        dialled: true,
    };
    let hands: Arc<dyn LinkEvents> = Arc::new(Hands { messages, requests });
    let wire = link_events(&[hands, Arc::new(node.fed.clone())], seen_by_foreign, seen_by_node);
    let link: Arc<dyn Link> = wire.ends[0].clone();
    Foreign { link, messages: got_messages, requests: got_requests, wire }
}

/// A message written as its JSON.
pub fn message(value: Value) -> Message {
    serde_json::from_value::<Message>(value).unwrap()
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
