//! Locks as leases with fencing tokens: the pure state machine (`locks.md`).
//!
//! [`LeaseTable`] is the whole of the rules. Facts go in with the time as an argument, effects
//! come out as values in an [`Applied`]; there is no clock, no I/O and no randomness here.
//! The caller (the store's writer) does three things with an [`Applied`], in this order:
//!
//! 1. commits `rows`, one for each change of state, each telling the whole new state;
//! 2. sends `answers`; nothing was said to anybody before the rows were durable, so an expiry
//!    that was told can not come back after a crash, and a token that was told is never given twice;
//! 3. shows `rows` to watchers ([`LeaseRow::change`]).
//!
//! If the commit fails, the table is ahead of the store: throw it away and [`LeaseTable::restore`].
//!
//! Time: expiry is judged by a clock that counts suspend and never steps ([`Now::mono_ns`]).
//! The wall clock is only shown to people. A renewal changes memory; a row of it is written once
//! a third of a lease and whenever `lease_ms` changes. That is enough, since after a restart a
//! held lease counts as held for its full `lease_ms` again.

mod act;
mod due;
mod recall;
mod refusal;
mod replay;
mod row;
mod slot;
mod table;
#[cfg(test)]
mod tests;
mod transition;
mod types;
mod wait;

pub use refusal::LeaseRefusal;
pub use replay::{Snapshot, TokenOverflow};
pub use row::{LeaseAction, LeaseChange, LeaseRow, LeaseState, Tenure};
pub use table::{Alive, LeaseTable};
pub use types::{
    Acquire, Applied, Break, Grant, Held, LeaseAnswer, LeaseLimits, LeaseOp, LockList, LockState,
    Now, Release, Renew, Resource, ResourceError, Ticket,
};
