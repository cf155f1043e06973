//! Presence (`gateway.md` 11): leases, mutual watching, blocks; and who hears of it on which connection.
//!
//! Leases live in memory. Blocklists and watchlists are kept in the store and read at start. The rules are those of
//! [`table`]; here are time, limits, the store, and the outboxes of those who are connected.

pub mod table;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
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

/// The domain.
#[derive(Debug)]
pub struct Presence {
    store: Store,
    clock: Arc<dyn Clock>,
    config: ArcSwap<PresenceConfig>,
    table: Mutex<PresenceTable>,
    /// The outboxes of everybody who is connected.
    connected: Mutex<HashMap<NodeId, Vec<Weak<Outbox>>, RandomState>>,
    /// A lease ends earlier than any before.
    sooner: Notify,
    watch_changes: Windows<NodeId>,
    block_changes: Windows<NodeId>,
    renews: Windows<(NodeId, DeviceId)>,
    statuses: Windows<NodeId>,
    /// How often users who live elsewhere watch somebody now.
    guests: Mutex<HashMap<(NodeId, NodeId), usize, RandomState>>,
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
            let mut updates = Vec::new();
            let next = {
                let mut table = self.table();
                table.expire(now_ms, &mut updates);
                if rounds.is_multiple_of(3_600) {
                    table.sweep(now_ms);
                }
                table.next_end()
            };
            self.deliver(&updates);
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
        let mut connected = self.connected();
        let outboxes = connected.entry(user).or_default();
        outboxes.retain(|known| known.strong_count() > 0);
        outboxes.push(Arc::downgrade(outbox));
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
        let mut updates = Vec::new();
        let (user, device) = (caller.user, caller.device.clone());
        let end = self.table().lease(user, device, ttl_s, invisible, now_ms, &mut updates);
        self.stats.leases.fetch_add(1, Ordering::Relaxed);
        self.deliver(&updates);
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
            self.take_back(&caller.user, &contacts);
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
        {
            let mut table = self.table();
            if is_blocked {
                table.block(user, contact);
            } else {
                table.unblock(user, contact);
            }
        }
        if is_blocked {
            self.take_back(&user, &[contact]);
            self.take_back(&contact, &[user]);
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
        {
            let table = self.table();
            if table.is_blocked(user, &about) {
                return;
            }
        }
        for outbox in self.connected().get(user).into_iter().flatten().filter_map(Weak::upgrade) {
            outbox.set_state(about, frame.clone());
            self.stats.updates.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A user at another relay hears what they may know, as long as the answer lives: first how things are, then what
    /// changes. `contacts` are those whom a user who lives elsewhere watches.
    ///
    /// # Errors
    /// `limit_exceeded`.
    pub fn guest(
        self: &Arc<Self>,
        user: NodeId,
        contacts: Option<Vec<NodeId>>,
        outbox: &Arc<Outbox>,
    ) -> Result<Guest, Problem> {
        check_contacts(contacts.as_deref().unwrap_or_default())?;
        let (contacts, views) = self.seat(user, contacts);
        self.connect(user, outbox);
        for (contact, view) in views {
            let frame = encode("presence.update", None, &view_body(&contact, &view));
            outbox.set_state(contact, frame.into());
        }
        let outbox = Some(outbox.clone());
        Ok(Guest { presence: self.clone(), user, contacts, outbox })
    }

    /// A user who lives elsewhere hears of contacts who live here, on the connections that they have here, as long as
    /// the answer lives.
    pub fn guest_here(self: &Arc<Self>, user: NodeId, mut contacts: Vec<NodeId>) -> Guest {
        contacts.truncate(MAX_CONTACTS);
        let (contacts, views) = self.seat(user, Some(contacts));
        let update = |(about, view)| Update { to: user, about, view };
        let updates: Vec<Update> = views.into_iter().map(update).collect();
        self.deliver(&updates);
        Guest { presence: self.clone(), user, contacts, outbox: None }
    }

    /// From now on a guest watches these contacts, or those that the table knows. Returns whom they did not watch
    /// before, and how those are whom they may see.
    fn seat(
        &self,
        user: NodeId,
        contacts: Option<Vec<NodeId>>,
    ) -> (Vec<NodeId>, Vec<(NodeId, View)>) {
        let now_ms = self.now_ms();
        let max = self.config().watchers_max as usize;
        let mut added = Vec::new();
        let mut guests = self.guests();
        let mut table = self.table();
        let watched = match contacts {
            None => table.watched_by(&user),
            Some(contacts) => {
                for contact in &contacts {
                    let count = guests.entry((user, *contact)).or_default();
                    // Whoever is watched for good is not let go by a guest.
                    if *count == 0 && table.watches(&user, contact) {
                        continue;
                    }
                    *count += 1;
                    table.watch(user, *contact, max);
                    added.push(*contact);
                }
                guests.retain(|_, count| *count > 0);
                contacts
            }
        };
        let view = |contact: NodeId| (contact, table.status(&user, &contact, now_ms));
        let views = watched.into_iter().map(view);
        let seen = views.filter(|(_, view)| view.status != table::Status::Unavailable);
        (added, seen.collect())
    }

    /// What a user who lives elsewhere, and watches these contacts, may know of each.
    ///
    /// # Errors
    /// `rate_limited`, `limit_exceeded`.
    pub fn guest_status(
        &self,
        caller: &Caller,
        contacts: Vec<NodeId>,
    ) -> Result<Vec<(NodeId, View)>, Problem> {
        check_contacts(&contacts)?;
        let now_ms = self.now_ms();
        self.statuses.count(caller.user, self.config().status_per_min, now_ms)?;
        let table = self.table();
        let view = |contact: NodeId| (contact, table.guest_status(&caller.user, &contact, now_ms));
        Ok(contacts.into_iter().map(view).collect())
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

    fn deliver(&self, updates: &[Update]) {
        if updates.is_empty() {
            return;
        }
        let connected = self.connected();
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

    /// What waits for `viewer` about these users is taken back.
    fn take_back(&self, viewer: &NodeId, about: &[NodeId]) {
        let connected = self.connected();
        for outbox in connected.get(viewer).into_iter().flatten().filter_map(Weak::upgrade) {
            about.iter().for_each(|about| outbox.take_back(about));
        }
    }

    // Both are whole between any two statements of their holders, and `table` is always let go before
    // `connected` is taken.
    fn table(&self) -> std::sync::MutexGuard<'_, PresenceTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Taken before `table`.
    fn guests(&self) -> std::sync::MutexGuard<'_, HashMap<(NodeId, NodeId), usize, RandomState>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connected(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<NodeId, Vec<Weak<Outbox>>, RandomState>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.clock.wall_ns() / 1_000_000
    }
}

/// A user who lives elsewhere and hears of presence here.
#[derive(Debug)]
pub struct Guest {
    presence: Arc<Presence>,
    user: NodeId,
    contacts: Vec<NodeId>,
    /// Where it is told besides the user's connections here.
    outbox: Option<Arc<Outbox>>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(outbox) = &self.outbox {
            self.presence.disconnect(&self.user, outbox);
        }
        let mut guests = self.presence.guests();
        let mut table = self.presence.table();
        for contact in &self.contacts {
            let Some(count) = guests.get_mut(&(self.user, *contact)) else { continue };
            *count -= 1;
            if *count == 0 {
                guests.remove(&(self.user, *contact));
                table.unwatch(self.user, *contact);
            }
        }
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
