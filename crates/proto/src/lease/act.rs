//! The operations, one method each.

use super::{
    Acquire, Applied, Break, Grant, Held, LeaseAction, LeaseAnswer, LeaseRefusal, LeaseTable,
    LockList, LockState, Now, Release, Renew, Resource, Ticket,
    recall::RequestKey,
    slot::{Hold, Lease, Slot, SlotId},
    table::Alive,
    transition::{Extra, ns_of},
    wait::Claim,
};
use crate::{key::NodeId, name::Namespace};

/// One call into the table: its time, and where its effects go.
pub(super) struct Act<'a> {
    pub table: &'a mut LeaseTable,
    pub now: Now,
    pub alive: Alive<'a>,
    pub out: &'a mut Applied,
}

type Answered = Result<LeaseAnswer, LeaseRefusal>;

/// How many known resources a page of a list looks at for each item it may return, so that a
/// page has a bounded cost where few of many are held.
const SCAN_PER_ITEM: usize = 16;

impl Act<'_> {
    /// `None`: it waits in line.
    pub fn acquire(
        &mut self,
        ticket: Ticket,
        ask: Acquire,
    ) -> Result<Option<LeaseAnswer>, LeaseRefusal> {
        self.check_acquire(&ask)?;
        let Acquire { ns, resource, owner, lease_ms, wait_ms, request_id, meta } = ask;
        let request = request_id.map(|id| (RequestKey::new(&ns, &resource, &owner, &id), id));
        let slot = self.settled(&ns, &resource);
        let holder = slot.and_then(|id| Some((id, self.table.slots[id].hold()?)));
        if let Some((key, _)) = &request {
            if let Some((_, hold)) = holder.filter(|(_, hold)| hold.request == Some(*key)) {
                return Ok(Some(LeaseAnswer::Acquired(self.grant_of(&resource, hold))));
            }
            if self.table.recall.has_ended(key) {
                return Err(LeaseRefusal::RequestEnded);
            }
        }
        let claim = Claim { owner, lease_ms, request, meta };
        match holder {
            Some((_, hold)) if wait_ms == 0 => Err(self.lock_held(hold)),
            Some((id, _)) => self.wait(id, ticket, claim, wait_ms).map(|()| None),
            None if self.table.held >= self.table.limits.max_held => Err(LeaseRefusal::TooManyHeld),
            None => {
                let id = self.table.slots.find_or_insert(&ns, &resource);
                let grant = self.grant(id, claim);
                self.table.slots.forget_idle(self.table.held, self.table.limits.max_idle);
                Ok(Some(LeaseAnswer::Acquired(grant)))
            }
        }
    }

    pub fn renew(&mut self, ask: &Renew) -> Answered {
        self.check_lease(ask.lease_ms)?;
        let id = self.current(&ask.ns, &ask.resource, ask.token, Some(&ask.owner))?;
        let now = self.now.mono_ns;
        let hold = match &mut self.table.slots[id].lease {
            Lease::Held(hold) => hold,
            Lease::Free { how: LeaseAction::Release, .. } => return Err(LeaseRefusal::StaleToken),
            _ => return Err(LeaseRefusal::LeaseExpired),
        };
        let mut write = now.saturating_sub(hold.row_at) >= ns_of(hold.tenure.lease_ms) / 3;
        let deadline = now.saturating_add(ns_of(ask.lease_ms));
        if deadline >= hold.deadline {
            hold.deadline = deadline;
            // After a restart the lease runs for its stored length: a new length must be stored.
            write |= hold.tenure.lease_ms != ask.lease_ms;
            hold.tenure.lease_ms = ask.lease_ms;
        }
        if write {
            hold.row_at = now;
        }
        let hold = &*hold;
        let expires_wall_ns = self.now.wall_at(hold.deadline);
        let grant = Grant {
            resource: ask.resource.clone(),
            owner: ask.owner,
            token: ask.token,
            lease_ms: ask.lease_ms,
            expires_wall_ns,
            now_wall_ns: self.now.wall_ns,
        };
        if write {
            self.row(id, LeaseAction::Renew, Extra::default());
        }
        Ok(LeaseAnswer::Renewed(grant))
    }

    pub fn release(&mut self, ask: Release) -> Answered {
        let id = self.current(&ask.ns, &ask.resource, ask.token, Some(&ask.owner))?;
        match &self.table.slots[id].lease {
            Lease::Held(_) => self.end(id, LeaseAction::Release, Extra::default()),
            Lease::Free { how: LeaseAction::Release, .. } => {}
            _ => return Err(LeaseRefusal::LeaseExpired),
        }
        Ok(LeaseAnswer::Released { resource: ask.resource, token: ask.token })
    }

    pub fn break_lease(&mut self, ask: Break) -> Answered {
        let id = self.current(&ask.ns, &ask.resource, ask.token, None)?;
        match &self.table.slots[id].lease {
            Lease::Held(_) => {
                let extra = Extra { reason: Some(ask.reason), by: Some(ask.by), previous: None };
                self.end(id, LeaseAction::Break, extra);
            }
            Lease::Free { how: LeaseAction::Break, .. } => {}
            Lease::Free { how: LeaseAction::Release, .. } => return Err(LeaseRefusal::StaleToken),
            _ => return Err(LeaseRefusal::LeaseExpired),
        }
        Ok(LeaseAnswer::Broken { resource: ask.resource, token: ask.token })
    }

    pub fn inspect(&mut self, ns: Namespace, resource: Resource) -> LeaseAnswer {
        LeaseAnswer::State(match self.settled(&ns, &resource) {
            Some(id) => self.state_of(&self.table.slots[id]),
            None => LockState { ns, resource, held: None, token: 0, waiting: 0 },
        })
    }

    pub fn list(
        &mut self,
        ns: &Namespace,
        prefix: &str,
        after: Option<&Resource>,
        limit: usize,
    ) -> LeaseAnswer {
        let limit = limit.clamp(1, self.table.limits.max_page);
        let scan = limit * SCAN_PER_ITEM;
        let ids = self.table.slots.page(ns, prefix, after, scan);
        let mut list = LockList { items: Vec::new(), next: None };
        for (index, id) in ids.iter().enumerate() {
            self.settle(*id);
            let slot = &self.table.slots[*id];
            if slot.hold().is_some() {
                list.items.push(self.state_of(slot));
            }
            if list.items.len() == limit || index + 1 == scan {
                list.next = Some(slot.resource.clone());
                break;
            }
        }
        LeaseAnswer::List(list)
    }

    pub fn cancel(&mut self, waiting: Ticket) -> LeaseAnswer {
        let was_waiting = self.leave(waiting).is_some();
        if was_waiting {
            self.out.answers.push((waiting, Err(LeaseRefusal::Withdrawn)));
        }
        LeaseAnswer::Cancelled { was_waiting }
    }

    /// The slot of a resource, its lease ended if its time is over: whoever looks sees no dead holder.
    pub fn settled(&mut self, ns: &Namespace, resource: &Resource) -> Option<SlotId> {
        let id = self.table.slots.find(ns, resource)?;
        self.settle(id);
        Some(id)
    }

    /// The slot whose last grant has exactly this token, and this owner where one is given.
    fn current(
        &mut self,
        ns: &Namespace,
        resource: &Resource,
        token: u64,
        owner: Option<&NodeId>,
    ) -> Result<SlotId, LeaseRefusal> {
        let id = self.settled(ns, resource).ok_or(LeaseRefusal::StaleToken)?;
        let last = self.table.slots[id].tenure().filter(|last| last.token == token);
        let last = last.ok_or(LeaseRefusal::StaleToken)?;
        if owner.is_some_and(|owner| *owner != last.owner) {
            return Err(LeaseRefusal::Forbidden);
        }
        Ok(id)
    }
}

// === views ===

impl Act<'_> {
    pub fn grant_of(&self, resource: &Resource, hold: &Hold) -> Grant {
        Grant {
            resource: resource.clone(),
            owner: hold.tenure.owner,
            token: hold.tenure.token,
            lease_ms: hold.tenure.lease_ms,
            expires_wall_ns: self.now.wall_at(hold.deadline),
            now_wall_ns: self.now.wall_ns,
        }
    }

    fn state_of(&self, slot: &Slot) -> LockState {
        LockState {
            ns: slot.ns.clone(),
            resource: slot.resource.clone(),
            held: slot.hold().map(|hold| Held {
                owner: hold.tenure.owner,
                expires_wall_ns: self.now.wall_at(hold.deadline),
                meta: hold.tenure.meta.clone(),
            }),
            token: slot.tenure().map_or(0, |tenure| tenure.token),
            waiting: slot.waiting,
        }
    }

    pub fn lock_held(&self, hold: &Hold) -> LeaseRefusal {
        let left = hold.deadline.saturating_sub(self.now.mono_ns).div_ceil(1_000_000);
        LeaseRefusal::LockHeld {
            owner: hold.tenure.owner,
            fencing_token: hold.tenure.token,
            retry_after_ms: left.max(1),
        }
    }
}

// === checks ===

impl Act<'_> {
    fn check_acquire(&self, ask: &Acquire) -> Result<(), LeaseRefusal> {
        let limits = &self.table.limits;
        self.check_lease(ask.lease_ms)?;
        if ask.wait_ms > limits.max_wait_ms {
            let text = format!("wait_ms is at most {}", limits.max_wait_ms);
            return Err(LeaseRefusal::Invalid(text.into()));
        }
        let id_bytes = ask.request_id.as_ref().map_or(1, |id| id.len());
        if !(1..=limits.max_request_id_bytes).contains(&id_bytes) {
            let text = format!("request_id has 1 to {} bytes", limits.max_request_id_bytes);
            return Err(LeaseRefusal::Invalid(text.into()));
        }
        if ask.meta.as_ref().is_some_and(|meta| meta.len() > limits.max_meta_bytes) {
            let text = format!("meta has at most {} bytes", limits.max_meta_bytes);
            return Err(LeaseRefusal::Invalid(text.into()));
        }
        Ok(())
    }

    fn check_lease(&self, lease_ms: u64) -> Result<(), LeaseRefusal> {
        let (min, max) = (self.table.limits.min_lease_ms, self.table.limits.max_lease_ms);
        if (min..=max).contains(&lease_ms) {
            return Ok(());
        }
        let text = format!("lease_ms is between {min} and {max}");
        Err(LeaseRefusal::Invalid(text.into()))
    }
}
