//! One slot for each resource that the table knows, and the index over them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::{Bound, Index, IndexMut},
};

use super::{LeaseAction, Resource, Tenure, Ticket, recall::RequestKey};
use crate::name::Namespace;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SlotId(u32);

/// All that is known of one resource.
#[derive(Debug)]
pub(super) struct Slot {
    pub ns: Namespace,
    pub resource: Resource,
    pub lease: Lease,
    /// Who waits, first come first. May hold tickets of waiters that are gone.
    pub queue: VecDeque<Ticket>,
    /// How many of `queue` still wait.
    pub waiting: usize,
    /// The deadline under which this slot stands in the heap, never later than its lease's.
    pub scheduled: Option<u64>,
    /// Used since the clock hand last passed it (see [`Slots::forget_idle`]).
    used: bool,
}

#[derive(Debug)]
pub(super) enum Lease {
    /// No grant is known.
    Never,
    Held(Hold),
    Free {
        tenure: Tenure,
        how: LeaseAction,
    },
}

#[derive(Debug)]
pub(super) struct Hold {
    pub tenure: Tenure,
    pub request: Option<RequestKey>,
    /// When it ends, in monotonic nanoseconds.
    pub deadline: u64,
    /// When its last row was written, to coalesce the rows of renewals.
    pub row_at: u64,
}

impl Slot {
    pub fn hold(&self) -> Option<&Hold> {
        match &self.lease {
            Lease::Held(hold) => Some(hold),
            _ => None,
        }
    }

    /// The last grant, running or ended.
    pub fn tenure(&self) -> Option<&Tenure> {
        match &self.lease {
            Lease::Never => None,
            Lease::Held(hold) => Some(&hold.tenure),
            Lease::Free { tenure, .. } => Some(tenure),
        }
    }
}

/// The slots, found by namespace and name in constant time, listed in order of name.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Never shrinks, so that an id always finds a slot; a vacant one knows of no lease.
    slots: Vec<Slot>,
    vacant: Vec<SlotId>,
    spaces: HashMap<Namespace, Space>,
    /// Each slot once; the hand of the clock that finds the longest unused free one.
    hand: VecDeque<SlotId>,
}

#[derive(Debug, Default)]
struct Space {
    by_name: HashMap<Resource, SlotId>,
    in_order: BTreeMap<Resource, SlotId>,
}

impl Slots {
    pub fn len(&self) -> usize {
        self.hand.len()
    }

    pub fn find(&mut self, ns: &Namespace, resource: &Resource) -> Option<SlotId> {
        let id = self.spaces.get(ns)?.by_name.get(resource).copied()?;
        self[id].used = true;
        Some(id)
    }

    /// The slot of a resource, made where there was none.
    pub fn find_or_insert(&mut self, ns: &Namespace, resource: &Resource) -> SlotId {
        if let Some(id) = self.find(ns, resource) {
            return id;
        }
        let slot = Slot {
            ns: ns.clone(),
            resource: resource.clone(),
            lease: Lease::Never,
            queue: VecDeque::new(),
            waiting: 0,
            scheduled: None,
            used: true,
        };
        let id = match self.vacant.pop() {
            Some(id) => {
                self[id] = slot;
                id
            }
            None => {
                self.slots.push(slot);
                SlotId((self.slots.len() - 1) as u32)
            }
        };
        let space = self.spaces.entry(ns.clone()).or_default();
        space.by_name.insert(resource.clone(), id);
        space.in_order.insert(resource.clone(), id);
        self.hand.push_back(id);
        id
    }

    /// Up to `limit` slots of a namespace with names from `prefix` on, after `after`.
    pub fn page(
        &self,
        ns: &Namespace,
        prefix: &str,
        after: Option<&Resource>,
        limit: usize,
    ) -> Vec<SlotId> {
        let Some(space) = self.spaces.get(ns) else { return Vec::new() };
        let start = match after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        space
            .in_order
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(name, _)| name.as_str().starts_with(prefix))
            .map(|(_, id)| *id)
            .take(limit)
            .collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    /// Forgets free slots, the longest unused first, until at most `max_idle` more than `held` are left.
    ///
    /// Safe because tokens come from one counter for all resources.
    pub fn forget_idle(&mut self, held: usize, max_idle: usize) {
        // Each step clears a mark, or meets a held slot, or forgets one: twice around is enough.
        let mut steps = 2 * self.hand.len();
        while self.len() > held + max_idle && steps > 0 {
            steps -= 1;
            let Some(id) = self.hand.pop_front() else { return };
            let slot = &mut self[id];
            if slot.used || slot.hold().is_some() {
                slot.used = false;
                self.hand.push_back(id);
            } else {
                self.forget(id);
            }
        }
    }

    fn forget(&mut self, id: SlotId) {
        let slot = &mut self.slots[id.0 as usize];
        slot.lease = Lease::Never;
        if let Some(space) = self.spaces.get_mut(&slot.ns) {
            space.by_name.remove(&slot.resource);
            space.in_order.remove(&slot.resource);
            if space.by_name.is_empty() {
                self.spaces.remove(&slot.ns);
            }
        }
        self.vacant.push(id);
    }
}

impl Index<SlotId> for Slots {
    type Output = Slot;

    fn index(&self, id: SlotId) -> &Slot {
        &self.slots[id.0 as usize]
    }
}

impl IndexMut<SlotId> for Slots {
    fn index_mut(&mut self, id: SlotId) -> &mut Slot {
        &mut self.slots[id.0 as usize]
    }
}
