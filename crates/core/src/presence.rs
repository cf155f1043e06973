//! Presence (`gateway.md` 11): leases, mutual watching, blocks; and who hears of it on which connection.
//!
//! Leases live in memory. Blocklists and watchlists are kept in the store and read at start. The rules are those of
//! [`table`]; here are time, limits, the store, and the outboxes of those who are connected.

mod guests;
pub mod table;
#[cfg(test)]
mod tests;

pub use guests::Guest;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ahash::RandomState;
use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use relay_proto::{NodeId, Problem, auth::DeviceId, conv::Caller, frame::encode};
use relay_store::{
    Clock, Store,
    chat::{ContactChange, ContactKind, ContactOutcome},
};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    conversations::limit_exceeded, failure::store_problem, fanout::Outbox, limits::Windows,
};
use table::{PresenceTable, Update, View};

const MINUTE_MS: u64 = 60_000;
const LIMITER_KEYS: usize = 100_000;
/// The clock is looked at so often at least, since it may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// Contacts of one request.
pub const MAX_CONTACTS: usize = 256;

/// Limits, with the defaults of `gateway.md` 12.
#[derive(Debug, Clone, Copy)]
pub struct PresenceConfig {
    pub watchlist_max: u64,
    pub watchers_max: u64,
    pub blocklist_max: u64,
    pub watch_changes_per_min: u32,
    pub block_changes_per_min: u32,
    pub renews_per_min: u32,
    pub status_per_min: u32,
}

impl Default for PresenceConfig {
    fn default() -> Self {
        Self {
            watchlist_max: 256,
            watchers_max: 256,
            blocklist_max: 256,
            watch_changes_per_min: 60,
            block_changes_per_min: 60,
            renews_per_min: 60,
            status_per_min: 120,
        }
    }
}

/// What operators want to know.
#[derive(Debug, Default)]
pub struct PresenceStats {
    pub leases: AtomicU64,
    pub updates: AtomicU64,
}

type Connected = HashMap<NodeId, Vec<Weak<Outbox>>, RandomState>;
type Guests = HashMap<(NodeId, NodeId), usize, RandomState>;

/// The domain.
#[derive(Debug)]
pub struct Presence {
    store: Store,
    clock: Arc<dyn Clock>,
    config: ArcSwap<PresenceConfig>,
    table: Mutex<PresenceTable>,
    /// The outboxes of everybody who is connected.
    connected: Mutex<Connected>,
    /// A lease ends earlier than any before.
    sooner: Notify,
    watch_changes: Windows<NodeId>,
    block_changes: Windows<NodeId>,
    renews: Windows<(NodeId, DeviceId)>,
    statuses: Windows<NodeId>,
    /// How often users who live elsewhere watch somebody now.
    guests: Mutex<Guests>,
    stats: PresenceStats,
}

impl Presence {
    /// Reads the lists.
    ///
    /// # Errors
    /// The store's.
    pub async fn open(
        store: Store,
        clock: Arc<dyn Clock>,
        config: PresenceConfig,
    ) -> relay_store::Result<Self> {
        let mut table = PresenceTable::default();
        for (user, target) in store.all_contacts(ContactKind::Block).await? {
            table.block(user, target);
        }
        for (user, target) in store.all_contacts(ContactKind::Watch).await? {
            table.watch(user, target, config.watchers_max as usize);
        }
        let windows = || Windows::new(MINUTE_MS, LIMITER_KEYS);
        Ok(Self {
            store,
            clock,
            config: ArcSwap::from_pointee(config),
            table: Mutex::new(table),
            connected: Mutex::default(),
            sooner: Notify::new(),
            watch_changes: windows(),
            block_changes: windows(),
            renews: Windows::new(MINUTE_MS, LIMITER_KEYS),
            statuses: windows(),
            guests: Mutex::default(),
            stats: PresenceStats::default(),
        })
    }

    fn config(&self) -> Guard<Arc<PresenceConfig>> {
        self.config.load()
    }

    /// Uses other settings from now on.
    pub fn reconfigure(&self, config: PresenceConfig) {
        self.config.store(Arc::new(config));
    }

    pub fn stats(&self) -> &PresenceStats {
        &self.stats
    }

    /// Ends leases when they are due, until stopped.
    pub async fn run(&self, stop: CancellationToken) {
        let mut rounds = 0_u64;
        loop {
            let now_ms = self.now_ms();
            let next = self.change_and_tell(|table, updates| {
                table.expire(now_ms, updates);
                if rounds.is_multiple_of(3_600) {
                    table.sweep(now_ms);
                }
                table.next_end()
            });
            if rounds.is_multiple_of(60) {
                // Streams end without saying so.
                self.connected().retain(|_, outboxes| {
                    outboxes.retain(|outbox| outbox.strong_count() > 0);
                    !outboxes.is_empty()
                });
            }
            rounds += 1;
            let due = next.map(|end| Duration::from_millis(end.saturating_sub(now_ms)));
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.sooner.notified() => {}
                () = tokio::time::sleep(due.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)) => {}
            }
        }
    }

    /// Whatever this user may hear goes into the outbox as well, for as long as it lives.
    pub fn connect(&self, user: NodeId, outbox: &Arc<Outbox>) {
        add_outbox(&mut self.connected(), user, outbox);
    }

    /// The connection is over.
    pub fn disconnect(&self, user: &NodeId, outbox: &Arc<Outbox>) {
        let mut connected = self.connected();
        if let Some(outboxes) = connected.get_mut(user) {
            outboxes.retain(|known| !std::ptr::eq(known.as_ptr(), Arc::as_ptr(outbox)));
            if outboxes.is_empty() {
                connected.remove(user);
            }
        }
    }

    /// Grants or renews a lease of the caller's device; returns its end, unix milliseconds.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn lease(
        &self,
        caller: &Caller,
        ttl_s: i64,
        invisible: Option<bool>,
    ) -> Result<u64, Problem> {
        let now_ms = self.now_ms();
        let key = (caller.user, caller.device.clone());
        self.renews.count(key, self.config().renews_per_min, now_ms)?;
        let (user, device) = (caller.user, caller.device.clone());
        let end = self.change_and_tell(|table, updates| {
            table.lease(user, device, ttl_s, invisible, now_ms, updates)
        });
        self.stats.leases.fetch_add(1, Ordering::Relaxed);
        self.sooner.notify_one();
        Ok(end)
    }

    /// Puts contacts on the caller's watchlist, or takes them off; returns how long it is.
    ///
    /// # Errors
    /// `rate_limited`, `limit_exceeded`.
    pub async fn watch(
        &self,
        caller: &Caller,
        mut contacts: Vec<NodeId>,
        add: bool,
    ) -> Result<u64, Problem> {
        check_contacts(&contacts)?;
        let limit = self.config().watch_changes_per_min;
        self.watch_changes.count(caller.user, limit, self.now_ms())?;
        if add {
            // Who blocks, or is blocked, is left out, and nobody is told.
            let table = self.table();
            contacts.retain(|contact| !table.is_blocked(&caller.user, contact));
        }
        let change = ContactChange {
            user: caller.user,
            kind: ContactKind::Watch,
            contacts: contacts.clone(),
            add,
            max: self.config().watchlist_max,
            tell: Vec::new(),
            at_ms: self.now_ms(),
        };
        let count = self.change(change).await?;
        {
            let mut table = self.table();
            for contact in &contacts {
                if add {
                    table.watch(caller.user, *contact, self.config().watchers_max as usize);
                } else {
                    table.unwatch(caller.user, *contact);
                }
            }
        }
        if !add {
            take_back(&self.connected(), &caller.user, &contacts);
        }
        Ok(count)
    }

    /// Puts contacts on the caller's blocklist, or takes them off; returns how long it is. The homes of `tell` are told.
    ///
    /// # Errors
    /// `rate_limited`, `limit_exceeded`.
    pub async fn block(
        &self,
        caller: &Caller,
        contacts: Vec<NodeId>,
        add: bool,
        tell: Vec<NodeId>,
    ) -> Result<u64, Problem> {
        check_contacts(&contacts)?;
        let limit = self.config().block_changes_per_min;
        self.block_changes.count(caller.user, limit, self.now_ms())?;
        let change = ContactChange {
            user: caller.user,
            kind: ContactKind::Block,
            contacts: contacts.clone(),
            add,
            max: self.config().blocklist_max,
            tell,
            at_ms: self.now_ms(),
        };
        let count = self.change(change).await?;
        contacts.iter().for_each(|contact| self.note_block(caller.user, *contact, add));
        Ok(count)
    }

    /// A user blocks another, or does so no longer, as the store says.
    pub fn note_block(&self, user: NodeId, contact: NodeId, is_blocked: bool) {
        let connected = self.connected();
        if is_blocked {
            self.table().block(user, contact);
            take_back(&connected, &user, &[contact]);
            take_back(&connected, &contact, &[user]);
        } else {
            self.table().unblock(user, contact);
        }
    }

    /// The caller's blocklist, sorted.
    pub fn blocklist(&self, caller: &Caller) -> Vec<NodeId> {
        self.table().blocked_by(&caller.user)
    }

    /// Whom the user watches.
    pub fn watchlist(&self, user: &NodeId) -> Vec<NodeId> {
        self.table().watched_by(user)
    }

    /// Whether one of the two blocks the other, as far as is known here.
    pub fn is_blocked(&self, one: &NodeId, other: &NodeId) -> bool {
        self.table().is_blocked(one, other)
    }

    /// Tells a user's connections what the home of somebody they watch says.
    pub fn tell(&self, user: &NodeId, about: NodeId, frame: Bytes) {
        let connected = self.connected();
        if self.table().is_blocked(user, &about) {
            return;
        }
        for outbox in connected.get(user).into_iter().flatten().filter_map(Weak::upgrade) {
            outbox.set_state(about, frame.clone());
            self.stats.updates.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What the caller may know of each contact, each once, sorted.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn status(
        &self,
        caller: &Caller,
        mut contacts: Vec<NodeId>,
    ) -> Result<Vec<(NodeId, View)>, Problem> {
        check_contacts(&contacts)?;
        let now_ms = self.now_ms();
        self.statuses.count(caller.user, self.config().status_per_min, now_ms)?;
        contacts.sort_unstable();
        contacts.dedup();
        let table = self.table();
        let view = |contact: NodeId| (contact, table.status(&caller.user, &contact, now_ms));
        Ok(contacts.into_iter().map(view).collect())
    }

    /// Forgets a user who was purged.
    pub fn forget(&self, user: &NodeId) {
        let mut table = self.table();
        for contact in table.blocked_by(user) {
            table.unblock(*user, contact);
        }
    }

    async fn change(&self, change: ContactChange) -> Result<u64, Problem> {
        let outcome = self.store.change_contacts(change).await;
        match outcome.map_err(|error| store_problem(&error))? {
            ContactOutcome::Done(count) => Ok(count),
            ContactOutcome::TooMany => Err(limit_exceeded("the list would be too long")),
        }
    }

    /// Changes the table and tells those who are connected what is new, in one step: what is told of a user comes in
    /// the order in which it came to be, and whoever connects meanwhile has it from the table or is told.
    fn change_and_tell<T>(
        &self,
        change: impl FnOnce(&mut PresenceTable, &mut Vec<Update>) -> T,
    ) -> T {
        let connected = self.connected();
        let mut updates = Vec::new();
        let done = change(&mut self.table(), &mut updates);
        self.deliver(&connected, &updates);
        done
    }

    fn deliver(&self, connected: &Connected, updates: &[Update]) {
        for update in updates {
            let Some(outboxes) = connected.get(&update.to) else { continue };
            let frame: Bytes =
                encode("presence.update", None, &view_body(&update.about, &update.view)).into();
            for outbox in outboxes.iter().filter_map(Weak::upgrade) {
                outbox.set_state(update.about, frame.clone());
                self.stats.updates.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    // All three are whole between any two statements of their holders. Taken in this order: `connected`, `guests`,
    // `table`.
    fn connected(&self) -> MutexGuard<'_, Connected> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, PresenceTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.clock.wall_ns() / 1_000_000
    }
}

fn add_outbox(connected: &mut Connected, user: NodeId, outbox: &Arc<Outbox>) {
    let outboxes = connected.entry(user).or_default();
    outboxes.retain(|known| known.strong_count() > 0);
    outboxes.push(Arc::downgrade(outbox));
}

/// What waits for `viewer` about these users is taken back.
fn take_back(connected: &Connected, viewer: &NodeId, about: &[NodeId]) {
    for outbox in connected.get(viewer).into_iter().flatten().filter_map(Weak::upgrade) {
        about.iter().for_each(|about| outbox.take_back(about));
    }
}

/// One contact as clients see it.
pub fn view_body(user: &NodeId, view: &View) -> Value {
    json!({
        "user_id": user,
        "status": view.status.as_str(),
        "expires_at": view.expires_at,
        "last_seen_bucket": view.bucket.as_str(),
    })
}

fn check_contacts(contacts: &[NodeId]) -> Result<(), Problem> {
    if contacts.len() > MAX_CONTACTS {
        return Err(limit_exceeded("at most 256 contacts at once"));
    }
    Ok(())
}
