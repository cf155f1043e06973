//! Links in memory, to be cut and frozen, and a program that speaks over one by hand.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use relay_fed::{
    Link, LinkEvents,
    link::{Answered, Answering, ByteStream, Lane, LinkError, LinkStats, Peer, Role},
};
use relay_proto::{SigningKey, link::Message};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Node, id};

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
