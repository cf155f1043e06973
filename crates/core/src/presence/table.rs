//! The rules of presence (`gateway.md` 11), pure: facts and the time go in, what to tell comes out.
//!
//! Who may see whom is mutual: both watch each other, and neither blocks the other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use ahash::RandomState;
use relay_proto::{NodeId, auth::DeviceId};

/// How long the last sign of life is remembered, milliseconds.
const REMEMBER_MS: u64 = 7 * 86_400_000;
const MINUTE_MS: u64 = 60_000;
/// Shortest and longest lease, seconds.
const TTL_S: (u64, u64) = (15, 300);

/// What a watcher may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    pub status: Status,
    /// Unix milliseconds.
    pub expires_at: u64,
    pub bucket: Bucket,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Online,
    Offline,
    /// There is nothing that you may know.
    Unavailable,
}

impl Status {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Unavailable => "unavailable",
        }
    }
}

/// How long ago the last sign of life was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket(&'static str);

impl Bucket {
    const LONG_AGO: Self = Self("7d");

    fn of(age_ms: u64) -> Self {
        Self(match age_ms {
            0..60_000 => "now",
            60_000..300_000 => "5m",
            300_000..3_600_000 => "1h",
            3_600_000..86_400_000 => "1d",
            _ => "7d",
        })
    }

    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

/// Something to tell a watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Update {
    pub to: NodeId,
    pub about: NodeId,
    pub view: View,
}

#[derive(Debug)]
struct Lease {
    expires_ms: u64,
    visible: bool,
}

/// What is known of one user's devices.
#[derive(Debug, Default)]
struct Life {
    leases: HashMap<DeviceId, Lease, RandomState>,
    /// The last visible lease or renewal, and when the last visible lease ended or is to end.
    last_sign_ms: Option<u64>,
    last_end_ms: u64,
    /// What watchers were told last: the end of the online time.
    told: Option<u64>,
}

impl Life {
    fn online_until(&self, now_ms: u64) -> Option<u64> {
        let visible = self.leases.values().filter(|lease| lease.visible);
        visible.map(|lease| lease.expires_ms).filter(|end| *end > now_ms).max()
    }
}

type Links = HashMap<NodeId, HashSet<NodeId, RandomState>, RandomState>;

/// Everybody's presence.
#[derive(Debug, Default)]
pub struct PresenceTable {
    lives: HashMap<NodeId, Life, RandomState>,
    /// Whom somebody watches.
    watching: Links,
    /// Who watches somebody, as far as they count.
    watchers: Links,
    blocks: Links,
    ends: BTreeMap<u64, BTreeSet<(NodeId, DeviceId)>>,
}

impl PresenceTable {
    /// Grants or renews a lease; without `invisible` a former lease's choice stays. Returns its end.
    pub fn lease(
        &mut self,
        user: NodeId,
        device: DeviceId,
        ttl_s: i64,
        invisible: Option<bool>,
        now_ms: u64,
        updates: &mut Vec<Update>,
    ) -> u64 {
        let ttl_s = u64::try_from(ttl_s).unwrap_or(0).clamp(TTL_S.0, TTL_S.1);
        let expires_ms = now_ms + ttl_s * 1_000;
        let life = self.lives.entry(user).or_default();
        let before = life.leases.get(&device);
        let visible = match invisible {
            Some(invisible) => !invisible,
            None => before.is_none_or(|lease| lease.visible),
        };
        let old_end = before.map(|lease| lease.expires_ms);
        life.leases.insert(device.clone(), Lease { expires_ms, visible });
        if visible {
            life.last_sign_ms = Some(now_ms);
        }
        if let Some(old_end) = old_end {
            self.forget_end(old_end, &(user, device.clone()));
        }
        self.ends.entry(expires_ms).or_default().insert((user, device));
        self.announce(user, now_ms, updates);
        expires_ms
    }

    /// Ends the leases that have fallen due.
    pub fn expire(&mut self, now_ms: u64, updates: &mut Vec<Update>) {
        while let Some(entry) = self.ends.first_entry()
            && *entry.key() <= now_ms
        {
            for (user, device) in entry.remove() {
                if let Some(life) = self.lives.get_mut(&user) {
                    life.leases.remove(&device);
                }
                self.announce(user, now_ms, updates);
            }
        }
    }

    /// When the next lease falls due.
    pub fn next_end(&self) -> Option<u64> {
        self.ends.keys().next().copied()
    }

    /// Forgets signs of life that are a week old.
    pub fn sweep(&mut self, now_ms: u64) {
        self.lives.retain(|_, life| {
            let recent = life.last_sign_ms.is_some_and(|at| at + REMEMBER_MS > now_ms);
            recent || !life.leases.is_empty()
        });
    }

    /// Replaces what a user watches. Beyond `max_watchers` of somebody the watch counts for nothing, and nobody
    /// can tell.
    pub fn watch(&mut self, user: NodeId, contact: NodeId, max_watchers: usize) {
        self.watching.entry(user).or_default().insert(contact);
        let watchers = self.watchers.entry(contact).or_default();
        if watchers.len() < max_watchers {
            watchers.insert(user);
        }
    }

    pub fn unwatch(&mut self, user: NodeId, contact: NodeId) {
        unlink(&mut self.watching, user, contact);
        unlink(&mut self.watchers, contact, user);
    }

    /// Whom a user watches.
    pub fn watched_by(&self, user: &NodeId) -> Vec<NodeId> {
        self.watching.get(user).into_iter().flatten().copied().collect()
    }

    pub fn watches(&self, user: &NodeId, contact: &NodeId) -> bool {
        self.watching.get(user).is_some_and(|watched| watched.contains(contact))
    }

    /// [`Self::status`] for a viewer who lives elsewhere and is known to watch.
    pub fn guest_status(&self, viewer: &NodeId, target: &NodeId, now_ms: u64) -> View {
        let is_watched = self.watchers.get(viewer).is_some_and(|by| by.contains(target));
        if viewer == target || !is_watched || self.is_blocked(viewer, target) {
            let status = Status::Unavailable;
            return View { status, expires_at: now_ms, bucket: Bucket::LONG_AGO };
        }
        self.rounded(target, now_ms)
    }

    pub fn block(&mut self, user: NodeId, contact: NodeId) {
        self.blocks.entry(user).or_default().insert(contact);
    }

    pub fn unblock(&mut self, user: NodeId, contact: NodeId) {
        unlink(&mut self.blocks, user, contact);
    }

    pub fn blocked_by(&self, user: &NodeId) -> Vec<NodeId> {
        let mut blocked: Vec<NodeId> =
            self.blocks.get(user).into_iter().flatten().copied().collect();
        blocked.sort_unstable();
        blocked
    }

    /// Whether one of the two blocks the other.
    pub fn is_blocked(&self, one: &NodeId, other: &NodeId) -> bool {
        let blocks = |by: &NodeId, whom: &NodeId| {
            self.blocks.get(by).is_some_and(|blocked| blocked.contains(whom))
        };
        blocks(one, other) || blocks(other, one)
    }

    /// Whether `viewer` may know of `target`.
    pub fn may_see(&self, viewer: &NodeId, target: &NodeId) -> bool {
        let watches = |by: &NodeId, whom: &NodeId| {
            self.watchers.get(whom).is_some_and(|watchers| watchers.contains(by))
        };
        viewer != target
            && watches(viewer, target)
            && watches(target, viewer)
            && !self.is_blocked(viewer, target)
    }

    /// What `viewer` may know of `target`. The end of a lease that is over is told to the minute.
    pub fn status(&self, viewer: &NodeId, target: &NodeId, now_ms: u64) -> View {
        if !self.may_see(viewer, target) {
            let status = Status::Unavailable;
            return View { status, expires_at: now_ms, bucket: Bucket::LONG_AGO };
        }
        self.rounded(target, now_ms)
    }

    /// The end of a lease that is over, to the minute.
    fn rounded(&self, target: &NodeId, now_ms: u64) -> View {
        let view = self.view(target, now_ms);
        if view.status == Status::Offline {
            let expires_at = view.expires_at.div_ceil(MINUTE_MS) * MINUTE_MS;
            return View { expires_at, ..view };
        }
        view
    }

    fn view(&self, target: &NodeId, now_ms: u64) -> View {
        let life = self.lives.get(target);
        let sign = life.and_then(|life| life.last_sign_ms);
        let Some((life, sign_ms)) = life.zip(sign) else {
            let status = Status::Offline;
            return View { status, expires_at: 0, bucket: Bucket::LONG_AGO };
        };
        let bucket = Bucket::of(now_ms.saturating_sub(sign_ms));
        match life.online_until(now_ms) {
            Some(expires_at) => View { status: Status::Online, expires_at, bucket },
            None => View { status: Status::Offline, expires_at: life.last_end_ms, bucket },
        }
    }

    /// Tells those who may know, if there is anything new.
    fn announce(&mut self, user: NodeId, now_ms: u64, updates: &mut Vec<Update>) {
        let Some(life) = self.lives.get_mut(&user) else { return };
        let until = life.online_until(now_ms);
        match until {
            Some(until) => life.last_end_ms = until,
            // Whoever turned invisible looks like one whose lease is over now.
            None if life.told.is_some() => life.last_end_ms = life.last_end_ms.min(now_ms),
            None => {}
        }
        if life.told == until {
            return;
        }
        life.told = until;
        let view = self.view(&user, now_ms);
        let watchers = self.watchers.get(&user).into_iter().flatten();
        for &to in watchers.filter(|to| self.may_see(to, &user)) {
            updates.push(Update { to, about: user, view });
        }
    }

    fn forget_end(&mut self, end: u64, whose: &(NodeId, DeviceId)) {
        if let Some(ends) = self.ends.get_mut(&end) {
            ends.remove(whose);
            if ends.is_empty() {
                self.ends.remove(&end);
            }
        }
    }
}

fn unlink(links: &mut Links, from: NodeId, to: NodeId) {
    if let Some(linked) = links.get_mut(&from) {
        linked.remove(&to);
        if linked.is_empty() {
            links.remove(&from);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use relay_proto::SigningKey;

    use super::*;

    fn user(n: u8) -> NodeId {
        SigningKey::from_seed([n; 32]).node_id()
    }

    fn device(name: &str) -> DeviceId {
        DeviceId::new(name).unwrap()
    }

    /// Alice and Bob watch each other.
    fn friends() -> (PresenceTable, NodeId, NodeId) {
        let (alice, bob) = (user(1), user(2));
        let mut table = PresenceTable::default();
        table.watch(alice, bob, 256);
        table.watch(bob, alice, 256);
        (table, alice, bob)
    }

    fn lease(table: &mut PresenceTable, who: NodeId, on: &str, ttl: i64, at: u64) -> Vec<Update> {
        let mut updates = Vec::new();
        table.lease(who, device(on), ttl, Some(false), at, &mut updates);
        updates
    }

    #[test]
    fn a_lease_is_seen_and_its_end_too() {
        let (mut table, alice, bob) = friends();
        let updates = lease(&mut table, alice, "d", 1, 1_000);
        let view = View { status: Status::Online, expires_at: 16_000, bucket: Bucket("now") };
        assert_eq!(updates, [Update { to: bob, about: alice, view }]);
        assert_eq!(table.next_end(), Some(16_000));
        let mut updates = Vec::new();
        table.expire(15_999, &mut updates);
        assert!(updates.is_empty());
        table.expire(16_000, &mut updates);
        assert_eq!(updates[0].view.status, Status::Offline);
        assert_eq!(updates[0].view.expires_at, 16_000);
        let later = table.status(&bob, &alice, 1_000 + 3_600_000);
        assert_eq!((later.expires_at, later.bucket.as_str()), (60_000, "1d"));
        assert_eq!(table.next_end(), None);
    }

    #[test]
    fn several_devices_are_one_user() {
        let (mut table, alice, _) = friends();
        lease(&mut table, alice, "laptop", 15, 0);
        assert_eq!(lease(&mut table, alice, "phone", 30, 0)[0].view.expires_at, 30_000);
        let mut updates = Vec::new();
        table.expire(15_000, &mut updates);
        assert!(updates.is_empty(), "the phone still shines");
        table.expire(30_000, &mut updates);
        assert_eq!(updates.len(), 1);
    }

    #[test]
    fn invisible_looks_like_offline_and_stays_so_on_renewal() {
        let (mut table, alice, bob) = friends();
        lease(&mut table, alice, "d", 300, 1_000);
        let mut updates = Vec::new();
        table.lease(alice, device("d"), 300, Some(true), 5_000, &mut updates);
        assert_eq!((updates[0].view.status, updates[0].view.expires_at), (Status::Offline, 5_000));
        updates.clear();
        table.lease(alice, device("d"), 300, None, 6_000, &mut updates);
        assert!(updates.is_empty());
        assert_eq!(table.status(&bob, &alice, 6_000).status, Status::Offline);
    }

    #[test]
    fn who_was_never_visible_was_never_online() {
        let (mut table, alice, bob) = friends();
        let mut updates = Vec::new();
        table.lease(alice, device("d"), 300, Some(true), 1_000, &mut updates);
        assert!(updates.is_empty());
        let view = table.status(&bob, &alice, 2_000);
        assert_eq!((view.status, view.bucket.as_str()), (Status::Offline, "7d"));
    }

    #[test]
    fn strangers_blocked_users_and_oneself_look_the_same() {
        let (mut table, alice, bob) = friends();
        lease(&mut table, alice, "d", 300, 1_000);
        let unavailable =
            View { status: Status::Unavailable, expires_at: 2_000, bucket: Bucket("7d") };
        assert_eq!(table.status(&user(9), &alice, 2_000), unavailable);
        assert_eq!(table.status(&alice, &alice, 2_000), unavailable);
        assert_eq!(table.status(&bob, &user(8), 2_000), unavailable);
        table.block(alice, bob);
        assert_eq!(table.status(&bob, &alice, 2_000), unavailable);
        assert!(lease(&mut table, alice, "d", 200, 2_000).is_empty());
        table.unblock(alice, bob);
        assert_eq!(table.status(&bob, &alice, 2_000).status, Status::Online);
        table.unwatch(alice, bob);
        assert_eq!(table.status(&bob, &alice, 2_000), unavailable);
    }

    #[test]
    fn a_watcher_too_many_cannot_tell() {
        let (mut table, alice, _) = friends();
        table.watch(user(3), alice, 1);
        table.watch(alice, user(3), 256);
        lease(&mut table, alice, "d", 300, 1_000);
        assert_eq!(table.status(&user(3), &alice, 1_000).status, Status::Unavailable);
    }

    proptest! {
        /// Whatever happens, nobody is told of somebody whom they may not see, and the last thing that a watcher
        /// was told is what they would be told now.
        #[test]
        fn what_was_told_is_true(steps in prop::collection::vec((0_u8..8, 0_u8..3, 0_u8..3, 0_u64..40), 1..60)) {
            let users = [user(1), user(2), user(3)];
            let mut table = PresenceTable::default();
            let mut told: HashMap<(NodeId, NodeId), View> = HashMap::new();
            let mut now = 1_000;
            for (what, a, b, seconds) in steps {
                now += seconds * 1_000;
                let (a, b) = (users[usize::from(a)], users[usize::from(b)]);
                let mut updates = Vec::new();
                table.expire(now, &mut updates);
                match what {
                    0 | 1 => table.watch(a, b, 256),
                    2 => table.unwatch(a, b),
                    3 => table.block(a, b),
                    4 => table.unblock(a, b),
                    _ => drop(table.lease(a, device("d"), 20, Some(what == 7), now, &mut updates)),
                }
                if what < 5 {
                    // Those who may see each other anew ask; what they knew before means nothing.
                    told.retain(|(to, about), _| table.may_see(to, about));
                }
                for update in updates {
                    prop_assert!(update.to != update.about);
                    told.insert((update.to, update.about), update.view);
                }
                for ((to, about), view) in &told {
                    if table.may_see(to, about) {
                        prop_assert_eq!(view.status, table.status(to, about, now).status);
                    }
                }
            }
        }
    }
}
