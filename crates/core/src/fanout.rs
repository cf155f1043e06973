//! From a commit to those who wait for it.
//!
//! One thread owns an index over all live subscriptions and is told of every commit in order. It matches,
//! encodes each event once, and puts the frames into the [`Outbox`] of each connection. It never waits for
//! anybody: an outbox that is full makes its subscription *lag*, which means that the connection joins again once
//! it has sent what waits. The log is durable, so nothing is lost on the way.
//!
//! Joining leaves no gap and no repeat: the thread keeps the last few thousand events, and a subscription joins
//! with the `seq` up to which it has read; what came since is matched for it out of that memory. Where the memory
//! does not reach so far back, the connection reads from the store first.

mod index;
mod outbox;
mod recent;
mod thread;

pub use outbox::{Item, Outbox, OutboxLimits};
pub use thread::{Fanout, FanoutStats, JoinLive, LockWatch, ReadScope, SubscriptionId};
