//! When something ends: a heap of deadlines with lazy deletion.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{Ticket, slot::SlotId};

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    Lease(SlotId),
    Wait(Ticket),
}

/// Deadlines in monotonic nanoseconds. An entry whose thing is gone or has moved is found out
/// when it comes up, or swept when such entries outnumber the rest.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: BinaryHeap<Reverse<(u64, Due)>>,
}

impl Deadlines {
    /// Below this size sweeping is not worth it.
    const SLACK: usize = 1024;

    pub fn push(&mut self, at: u64, due: Due) {
        self.heap.push(Reverse((at, due)));
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }

    pub fn next(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the earliest entry that is due at `now`.
    pub fn pop(&mut self, now: u64) -> Option<(u64, Due)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    /// Sweeps entries that `is_live` denies, once they may be more than half.
    pub fn sweep(&mut self, live: usize, is_live: impl Fn(u64, Due) -> bool) {
        if self.len() > 2 * live + Self::SLACK {
            self.heap.retain(|Reverse((at, due))| is_live(*at, *due));
        }
    }
}
