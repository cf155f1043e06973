//! The subscriptions of one connection, be it a socket or an SSE answer: first from the store, page by
//! page, then live.

use std::{collections::HashMap, sync::Arc};

use axum::extract::ws::Utf8Bytes;
use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{AbortHandle, Abortable, BoxStream, FuturesUnordered, SelectAll},
};
use relay_core::{
    events::{Question, check_filters},
    fanout::{Item, JoinLive, LockWatch, Outbox, OutboxLimits, ReadScope, SubscriptionId},
    policy::quota::SubscriptionPermit,
    presence::Guest,
};
use relay_node::{Node, Reader, chat::Listening};
use relay_proto::{
    Code, Cursor, Filter, Namespace, Position, Problem, conv,
    frame::{encode, encode_error},
    name::DEFAULT_NAMESPACE,
};
use relay_store::{Order, Page};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    feeds::{Feeds, Step, text},
    homes::{Piece, Tail},
};

/// Subscriptions and watches of one connection.
const MAX_PER_CONNECTION: usize = 1_000;
/// Events fetched at once while catching up.
const PAGE: usize = 256;
/// Longest name of a subscription in bytes.
const MAX_NAME: usize = 128;

#[derive(Deserialize)]
pub(crate) struct Subscribe {
    pub sub: String,
    #[serde(default)]
    pub filters: Vec<Filter>,
    pub after: Option<String>,
    pub live: Option<bool>,
    #[serde(default)]
    pub history: bool,
}

#[derive(Deserialize)]
pub(crate) struct Unsubscribe {
    sub: String,
}

#[derive(Deserialize)]
pub(crate) struct WatchLock {
    pub ns: Option<Namespace>,
    pub resource: Option<String>,
}

impl WatchLock {
    /// What the watch is called among the subscriptions of its connection.
    pub fn name(&self) -> String {
        watch_name(self.ns.as_ref().unwrap_or(&Namespace::default()), self.resource.as_ref())
    }
}

fn watch_name(ns: &Namespace, resource: Option<&impl std::fmt::Debug>) -> String {
    format!("\0lock {ns} {resource:?}")
}

/// A frame to be sent, with what SSE wants to know of it.
pub(crate) struct Sent {
    /// The frame's `t`.
    pub t: &'static str,
    /// The `seq` that a reader of this frame has reached.
    pub seq: Option<u64>,
    pub text: Utf8Bytes,
}

impl Sent {
    /// A frame that was encoded before.
    pub fn event(t: &'static str, seq: u64, frame: Bytes) -> Option<Self> {
        Some(Self::new(t, Some(seq), text(frame)?))
    }

    pub fn new(t: &'static str, seq: Option<u64>, text: impl Into<Utf8Bytes>) -> Self {
        Self { t, seq, text: text.into() }
    }
}

pub(crate) struct Subscriptions {
    node: Arc<Node>,
    pub outbox: Arc<Outbox>,
    /// Boxed, since the table has room for more than the one subscription that most connections have.
    by_id: HashMap<SubscriptionId, Box<Subscription>, ahash::RandomState>,
    names: HashMap<String, SubscriptionId, ahash::RandomState>,
    fetching: FuturesUnordered<BoxFuture<'static, Fetched>>,
    /// Conversations and the inbox, once the first of them is followed.
    feeds: Option<Box<Feeds>>,
    /// Streams of other homes. Boxed, since most connections have none.
    followed: Option<Box<FollowedTails>>,
    /// Hears of presence for a user of this relay.
    listening: Option<Listening>,
    /// Hears of presence for a user of another relay.
    guest: Option<Guest>,
}

/// Streams of other homes that this connection follows.
#[derive(Default)]
struct FollowedTails {
    tails: SelectAll<BoxStream<'static, (Arc<Following>, Piece)>>,
    /// Ends them by their name; what is under way then is dropped.
    names: HashMap<String, AbortHandle, ahash::RandomState>,
}

/// What the stream of a device's inbox is called.
pub(crate) const INBOX: &str = "\0inbox";

impl FollowedTails {
    /// What another home sent next; `None` while nothing is followed.
    async fn next(&mut self) -> Option<Sent> {
        loop {
            let (following, piece) = self.tails.next().await?;
            let text = match piece {
                Piece::Quiet => continue,
                // Who watches over a socket asks for the state when it wants it; only what changed
                // while the way was broken is told by it.
                Piece::Event(event) if event.t == "lock.state" && !event.resumed => continue,
                Piece::Event(event) if !matches!(&*event.t, "stream.closed" | "error") => {
                    return Some(Sent::new("stream.event", None, event.data));
                }
                Piece::Event(event) => event.data,
                Piece::Refused(problem) => encode_error(following.frame.as_deref(), &problem),
                Piece::Ended { problem, .. } if following.name == INBOX => {
                    encode_error(None, &problem)
                }
                Piece::Ended { problem, cursor } => {
                    let mut body = problem.members();
                    body.insert("sub".into(), following.name.as_str().into());
                    body.insert("cursor".into(), cursor.into());
                    encode("stream.closed", None, &body)
                }
            };
            self.names.remove(&following.name);
            return Some(Sent::new("stream.closed", None, text));
        }
    }
}

/// What a stream of another home is called here.
struct Following {
    name: String,
    /// The id of the frame that asked for it.
    frame: Option<String>,
}

struct Subscription {
    name: String,
    reader: Reader,
    filters: Vec<Filter>,
    history: bool,
    live: bool,
    /// What its frames begin with.
    head: Bytes,
    /// The `seq` after which it began.
    start: u64,
    /// Everything up to this `seq` was sent or looked at.
    seen: u64,
    /// Whether `stream.live` was sent.
    told_live: bool,
    _permit: SubscriptionPermit,
}

/// Something was read from the store.
pub(crate) enum Fetched {
    /// A page for one subscription.
    Events {
        id: SubscriptionId,
        page: Result<Page, Problem>,
    },
    Feed(Box<Step>),
    /// A frame of another home.
    Followed(Sent),
}

impl Subscriptions {
    pub fn new(node: Arc<Node>) -> Self {
        let limits = OutboxLimits {
            frames: node.live().chat.queue_frames as usize,
            ..OutboxLimits::default()
        };
        Self {
            node,
            outbox: Arc::new(Outbox::new(limits)),
            by_id: HashMap::default(),
            names: HashMap::default(),
            fetching: FuturesUnordered::new(),
            followed: None,
            listening: None,
            guest: None,
            feeds: None,
        }
    }

    /// Hears of presence for a user, in place of another one.
    pub fn listen(&mut self, user: &conv::Caller) {
        self.listening = Some(self.node.listen(user, &self.outbox));
    }

    /// Hears no more of presence.
    pub fn hush(&mut self) {
        self.listening = None;
    }

    /// Keeps a guest for as long as this lives.
    pub fn keep(&mut self, guest: Guest) {
        self.guest = Some(guest);
    }

    /// What is followed besides the event log.
    pub fn feeds(&mut self) -> &mut Feeds {
        self.feeds
            .get_or_insert_with(|| Box::new(Feeds::new(self.node.clone(), self.outbox.clone())))
    }

    /// Begins a subscription; one of the same name ends.
    pub async fn subscribe(&mut self, reader: Reader, asked: Subscribe) -> Result<(), Problem> {
        if asked.sub.is_empty() || asked.sub.len() > MAX_NAME {
            return Err(Problem::invalid(format!("sub is a name of 1 to {MAX_NAME} bytes")));
        }
        check_filters(&asked.filters)?;
        for ns in asked.filters.iter().flat_map(|filter| &filter.ns) {
            if !reader.may_read(ns) {
                return Err(Problem::forbidden(format!("namespace {ns} is not readable for you")));
            }
        }
        let after = asked.after.as_deref().map(|text| self.position(text)).transpose()?;
        if let Some(after) = after {
            self.check_window(&reader, &asked.filters, after).await?;
        }
        if self.names.len() >= MAX_PER_CONNECTION && !self.names.contains_key(&asked.sub) {
            let message = format!("at most {MAX_PER_CONNECTION} subscriptions a connection");
            return Err(Problem::new(Code::LimitExceeded, message));
        }
        let tenant = asked
            .filters
            .iter()
            .find_map(|filter| filter.ns.first())
            .map_or(DEFAULT_NAMESPACE, |ns| ns.tenant());
        let permit = self.node.quotas.subscribe(tenant)?;
        self.end_named(&asked.sub).await;
        let id = self.node.fanout.new_id();
        let live = asked.live.unwrap_or(true);
        let filters =
            if asked.filters.is_empty() { vec![Filter::default()] } else { asked.filters };
        let sub = Subscription {
            head: head(&asked.sub),
            name: asked.sub.clone(),
            reader,
            filters,
            history: asked.history,
            live,
            start: after.unwrap_or(0),
            seen: after.unwrap_or_else(|| self.node.events.committed_seq()),
            told_live: false,
            _permit: permit,
        };
        self.names.insert(asked.sub, id);
        match after {
            None if live => self.join(id, &sub, None).await,
            _ => self.fetch(id, &sub),
        }
        self.by_id.insert(id, Box::new(sub));
        Ok(())
    }

    /// Begins to pass on a stream of another home; one of the same name ends.
    pub async fn follow(
        &mut self,
        name: String,
        frame: Option<String>,
        tail: Tail,
    ) -> Result<(), Problem> {
        if name.is_empty() || name.len() > MAX_NAME && !name.starts_with('\0') {
            return Err(Problem::invalid(format!("sub is a name of 1 to {MAX_NAME} bytes")));
        }
        let already = self.followed.as_ref().map_or(0, |followed| followed.names.len());
        if self.names.len() + already >= MAX_PER_CONNECTION {
            let message = format!("at most {MAX_PER_CONNECTION} subscriptions a connection");
            return Err(Problem::new(Code::LimitExceeded, message));
        }
        self.end_named(&name).await;
        let followed = self.followed.get_or_insert_default();
        let (handle, registration) = AbortHandle::new_pair();
        followed.names.insert(name.clone(), handle);
        let following = Arc::new(Following { name, frame });
        let pieces =
            futures_util::stream::unfold((tail, following), |(mut tail, following)| async move {
                let piece = tail.next().await?;
                Some(((following.clone(), piece), (tail, following)))
            });
        followed.tails.push(Abortable::new(pieces, registration).boxed());
        Ok(())
    }

    pub async fn unsubscribe(&mut self, asked: Unsubscribe) -> Result<(), Problem> {
        if self.end_named(&asked.sub).await {
            Ok(())
        } else {
            Err(Problem::not_found(format!("no subscription '{}'", asked.sub)))
        }
    }

    /// Begins to tell of changes of a lock, or of all in a namespace.
    pub async fn watch_lock(&mut self, reader: &Reader, asked: WatchLock) -> Result<(), Problem> {
        let ns = asked.ns.unwrap_or_default();
        if !reader.may_read(&ns) {
            return Err(Problem::forbidden(format!("namespace {ns} is not readable for you")));
        }
        let resource = asked
            .resource
            .map(|text| text.parse().map_err(|error| Problem::invalid(format!("{error}"))))
            .transpose()?;
        let name = watch_name(&ns, resource.as_ref());
        if self.names.contains_key(&name) {
            return Ok(());
        }
        if self.names.len() >= MAX_PER_CONNECTION {
            let message = format!("at most {MAX_PER_CONNECTION} watches a connection");
            return Err(Problem::new(Code::LimitExceeded, message));
        }
        let id = self.node.fanout.new_id();
        self.names.insert(name, id);
        let outbox = self.outbox.clone();
        self.node.fanout.watch(LockWatch { id, outbox, ns, resource }).await;
        Ok(())
    }

    /// The next page that was fetched; never completes while none is under way.
    pub async fn next_page(&mut self) -> Option<Fetched> {
        let Self { fetching, feeds, followed, .. } = self;
        if feeds.is_none() && followed.is_none() {
            return fetching.next().await;
        }
        let step = async { feeds.as_mut()?.next_step().await };
        let sent = async { followed.as_mut()?.next().await };
        tokio::select! {
            Some(fetched) = fetching.next() => Some(fetched),
            Some(step) = step => Some(Fetched::Feed(Box::new(step))),
            Some(sent) = sent => Some(Fetched::Followed(sent)),
            else => None,
        }
    }

    /// The frames of a page; then the next page is fetched, or the subscription joins the live tail.
    pub async fn take_page(&mut self, fetched: Fetched) -> Vec<Sent> {
        let (id, page) = match fetched {
            Fetched::Events { id, page } => (id, page),
            Fetched::Feed(step) => return self.feeds().take_step(*step),
            Fetched::Followed(sent) => return vec![sent],
        };
        let Some(mut sub) = self.by_id.remove(&id) else { return Vec::new() };
        let page = match page {
            Ok(page) => page,
            Err(problem) => {
                // One that lagged is still known there.
                self.node.fanout.leave(id).await;
                return vec![self.close(&sub, problem.members())];
            }
        };
        let log = self.node.events.log_id();
        let mut frames: Vec<Sent> = page
            .events
            .iter()
            .map(|event| {
                Sent::new("stream.event", Some(event.seq), event_frame(&sub.head, log, event))
            })
            .collect();
        let more = page.next.is_some();
        sub.seen = page.through_seq.max(sub.seen);
        if more {
            self.fetch(id, &sub);
        } else if sub.live {
            self.join(id, &sub, Some(sub.seen)).await;
        } else {
            frames.push(self.live_frame(&sub));
            frames.push(self.close(&sub, closing("done", "everything was sent")));
            return frames;
        }
        self.by_id.insert(id, sub);
        frames
    }

    /// What an item of the outbox makes to be sent.
    pub fn take_item(&mut self, item: Item) -> Option<Sent> {
        match item {
            Item::Event { to, frame, seq } => {
                let Some(sub) = self.by_id.get_mut(&to) else {
                    return self.feeds.as_mut()?.take_event(to, frame, seq);
                };
                sub.seen = seq.max(sub.seen);
                let position = (seq > 0).then_some(seq);
                Some(Sent::new("stream.event", position, text(frame)?))
            }
            Item::Frame(frame) => Some(Sent::new("lock.changed", None, text(frame)?)),
            Item::Live { to, seq } => {
                let sub = self.by_id.get_mut(&to)?;
                sub.seen = seq.max(sub.seen);
                if std::mem::replace(&mut sub.told_live, true) {
                    return None;
                }
                let sub = self.by_id.get(&to)?;
                Some(self.live_frame(sub))
            }
            Item::Expelled { to } => self.feeds.as_mut()?.expelled(to),
            Item::Removed { to, users } => self.feeds.as_mut()?.removed(to, &users),
            Item::State { frame, .. } => Some(Sent::new("presence.update", None, text(frame)?)),
            Item::Lagging { to, after_seq, remembered } => {
                let Some(mut sub) = self.by_id.remove(&to) else {
                    self.feeds.as_mut()?.lag(to, after_seq);
                    return None;
                };
                sub.seen = after_seq;
                let joined = remembered
                    && self.node.fanout.try_join(self.joining(to, &sub, Some(after_seq)));
                if !joined {
                    self.fetch(to, &sub);
                }
                self.by_id.insert(to, sub);
                None
            }
            Item::Dropped { to, count } => {
                let name = self.by_id.get(&to).map_or("", |sub| sub.name.as_str());
                let body = json!({"sub": name, "dropped": count});
                Some(Sent::new("stream.gap", None, encode("stream.gap", None, &body)))
            }
        }
    }

    /// Whether anything is still subscribed or watched.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
            && self.guest.is_none()
            && self.feeds.as_ref().is_none_or(|feeds| feeds.is_empty())
    }

    /// The last words to a connection that does not read: where each subscription can go on.
    pub fn farewells(&self) -> Vec<Sent> {
        let code = Code::SlowConsumer.as_str();
        let body = || closing(code, "nothing was read for too long");
        let mut sent: Vec<Sent> =
            self.by_id.values().map(|sub| self.closed_frame(sub, body())).collect();
        if self.feeds.as_ref().is_some_and(|feeds| !feeds.is_empty()) {
            let problem = Problem::new(Code::SlowConsumer, "nothing was read for too long");
            sent.push(Sent::new("error", None, encode_error(None, &problem)));
        }
        sent
    }

    pub async fn leave_all(&mut self) {
        for (_, id) in self.names.drain() {
            self.node.fanout.leave(id).await;
        }
        self.by_id.clear();
        self.feeds = None;
        self.listening = None;
        self.guest = None;
    }

    async fn end_named(&mut self, name: &str) -> bool {
        let followed = self.followed.as_mut().and_then(|followed| followed.names.remove(name));
        if let Some(handle) = followed {
            handle.abort();
            return true;
        }
        let Some(id) = self.names.remove(name) else { return false };
        self.by_id.remove(&id);
        self.node.fanout.leave(id).await;
        true
    }

    /// Ends a subscription that is out of the live tail.
    fn close(&mut self, sub: &Subscription, why: Map<String, Value>) -> Sent {
        self.names.remove(&sub.name);
        self.closed_frame(sub, why)
    }

    fn closed_frame(&self, sub: &Subscription, why: Map<String, Value>) -> Sent {
        let mut body = why;
        body.insert("sub".into(), sub.name.as_str().into());
        body.insert("cursor".into(), self.cursor(sub).into());
        Sent::new("stream.closed", Some(sub.seen), encode("stream.closed", None, &body))
    }

    fn live_frame(&self, sub: &Subscription) -> Sent {
        let body = json!({"sub": sub.name, "cursor": self.cursor(sub)});
        Sent::new("stream.live", Some(sub.seen), encode("stream.live", None, &body))
    }

    fn cursor(&self, sub: &Subscription) -> String {
        self.node.events.cursor(Position::AfterSeq(sub.seen))
    }

    fn fetch(&self, id: SubscriptionId, sub: &Subscription) {
        let node = self.node.clone();
        let reader = sub.reader.clone();
        let question = Question {
            filters: sub.filters.clone(),
            history: sub.history,
            order: Order::Seq,
            limit: PAGE,
            cursor: Some(node.events.cursor(Position::AfterSeq(sub.seen))),
        };
        self.fetching.push(Box::pin(async move {
            let page = node.events.page(&reader, question).await.map(|(page, _)| page);
            Fetched::Events { id, page }
        }));
    }

    async fn join(&mut self, id: SubscriptionId, sub: &Subscription, after_seq: Option<u64>) {
        self.node.fanout.join(self.joining(id, sub, after_seq)).await;
    }

    fn joining(&self, id: SubscriptionId, sub: &Subscription, after_seq: Option<u64>) -> JoinLive {
        JoinLive {
            id,
            outbox: self.outbox.clone(),
            filters: sub.filters.clone(),
            scope: Arc::new(sub.reader.clone()),
            history: sub.history,
            head: sub.head.clone(),
            after_seq,
            ephemerals_from: (after_seq.is_some() && !sub.told_live).then_some(sub.start),
            now_ns: self.node.clock.wall_ns(),
        }
    }

    fn position(&self, text: &str) -> Result<u64, Problem> {
        if text.is_empty() {
            return Ok(0);
        }
        match Cursor::decode(text, self.node.events.log_id())?.position {
            Position::AfterSeq(seq) => Ok(seq),
            _ => Err(Problem::invalid("the cursor belongs to another order; use one of order=seq")),
        }
    }

    /// A cursor from before what retention removed is refused at once, and not after the first page.
    async fn check_window(
        &mut self,
        reader: &Reader,
        filters: &[Filter],
        after: u64,
    ) -> Result<(), Problem> {
        let question = Question {
            filters: filters.to_vec(),
            order: Order::Seq,
            limit: 1,
            cursor: Some(self.node.events.cursor(Position::AfterSeq(after))),
            history: true,
        };
        if after == 0 {
            return Ok(());
        }
        self.node.events.check_window(reader, &question).await
    }
}

fn closing(code: &str, message: &str) -> Map<String, Value> {
    Map::from_iter([("code".into(), code.into()), ("message".into(), message.into())])
}

/// `{"v":1,"t":"stream.event","body":{"sub":"…",`
pub(crate) fn head(name: &str) -> Bytes {
    let name = Value::from(name);
    format!(r#"{{"v":1,"t":"stream.event","body":{{"sub":{name},"#).into()
}

fn event_frame(head: &[u8], log: u32, event: &relay_store::StoredEvent) -> String {
    let cursor = Cursor { log, position: Position::AfterSeq(event.seq) }.encode();
    let head = String::from_utf8_lossy(head);
    let json = String::from_utf8_lossy(&event.json);
    format!(r#"{head}"cursor":"{cursor}","event":{json}}}}}"#)
}
