//! The changes of state: granted, ended, joined the line, left it.

use std::sync::Arc;

use super::{
    Grant, LeaseAction, LeaseAnswer, LeaseRefusal, LeaseRow, Tenure, Ticket,
    act::Act,
    due::Due,
    slot::{Hold, Lease, SlotId},
    wait::{Claim, Waiter},
};
use crate::key::NodeId;

/// What a row says beside the state.
#[derive(Default)]
pub(super) struct Extra {
    pub previous: Option<NodeId>,
    pub reason: Option<Arc<str>>,
    pub by: Option<NodeId>,
}

impl Act<'_> {
    /// Free → held. The token is greater than every token before it on this relay.
    pub fn grant(&mut self, id: SlotId, claim: Claim) -> Grant {
        self.table.last_token += 1;
        let token = self.table.last_token;
        let now = self.now.mono_ns;
        let deadline = now.saturating_add(ns_of(claim.lease_ms));
        let Claim { owner, lease_ms, request, meta } = claim;
        let (request, request_id) = request.unzip();
        let tenure = Tenure { owner, token, lease_ms, request_id, meta };

        let slot = &mut self.table.slots[id];
        let (action, previous) = match &slot.lease {
            Lease::Free { tenure, how: LeaseAction::Release } => {
                (LeaseAction::Acquire, Some(tenure.owner))
            }
            Lease::Free { tenure, .. } => (LeaseAction::TakeOver, Some(tenure.owner)),
            _ => (LeaseAction::Acquire, None),
        };
        slot.lease = Lease::Held(Hold { tenure, request, deadline, row_at: now });
        let resource = slot.resource.clone();
        self.table.held += 1;
        self.table.schedule(id, deadline);
        self.row(id, action, Extra { previous, ..Extra::default() });
        Grant {
            resource,
            owner,
            token,
            lease_ms,
            expires_wall_ns: self.now.wall_at(deadline),
            now_wall_ns: self.now.wall_ns,
        }
    }

    /// Held → free, and straight on to the first in line who is still there.
    pub fn end(&mut self, id: SlotId, how: LeaseAction, extra: Extra) {
        self.row(id, how, extra);
        let table = &mut *self.table;
        let slot = &mut table.slots[id];
        let Lease::Held(hold) = std::mem::replace(&mut slot.lease, Lease::Never) else { return };
        table.held -= 1;
        if let Some(key) = hold.request {
            let Tenure { token, lease_ms, .. } = hold.tenure;
            let max = table.limits.max_requests;
            table.recall.remember(self.now.mono_ns, key, token, lease_ms, max);
        }
        let Tenure { owner, token: fencing_token, .. } = hold.tenure;
        slot.lease = Lease::Free { tenure: hold.tenure, how };
        while let Some((ticket, waiter)) = table.waiters.first(slot) {
            let answer = if !(self.alive)(ticket) {
                Err(LeaseRefusal::Withdrawn)
            } else if waiter.deadline <= self.now.mono_ns {
                Err(LeaseRefusal::LockHeld { owner, fencing_token, retry_after_ms: 1 })
            } else {
                let grant = self.grant(id, waiter.claim);
                self.out.answers.push((ticket, Ok(LeaseAnswer::Acquired(grant))));
                return;
            };
            self.out.answers.push((ticket, answer));
        }
    }

    /// Ends the lease of this slot if its time is over.
    pub fn settle(&mut self, id: SlotId) {
        let hold = self.table.slots[id].hold();
        if hold.is_some_and(|hold| hold.deadline <= self.now.mono_ns) {
            self.end(id, LeaseAction::Expire, Extra::default());
        }
    }

    /// Puts an acquire in line, or in the place of an earlier try of the same request.
    pub fn wait(
        &mut self,
        id: SlotId,
        ticket: Ticket,
        claim: Claim,
        wait_ms: u64,
    ) -> Result<(), LeaseRefusal> {
        let table = &mut *self.table;
        let slot = &mut table.slots[id];
        let earlier = claim.request.as_ref().and_then(|(key, _)| table.waiters.of_request(key));
        let room = slot.waiting < table.limits.max_waiters_per_resource
            && table.waiters.len() < table.limits.max_waiters;
        if earlier.is_none() && !room {
            return Err(LeaseRefusal::TooManyWaiting);
        }
        let deadline = self.now.mono_ns.saturating_add(ns_of(wait_ms));
        table.waiters.join(slot, ticket, Waiter { slot: id, claim, deadline }, earlier);
        if let Some(earlier) = earlier
            && table.waiters.leave(slot, earlier).is_some()
        {
            self.out.answers.push((earlier, Err(LeaseRefusal::Superseded)));
        }
        table.deadlines.push(deadline, Due::Wait(ticket));
        table.sweep_deadlines();
        Ok(())
    }

    /// Takes a waiter out of the line.
    pub fn leave(&mut self, ticket: Ticket) -> Option<Waiter> {
        let slot = self.table.waiters.get(ticket)?.slot;
        self.table.waiters.leave(&mut self.table.slots[slot], ticket)
    }

    pub fn lease_due(&mut self, id: SlotId, at: u64) {
        let slot = &mut self.table.slots[id];
        if slot.scheduled != Some(at) {
            return;
        }
        slot.scheduled = None;
        match slot.hold().map(|hold| hold.deadline) {
            Some(deadline) if deadline > self.now.mono_ns => self.table.schedule(id, deadline),
            Some(_) => self.end(id, LeaseAction::Expire, Extra::default()),
            None => {}
        }
    }

    pub fn wait_due(&mut self, ticket: Ticket) {
        let due = self.table.waiters.get(ticket).is_some_and(|w| w.deadline <= self.now.mono_ns);
        let Some(waiter) = due.then(|| self.leave(ticket)).flatten() else { return };
        let refusal = match self.table.slots[waiter.slot].hold() {
            Some(hold) if (self.alive)(ticket) => self.lock_held(hold),
            _ => LeaseRefusal::Withdrawn,
        };
        self.out.answers.push((ticket, Err(refusal)));
    }

    /// Journals the state of a held slot under `action`.
    pub fn row(&mut self, id: SlotId, action: LeaseAction, extra: Extra) {
        let slot = &self.table.slots[id];
        let Some(hold) = slot.hold() else { return };
        let expires_wall_ns = match action {
            LeaseAction::Release | LeaseAction::Break => self.now.wall_ns,
            _ => self.now.wall_at(hold.deadline),
        };
        let Tenure { owner, token, lease_ms, request_id, meta } = hold.tenure.clone();
        self.out.rows.push(LeaseRow {
            ns: slot.ns.clone(),
            resource: slot.resource.clone(),
            action,
            owner,
            previous_owner: extra.previous,
            token,
            lease_ms,
            request_id,
            meta,
            at_wall_ns: self.now.wall_ns,
            expires_wall_ns,
            reason: extra.reason,
            by: extra.by,
        });
    }
}

pub(super) const fn ns_of(ms: u64) -> u64 {
    ms.saturating_mul(1_000_000)
}
