//! Which instance a call gets, among those this hub can reach.

use std::time::Duration;

use relay_proto::{
    CallError, NodeAddress, RelayId, ServiceName,
    balance::{Candidate, NoChoice},
    call::RpcCode,
    registry::Instance,
    route::{From, Ways},
};

use super::{state::State, wire::Routed};

/// Instances of one service that are looked at for one call; of more, a window that moves.
const LOOKED_AT: usize = 64;

impl State {
    /// Whether a link leads to a node now.
    pub fn is_reachable(&self, node: &RelayId) -> bool {
        *node == self.me
            || self.is_spoke(node)
            || self.is_peer(node)
            || self.hub_of(node).is_some_and(|hub| self.is_peer(&hub))
    }

    /// Counts a call to the instance that the caller named, where it has room.
    pub fn admit(
        &mut self,
        now: Duration,
        service: &ServiceName,
        to: &NodeAddress,
    ) -> Result<Option<RelayId>, CallError> {
        let instances = self.registry.instances(service);
        let Some(instance) = instances.iter().find(|instance| instance.home == to.relay) else {
            // Not registered, perhaps not yet: the node itself knows.
            return Ok(None);
        };
        let candidate = Candidate {
            home: &to.relay,
            rtt: None,
            healthy: true,
            suspect: false,
            slots: instance.record.slots(),
        };
        let chosen = self.balancer.choose(now, service, &[candidate], 0);
        chosen.map_err(|no| no_choice(no, service))?;
        Ok(Some(to.relay.clone()))
    }

    /// Chooses an instance that is not among `tried`, and counts the call to it.
    pub fn choose(
        &mut self,
        now: Duration,
        from: &From,
        service: &ServiceName,
        routed: &Routed,
        tried: &[RelayId],
    ) -> Result<RelayId, CallError> {
        let random = self.draw();
        let range = match routed.data().and_then(|data| data.version.as_deref()) {
            None => None,
            Some(range) => Some(semver::VersionReq::parse(range).map_err(|error| {
                CallError::invalid_params(format!("version: {error}")).not_started()
            })?),
        };
        let all = self.registry.instances(service);
        let fits = |instance: &&Instance| {
            range.as_ref().is_none_or(|range| range.matches(&instance.version))
                && !tried.contains(&instance.home)
                && !routed.header.path.contains(&instance.home)
                && self.is_on_the_way(from, instance)
        };
        let skip = window(all.len(), random);
        let fitting = all.iter().skip(skip).chain(all.iter().take(skip)).filter(fits);
        let fitting: Vec<&Instance> = match &routed.idempotency_key {
            Some(key) => favourite(fitting, key).into_iter().collect(),
            None => fitting.take(LOOKED_AT).collect(),
        };
        let candidates: Vec<Candidate<'_>> =
            fitting.iter().map(|instance| self.candidate(now, instance)).collect();
        match self.balancer.choose(now, service, &candidates, random) {
            Ok(at) => Ok(fitting[at].home.clone()),
            Err(NoChoice::None) => Err(self.nobody(from, service, routed)),
            Err(no) => Err(no_choice(no, service)),
        }
    }

    fn is_on_the_way(&self, from: &From, instance: &Instance) -> bool {
        if instance.main == self.me {
            return instance.home == self.me || self.is_spoke(&instance.home);
        }
        !matches!(from, From::Hub(_)) && self.is_peer(&instance.main)
    }

    fn candidate<'a>(&self, now: Duration, instance: &'a Instance) -> Candidate<'a> {
        let linked = if instance.home == self.me {
            None
        } else if instance.main == self.me {
            self.spoke(&instance.home)
        } else {
            self.peer(&instance.main)
        };
        Candidate {
            home: &instance.home,
            rtt: linked.and_then(|linked| linked.rtt),
            healthy: instance.record.is_healthy && !linked.is_some_and(|linked| linked.draining),
            suspect: self.registry.is_suspect(now, &instance.main),
            slots: instance.record.slots(),
        }
    }

    /// Why there is no instance.
    fn nobody(&self, from: &From, service: &ServiceName, routed: &Routed) -> CallError {
        let all = self.registry.instances(service);
        let range = routed.data().and_then(|data| data.version.as_deref());
        if all.is_empty() {
            return CallError::service_not_found(service).not_started();
        }
        let reachable = all.iter().any(|instance| self.is_on_the_way(from, instance));
        if !reachable {
            let message = format!("no instance of '{service}' can be reached from here");
            return CallError::new(RpcCode::NodeUnreachable, message)
                .with("node", self.me.as_str())
                .not_started();
        }
        let name = range.map_or_else(|| service.to_string(), |range| format!("{service} {range}"));
        let mut versions: Vec<String> = all.iter().map(|i| i.version.to_string()).collect();
        versions.sort();
        versions.dedup();
        versions.truncate(16);
        CallError::service_not_found(name).with("versions", versions).not_started()
    }
}

fn no_choice(no: NoChoice, service: &ServiceName) -> CallError {
    match no {
        NoChoice::None => CallError::service_not_found(service).not_started(),
        NoChoice::Full { retry_after } => {
            let message = format!("every instance of '{service}' has as many calls as it takes");
            let ms = u64::try_from(retry_after.as_millis()).unwrap_or(1000);
            CallError::overloaded(message, ms).not_started()
        }
    }
}

/// Where to begin among more instances than are looked at.
fn window(instances: usize, random: u64) -> usize {
    if instances <= LOOKED_AT {
        return 0;
    }
    usize::try_from(random % instances as u64).unwrap_or(0)
}

/// The instance a key belongs to: the same on every hub that knows the same instances, so that
/// a repeat meets the result of the first call (rendezvous hashing).
fn favourite<'a>(instances: impl Iterator<Item = &'a Instance>, key: &str) -> Option<&'a Instance> {
    instances.max_by_key(|instance| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(key.as_bytes());
        hasher.update(&[0]);
        hasher.update(instance.home.as_str().as_bytes());
        let healthy = instance.record.is_healthy;
        (healthy, *hasher.finalize().as_bytes())
    })
}
