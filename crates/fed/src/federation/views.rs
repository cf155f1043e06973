//! What people and operators see; the structs are the bodies of the HTTP endpoints.

use std::{collections::BTreeMap, time::Duration};

use relay_proto::{
    NodeAddress, NodeId, RelayId, ServiceName, link::NodeType, registry, registry::Attachment,
};
use serde::{Deserialize, Serialize};

use super::{
    Federation, Shared,
    state::{Linked, Load, State},
    unix_ms,
};
use crate::link::Role;

/// The most services in one answer; more of them are left out, and the answer says so.
pub const MAX_LISTED: usize = 100_000;

/// A relay as the registry names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeAddressView {
    #[serde(rename = "type")]
    pub node_type: String,
    pub id: RelayId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main_relay: Option<RelayId>,
}

impl NodeAddressView {
    fn new(node_type: NodeType, id: &RelayId, main: &RelayId) -> Self {
        match node_type {
            NodeType::Main => Self { node_type: "main".into(), id: id.clone(), main_relay: None },
            NodeType::Home => {
                Self { node_type: "home".into(), id: id.clone(), main_relay: Some(main.clone()) }
            }
        }
    }
}

/// How much an instance has to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadMetrics {
    /// Calls that this relay sent it and that are under way.
    pub in_flight: u32,
    /// Moving average of its answers' time as seen from here, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<u64>,
    /// Taken out for a while because it failed.
    pub ejected: bool,
    /// What its node said with its last heartbeat; known of this hub's own spokes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Load>,
}

/// One instance of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    pub service_name: ServiceName,
    pub node_address: NodeAddressView,
    pub version: String,
    pub methods: Vec<String>,
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// RFC 3339.
    pub last_seen: String,
    pub is_healthy: bool,
    /// Its hub is silent.
    pub is_suspect: bool,
    pub load_metrics: LoadMetrics,
}

/// `GET /registry`, `GET /federation/registry`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegistryView {
    pub relay: RelayId,
    pub services: Vec<ServiceView>,
    /// There are more than [`MAX_LISTED`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Which services are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServiceQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ServiceName>,
    /// Only of this hub and its own spokes.
    #[serde(default)]
    pub own: bool,
}

/// A peer hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerView {
    pub id: RelayId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<NodeId>,
    pub is_connected: bool,
    /// Nothing was heard of it for a while.
    pub is_suspect: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkView>,
    /// Homes attached to it, and instances of services on them.
    pub spokes: usize,
    pub services: usize,
}

/// A spoke of this hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpokeView {
    pub id: RelayId,
    pub key: NodeId,
    pub version: String,
    /// Whether it has registered; a spare link of a spoke attached elsewhere has not.
    pub is_attached: bool,
    pub is_healthy: bool,
    pub attach_epoch: u64,
    /// Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached_since_ms: Option<u64>,
    pub services: Vec<ServiceName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    pub link: LinkView,
}

/// A link as both ends see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkView {
    pub from: RelayId,
    pub to: RelayId,
    /// Unix milliseconds.
    pub since_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// Messages a second, of late.
    pub in_per_sec: f64,
    pub out_per_sec: f64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Bytes that wait to be sent.
    pub queued: u64,
    /// The other side asked to move.
    pub is_draining: bool,
}

/// `GET /federation/health`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthView {
    /// `ok`, or `degraded` where a peer is lost or a spoke has no hub.
    pub status: String,
    pub relay: RelayId,
    pub node_type: String,
    pub peers: usize,
    pub peers_lost: usize,
    pub spokes: usize,
    pub homes: usize,
    pub services: usize,
    pub unhealthy_services: usize,
    pub ejected_instances: usize,
    /// Requests of links under way.
    pub pending: u64,
    /// Counted since the start.
    pub counters: BTreeMap<String, u64>,
}

/// A hub in the topology.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HubView {
    pub id: RelayId,
    /// `self`, `connected`, `suspect` or `lost`.
    pub state: String,
    pub spokes: usize,
    pub services: usize,
    /// RFC 3339.
    pub last_seen: String,
}

/// A spoke in the topology.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopologySpokeView {
    pub id: RelayId,
    pub hub: RelayId,
    pub services: usize,
    pub is_healthy: bool,
}

/// `GET /federation/topology`: what this hub knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopologyView {
    pub relay: RelayId,
    pub hubs: Vec<HubView>,
    pub spokes: Vec<TopologySpokeView>,
    /// This hub's own.
    pub links: Vec<LinkView>,
}

/// A spoke's part of `GET /status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    pub relay: RelayId,
    pub node_type: String,
    /// The hub it is linked to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<RelayId>,
    /// The full address: `alice.home@relay.example.com`.
    pub address: String,
    /// Whether the hub took its registration.
    pub is_attached: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkView>,
    /// Hubs to which a spare link is up.
    pub standby: Vec<RelayId>,
    /// How often the active link changed since the start.
    pub reconnects: u64,
    /// Why the hub refused the last registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl Federation {
    /// Services known on this hub.
    pub fn services(&self, query: &ServiceQuery) -> RegistryView {
        self.shared.services_view(query)
    }

    /// Peer hubs, those that are lost but not yet forgotten too.
    pub fn peers(&self) -> Vec<PeerView> {
        let state = self.shared.lock();
        let now = self.shared.now();
        let sizes = hub_sizes(&state);
        let mut peers: Vec<PeerView> = state
            .registry
            .peers()
            .map(|id| {
                let linked = state.peer(id);
                let (spokes, services) = sizes.get(id).copied().unwrap_or_default();
                PeerView {
                    id: id.clone(),
                    key: linked.map(|linked| linked.link.peer().key),
                    is_connected: linked.is_some(),
                    is_suspect: state.registry.is_suspect(now, id),
                    version: linked.map(|linked| linked.link.peer().version.clone()),
                    link: linked.map(|linked| link_view(&state.me, linked)),
                    spokes,
                    services,
                }
            })
            .collect();
        peers.sort_by(|a, b| a.id.cmp(&b.id));
        peers
    }

    /// The relay that proved a key: this one, one that is linked here, or one that is attached to a hub.
    pub fn relay_of_key(&self, key: &NodeId) -> Option<RelayId> {
        if self.shared.config.key.node_id() == *key {
            return Some(self.shared.config.relay.clone());
        }
        let state = self.shared.lock();
        let mut linked = state.links.values().map(|linked| linked.link.peer());
        let linked = linked.find(|peer| peer.key == *key);
        linked.map(|peer| peer.relay.clone()).or_else(|| {
            let mut homes = state.registry.all_homes().map(|claim| &claim.attachment);
            homes.find(|home| home.key == *key).map(|home| home.home.clone())
        })
    }

    /// The names of the services that this node tells of.
    pub fn offered(&self) -> Vec<ServiceName> {
        self.shared.local.services().into_iter().map(|record| record.service_name).collect()
    }

    /// Forgets a peer hub and closes its links; whether there was one. Dialling it again is up to
    /// whoever dials.
    pub fn drop_peer(&self, id: &RelayId) -> bool {
        let now = self.shared.now();
        let (known, links) = {
            let mut state = self.shared.lock();
            let links = state.peers.get(id).cloned().unwrap_or_default();
            let links: Vec<_> =
                links.iter().filter_map(|link| state.link(*link).cloned()).collect();
            let known = state.registry.peers().any(|peer| peer == id);
            state.registry.remove_peer(now, id);
            (known, links)
        };
        for link in links {
            link.close("removed by the operator");
        }
        self.shared.changed();
        known
    }

    /// Spokes linked to this hub.
    pub fn spokes(&self) -> Vec<SpokeView> {
        let state = self.shared.lock();
        let homes = state.links.values().filter(|l| l.link.peer().role == Role::Home);
        let mut spokes: Vec<SpokeView> = homes.map(|linked| spoke_view(&state, linked)).collect();
        spokes.sort_by(|a, b| (&a.id, !a.is_attached).cmp(&(&b.id, !b.is_attached)));
        spokes
    }

    /// Closes the links of a spoke; whether it had any.
    pub fn kick(&self, id: &RelayId) -> bool {
        let links: Vec<_> = {
            let state = self.shared.lock();
            let of_it = state.links.values().filter(|l| l.link.peer().relay == *id);
            of_it.map(|linked| linked.link.clone()).collect()
        };
        for link in &links {
            link.close("removed by the operator");
        }
        !links.is_empty()
    }

    pub fn health(&self) -> HealthView {
        let state = self.shared.lock();
        let now = self.shared.now();
        let known = state.registry.peers().count();
        let lost = known.saturating_sub(state.peers.len());
        let (homes, services) = state.registry.size();
        let alone = state.role == Role::Home && !state.attached;
        let unhealthy = state.registry.all_homes().flat_map(|claim| &claim.attachment.services);
        HealthView {
            status: if lost > 0 || alone { "degraded" } else { "ok" }.to_owned(),
            relay: state.me.clone(),
            node_type: role_name(state.role).to_owned(),
            peers: state.peers.len(),
            peers_lost: lost,
            spokes: state.spokes.len(),
            homes,
            services,
            unhealthy_services: unhealthy.filter(|service| !service.is_healthy).count(),
            ejected_instances: state.balancer.ejected(now),
            pending: self.shared.load().in_flight,
            counters: counters(&self.shared, &state),
        }
    }

    pub fn topology(&self) -> TopologyView {
        let state = self.shared.lock();
        let now = self.shared.now();
        let sizes = hub_sizes(&state);
        let size = |id: &RelayId| sizes.get(id).copied().unwrap_or_default();
        let wall = unix_ms();
        let hub = |id: &RelayId, hub_state: &str| HubView {
            id: id.clone(),
            state: hub_state.to_owned(),
            spokes: size(id).0,
            services: size(id).1,
            last_seen: seen(wall, now, state.registry.heard_hub(id).unwrap_or(now)),
        };
        let mut hubs = vec![hub(&state.me, "self")];
        hubs.extend(state.registry.peers().map(|id| {
            let hub_state = match (state.peers.contains_key(id), state.registry.is_suspect(now, id))
            {
                (false, _) => "lost",
                (true, true) => "suspect",
                (true, false) => "connected",
            };
            hub(id, hub_state)
        }));
        hubs.sort_by(|a, b| a.id.cmp(&b.id));
        let homes = state.registry.all_homes().filter(|c| c.attachment.node_type == NodeType::Home);
        let mut spokes: Vec<TopologySpokeView> = homes
            .map(|claim| TopologySpokeView {
                id: claim.attachment.home.clone(),
                hub: claim.main.clone(),
                services: claim.attachment.services.len(),
                is_healthy: is_well(&claim.attachment)
                    && !state.registry.is_suspect(now, &claim.main),
            })
            .collect();
        spokes.sort_by(|a, b| a.id.cmp(&b.id));
        let mut links: Vec<LinkView> =
            state.links.values().map(|linked| link_view(&state.me, linked)).collect();
        links.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
        TopologyView { relay: state.me.clone(), hubs, spokes, links }
    }

    /// Which hub, since when, how far.
    pub fn status(&self) -> StatusView {
        let state = self.shared.lock();
        let up = state.ups.first().and_then(|id| state.links.get(id));
        let hub = up.map(|linked| linked.link.peer().relay.clone());
        let address = NodeAddress { relay: state.me.clone(), hub: hub.clone() };
        let spare = state.ups.iter().skip(1).filter_map(|id| state.link(*id));
        StatusView {
            relay: state.me.clone(),
            node_type: role_name(state.role).to_owned(),
            address: address.to_string(),
            hub,
            is_attached: state.role == Role::Main || state.attached,
            link: up.map(|linked| link_view(&state.me, linked)),
            standby: spare.map(|link| link.peer().relay.clone()).collect(),
            reconnects: state.reconnects,
            refused: state.refused.clone(),
        }
    }
}

impl Shared {
    pub(super) fn services_view(&self, query: &ServiceQuery) -> RegistryView {
        let state = self.lock();
        let now = self.now();
        let wall = unix_ms();
        let mut services = Vec::new();
        let mut truncated = false;
        let claims = state.registry.all_homes();
        for claim in claims.filter(|claim| !query.own || claim.main == state.me) {
            for record in &claim.attachment.services {
                if query.name.as_ref().is_some_and(|name| *name != record.service_name) {
                    continue;
                }
                if services.len() >= MAX_LISTED {
                    truncated = true;
                    break;
                }
                services.push(service_view(&state, now, wall, claim, record));
            }
        }
        services.sort_by(|a, b| {
            (&a.service_name, &a.node_address).cmp(&(&b.service_name, &b.node_address))
        });
        RegistryView { relay: state.me.clone(), services, truncated }
    }
}

fn service_view(
    state: &State,
    now: Duration,
    wall: u64,
    claim: &registry::Claim,
    record: &registry::ServiceRecord,
) -> ServiceView {
    let home = &claim.attachment.home;
    let glance = state.balancer.glance(now, &record.service_name, home);
    let heard = match state.registry.heard(home, &claim.main) {
        Some(heard) if *home != state.me => heard,
        _ => now,
    };
    ServiceView {
        service_name: record.service_name.clone(),
        node_address: NodeAddressView::new(claim.attachment.node_type, home, &claim.main),
        version: record.version.clone(),
        methods: record.methods.clone(),
        metadata: record.metadata.clone(),
        last_seen: seen(wall, now, heard),
        is_healthy: record.is_healthy,
        is_suspect: state.registry.is_suspect(now, &claim.main),
        load_metrics: LoadMetrics {
            in_flight: glance.in_flight,
            latency_us: glance.latency.map(micros),
            ejected: glance.ejected,
            node: state.spokes.get(home).and_then(|spoke| spoke.load),
        },
    }
}

fn spoke_view(state: &State, linked: &Linked) -> SpokeView {
    let peer = linked.link.peer();
    let spoke = state.spokes.get(&peer.relay).filter(|spoke| spoke.link == linked.link.id());
    let claim = state.registry.home(&peer.relay).filter(|c| spoke.is_some() && c.main == state.me);
    let services = claim.iter().flat_map(|claim| &claim.attachment.services);
    SpokeView {
        id: peer.relay.clone(),
        key: peer.key,
        version: peer.version.clone(),
        is_attached: spoke.is_some(),
        is_healthy: claim.is_none_or(|claim| is_well(&claim.attachment)),
        attach_epoch: spoke.map_or(0, |spoke| spoke.epoch),
        attached_since_ms: spoke.map(|spoke| spoke.since_ms),
        services: services.map(|service| service.service_name.clone()).collect(),
        load: spoke.and_then(|spoke| spoke.load),
        link: link_view(&state.me, linked),
    }
}

fn link_view(me: &RelayId, linked: &Linked) -> LinkView {
    let stats = linked.link.stats();
    let peer = linked.link.peer();
    let (from, to) = if peer.dialled { (me, &peer.relay) } else { (&peer.relay, me) };
    LinkView {
        from: from.clone(),
        to: to.clone(),
        since_ms: stats.since_ms,
        rtt_us: stats.rtt.map(micros),
        in_per_sec: linked.in_per_sec,
        out_per_sec: linked.out_per_sec,
        bytes_in: stats.bytes_in,
        bytes_out: stats.bytes_out,
        queued: stats.queued,
        is_draining: linked.draining || stats.draining,
    }
}

fn is_well(attachment: &Attachment) -> bool {
    attachment.services.iter().all(|service| service.is_healthy)
}

/// Of each hub the spokes attached to it and the services on them and on itself.
fn hub_sizes(state: &State) -> BTreeMap<RelayId, (usize, usize)> {
    let mut sizes = BTreeMap::new();
    for claim in state.registry.all_homes() {
        let (spokes, services): &mut (usize, usize) = sizes.entry(claim.main.clone()).or_default();
        *spokes += usize::from(claim.attachment.node_type == NodeType::Home);
        *services += claim.attachment.services.len();
    }
    sizes
}

fn counters(shared: &Shared, state: &State) -> BTreeMap<String, u64> {
    let registry = state.registry.counters();
    let calls = &shared.counters;
    let load =
        |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    [
        ("requests", load(&calls.requests)),
        ("retries", load(&calls.retries)),
        ("retries_refused", load(&calls.retries_refused)),
        ("overloaded", load(&calls.overloaded)),
        ("loops", load(&calls.loops)),
        ("expired", load(&calls.expired)),
        ("cancelled", load(&calls.cancelled)),
        ("late", load(&calls.late)),
        ("malformed", load(&calls.malformed)),
        ("registrations_refused", load(&calls.registrations_refused)),
        ("registry_repairs", registry.repairs),
        ("registry_claims_refused", registry.claims_refused),
        ("registry_over_limit", registry.over_limit),
        ("registry_damped", registry.damped),
        ("registry_expired", registry.expired),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

pub(super) const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Main => "main",
        Role::Home => "home",
    }
}

/// Microseconds, as every view counts them.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The wall clock's time of a moment on ours.
fn seen(wall_ms: u64, now: Duration, at: Duration) -> String {
    let ago = u64::try_from(now.saturating_sub(at).as_millis()).unwrap_or(0);
    let ms = i64::try_from(wall_ms.saturating_sub(ago)).unwrap_or(0);
    jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}
