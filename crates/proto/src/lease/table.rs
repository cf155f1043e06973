//! The table as its caller sees it.

use super::{
    Applied, LeaseLimits, LeaseOp, Now, Resource, Ticket,
    act::Act,
    due::{Deadlines, Due},
    recall::Recall,
    slot::{SlotId, Slots},
    wait::Waiters,
};
use crate::{key::NodeId, name::Namespace};

/// Tells whether the one who waits under a ticket can still be answered.
pub type Alive<'a> = &'a dyn Fn(Ticket) -> bool;

/// All locks of one relay.
#[derive(Debug, Default)]
pub struct LeaseTable {
    pub(super) limits: LeaseLimits,
    pub(super) slots: Slots,
    pub(super) waiters: Waiters,
    pub(super) deadlines: Deadlines,
    pub(super) recall: Recall,
    /// The last token given: epoch in the bits from 40 up, counter below.
    pub(super) last_token: u64,
    /// How many resources are held.
    pub(super) held: usize,
    /// The latest time seen; a time before it counts as it.
    pub(super) clock: u64,
    /// How far the wall clock is ahead of the other one, as last taken over.
    ahead: Option<u64>,
}

/// Readings of the two clocks that differ by less are the same to the table: they are read one after the other, and
/// what a holder was told of the end of its lease shall not move back because a thread was late in between.
const SAME_NS: u64 = 5_000_000;

impl LeaseTable {
    /// A table of a relay that has never given a token.
    pub fn new(limits: LeaseLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Applies one operation and appends its effects to `out`.
    ///
    /// Every ticket is answered exactly once: at once, or, for an acquire that waits, by a
    /// later call.
    pub fn apply(
        &mut self,
        now: Now,
        ticket: Ticket,
        op: LeaseOp,
        alive: Alive<'_>,
        out: &mut Applied,
    ) {
        let mut act = self.at(now, alive, out);
        let answer = match op {
            LeaseOp::Acquire(acquire) => match act.acquire(ticket, acquire) {
                Ok(Some(answer)) => Ok(answer),
                Ok(None) => return,
                Err(refusal) => Err(refusal),
            },
            LeaseOp::Renew(renew) => act.renew(&renew),
            LeaseOp::Release(release) => act.release(release),
            LeaseOp::Break(order) => act.break_lease(order),
            LeaseOp::Inspect { ns, resource } => Ok(act.inspect(ns, resource)),
            LeaseOp::List { ns, prefix, after, limit } => {
                Ok(act.list(&ns, &prefix, after.as_ref(), limit))
            }
            LeaseOp::Cancel(waiting) => Ok(act.cancel(waiting)),
        };
        out.answers.push((ticket, answer));
    }

    /// Ends leases and waits that are due, at most `budget` of them. Returns whether more are due.
    pub fn expire(&mut self, now: Now, alive: Alive<'_>, budget: usize, out: &mut Applied) -> bool {
        let mut act = self.at(now, alive, out);
        for _ in 0..budget {
            let Some((at, due)) = act.table.deadlines.pop(act.now.mono_ns) else { return false };
            match due {
                Due::Lease(id) => act.lease_due(id, at),
                Due::Wait(ticket) => act.wait_due(ticket),
            }
        }
        self.next_deadline().is_some_and(|at| at <= self.clock)
    }

    /// When [`Self::expire`] has something to do next, in monotonic nanoseconds. May be early.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.next()
    }

    /// Whether `owner` holds the lock now with exactly this token: the rule of a fenced write.
    ///
    /// Appends the expiry to `out` where it is what makes the answer no, since the answer tells it.
    pub fn check_fence(
        &mut self,
        now: Now,
        fence: (&Namespace, &Resource, u64),
        owner: &NodeId,
        alive: Alive<'_>,
        out: &mut Applied,
    ) -> bool {
        let (ns, resource, token) = fence;
        let mut act = self.at(now, alive, out);
        act.settled(ns, resource).is_some_and(|id| {
            let hold = act.table.slots[id].hold();
            hold.is_some_and(|hold| hold.tenure.token == token && hold.tenure.owner == *owner)
        })
    }

    /// How many locks are held.
    pub fn held(&self) -> usize {
        self.held
    }

    /// How many acquires wait.
    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// How many deadlines the table keeps, past ones not yet swept included.
    #[cfg(test)]
    pub(super) fn due_entries(&self) -> usize {
        self.deadlines.len()
    }

    /// The last token given on this relay, or the floor set by a new epoch.
    pub fn last_token(&self) -> u64 {
        self.last_token
    }

    fn at<'a>(&'a mut self, now: Now, alive: Alive<'a>, out: &'a mut Applied) -> Act<'a> {
        self.clock = self.clock.max(now.mono_ns);
        let now = Now { mono_ns: self.clock, wall_ns: self.steady_wall(now.wall_ns) };
        Act { table: self, now, alive, out }
    }

    /// The wall clock without what is only the distance of two readings.
    fn steady_wall(&mut self, wall_ns: u64) -> u64 {
        let ahead = wall_ns.wrapping_sub(self.clock);
        let kept = self.ahead.filter(|kept| {
            let apart = ahead.wrapping_sub(*kept);
            apart.min(apart.wrapping_neg()) < SAME_NS
        });
        let ahead = *self.ahead.insert(kept.unwrap_or(ahead));
        self.clock.wrapping_add(ahead)
    }

    /// Counts and schedules what a restore has entered as held.
    pub(super) fn watch_held(&mut self, ids: impl IntoIterator<Item = SlotId>) {
        for id in ids {
            let Some(hold) = self.slots[id].hold() else { continue };
            let deadline = hold.deadline;
            if self.slots[id].scheduled.is_none() {
                self.held += 1;
                self.schedule(id, deadline);
            }
        }
    }

    /// Sees to it that the heap looks at this slot no later than `deadline`.
    pub(super) fn schedule(&mut self, id: SlotId, deadline: u64) {
        let slot = &mut self.slots[id];
        if slot.scheduled.is_some_and(|at| at <= deadline) {
            return;
        }
        slot.scheduled = Some(deadline);
        self.deadlines.push(deadline, Due::Lease(id));
        self.sweep_deadlines();
    }

    pub(super) fn sweep_deadlines(&mut self) {
        let (slots, waiters) = (&self.slots, &self.waiters);
        self.deadlines.sweep(slots.len() + waiters.len(), |at, due| match due {
            Due::Lease(id) => slots[id].scheduled == Some(at),
            Due::Wait(ticket) => waiters.get(ticket).is_some(),
        });
    }
}
