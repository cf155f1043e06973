//! Links, registry and balance: what every request and every message of a link looks at.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use relay_proto::{
    RelayId, ServiceRecord,
    balance::Balancer,
    registry::Registry,
    route::{From, Ways},
};
use serde::{Deserialize, Serialize};

use super::{FederationConfig, misses::Misses, query::Asked};
use crate::link::{Link, Role};

/// What a node says of its load, with each heartbeat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Requests under way.
    #[serde(default)]
    pub in_flight: u64,
}

/// A link, and what is counted by it.
#[derive(Debug)]
pub(super) struct Linked {
    pub link: Arc<dyn Link>,
    /// Requests that came over it and are under way.
    pub pending: Arc<AtomicUsize>,
    /// As of the last tick.
    pub rtt: Option<Duration>,
    /// The other side asked to move.
    pub draining: bool,
    /// Messages a second between the last two ticks.
    pub in_per_sec: f64,
    pub out_per_sec: f64,
    /// When the last tick was, and what had gone over it then.
    looked: Duration,
    messages_in: u64,
    messages_out: u64,
}

impl Linked {
    fn new(link: Arc<dyn Link>) -> Self {
        Self {
            rtt: link.stats().rtt,
            draining: false,
            in_per_sec: 0.0,
            out_per_sec: 0.0,
            looked: Duration::ZERO,
            messages_in: 0,
            messages_out: 0,
            link,
            pending: Arc::default(),
        }
    }
}

impl Linked {
    #[allow(clippy::cast_precision_loss, reason = "rates are for people")]
    fn take_rates(&mut self, now: Duration, messages_in: u64, messages_out: u64) {
        let seconds = now.saturating_sub(self.looked).as_secs_f64().max(0.1);
        self.in_per_sec = messages_in.saturating_sub(self.messages_in) as f64 / seconds;
        self.out_per_sec = messages_out.saturating_sub(self.messages_out) as f64 / seconds;
        self.looked = now;
        self.messages_in = messages_in;
        self.messages_out = messages_out;
    }
}

/// A spoke that is attached to this hub.
#[derive(Debug)]
pub(super) struct Spoke {
    /// Which of its links it registered over.
    pub link: u64,
    pub epoch: u64,
    /// Unix milliseconds.
    pub since_ms: u64,
    pub load: Option<Load>,
}

#[derive(Debug)]
pub(super) struct State {
    pub me: RelayId,
    pub role: Role,
    pub registry: Registry,
    pub balancer: Balancer,
    /// Every link, by its id.
    pub links: HashMap<u64, Linked>,
    /// On a hub: the spokes that registered.
    pub spokes: HashMap<RelayId, Spoke>,
    /// On a hub: links to other hubs, oldest first; two hubs may have dialled each other.
    pub peers: HashMap<RelayId, Vec<u64>>,
    /// On a spoke: links to hubs, the active one first.
    pub ups: Vec<u64>,
    /// On a spoke: the epoch of its last attachment.
    pub epoch: u64,
    /// On a spoke: registrations sent; the answer to the last one counts.
    pub registrations: u64,
    /// What the last one said over the active link.
    pub registered: Option<Vec<ServiceRecord>>,
    /// Whether the hub of the active link took it.
    pub attached: bool,
    /// Why the hub did not take the last registration.
    pub refused: Option<String>,
    /// How often the active link changed, after the first.
    pub reconnects: u64,
    /// On a spoke: what its hub told of late.
    pub asked: Asked,
    /// On a spoke: what its hub does not know.
    pub misses: Misses,
    /// Retries that are allowed: each request adds a tenth, each retry takes one.
    pub budget: f64,
    random: u64,
}

/// The most retries that can be saved up.
const BUDGET_MOST: f64 = 100.0;

impl State {
    pub fn new(config: &FederationConfig, unix_ms: u64) -> Self {
        Self {
            me: config.relay.clone(),
            role: config.role,
            registry: Registry::new(
                config.relay.clone(),
                config.seed,
                config.timing.clone(),
                config.limits.clone(),
            ),
            balancer: Balancer::new(config.tuning.clone()),
            links: HashMap::new(),
            spokes: HashMap::new(),
            peers: HashMap::new(),
            ups: Vec::new(),
            epoch: unix_ms,
            registrations: 0,
            registered: None,
            attached: false,
            refused: None,
            reconnects: 0,
            asked: Asked::default(),
            misses: Misses::default(),
            budget: BUDGET_MOST / 10.0,
            random: config.seed,
        }
    }

    /// The next number of SplitMix64.
    pub fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn add_peer(&mut self, now: Duration, link: Arc<dyn Link>) {
        let peer = link.peer().relay.clone();
        self.peers.entry(peer.clone()).or_default().push(link.id());
        self.links.insert(link.id(), Linked::new(link));
        self.registry.peer_up(now, &peer);
    }

    pub fn add_spoke_link(&mut self, link: Arc<dyn Link>) {
        self.links.insert(link.id(), Linked::new(link));
    }

    /// Takes a link to a hub; whether it is the only one, and so the active one.
    pub fn add_up(&mut self, link: Arc<dyn Link>) -> bool {
        self.ups.push(link.id());
        self.links.insert(link.id(), Linked::new(link));
        self.ups.len() == 1
    }

    /// Takes a link out; whether a spoke has to register over another one now.
    pub fn remove_link(&mut self, now: Duration, link: &Arc<dyn Link>) -> bool {
        let id = link.id();
        let relay = &link.peer().relay;
        self.links.remove(&id);
        if let Some(spoke) = self.spokes.get(relay).filter(|spoke| spoke.link == id) {
            self.registry.detach(now, relay, spoke.epoch);
            self.spokes.remove(relay);
        }
        if let Some(links) = self.peers.get_mut(relay) {
            links.retain(|link| *link != id);
            if links.is_empty() {
                self.peers.remove(relay);
                self.registry.peer_down(relay);
            }
        }
        let was_active = self.ups.first() == Some(&id);
        self.ups.retain(|link| *link != id);
        if !was_active {
            return false;
        }
        self.left_up();
        // One that asked to move is the last resort.
        let next = self.ups.iter().position(|link| !self.is_draining(*link));
        self.ups.rotate_left(next.unwrap_or(0));
        !self.ups.is_empty()
    }

    /// Leaves the active link where its other side, or this one, wants it to end; whether there is
    /// another to register over.
    pub fn leave_draining_up(&mut self) -> bool {
        let Some(active) = self.ups.first() else { return false };
        let next = self.ups.iter().position(|link| !self.is_draining(*link));
        let Some(next) = next.filter(|_| self.is_draining(*active)) else { return false };
        self.ups.rotate_left(next);
        self.left_up();
        true
    }

    fn is_draining(&self, link: u64) -> bool {
        self.links.get(&link).is_none_or(|linked| linked.draining)
    }

    fn left_up(&mut self) {
        self.reconnects += 1;
        self.attached = false;
        self.registered = None;
    }

    pub fn link(&self, id: u64) -> Option<&Arc<dyn Link>> {
        self.links.get(&id).map(|linked| &linked.link)
    }

    /// The active link of a spoke.
    pub fn up(&self) -> Option<&Arc<dyn Link>> {
        self.link(*self.ups.first()?)
    }

    pub fn spoke(&self, relay: &RelayId) -> Option<&Linked> {
        self.links.get(&self.spokes.get(relay)?.link)
    }

    pub fn peer(&self, relay: &RelayId) -> Option<&Linked> {
        self.links.get(self.peers.get(relay)?.first()?)
    }

    /// Where a message over `link` comes from.
    pub fn origin(&self, link: &dyn Link) -> From {
        let peer = link.peer();
        match (self.role, peer.role) {
            (Role::Main, Role::Home) => From::Spoke(peer.relay.clone()),
            _ => From::Hub(peer.relay.clone()),
        }
    }

    pub fn earn_retry(&mut self) {
        self.budget = (self.budget + 0.1).min(BUDGET_MOST);
    }

    pub fn spend_retry(&mut self) -> bool {
        let may = self.budget >= 1.0;
        if may {
            self.budget -= 1.0;
        }
        may
    }

    /// The other side of a link asked to move: nothing new is sent over it where there is a choice.
    pub fn drains(&mut self, link: u64) {
        if let Some(linked) = self.links.get_mut(&link) {
            linked.draining = true;
        }
    }

    /// Looks how the links are doing, and from whom something was heard; done now and then, not
    /// for each message.
    pub fn look_at_links(&mut self, now: Duration) {
        for linked in self.links.values_mut() {
            let stats = linked.link.stats();
            linked.rtt = stats.rtt;
            linked.draining |= stats.draining;
            let heard = stats.messages_in != linked.messages_in;
            linked.take_rates(now, stats.messages_in, stats.messages_out);
            if heard {
                let peer = linked.link.peer();
                match peer.role {
                    Role::Main => self.registry.peer_heard(now, &peer.relay),
                    Role::Home => self.registry.touch(now, &peer.relay),
                }
            }
        }
    }
}

impl Ways for State {
    fn is_spoke(&self, relay: &RelayId) -> bool {
        self.spokes.contains_key(relay)
    }

    fn is_peer(&self, relay: &RelayId) -> bool {
        self.peers.contains_key(relay)
    }

    fn hub_of(&self, relay: &RelayId) -> Option<RelayId> {
        self.registry.home(relay).map(|claim| claim.main.clone())
    }

    fn up(&self) -> Option<RelayId> {
        Self::up(self).map(|link| link.peer().relay.clone())
    }

    fn is_own_hub(&self, hub: &RelayId) -> bool {
        let to_hub = |link: &u64| self.link(*link).is_some_and(|link| link.peer().relay == *hub);
        self.role == Role::Home && self.ups.iter().any(to_hub)
    }
}
