//! Of all claims of homes the ones that count, indexed by service.

use std::{collections::HashMap, sync::Arc, time::Duration};

use smallvec::SmallVec;

use super::record::{Attachment, ServiceRecord};
use crate::{
    address::{RelayId, ServiceName},
    key::NodeId,
};

/// A hub says that a home is attached to it.
#[derive(Debug, Clone)]
pub struct Claim {
    pub main: RelayId,
    pub attachment: Arc<Attachment>,
    /// The hub is this one: its link proved the home's key.
    pub first_hand: bool,
}

impl Claim {
    /// Whether this claim ends `other`, the one that counts so far: it is newer, of the same key, and
    /// where the home signed the other it signed this one too.
    fn ends(&self, other: &Self) -> bool {
        let (new, old) = (&self.attachment, &other.attachment);
        // Two hubs that number the epochs of a foreign program may pick the same one.
        let newer = (new.epoch, &self.main) > (old.epoch, &other.main);
        newer
            && new.key == old.key
            && (self.first_hand || old.proof.is_none() || new.is_proven(&self.main))
    }
}

/// One instance of a service.
#[derive(Debug, Clone)]
pub struct Instance {
    pub home: RelayId,
    /// The hub it is attached to.
    pub main: RelayId,
    pub version: semver::Version,
    pub record: Arc<ServiceRecord>,
}

/// Claims of one home. Two hubs claim it while one of them has not noticed that it left.
#[derive(Debug, Default)]
struct Home {
    claims: SmallVec<[Claim; 1]>,
    /// The hub whose claim counts.
    winner: Option<RelayId>,
    /// The greatest epoch that counted; older claims are dead even when no newer one is left.
    newest: u64,
    /// Since when nobody claims it.
    unclaimed: Option<Duration>,
}

impl Home {
    fn claim_of(&self, main: &RelayId) -> Option<&Claim> {
        self.claims.iter().find(|claim| claim.main == *main)
    }

    fn winner(&self) -> Option<&Claim> {
        self.claim_of(self.winner.as_ref()?)
    }

    /// Finds the claim that counts. The one that counted so far keeps its place until another
    /// ends it, so that a hub can't take a home from another by a key of its own.
    fn elect(&mut self) {
        let alive = |claim: &&Claim| claim.attachment.epoch >= self.newest;
        let mut best = self.winner().filter(alive);
        if best.is_none() {
            let age = |claim: &&Claim| (claim.attachment.epoch, claim.main.clone());
            best = self.claims.iter().filter(alive).max_by_key(age);
        }
        for claim in &self.claims {
            if best.is_some_and(|best| claim.ends(best)) {
                best = Some(claim);
            }
        }
        let winner = best.map(|claim| (claim.main.clone(), claim.attachment.epoch));
        self.newest = winner.as_ref().map_or(self.newest, |(_, epoch)| *epoch);
        self.winner = winner.map(|(main, _)| main);
    }
}

/// Every home known, and the index over the claims that count.
#[derive(Debug, Default)]
pub(super) struct Homes {
    homes: HashMap<RelayId, Home>,
    services: HashMap<ServiceName, Vec<Instance>>,
    instances: usize,
    revision: u64,
}

impl Homes {
    pub fn newest(&self, home: &RelayId) -> u64 {
        self.homes.get(home).map_or(0, |home| home.newest)
    }

    /// The key a home is bound to while a claim of it counts.
    pub fn key(&self, home: &RelayId) -> Option<NodeId> {
        self.winner(home).map(|claim| claim.attachment.key)
    }

    pub fn winner(&self, home: &RelayId) -> Option<&Claim> {
        self.homes.get(home)?.winner()
    }

    pub fn winners(&self) -> impl Iterator<Item = &Claim> {
        self.homes.values().filter_map(Home::winner)
    }

    pub fn claim_of(&self, home: &RelayId, main: &RelayId) -> Option<&Arc<Attachment>> {
        self.homes.get(home)?.claim_of(main).map(|claim| &claim.attachment)
    }

    pub fn instances(&self, service: &ServiceName) -> &[Instance] {
        self.services.get(service).map_or(&[], Vec::as_slice)
    }

    pub const fn revision(&self) -> u64 {
        self.revision
    }

    pub fn size(&self) -> (usize, usize) {
        (self.homes.len(), self.instances)
    }

    /// Sets the claim of a hub on a home.
    pub fn set(&mut self, id: &RelayId, claim: Claim) {
        let home = self.homes.entry(id.clone()).or_default();
        let before = home.winner().cloned();
        home.claims.retain(|other| other.main != claim.main);
        home.claims.push(claim);
        home.unclaimed = None;
        home.elect();
        let after = home.winner().cloned();
        self.index(id, before.as_ref(), after.as_ref());
    }

    /// Removes the claim of a hub on a home.
    pub fn remove(&mut self, now: Duration, id: &RelayId, main: &RelayId) {
        let Some(home) = self.homes.get_mut(id) else { return };
        let before = home.winner().cloned();
        home.claims.retain(|other| other.main != *main);
        if home.claims.is_empty() {
            home.unclaimed.get_or_insert(now);
        }
        home.elect();
        let after = home.winner().cloned();
        self.index(id, before.as_ref(), after.as_ref());
    }

    /// Removes all claims of a hub.
    pub fn forget<'a>(
        &mut self,
        now: Duration,
        main: &RelayId,
        homes: impl Iterator<Item = &'a RelayId>,
    ) {
        for home in homes {
            self.remove(now, home, main);
        }
    }

    /// Forgets homes that nobody has claimed for long.
    pub fn expire(&mut self, now: Duration, remember: Duration) {
        self.homes.retain(|_, home| {
            home.unclaimed.is_none_or(|since| now.saturating_sub(since) < remember)
        });
    }

    fn index(&mut self, home: &RelayId, before: Option<&Claim>, after: Option<&Claim>) {
        let same = match (before, after) {
            (None, None) => true,
            (Some(a), Some(b)) => a.main == b.main && Arc::ptr_eq(&a.attachment, &b.attachment),
            _ => false,
        };
        if same {
            return;
        }
        self.revision += 1;
        for record in before.iter().flat_map(|claim| &claim.attachment.services) {
            let Some(instances) = self.services.get_mut(&record.service_name) else { continue };
            instances.retain(|instance| instance.home != *home);
            self.instances -= 1;
            if instances.is_empty() {
                self.services.remove(&record.service_name);
            }
        }
        if let Some(claim) = after {
            for record in &claim.attachment.services {
                // Checked when it was registered; an unreadable version fits no range.
                let version = semver::Version::parse(&record.version)
                    .unwrap_or(semver::Version::new(0, 0, 0));
                let (home, main) = (home.clone(), claim.main.clone());
                let instance = Instance { home, main, version, record: record.clone() };
                self.services.entry(record.service_name.clone()).or_default().push(instance);
                self.instances += 1;
            }
        }
    }
}
