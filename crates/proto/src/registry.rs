//! What lives where in the federation (`federation.md`, Registry and discovery), as one hub knows it.
//!
//! Every record has a single writer. A home says what it offers, and raises a counter (the *attach
//! epoch*) each time it attaches to a hub, so that of two hubs that both claim it the newer wins
//! everywhere, without clocks. A hub writes one log: the homes attached to it, numbered by version.
//! Hubs hear of a hub's homes only from that hub, so a hub that lies can lie only about itself,
//! and a home's own signature ([`attachment_statement`]) keeps it from taking over another hub's home.
//!
//! - [`record`]: what a home registers, and what of it is refused
//! - [`origin`]: the log of this hub, kept as the last change of each home
//! - [`replica`]: what another hub said of its homes, and what to ask it for
//! - [`homes`]: of all claims the ones that count, indexed by service
//! - [`gossip`]: what hubs say to each other
//!
//! Changes are pushed at once; a digest every [`Timing::digest`] finds what was lost on the way, and the
//! missing range, or everything, is pulled in pieces. The shell sends what [`Registry::poll`]
//! hands out and calls [`Registry::tick`] about once a second. `now` is time since any fixed
//! moment of the process, monotonic.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{
    address::{RelayId, ServiceName},
    key::NodeId,
    link::NodeType,
};

pub mod gossip;
pub mod homes;
pub mod origin;
pub mod record;
pub mod replica;
#[cfg(test)]
mod tests;

pub use gossip::Gossip;
pub use homes::{Claim, Instance};
pub use record::{Attachment, Proof, RecordError, ServiceRecord, attachment_statement};

use homes::Homes;
use origin::Origin;
use replica::Replica;

/// When things happen. The defaults are the specification's.
#[derive(Debug, Clone)]
pub struct Timing {
    /// How often peers compare what they know. Default 15 s.
    pub digest: Duration,
    /// An own home of which nothing is heard for this long is withdrawn. Default 45 s.
    pub ttl: Duration,
    /// A peer hub of which nothing is heard for this long has its homes used last. Default 15 s.
    pub suspect: Duration,
    /// After this long its homes are forgotten. Default 30 s.
    pub removed: Duration,
    /// How long the newest attach epoch of a home is remembered when no hub claims it. Default 10 min.
    pub remember: Duration,
    /// A home whose record changed more than [`Self::flaps`] times within [`Self::flap_window`] is
    /// announced at most once in [`Self::damped`]. Withdrawals are never held back.
    pub flaps: usize,
    pub flap_window: Duration,
    pub damped: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            digest: Duration::from_secs(15),
            ttl: Duration::from_secs(45),
            suspect: Duration::from_secs(15),
            removed: Duration::from_secs(30),
            remember: Duration::from_secs(600),
            flaps: 5,
            flap_window: Duration::from_secs(60),
            damped: Duration::from_secs(10),
        }
    }
}

/// What one hub keeps at most.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Homes attached here; one more is refused. Default 10 000.
    pub own_homes: usize,
    /// Homes a peer may claim; further ones are left out and counted. Default 20 000.
    pub peer_homes: usize,
    /// Services of one home; a registration with more is refused. Default 256.
    pub services: usize,
    /// The bytes of changes in one message between hubs. Default 128 KiB.
    pub delta_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { own_homes: 10_000, peer_homes: 20_000, services: 256, delta_bytes: 128 << 10 }
    }
}

/// Why a home is not attached or its registration not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The home has attached since with a greater epoch. It attaches again with one above `newest`.
    #[error("the attach epoch is not above {newest}")]
    Stale { newest: u64 },
    /// The id belongs to another key, on this hub or another.
    #[error("the id is bound to another key")]
    Conflict,
    #[error("the hub has as many homes as it takes")]
    Full,
    #[error("the home is not attached here")]
    NotAttached,
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// What the shell is to do.
#[derive(Debug)]
pub enum Output {
    /// To be sent to a peer hub.
    Send(RelayId, Gossip),
    /// A newer attachment of this home, at another hub, ended the one here. Its link, if it is still
    /// up, is a spare.
    Superseded { home: RelayId, epoch: u64, by: RelayId },
    /// Nothing was heard of this home for [`Timing::ttl`]: it is withdrawn, its link is to be closed.
    Expired { home: RelayId, epoch: u64 },
}

/// Counted by event, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// A delta was missed and its range or everything was pulled.
    pub repairs: u64,
    /// A newer claim of a home was not believed: another key, or not signed by the home.
    pub claims_refused: u64,
    /// A peer claimed more homes than it may.
    pub over_limit: u64,
    /// An announcement was held back because its home changes too often.
    pub damped: u64,
    /// A home was withdrawn because nothing was heard of it.
    pub expired: u64,
}

/// A home's attachment to this hub.
#[derive(Debug)]
struct Own {
    epoch: u64,
    heard: Duration,
    /// The last change is announced when this time has come.
    due: Option<Duration>,
}

/// How often a home's record changed of late; outlives its attachment.
#[derive(Debug, Default)]
struct Flaps {
    /// At most one more than [`Timing::flaps`].
    changes: VecDeque<Duration>,
    announced: Duration,
}

/// A peer hub.
#[derive(Debug)]
struct Peer {
    up: bool,
    heard: Duration,
    replica: Replica,
    /// The version of this hub's log that was sent last.
    sent: u64,
    next_digest: Duration,
    outbox: VecDeque<Gossip>,
    /// The shell could not send to it: left alone until the next tick.
    blocked: bool,
}

/// The registry of one hub.
#[derive(Debug)]
pub struct Registry {
    me: RelayId,
    timing: Timing,
    limits: Limits,
    origin: Origin,
    own: HashMap<RelayId, Own>,
    flaps: HashMap<RelayId, Flaps>,
    peers: HashMap<RelayId, Peer>,
    homes: Homes,
    /// What became of own homes.
    ended: Vec<Output>,
    counters: Counters,
}

impl Registry {
    /// A registry that knows nothing yet. `incarnation` tells this run of the hub from its
    /// others: any number that was not used before.
    pub fn new(me: RelayId, incarnation: u64, timing: Timing, limits: Limits) -> Self {
        Self {
            origin: Origin::new(incarnation),
            me,
            timing,
            limits,
            own: HashMap::new(),
            flaps: HashMap::new(),
            peers: HashMap::new(),
            homes: Homes::default(),
            ended: Vec::new(),
            counters: Counters::default(),
        }
    }

    pub const fn counters(&self) -> Counters {
        self.counters
    }

    // === what homes of this hub do ===

    /// Takes a home whose link is up, with no services yet. Without an `epoch`, which programs that know
    /// only the specification's messages do not send, it gets the next one. Answers the epoch.
    ///
    /// # Errors
    /// [`Refusal::Stale`], [`Refusal::Conflict`], [`Refusal::Full`].
    pub fn attach(
        &mut self,
        now: Duration,
        home: &RelayId,
        node_type: NodeType,
        key: NodeId,
        epoch: Option<u64>,
        proof: Option<Proof>,
    ) -> Result<u64, Refusal> {
        let newest = self.homes.newest(home);
        let epoch = epoch.unwrap_or(newest + 1);
        if self.homes.key(home).is_some_and(|bound| bound != key) {
            return Err(Refusal::Conflict);
        }
        if epoch <= newest {
            return Err(Refusal::Stale { newest });
        }
        if !self.own.contains_key(home) && self.own.len() >= self.limits.own_homes {
            return Err(Refusal::Full);
        }
        let services = Vec::new();
        let attachment = Attachment { home: home.clone(), node_type, key, epoch, proof, services };
        self.own.insert(home.clone(), Own { epoch, heard: now, due: None });
        self.write(now, attachment);
        Ok(epoch)
    }

    /// Takes what a home offers: all of it (`full`), or some to be added or replaced.
    ///
    /// # Errors
    /// [`Refusal::NotAttached`], [`Refusal::Record`]; nothing is changed.
    pub fn register(
        &mut self,
        now: Duration,
        home: &RelayId,
        services: Vec<ServiceRecord>,
        full: bool,
    ) -> Result<(), Refusal> {
        let attachment = self.own_attachment(home).ok_or(Refusal::NotAttached)?;
        let merged = attachment.merged(services, full, self.limits.services)?;
        let changed = merged.services != attachment.services;
        self.touch(now, home);
        if changed {
            self.write(now, merged);
        }
        Ok(())
    }

    /// Notes what a home says of the health of its services; names it does not offer are ignored.
    pub fn set_health(&mut self, now: Duration, home: &RelayId, health: &[(ServiceName, bool)]) {
        self.touch(now, home);
        let Some(attachment) = self.own_attachment(home) else { return };
        if let Some(changed) = attachment.with_health(health) {
            self.write(now, changed);
        }
    }

    /// Notes that something was heard of a home.
    pub fn touch(&mut self, now: Duration, home: &RelayId) {
        if let Some(own) = self.own.get_mut(home) {
            own.heard = now;
        }
    }

    /// Withdraws a home whose link ended, unless it has attached again since.
    pub fn detach(&mut self, now: Duration, home: &RelayId, epoch: u64) {
        if self.own.get(home).is_some_and(|own| own.epoch == epoch) {
            self.withdraw(now, home);
        }
    }

    // === what peer hubs do ===

    /// Notes that a link to a peer is up.
    pub fn peer_up(&mut self, now: Duration, peer: &RelayId) {
        let state = self.peers.entry(peer.clone()).or_insert_with(|| Peer {
            up: true,
            heard: now,
            replica: Replica::default(),
            sent: 0,
            next_digest: now,
            outbox: VecDeque::new(),
            blocked: false,
        });
        state.up = true;
        state.heard = now;
        state.next_digest = now;
        // What it has is found out by its digest; until then it is told what changes.
        state.sent = self.origin.version();
        state.outbox.clear();
        state.replica.forget_pull();
    }

    /// Notes that no link to a peer is left: its homes are suspect at once.
    pub fn peer_down(&mut self, peer: &RelayId) {
        if let Some(state) = self.peers.get_mut(peer) {
            state.up = false;
            state.outbox.clear();
        }
    }

    /// Notes that something was heard of a peer.
    pub fn peer_heard(&mut self, now: Duration, peer: &RelayId) {
        if let Some(state) = self.peers.get_mut(peer) {
            state.heard = now;
        }
    }

    /// Forgets a peer that is not one any more, and its homes.
    pub fn remove_peer(&mut self, now: Duration, peer: &RelayId) {
        if let Some(state) = self.peers.remove(peer) {
            self.homes.forget(now, peer, state.replica.homes());
        }
    }

    /// Takes what a peer said. Unknown peers are ignored.
    pub fn receive(&mut self, now: Duration, peer: &RelayId, gossip: Gossip) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        state.heard = now;
        match gossip {
            Gossip::Digest(digest) => {
                if let Some(pull) = state.replica.compare(now, &digest) {
                    self.counters.repairs += 1;
                    state.outbox.push_back(Gossip::Pull(pull));
                }
            }
            Gossip::Pull(pull) => {
                let delta = self.origin.answer(&pull, self.limits.delta_bytes);
                state.outbox.push_back(Gossip::Delta(delta));
            }
            Gossip::Delta(delta) => {
                let taken = state.replica.apply(now, delta, self.limits.peer_homes);
                if let Some(pull) = taken.pull {
                    self.counters.repairs += u64::from(taken.gap);
                    state.outbox.push_back(Gossip::Pull(pull));
                }
                self.counters.over_limit += taken.over_limit;
                for (home, attachment) in taken.changes {
                    self.claim(now, peer, &home, attachment);
                }
            }
        }
    }

    /// The shell could not send this to the peer: it is made again at the next tick.
    pub fn unsent(&mut self, peer: &RelayId, gossip: &Gossip) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        state.blocked = true;
        match gossip {
            Gossip::Delta(delta) => state.sent = state.sent.min(delta.from),
            Gossip::Digest(_) => state.next_digest = Duration::ZERO,
            Gossip::Pull(_) => state.replica.forget_pull(),
        }
    }

    // === time ===

    /// Does what is due: expiry, held-back announcements, digests.
    pub fn tick(&mut self, now: Duration) {
        self.expire_own(now);
        self.announce_due(now);
        self.expire_peers(now);
        self.homes.expire(now, self.timing.remember);
        let digest = self.origin.digest();
        self.peers.values_mut().for_each(|peer| peer.blocked = false);
        for peer in self.peers.values_mut().filter(|peer| peer.up && peer.next_digest <= now) {
            peer.next_digest = now + self.timing.digest;
            peer.outbox.push_back(Gossip::Digest(digest.clone()));
        }
    }

    /// What is to be done next; `None` when there is nothing.
    pub fn poll(&mut self) -> Option<Output> {
        if let Some(output) = self.ended.pop() {
            return Some(output);
        }
        for (id, peer) in &mut self.peers {
            if !peer.up || peer.blocked {
                continue;
            }
            if let Some(gossip) = peer.outbox.pop_front() {
                return Some(Output::Send(id.clone(), gossip));
            }
            if let Some(delta) = self.origin.delta_after(peer.sent, self.limits.delta_bytes) {
                peer.sent = delta.to;
                return Some(Output::Send(id.clone(), Gossip::Delta(delta)));
            }
        }
        None
    }

    // === what is known ===

    /// The instances of a service, in no order. Those of hubs that are silent are
    /// [`suspect`](Self::is_suspect).
    pub fn instances(&self, service: &ServiceName) -> &[Instance] {
        self.homes.instances(service)
    }

    /// The claim that counts for a home.
    pub fn home(&self, home: &RelayId) -> Option<&Claim> {
        self.homes.winner(home)
    }

    /// All claims that count.
    pub fn all_homes(&self) -> impl Iterator<Item = &Claim> {
        self.homes.winners()
    }

    /// Whether the hub that claims a home is silent, so that the home should be tried last.
    pub fn is_suspect(&self, now: Duration, main: &RelayId) -> bool {
        self.peers
            .get(main)
            .is_some_and(|peer| !peer.up || now.saturating_sub(peer.heard) >= self.timing.suspect)
    }

    /// When something was last heard of a home, or of the hub that claims it.
    pub fn heard(&self, home: &RelayId, main: &RelayId) -> Option<Duration> {
        if *main == self.me {
            self.own.get(home).map(|own| own.heard)
        } else {
            self.peers.get(main).map(|peer| peer.heard)
        }
    }

    /// When something was last heard of a peer hub.
    pub fn heard_hub(&self, main: &RelayId) -> Option<Duration> {
        self.peers.get(main).map(|peer| peer.heard)
    }

    /// Peer hubs, those that are down too.
    pub fn peers(&self) -> impl Iterator<Item = &RelayId> {
        self.peers.keys()
    }

    /// The epoch a home is attached here with.
    pub fn attached(&self, home: &RelayId) -> Option<u64> {
        self.own.get(home).map(|own| own.epoch)
    }

    /// The newest attach epoch known of a home; 0 where none is.
    pub fn newest_epoch(&self, home: &RelayId) -> u64 {
        self.homes.newest(home)
    }

    /// Counts the changes of what is known here.
    pub const fn revision(&self) -> u64 {
        self.homes.revision()
    }

    /// How many homes and services are known.
    pub fn size(&self) -> (usize, usize) {
        self.homes.size()
    }

    // === inside ===

    fn own_attachment(&self, home: &RelayId) -> Option<&Arc<Attachment>> {
        self.own.get(home)?;
        self.homes.claim_of(home, &self.me)
    }

    /// Makes `attachment` what this hub says of its home, and announces it unless it changes too often.
    fn write(&mut self, now: Duration, attachment: Attachment) {
        let home = attachment.home.clone();
        let attachment = Arc::new(attachment);
        let claim =
            Claim { main: self.me.clone(), attachment: attachment.clone(), first_hand: true };
        self.homes.set(&home, claim);
        let Some(own) = self.own.get_mut(&home) else { return };
        let flaps = self.flaps.entry(home.clone()).or_default();
        let due = flaps.announced + self.timing.damped;
        if flaps.changed(now, &self.timing) && now < due {
            own.due = Some(due);
            self.counters.damped += 1;
        } else {
            flaps.announced = now;
            own.due = None;
            self.origin.write(&home, Some(attachment));
        }
    }

    fn withdraw(&mut self, now: Duration, home: &RelayId) {
        self.own.remove(home);
        self.homes.remove(now, home, &self.me);
        self.origin.write(home, None);
    }

    fn announce_due(&mut self, now: Duration) {
        for (home, own) in &mut self.own {
            if own.due.is_some_and(|due| due <= now) {
                own.due = None;
                self.flaps.entry(home.clone()).or_default().announced = now;
                self.origin.write(home, self.homes.claim_of(home, &self.me).cloned());
            }
        }
        let window = self.timing.flap_window;
        self.flaps.retain(|_, flaps| {
            flaps.changes.back().is_some_and(|last| now.saturating_sub(*last) < window)
        });
    }

    fn expire_own(&mut self, now: Duration) {
        let ttl = self.timing.ttl;
        let gone = |(home, own): (&RelayId, &Own)| {
            let expired = *home != self.me && now.saturating_sub(own.heard) >= ttl;
            expired.then(|| (home.clone(), own.epoch))
        };
        let gone: Vec<(RelayId, u64)> = self.own.iter().filter_map(gone).collect();
        for (home, epoch) in gone {
            self.counters.expired += 1;
            self.withdraw(now, &home);
            self.ended.push(Output::Expired { home, epoch });
        }
    }

    fn expire_peers(&mut self, now: Duration) {
        for (id, peer) in &mut self.peers {
            if now.saturating_sub(peer.heard) >= self.timing.removed {
                self.homes.forget(now, id, peer.replica.homes());
                peer.replica = Replica::default();
            }
        }
    }

    /// A peer says that a home is attached to it, or is not any more.
    fn claim(
        &mut self,
        now: Duration,
        peer: &RelayId,
        home: &RelayId,
        attachment: Option<Arc<Attachment>>,
    ) {
        let Some(attachment) = attachment.filter(|_| *home != self.me) else {
            self.homes.remove(now, home, peer);
            return;
        };
        let epoch = attachment.epoch;
        self.homes.set(home, Claim { main: peer.clone(), attachment, first_hand: false });
        let winner = self.homes.winner(home).map(|claim| (&claim.main, claim.attachment.epoch));
        match winner {
            Some((main, counts)) if main != peer => {
                self.counters.claims_refused += u64::from(epoch >= counts);
            }
            Some(_) => {
                if let Some(own) = self.own.get(home) {
                    let (home, by, epoch) = (home.clone(), peer.clone(), own.epoch);
                    self.withdraw(now, &home);
                    self.ended.push(Output::Superseded { home, epoch, by });
                }
            }
            None => self.counters.claims_refused += 1,
        }
    }
}

impl Flaps {
    /// Notes a change; whether there were too many. Changes at the same moment are one.
    fn changed(&mut self, now: Duration, timing: &Timing) -> bool {
        while self.changes.front().is_some_and(|at| now.saturating_sub(*at) >= timing.flap_window) {
            self.changes.pop_front();
        }
        if self.changes.back() != Some(&now) {
            self.changes.push_back(now);
        }
        let too_many = self.changes.len() > timing.flaps;
        if self.changes.len() > timing.flaps + 1 {
            self.changes.pop_front();
        }
        too_many
    }
}
