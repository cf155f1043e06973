//! Conversations of other homes as this relay's clients follow them: one stream from the home for each conversation,
//! handed on here to everybody who follows it.
//!
//! Whoever follows reads first, page by page, from the home, on their own grant; then they join the feed here, as they
//! would at home. When the way to the home breaks, the stream is asked for again after the last message that came, with
//! the users who follow, so that those who were removed meanwhile are told. So nothing is missed, nothing comes twice.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ahash::RandomState;
use bytes::Bytes;
use dashmap::DashMap;
use futures_util::StreamExt;
use relay_actors::BodyStream;
use relay_core::{
    conversations::{Followed, Following, Page, PageRequest, Start},
    fanout::{Outbox, SubscriptionId},
    feed::Feed,
};
use relay_proto::{
    Code, NodeId, Problem, RelayId,
    conv::{Caller, ConvId},
};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use tokio_util::sync::CancellationToken;

use super::afar::Home;
use crate::{
    homes::{
        sse::{Event, Parser},
        wire::{Carried, problem_of},
    },
    node::Node,
};

/// The first wait before the home is asked again; doubles up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A home says something every 15 seconds.
const LONGEST_SILENCE: Duration = Duration::from_secs(45);

type Key = (RelayId, ConvId);
type Map = DashMap<Key, Weak<Tail>, RandomState>;

/// Every conversation of another home that somebody here follows.
#[derive(Debug, Default)]
pub(super) struct Tails(Arc<Map>);

/// One of them. Ends with its last reader.
#[derive(Debug)]
struct Tail {
    key: Key,
    feed: Feed,
    /// Those who follow, with their grants.
    readers: Mutex<HashMap<SubscriptionId, Caller, RandomState>>,
    began: AtomicBool,
    over: CancellationToken,
    tails: Weak<Map>,
}

/// Where a reader begins, as the home says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Window {
    pub next_seq: u64,
    pub latest_seq: u64,
}

/// A page of the log, as the home says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Frames {
    /// `seq` and frame.
    pub frames: Vec<(u64, Box<RawValue>)>,
    pub more: bool,
    /// How long the next page should be.
    pub limit: u64,
}

/// What the home is asked for a stream.
#[derive(Debug, Serialize, Deserialize)]
pub struct TailAsked {
    pub conv_id: ConvId,
    pub after_seq: u64,
    /// Who follows here.
    pub users: Vec<NodeId>,
}

/// The body of `conv.removed`: they may not read on.
#[derive(Debug, Serialize, Deserialize)]
pub struct Removed {
    pub users: Vec<NodeId>,
}

impl Tails {
    fn of(&self, home: &RelayId, conv: &ConvId) -> Arc<Tail> {
        let key = (home.clone(), conv.clone());
        let mut slot = self.0.entry(key.clone()).or_default();
        if let Some(tail) = slot.upgrade() {
            return tail;
        }
        let tail = Arc::new(Tail {
            key,
            feed: Feed::default(),
            readers: Mutex::default(),
            began: AtomicBool::new(false),
            over: CancellationToken::new(),
            tails: Arc::downgrade(&self.0),
        });
        *slot = Arc::downgrade(&tail);
        tail
    }

    /// How many streams of homes are followed.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl Tail {
    fn readers(&self) -> MutexGuard<'_, HashMap<SubscriptionId, Caller, RandomState>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expel(&self, users: &[NodeId]) {
        self.feed.expel(users);
        self.readers().retain(|_, reader| !users.contains(&reader.user));
    }

    /// Somebody who follows and whose grant is good now, with it.
    fn reader(&self, node: &Node) -> Option<(NodeId, String)> {
        let readers = self.readers();
        readers.values().find_map(|reader| Some((reader.user, node.grant_of(reader).ok()?)))
    }
}

impl Followed for Tail {
    fn feed(&self) -> &Feed {
        &self.feed
    }

    fn left(&self, id: SubscriptionId) {
        self.feed.leave(id);
        self.readers().remove(&id);
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.over.cancel();
        if let Some(tails) = self.tails.upgrade() {
            tails.remove_if(&self.key, |_, tail| tail.strong_count() == 0);
        }
    }
}

impl Node {
    /// How many conversations of other homes are followed here.
    pub fn followed_afar(&self) -> usize {
        self.afar.tails.len()
    }

    /// Begins to follow a conversation, wherever its home is.
    ///
    /// # Errors
    /// `forbidden`, `replay_window_exceeded`; `home_unreachable`, `unauthorized` where the home is another relay.
    pub async fn follow(
        self: &Arc<Self>,
        caller: &Caller,
        conv: ConvId,
        start: Start,
        id: SubscriptionId,
        outbox: Arc<Outbox>,
    ) -> Result<Following, Problem> {
        let home =
            if self.afar.is_alone() { Home::Here } else { self.place_of(caller, &conv).await? };
        let Home::At(home) = home else {
            return self.conversations.follow(caller, conv, start, id, outbox).await;
        };
        let grant = self.grant_of(caller)?;
        let tail = self.afar.tails.of(&home, &conv);
        tail.feed.enrol(id, caller.user, outbox);
        tail.readers().insert(id, caller.clone());
        let log: Arc<dyn Followed> = tail.clone();
        // From here on it is given back whatever happens.
        let mut following =
            Following::new(id, caller.clone(), conv.clone(), Some(home.clone()), log);
        let from_seq = match start {
            Start::From(seq) => Some(seq),
            Start::Cursor => None,
        };
        let body = json!({ "conv_id": conv, "from_seq": from_seq });
        let carried = Carried::post_value("/v1/homes/window", &body)?;
        let Window { next_seq, latest_seq } = self.ask_for(&home, &carried, Some(grant)).await?;
        (following.next_seq, following.latest_seq) = (next_seq.max(1), latest_seq);
        if !tail.began.swap(true, Ordering::AcqRel) {
            let run = run(self.clone(), Arc::downgrade(&tail), tail.over.clone(), latest_seq);
            self.tasks.spawn(run);
        }
        Ok(following)
    }

    /// What comes next in the log for a reader, and how long the page after it should be. A home that is out of reach
    /// is waited for.
    ///
    /// # Errors
    /// `forbidden`, `replay_window_exceeded`, `unauthorized`.
    pub async fn page(self: &Arc<Self>, request: PageRequest) -> Result<(Page, u64), Problem> {
        let Some(home) = &request.home else { return self.conversations.page(request).await };
        let body = json!({
            "conv_id": request.conv, "from_seq": request.from_seq, "limit": request.limit,
        });
        let carried = Carried::post_value("/v1/homes/log", &body)?;
        let mut wait = FIRST_WAIT;
        loop {
            let grant = self.grant_of(&request.reader)?;
            match self.ask_for::<Frames>(home, &carried, Some(grant)).await {
                Ok(Frames { frames, more, limit }) => {
                    let text =
                        |frame: Box<RawValue>| Bytes::from(String::from(Box::<str>::from(frame)));
                    let frames =
                        frames.into_iter().map(|(seq, frame)| (seq, text(frame))).collect();
                    return Ok((Page { frames, more }, limit));
                }
                Err(problem) if !passes(&problem) => return Err(problem),
                Err(_) => self.wait_for_ways(&mut wait).await,
            }
        }
    }

    /// Waits until there may be a way again, longer each time.
    async fn wait_for_ways(&self, wait: &mut Duration) {
        // A link that is back is noticed sooner than the wait is over.
        let mut changes = self.federated().federation.changes();
        tokio::time::sleep(FIRST_WAIT).await;
        let _ = tokio::time::timeout(*wait, changes.changed()).await;
        *wait = (*wait * 2).min(LONGEST_WAIT);
    }
}

/// Whether the home may well answer otherwise in a moment.
fn passes(problem: &Problem) -> bool {
    matches!(
        problem.code,
        Code::HomeUnreachable | Code::Timeout | Code::RateLimited | Code::InternalError
    )
}

/// Follows the home until nobody follows here.
async fn run(node: Arc<Node>, tail: Weak<Tail>, over: CancellationToken, mut after: u64) {
    let mut wait = FIRST_WAIT;
    let follow = async {
        loop {
            let Some(strong) = tail.upgrade() else { return };
            let home = strong.key.0.clone();
            let Ok(carried) = asked(&strong, after) else { return };
            let reader = strong.reader(&node);
            drop(strong);
            let Some((user, grant)) = reader else {
                // Grants have run out; whoever comes back brings another.
                tokio::time::sleep(LONGEST_WAIT / 10).await;
                continue;
            };
            match node.ask(&home, &carried, Some(grant)).await {
                Ok((answer, Some(stream))) if answer.is_success() => {
                    let before = after;
                    read(&tail, stream, &mut after).await;
                    if after > before {
                        wait = FIRST_WAIT;
                    }
                }
                Ok((answer, _)) => {
                    let members = answer.body.as_ref().map(|body| serde_json::from_str(body.get()));
                    let problem = problem_of(members.and_then(Result::ok).unwrap_or_default());
                    let Some(tail) = tail.upgrade() else { return };
                    refused(&tail, &problem, user, &mut after);
                }
                Err(problem) => {
                    tracing::debug!(%problem, "a conversation's home does not answer");
                }
            }
            node.wait_for_ways(&mut wait).await;
        }
    };
    tokio::select! {
        () = over.cancelled() => {}
        () = node.stop.cancelled() => {}
        () = follow => {}
    }
}

/// What the home is asked.
fn asked(tail: &Tail, after_seq: u64) -> Result<Carried, Problem> {
    let users = tail.feed.users();
    let asked = TailAsked { conv_id: tail.key.1.clone(), after_seq, users };
    Carried::post_value("/v1/homes/tail", &asked)
}

/// The home does not go on with it for this user.
fn refused(tail: &Tail, problem: &Problem, user: NodeId, after: &mut u64) {
    match problem.code {
        Code::Forbidden => tail.expel(&[user]),
        Code::ReplayWindowExceeded => {
            // Each reader finds out for itself what it has missed.
            let earliest = problem.extra.get("earliest_seq").and_then(serde_json::Value::as_u64);
            *after = earliest.unwrap_or(*after + 1).saturating_sub(1).max(*after);
            tail.feed.skip_to(*after);
        }
        _ => {}
    }
}

/// Hands on what comes, until the way breaks or the home ends it.
async fn read(tail: &Weak<Tail>, mut stream: BodyStream, after: &mut u64) {
    let mut parser = Parser::default();
    loop {
        let next = tokio::time::timeout(LONGEST_SILENCE, stream.next()).await;
        let Ok(Some(Ok(bytes))) = next else { return };
        if !parser.add(&bytes) {
            return;
        }
        while let Some(found) = parser.next() {
            let Some(event) = found else { continue };
            let Some(tail) = tail.upgrade() else { return };
            if !take(&tail, event, after) {
                return;
            }
        }
    }
}

/// Takes one event; whether the stream goes on.
fn take(tail: &Tail, event: Event, after: &mut u64) -> bool {
    match event.t.as_str() {
        "conv.event" => {
            let Some(seq) = event.id.as_deref().and_then(|id| id.parse::<u64>().ok()) else {
                return false;
            };
            if seq > *after {
                tail.feed.publish(seq, &Bytes::from(event.data));
                *after = seq;
            }
            true
        }
        "conv.removed" => {
            #[derive(Deserialize)]
            struct Frame {
                body: Removed,
            }
            match serde_json::from_str::<Frame>(&event.data) {
                Ok(frame) => tail.expel(&frame.body.users),
                Err(_) => return false,
            }
            true
        }
        _ => false,
    }
}
