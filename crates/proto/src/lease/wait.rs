//! Those who wait in line for a lock.

use std::{collections::HashMap, sync::Arc};

use super::{
    Ticket,
    recall::RequestKey,
    slot::{Slot, SlotId},
};
use crate::key::NodeId;

/// One waiting acquire.
#[derive(Debug)]
pub(super) struct Waiter {
    pub slot: SlotId,
    pub claim: Claim,
    /// When its wait runs out, in monotonic nanoseconds.
    pub deadline: u64,
}

/// What an acquire asks for.
#[derive(Debug)]
pub(super) struct Claim {
    pub owner: NodeId,
    pub lease_ms: u64,
    pub request: Option<(RequestKey, Arc<str>)>,
    pub meta: Option<Arc<str>>,
}

/// All waiters by ticket. The order of each line is in its slot's queue, where a waiter that
/// left stays as a ticket that is not found here, until it comes up or the queue is swept.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    by_ticket: HashMap<Ticket, Waiter>,
    by_request: HashMap<RequestKey, Ticket>,
}

impl Waiters {
    pub fn len(&self) -> usize {
        self.by_ticket.len()
    }

    pub fn get(&self, ticket: Ticket) -> Option<&Waiter> {
        self.by_ticket.get(&ticket)
    }

    /// The ticket that waits under a `request_id`.
    pub fn of_request(&self, key: &RequestKey) -> Option<Ticket> {
        self.by_request.get(key).copied()
    }

    /// Adds a waiter at the end of the line, or in the place of `instead_of`.
    pub fn join(
        &mut self,
        slot: &mut Slot,
        ticket: Ticket,
        waiter: Waiter,
        instead_of: Option<Ticket>,
    ) {
        if let Some((key, _)) = &waiter.claim.request {
            self.by_request.insert(*key, ticket);
        }
        self.by_ticket.insert(ticket, waiter);
        slot.waiting += 1;
        let place = instead_of.and_then(|old| slot.queue.iter().position(|t| *t == old));
        match place {
            Some(place) => slot.queue[place] = ticket,
            None => slot.queue.push_back(ticket),
        }
    }

    /// Takes a waiter out of the line.
    pub fn leave(&mut self, slot: &mut Slot, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.by_ticket.remove(&ticket)?;
        if let Some((key, _)) = &waiter.claim.request
            && self.by_request.get(key) == Some(&ticket)
        {
            self.by_request.remove(key);
        }
        slot.waiting -= 1;
        if slot.queue.len() > 2 * slot.waiting + 16 {
            slot.queue.retain(|ticket| self.by_ticket.contains_key(ticket));
        }
        Some(waiter)
    }

    /// Takes the first of the line.
    pub fn first(&mut self, slot: &mut Slot) -> Option<(Ticket, Waiter)> {
        while let Some(ticket) = slot.queue.pop_front() {
            if let Some(waiter) = self.leave(slot, ticket) {
                return Some((ticket, waiter));
            }
        }
        None
    }
}
