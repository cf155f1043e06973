//! What waits to be sent on one connection, bounded in frames and bytes.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use relay_proto::NodeId;
use tokio::sync::Notify;

use super::SubscriptionId;

/// Bounds of an outbox (`common.md`, Slow consumers).
#[derive(Debug, Clone, Copy)]
pub struct OutboxLimits {
    pub frames: usize,
    pub bytes: usize,
}

impl Default for OutboxLimits {
    fn default() -> Self {
        Self { frames: 1_024, bytes: 1 << 20 }
    }
}

/// One thing that the connection has to do, in order.
#[derive(Debug, Clone)]
pub enum Item {
    /// A frame, ready to send, for this subscription, and the `seq` that it brings the reader to.
    Event { to: SubscriptionId, frame: Bytes, seq: u64 },
    /// A frame that belongs to no position in the log (locks, gaps).
    Frame(Bytes),
    /// The subscription is live from here on; it has seen everything up to `seq`.
    Live { to: SubscriptionId, seq: u64 },
    /// The subscription fell out of the live tail after `after_seq`: join again once there is room, or,
    /// where the thread no longer remembers so far back, read on from the store first.
    Lagging { to: SubscriptionId, after_seq: u64, remembered: bool },
    /// Frames that were not kept and are gone: ephemeral events, lock changes.
    Dropped { to: SubscriptionId, count: u64 },
    /// The subscription has ended: its reader may not read on.
    Expelled { to: SubscriptionId },
    /// These users may not read on; the subscription, which is a relay's, goes on.
    Removed { to: SubscriptionId, users: Arc<[NodeId]> },
    /// The newest state of something, by its key; an older one that still waits is replaced.
    State { about: NodeId, frame: Bytes },
}

/// The queue between the fan-out thread and one connection.
pub struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
    limits: OutboxLimits,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
}

impl Outbox {
    pub fn new(limits: OutboxLimits) -> Self {
        Self { queue: Mutex::default(), filled: Notify::new(), limits }
    }

    /// The bounds that it was made with.
    pub fn limits(&self) -> OutboxLimits {
        self.limits
    }

    /// Takes up to `max` items that wait; empty where none do.
    pub fn take(&self, max: usize, into: &mut Vec<Item>) {
        let mut queue = self.lock();
        let count = queue.items.len().min(max);
        into.extend(queue.items.drain(..count));
        queue.bytes -= into[into.len() - count..].iter().map(Item::size).sum::<usize>();
        if queue.items.is_empty() && queue.items.capacity() > 64 {
            // A burst must not cost an idle connection memory for ever.
            queue.items = VecDeque::new();
        }
    }

    /// Completes when something was put in since the last [`Self::take`] that found nothing.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Puts frames in that must not be dropped; returns how many found room, from the front.
    pub(super) fn offer(&self, items: &mut Vec<Item>) -> usize {
        let mut queue = self.lock();
        let mut taken = 0;
        for item in items.drain(..) {
            let size = item.size();
            let over = queue.items.len() >= self.limits.frames
                || queue.bytes + size > self.limits.bytes && !queue.items.is_empty();
            if over {
                break;
            }
            queue.bytes += size;
            queue.items.push_back(item);
            taken += 1;
        }
        drop(queue);
        if taken > 0 {
            self.filled.notify_one();
        }
        taken
    }

    /// Puts in one frame that must not be dropped; returns whether it found room.
    pub(crate) fn push(&self, item: Item) -> bool {
        let mut queue = self.lock();
        let size = item.size();
        let over = queue.items.len() >= self.limits.frames
            || queue.bytes + size > self.limits.bytes && !queue.items.is_empty();
        if over {
            return false;
        }
        queue.bytes += size;
        queue.items.push_back(item);
        drop(queue);
        self.filled.notify_one();
        true
    }

    /// Puts in the newest state of something, in place of an older one that waits. What is about few things at a
    /// time needs no further bound.
    pub(crate) fn set_state(&self, about: NodeId, frame: Bytes) {
        let mut queue = self.lock();
        let queue = &mut *queue;
        let waiting = queue.items.iter_mut().find_map(|item| match item {
            Item::State { about: known, frame } if *known == about => Some(frame),
            _ => None,
        });
        queue.bytes += frame.len();
        match waiting {
            Some(older) => {
                queue.bytes -= older.len();
                *older = frame;
            }
            None => queue.items.push_back(Item::State { about, frame }),
        }
        self.filled.notify_one();
    }

    /// Takes back a state that waits.
    pub(crate) fn take_back(&self, about: &NodeId) {
        let mut queue = self.lock();
        let queue = &mut *queue;
        queue.items.retain(|item| match item {
            Item::State { about: known, frame } if known == about => {
                queue.bytes -= frame.len();
                false
            }
            _ => true,
        });
    }

    /// Puts in a note that is small and has to arrive, whatever waits before it.
    ///
    /// Counts of one subscription are added up, so that a stuck reader costs no memory.
    pub(crate) fn note(&self, item: Item) {
        let mut queue = self.lock();
        match (item, queue.items.back_mut()) {
            (Item::Dropped { to, count }, Some(Item::Dropped { to: before, count: sum }))
                if *before == to =>
            {
                *sum += count
            }
            (item, _) => queue.items.push_back(item),
        }
        drop(queue);
        self.filled.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        // The queue is whole between any two of its statements.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("waiting", &self.lock().items.len()).finish()
    }
}

impl Item {
    fn size(&self) -> usize {
        match self {
            Self::Event { frame, .. } | Self::Frame(frame) | Self::State { frame, .. } => {
                frame.len()
            }
            _ => 0,
        }
    }
}
