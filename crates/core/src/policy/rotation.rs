//! Who took over from whom (`events.md`, Key rotation).

use ahash::{AHashMap, AHashSet};
use relay_proto::{EventId, NodeId};

/// Each change of policy looks at every rotation, so their number has an end.
const MAX_ROTATIONS: usize = 50_000;

/// One stored rotation.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub event: EventId,
    pub new: NodeId,
    /// Admins who approved it by a kind-10101 event.
    pub approved_by: Vec<NodeId>,
}

/// Every rotation that this relay has, one for each old key: the first by `seq`.
#[derive(Debug, Clone, Default)]
pub(super) struct Links(AHashMap<NodeId, Link>);

/// Why a rotation or approval is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error("the key has already been rotated away")]
    Again,
    #[error("the new key leads back to the old one")]
    Cycle,
    #[error("this relay has too many rotations")]
    TooMany,
    #[error("the e tag names no rotation that this relay has")]
    UnknownRotation,
}

impl Links {
    pub fn check(&self, old: &NodeId, new: &NodeId) -> Result<(), LinkError> {
        if self.0.contains_key(old) {
            return Err(LinkError::Again);
        }
        if self.0.len() >= MAX_ROTATIONS {
            return Err(LinkError::TooMany);
        }
        // No cycle is ever let in, so this walk ends.
        let mut key = *new;
        while key != *old {
            match self.0.get(&key) {
                Some(link) => key = link.new,
                None => return Ok(()),
            }
        }
        Err(LinkError::Cycle)
    }

    pub fn add(&mut self, event: EventId, old: NodeId, new: NodeId) -> Result<(), LinkError> {
        self.check(&old, &new)?;
        self.0.insert(old, Link { event, new, approved_by: Vec::new() });
        Ok(())
    }

    pub fn knows(&self, rotation: &EventId) -> bool {
        self.0.values().any(|link| link.event == *rotation)
    }

    pub fn approve(&mut self, rotation: &EventId, by: NodeId) -> Result<(), LinkError> {
        let link = self
            .0
            .values_mut()
            .find(|link| link.event == *rotation)
            .ok_or(LinkError::UnknownRotation)?;
        if !link.approved_by.contains(&by) {
            link.approved_by.push(by);
        }
        Ok(())
    }

    /// The links that count where `counts` says so.
    pub fn succession(&self, counts: impl Fn(&Link) -> bool) -> Succession {
        let mut succession = Succession::default();
        for (old, link) in self.0.iter().filter(|(_, link)| counts(link)) {
            succession.next.insert(*old, link.new);
            succession.before.entry(link.new).or_default().push(*old);
        }
        succession
    }
}

/// The rotations in force in some namespaces. Free of cycles.
#[derive(Debug, Clone, Default)]
pub(super) struct Succession {
    next: AHashMap<NodeId, NodeId>,
    before: AHashMap<NodeId, Vec<NodeId>>,
}

impl Succession {
    pub fn is_retired(&self, key: &NodeId) -> bool {
        self.next.contains_key(key)
    }

    /// `key`, then everyone who took over from it, one after another.
    pub fn onward(&self, key: NodeId) -> impl Iterator<Item = NodeId> {
        std::iter::successors(Some(key), |key| self.next.get(key).copied())
    }

    /// The last of [`Self::onward`].
    pub fn heir(&self, key: NodeId) -> NodeId {
        self.onward(key).last().unwrap_or(key)
    }

    /// `key` and everyone whose rights it took over.
    pub fn lineage(&self, key: NodeId) -> AHashSet<NodeId> {
        let mut found = AHashSet::new();
        let mut open = vec![key];
        while let Some(key) = open.pop() {
            if found.insert(key) {
                open.extend(self.before.get(&key).into_iter().flatten());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use relay_proto::SigningKey;

    use super::*;

    fn key(n: u8) -> NodeId {
        SigningKey::from_seed([n; 32]).node_id()
    }

    fn id(n: u8) -> EventId {
        EventId::from_bytes([n; 32])
    }

    #[test]
    fn chains_are_followed_and_cycles_refused() {
        let mut links = Links::default();
        links.add(id(1), key(1), key(2)).unwrap();
        links.add(id(2), key(2), key(3)).unwrap();
        links.add(id(3), key(9), key(3)).unwrap();
        assert_eq!(links.add(id(4), key(3), key(1)), Err(LinkError::Cycle));
        assert_eq!(links.add(id(4), key(1), key(5)), Err(LinkError::Again));
        let all = links.succession(|_| true);
        assert_eq!(all.heir(key(1)), key(3));
        assert_eq!(all.lineage(key(3)), [1, 2, 3, 9].map(key).into_iter().collect());
        assert!(all.is_retired(&key(2)) && !all.is_retired(&key(3)));
    }

    #[test]
    fn approvals_name_a_rotation() {
        let mut links = Links::default();
        links.add(id(1), key(1), key(2)).unwrap();
        assert_eq!(links.approve(&id(2), key(8)), Err(LinkError::UnknownRotation));
        let approved = |links: &Links| links.succession(|link| link.approved_by.contains(&key(8)));
        assert!(!approved(&links).is_retired(&key(1)));
        links.approve(&id(1), key(8)).unwrap();
        assert!(approved(&links).is_retired(&key(1)));
    }
}
