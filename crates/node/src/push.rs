//! "Something is there": a push without content to devices that are not connected (RFC 8030, RFC 8292).
//!
//! The push service learns that something is there for an address that it gave out itself: no sender, no text, no
//! conversation. Off until `push.contact` is set. One task does it all: it hears what is new, looks who wants to know,
//! and sends each device at most one push at a time and one in `push.every`.

mod vapid;

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use relay_core::{failure::store_problem, news::Place};
use relay_proto::{NodeId, Problem, auth::DeviceId};
use relay_store::chat::PushTarget;
use reqwest::{StatusCode, Url, header::RETRY_AFTER};
use tokio::{task::JoinSet, time::Instant};

use crate::{config, egress, node::Node};

pub use vapid::VapidKey;

/// Time for one answer of a push service.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pushes under way at a time.
const MAX_SENDING: usize = 16;
/// Devices that wait for their turn.
const MAX_WAITING: usize = 100_000;
/// How often one push is tried.
const MAX_TRIES: u32 = 5;
/// Longest address at a push service.
const MAX_ENDPOINT: usize = 2_048;

/// What pushing needs.
#[derive(Debug)]
pub struct Push {
    settings: config::Push,
    key: VapidKey,
    client: reqwest::Client,
    stats: PushStats,
}

/// What operators want to know.
#[derive(Debug, Default)]
pub struct PushStats {
    pub sent: AtomicU64,
    pub failed: AtomicU64,
    /// Addresses that the push service did not know any more.
    pub gone: AtomicU64,
}

/// Why pushing cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("push.key in the data directory: {0}")]
    Key(#[from] vapid::KeyError),
    #[error("no client for push services: {0}")]
    Client(#[from] reqwest::Error),
}

impl Push {
    /// `None` where the operator did not set it up.
    pub(crate) fn open(settings: &config::Push, dir: &Path) -> Result<Option<Self>, PushError> {
        if settings.contact.is_empty() {
            return Ok(None);
        }
        let client = egress::client(settings.allow_private, PATIENCE)?;
        let key = VapidKey::open(&dir.join("push.key"))?;
        Ok(Some(Self { settings: settings.clone(), key, client, stats: PushStats::default() }))
    }

    /// What browsers ask their push service with: `applicationServerKey`.
    pub fn public_key(&self) -> &str {
        self.key.public()
    }

    pub fn stats(&self) -> &PushStats {
        &self.stats
    }

    /// Whether devices may be pushed to there.
    ///
    /// # Errors
    /// `invalid_request`.
    pub fn check_endpoint(&self, endpoint: &str) -> Result<(), Problem> {
        if endpoint.len() > MAX_ENDPOINT {
            return Err(Problem::invalid("endpoint: longer than 2048 bytes"));
        }
        match egress::check_url(endpoint, self.settings.allow_private) {
            Ok(_) => Ok(()),
            Err(why) => Err(Problem::invalid(format!("endpoint: {why}"))),
        }
    }

    /// Sends one push; how long to wait where it should be tried again.
    async fn send(&self, endpoint: &str, now_s: u64) -> Sent {
        let Ok(url) = Url::parse(endpoint) else { return Sent::Gone };
        if self.check_endpoint(endpoint).is_err() {
            return Sent::Gone;
        }
        let origin = url.origin().ascii_serialization();
        let Ok(proof) = self.key.proof(&origin, &self.settings.contact, now_s) else {
            return Sent::Again(None);
        };
        let request = self
            .client
            .post(url)
            .header("authorization", proof)
            .header("ttl", self.settings.ttl.as_secs())
            .header("urgency", "normal")
            // One that still waits at the push service is replaced.
            .header("topic", "relay")
            .header("content-length", 0);
        match request.send().await {
            Err(_) => Sent::Again(None),
            Ok(answer) => match answer.status() {
                StatusCode::NOT_FOUND | StatusCode::GONE => Sent::Gone,
                status if status.is_success() => Sent::Done,
                StatusCode::TOO_MANY_REQUESTS => {
                    let wait = answer.headers().get(RETRY_AFTER).and_then(|at| at.to_str().ok());
                    Sent::Again(wait.and_then(|text| text.parse().ok()).map(Duration::from_secs))
                }
                status if status.is_server_error() => Sent::Again(None),
                _ => Sent::Refused,
            },
        }
    }
}

enum Sent {
    Done,
    Gone,
    Refused,
    Again(Option<Duration>),
}

type Key = (NodeId, DeviceId);

/// One device's turn.
#[derive(Debug)]
struct Turn {
    endpoint: String,
    /// Not before this.
    next: Instant,
    /// Something is there that the device was not told of.
    pending: bool,
    sending: bool,
    tries: u32,
}

/// Pushes until the node stops.
pub(crate) async fn run(node: Weak<Node>) {
    let Some(strong) = node.upgrade() else { return };
    let Some(push) = strong.push.clone() else { return };
    let (stop, news) = (strong.stop.clone(), strong.inboxes.news().listen());
    drop(strong);
    let mut turns: HashMap<Key, Turn> = HashMap::new();
    let mut sending: JoinSet<(Key, Sent)> = JoinSet::new();
    loop {
        let due = turns.values().filter(|turn| turn.pending && !turn.sending);
        let next = due.map(|turn| turn.next).min().unwrap_or(Instant::now() + push.settings.every);
        tokio::select! {
            () = stop.cancelled() => return,
            Some(Ok((key, sent))) = sending.join_next() => {
                let Some(node) = node.upgrade() else { return };
                ended(&node, &push, &mut turns, key, sent).await;
            }
            places = news.take() => {
                let Some(node) = node.upgrade() else { return };
                for place in places {
                    for target in targets(&node, place).await {
                        want(&node, &mut turns, target);
                    }
                }
            }
            () = tokio::time::sleep_until(next), if sending.len() < MAX_SENDING => {}
        }
        let now = Instant::now();
        let Some(node) = node.upgrade() else { return };
        for (key, turn) in &mut turns {
            if sending.len() >= MAX_SENDING {
                break;
            }
            if !turn.pending || turn.sending || turn.next > now {
                continue;
            }
            turn.pending = false;
            // Whoever came meanwhile has heard of it.
            if node.connections.is_connected(&key.0, &key.1) {
                continue;
            }
            turn.sending = true;
            turn.next = now + push.settings.every;
            let (push, key, endpoint) = (push.clone(), key.clone(), turn.endpoint.clone());
            let now_s = node.clock.wall_ns() / 1_000_000_000;
            sending.spawn(async move {
                let sent = push.send(&endpoint, now_s).await;
                (key, sent)
            });
        }
        turns.retain(|_, turn| turn.pending || turn.sending || turn.next > now);
    }
}

async fn targets(node: &Node, place: Place) -> Vec<PushTarget> {
    let found = match place {
        Place::Conversation(conv) => node.store.push_targets(conv).await,
        Place::Inbox(user, device) => {
            node.store.push_of(user, device).await.map(|target| target.into_iter().collect())
        }
        Place::Elsewhere(user) => node.store.push_of_user(user).await,
    };
    found.unwrap_or_else(|error| {
        let problem = store_problem(&error);
        tracing::warn!(%problem, "who wants to be pushed to cannot be looked up");
        Vec::new()
    })
}

/// A device has something new, unless it is connected and hears of it anyway.
fn want(node: &Node, turns: &mut HashMap<Key, Turn>, target: PushTarget) {
    let PushTarget { user, device, endpoint } = target;
    if node.connections.is_connected(&user, &device) {
        return;
    }
    let known = turns.contains_key(&(user, device.clone()));
    if !known && turns.len() >= MAX_WAITING {
        return;
    }
    let fresh = Turn {
        endpoint: String::new(),
        next: Instant::now(),
        pending: false,
        sending: false,
        tries: 0,
    };
    let turn = turns.entry((user, device)).or_insert(fresh);
    turn.endpoint = endpoint;
    turn.pending = true;
}

async fn ended(node: &Node, push: &Push, turns: &mut HashMap<Key, Turn>, key: Key, sent: Sent) {
    let Some(turn) = turns.get_mut(&key) else { return };
    turn.sending = false;
    match sent {
        Sent::Done => {
            turn.tries = 0;
            push.stats.sent.fetch_add(1, Ordering::Relaxed);
        }
        Sent::Gone => {
            push.stats.gone.fetch_add(1, Ordering::Relaxed);
            let endpoint = turn.endpoint.clone();
            turns.remove(&key);
            let (user, device) = key;
            let dropped = node.store.drop_push(PushTarget { user, device, endpoint }).await;
            if let Err(error) = dropped {
                tracing::warn!(%error, "a push address that is gone could not be forgotten");
            }
        }
        Sent::Refused => {
            turn.tries = 0;
            push.stats.failed.fetch_add(1, Ordering::Relaxed);
        }
        Sent::Again(wait) => {
            push.stats.failed.fetch_add(1, Ordering::Relaxed);
            turn.tries += 1;
            if turn.tries < MAX_TRIES {
                let longer = push.settings.every * (1 << turn.tries);
                turn.next = Instant::now() + wait.unwrap_or(longer).min(Duration::from_secs(3_600));
                turn.pending = true;
            } else {
                turn.tries = 0;
            }
        }
    }
}
