//! The thread that owns the index.

use std::{
    collections::HashMap,
    fmt,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use ahash::RandomState;
use bytes::Bytes;
use relay_proto::{
    Event, Filter, Namespace, frame,
    lease::{LeaseRow, Resource},
};
use relay_store::Committed;
use smallvec::SmallVec;

use super::{
    index::{Index, Slot},
    outbox::{Item, Outbox},
    recent::{Live, Recent, RecentEphemerals},
};
use crate::histogram::Histogram;

/// Batches that may wait for the thread. Beyond it commits are not announced one by one: everybody lags.
const QUEUE: usize = 1_024;

/// What a reader may see.
pub trait ReadScope: Send + Sync + fmt::Debug {
    fn may_read(&self, ns: &Namespace) -> bool;
}

/// Names a subscription for as long as the relay runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubscriptionId(u64);

#[cfg(test)]
impl SubscriptionId {
    pub(crate) const fn for_tests(number: u64) -> Self {
        Self(number)
    }
}

/// A request to be told of new events.
#[derive(Debug)]
pub struct JoinLive {
    pub id: SubscriptionId,
    pub outbox: Arc<Outbox>,
    pub filters: Vec<Filter>,
    /// What the reader may see, asked anew for each match, so that a change of policy counts at once.
    pub scope: Arc<dyn ReadScope>,
    /// Old versions too.
    pub history: bool,
    /// What the frames begin with, up to `"sub":"…",`.
    pub head: Bytes,
    /// Everything up to this `seq` has been read from the store; `None` joins at the newest.
    pub after_seq: Option<u64>,
    /// Tells ephemeral events too that are still within their window and came no earlier than this `seq`:
    /// where the reader began, since one that came while it caught up is new to it.
    pub ephemerals_from: Option<u64>,
    /// Unix nanoseconds: what has expired by then is left out.
    pub now_ns: u64,
}

/// A request to be told of changes of locks.
#[derive(Debug)]
pub struct LockWatch {
    pub id: SubscriptionId,
    pub outbox: Arc<Outbox>,
    pub ns: Namespace,
    /// `None` watches the whole namespace.
    pub resource: Option<Resource>,
}

enum Message {
    /// With the moment of the announcement.
    Committed(Vec<Committed>, Instant),
    Ephemeral(Event, u64),
    Leases(Vec<LeaseRow>),
    Join(JoinLive),
    Watch(LockWatch),
    Leave(SubscriptionId),
    /// Commits up to this `seq` were not announced.
    Missed(u64),
    Stop,
}

/// Counters, for metrics.
#[derive(Debug, Default)]
pub struct FanoutStats {
    /// Frames put into outboxes.
    pub delivered: AtomicU64,
    /// Subscriptions that went back to the store.
    pub lagged: AtomicU64,
    /// Ephemeral events and lock changes that found no room.
    pub dropped: AtomicU64,
    /// Live subscriptions now.
    pub subscriptions: AtomicU64,
    /// Watches of locks now. While there are none the thread is not woken for changes of locks.
    pub watches: AtomicU64,
    /// From the announcement of a commit to its frames lying in the outboxes.
    pub took: Histogram,
}

/// The callers' side of the fan-out.
pub struct Fanout {
    messages: mpsc::SyncSender<Message>,
    missed: AtomicU64,
    next_id: AtomicU64,
    stats: Arc<FanoutStats>,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Fanout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fanout").field("stats", &self.stats).finish_non_exhaustive()
    }
}

impl Fanout {
    /// Starts the thread. `log` names the log in cursors, `last_seq` is the newest committed event;
    /// ephemeral events are told to those who join within `ephemeral_ms`.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(log: u32, last_seq: u64, ephemeral_ms: u64) -> std::io::Result<Self> {
        let (messages, inbox) = mpsc::sync_channel(QUEUE);
        let stats = Arc::new(FanoutStats::default());
        let thread = std::thread::Builder::new().name("fanout".into()).spawn({
            let stats = stats.clone();
            move || Thread::new(log, last_seq, ephemeral_ms, stats).run(&inbox)
        })?;
        Ok(Self {
            messages,
            missed: AtomicU64::new(0),
            next_id: AtomicU64::new(1),
            stats,
            thread: std::sync::Mutex::new(Some(thread)),
        })
    }

    pub fn stats(&self) -> &FanoutStats {
        &self.stats
    }

    /// A name for a new subscription.
    pub fn new_id(&self) -> SubscriptionId {
        SubscriptionId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Announces a commit; called by the writer, never waits.
    pub fn committed(&self, events: &[Committed]) {
        let Some(last) = events.last().map(|event| event.seq) else { return };
        if self.missed.load(Ordering::Relaxed) > 0 {
            if self.messages.try_send(Message::Missed(last)).is_ok() {
                self.missed.store(0, Ordering::Relaxed);
            }
            return;
        }
        if self.messages.try_send(Message::Committed(events.to_vec(), Instant::now())).is_err() {
            self.missed.store(last, Ordering::Relaxed);
        }
    }

    /// Announces lock changes; called by the writer, never waits.
    pub fn leases_changed(&self, rows: &[LeaseRow]) {
        if self.stats.watches.load(Ordering::Acquire) == 0 {
            return;
        }
        if self.messages.try_send(Message::Leases(rows.to_vec())).is_err() {
            self.stats.dropped.fetch_add(rows.len() as u64, Ordering::Relaxed);
        }
    }

    /// Sends an ephemeral event that came at `now_ns` to those who listen. Returns whether there was room.
    pub fn ephemeral(&self, event: Event, now_ns: u64) -> bool {
        let sent = self.messages.try_send(Message::Ephemeral(event, now_ns)).is_ok();
        if !sent {
            self.stats.dropped.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    /// Joins the live tail; the outbox gets [`Item::Live`], or [`Item::Lagging`] if too much came since.
    pub async fn join(&self, join: JoinLive) {
        self.send(Message::Join(join)).await;
    }

    /// As [`Self::join`], unless the thread is too busy; returns whether it was asked.
    pub fn try_join(&self, join: JoinLive) -> bool {
        self.messages.try_send(Message::Join(join)).is_ok()
    }

    pub async fn watch(&self, watch: LockWatch) {
        self.stats.watches.fetch_add(1, Ordering::Release);
        self.send(Message::Watch(watch)).await;
    }

    pub async fn leave(&self, id: SubscriptionId) {
        self.send(Message::Leave(id)).await;
    }

    /// Ends the thread when it has delivered what was announced.
    pub async fn stop(&self) {
        self.send(Message::Stop).await;
        let thread = self.thread.lock().ok().and_then(|mut held| held.take());
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    /// The thread never waits for anybody, so a full queue empties within moments.
    async fn send(&self, mut message: Message) {
        loop {
            match self.messages.try_send(message) {
                Ok(()) | Err(mpsc::TrySendError::Disconnected(_)) => return,
                Err(mpsc::TrySendError::Full(back)) => message = back,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A live subscription.
struct Subscription {
    id: SubscriptionId,
    outbox: Arc<Outbox>,
    filters: Vec<Filter>,
    scope: Arc<dyn ReadScope>,
    history: bool,
    head: Bytes,
    /// The newest `seq` that was put into the outbox or looked at for it.
    seen: u64,
    /// Frames of the present batch.
    pending: Vec<Item>,
    /// Ephemeral events that found no room and were not told of yet.
    dropped: u64,
    /// Out of the live tail until it joins again; ephemeral events are counted meanwhile.
    lagging: bool,
}

/// A subscription that could not be brought to the newest event at once.
struct Behind {
    /// Up to this `seq` it was.
    seen: u64,
    /// Whether the rest may still be in memory when it asks again.
    remembered: bool,
}

struct Thread {
    log: u32,
    index: Index,
    slots: Vec<Option<Subscription>>,
    free: Vec<Slot>,
    by_id: HashMap<SubscriptionId, Slot, RandomState>,
    watches: HashMap<Namespace, Vec<LockWatch>, RandomState>,
    recent: Recent,
    ephemerals: RecentEphemerals,
    stats: Arc<FanoutStats>,
    /// Slots with frames pending.
    touched: Vec<Slot>,
    matched: Vec<Slot>,
}

impl Thread {
    fn new(log: u32, last_seq: u64, ephemeral_ms: u64, stats: Arc<FanoutStats>) -> Self {
        Self {
            log,
            index: Index::default(),
            slots: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::default(),
            watches: HashMap::default(),
            recent: Recent::starting_after(last_seq),
            ephemerals: RecentEphemerals::new(ephemeral_ms),
            stats,
            touched: Vec::new(),
            matched: Vec::new(),
        }
    }

    fn run(mut self, inbox: &mpsc::Receiver<Message>) {
        while let Ok(message) = inbox.recv() {
            match message {
                Message::Committed(events, announced) => {
                    self.committed(events);
                    self.stats.took.observe_ns(announced.elapsed().as_nanos() as u64);
                }
                Message::Ephemeral(event, now_ns) => self.ephemeral(event, now_ns),
                Message::Leases(rows) => self.leases(&rows),
                Message::Join(join) => self.join(join),
                Message::Watch(watch) => {
                    self.watches.entry(watch.ns.clone()).or_default().push(watch);
                }
                Message::Leave(id) => self.leave(id),
                Message::Missed(seq) => self.missed(seq),
                Message::Stop => return,
            }
        }
    }

    fn committed(&mut self, events: Vec<Committed>) {
        for Committed { seq, event, latest, .. } in events {
            let live = Rc::new(Live::new(self.log, seq, seq, latest, event));
            self.deliver(&live);
            self.recent.push(live);
        }
        self.flush();
    }

    fn ephemeral(&mut self, event: Event, now_ns: u64) {
        let live = Rc::new(Live::new(self.log, 0, self.recent.last(), true, event));
        self.deliver(&live);
        self.ephemerals.push(now_ns, live);
        self.flush();
    }

    /// Makes the frames of one event for everybody who wants it.
    fn deliver(&mut self, live: &Live) {
        let mut matched = std::mem::take(&mut self.matched);
        self.index.candidates(&live.event, |(slot, number)| {
            let wanted = self.slots[slot].as_ref().is_some_and(|sub| {
                (live.latest || sub.history)
                    && sub.filters[number].matches(&live.event)
                    && sub.scope.may_read(live.event.namespace())
            });
            if wanted {
                matched.push(slot);
            }
        });
        matched.sort_unstable();
        matched.dedup();
        for &slot in &matched {
            let Some(sub) = &mut self.slots[slot] else { continue };
            if live.seq > 0 && live.seq <= sub.seen {
                // Read from the store already: a commit is seen there before it is told here.
                continue;
            }
            if sub.lagging {
                // It reads what is stored from the store; of the rest it will be told how much it missed.
                if live.seq == 0 {
                    sub.dropped += 1;
                    self.stats.dropped.fetch_add(1, Ordering::Relaxed);
                }
                continue;
            }
            if sub.pending.is_empty() {
                self.touched.push(slot);
            }
            let frame = live.frame(&sub.head);
            sub.pending.push(Item::Event { to: sub.id, frame, seq: live.seq });
        }
        matched.clear();
        self.matched = matched;
    }

    /// Hands the pending frames over; a subscription whose outbox is full leaves the live tail.
    fn flush(&mut self) {
        for slot in std::mem::take(&mut self.touched) {
            let Some(sub) = &mut self.slots[slot] else { continue };
            let mut pending = std::mem::take(&mut sub.pending);
            let last = pending.iter().rev().find_map(position).unwrap_or(sub.seen);
            let wanted = pending.len();
            let positions: SmallVec<[Option<u64>; 8]> = pending.iter().map(position).collect();
            let taken = sub.outbox.offer(&mut pending);
            self.stats.delivered.fetch_add(taken as u64, Ordering::Relaxed);
            sub.pending = pending;
            if taken == wanted {
                sub.seen = last;
                continue;
            }
            sub.seen = positions[..taken].iter().flatten().last().copied().unwrap_or(sub.seen);
            let lost = positions[taken..].iter().filter(|at| at.is_none()).count() as u64;
            if lost > 0 {
                sub.dropped += lost;
                self.stats.dropped.fetch_add(lost, Ordering::Relaxed);
            }
            if positions[taken..].iter().any(Option::is_some) {
                self.lag(slot);
            } else {
                let (to, count) = (sub.id, std::mem::take(&mut sub.dropped));
                sub.outbox.note(Item::Dropped { to, count });
            }
        }
    }

    /// Puts a subscription out of the live tail until it joins again.
    fn lag(&mut self, slot: Slot) {
        let Some(sub) = self.slots[slot].as_mut().filter(|sub| !sub.lagging) else { return };
        sub.lagging = true;
        self.stats.lagged.fetch_add(1, Ordering::Relaxed);
        if sub.dropped > 0 {
            let count = std::mem::take(&mut sub.dropped);
            sub.outbox.note(Item::Dropped { to: sub.id, count });
        }
        let (to, after_seq) = (sub.id, sub.seen);
        sub.outbox.note(Item::Lagging { to, after_seq, remembered: true });
    }

    fn join(&mut self, join: JoinLive) {
        let dropped = self
            .by_id
            .get(&join.id)
            .copied()
            .and_then(|slot| self.remove(slot))
            .map_or(0, |before| before.dropped);
        if dropped > 0 {
            join.outbox.note(Item::Dropped { to: join.id, count: dropped });
        }
        let last = self.recent.last();
        let after = join.after_seq.unwrap_or(last);
        let seen = self.catch_up(&join, after);
        let lagging = seen.is_err();
        let seen = match seen {
            Ok(()) => {
                let dropped = self.replay_ephemerals(&join);
                if dropped > 0 {
                    self.stats.dropped.fetch_add(dropped, Ordering::Relaxed);
                    join.outbox.note(Item::Dropped { to: join.id, count: dropped });
                }
                let seen = last.max(after);
                join.outbox.note(Item::Live { to: join.id, seq: seen });
                seen
            }
            Err(Behind { seen, remembered }) => {
                join.outbox.note(Item::Lagging { to: join.id, after_seq: seen, remembered });
                seen
            }
        };
        let JoinLive { id, outbox, filters, scope, history, head, .. } = join;
        self.insert(Subscription {
            id,
            outbox,
            filters,
            scope,
            history,
            head,
            seen,
            pending: Vec::new(),
            dropped: 0,
            lagging,
        });
    }

    /// Tells what was committed after `after`, as far as there is room.
    fn catch_up(&self, join: &JoinLive, after: u64) -> Result<(), Behind> {
        let forgotten = Behind { seen: after, remembered: false };
        let mut wanted =
            self.recent.after(after).ok_or(forgotten)?.filter(|live| live.is_for(join));
        let room = join.outbox.limits().frames;
        let mut frames: Vec<Item> =
            wanted.by_ref().take(room).map(|live| live.item(join)).collect();
        let positions: Vec<_> = frames.iter().map(position).collect();
        let taken = join.outbox.offer(&mut frames);
        if taken == positions.len() && wanted.next().is_none() {
            return Ok(());
        }
        let seen = positions[..taken].iter().flatten().last().copied().unwrap_or(after);
        Err(Behind { seen, remembered: true })
    }

    /// Tells recent ephemeral events; gives the number of those without room.
    fn replay_ephemerals(&mut self, join: &JoinLive) -> u64 {
        let Some(from) = join.ephemerals_from else { return 0 };
        let recent = self.ephemerals.since(join.now_ns, from);
        let mut frames: Vec<Item> =
            recent.filter(|live| live.is_for(join)).map(|live| live.item(join)).collect();
        let count = frames.len();
        (count - join.outbox.offer(&mut frames)) as u64
    }

    fn insert(&mut self, sub: Subscription) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.index.insert(slot, &sub.filters);
        self.by_id.insert(sub.id, slot);
        self.slots[slot] = Some(sub);
        self.stats.subscriptions.fetch_add(1, Ordering::Relaxed);
    }

    fn remove(&mut self, slot: Slot) -> Option<Subscription> {
        let sub = self.slots[slot].take()?;
        self.index.remove(slot, &sub.filters);
        self.by_id.remove(&sub.id);
        self.free.push(slot);
        self.stats.subscriptions.fetch_sub(1, Ordering::Relaxed);
        Some(sub)
    }

    fn leave(&mut self, id: SubscriptionId) {
        if let Some(&slot) = self.by_id.get(&id) {
            self.remove(slot);
            return;
        }
        self.watches.retain(|_, watches| {
            let before = watches.len();
            watches.retain(|watch| watch.id != id);
            let left = (before - watches.len()) as u64;
            self.stats.watches.fetch_sub(left, Ordering::Release);
            !watches.is_empty()
        });
    }

    fn missed(&mut self, seq: u64) {
        self.recent.forget_before(seq);
        for slot in 0..self.slots.len() {
            self.lag(slot);
        }
    }

    fn leases(&mut self, rows: &[LeaseRow]) {
        for row in rows {
            let Some(watches) = self.watches.get(&row.ns) else { continue };
            let mut text: Option<Bytes> = None;
            for watch in watches {
                if watch.resource.as_ref().is_some_and(|wanted| *wanted != row.resource) {
                    continue;
                }
                let frame = text
                    .get_or_insert_with(|| {
                        frame::encode("lock.changed", None, &row.change()).into()
                    })
                    .clone();
                let taken = watch.outbox.offer(&mut vec![Item::Frame(frame)]);
                if taken == 0 {
                    self.stats.dropped.fetch_add(1, Ordering::Relaxed);
                    watch.outbox.note(Item::Dropped { to: watch.id, count: 1 });
                }
            }
        }
    }
}

impl Live {
    fn is_for(&self, join: &JoinLive) -> bool {
        let now_s = join.now_ns / 1_000_000_000;
        (self.latest || join.history)
            && self.event.expires_at_s().is_none_or(|at| at > now_s)
            && join.filters.iter().any(|filter| filter.matches(&self.event))
            && join.scope.may_read(self.event.namespace())
    }

    fn item(&self, join: &JoinLive) -> Item {
        Item::Event { to: join.id, frame: self.frame(&join.head), seq: self.seq }
    }
}

/// The place in the log that a frame brings its reader to, if it has one.
fn position(item: &Item) -> Option<u64> {
    match item {
        Item::Event { seq, .. } if *seq > 0 => Some(*seq),
        _ => None,
    }
}
