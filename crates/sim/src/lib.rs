//! Does it hold? A linearizability checker for locks, and simulated histories to feed it.
//!
//! - [`history`]: what clients asked, what they were told, and when, by one clock of the observer
//! - [`model`]: what one lock may do, said as a sequential state machine that knows about time
//! - [`linear`]: whether a recorded history can be explained by the model
//! - [`world`]: a deterministic world of clients, delays, crashes and clock steps around the
//!   lease table of `relay-proto`
//! - [`relay`]: the relay of that world, a lease table in front of a journal
//! - [`net`]: a simulated network around links: two sessions over a line that fails, a dialer among hubs
//! - [`planted`]: known bugs put into that world, to prove that the checker bites
//!
//! The same checker judges histories of real processes (package `relay-e2e`).

pub mod history;
pub mod linear;
pub mod model;
pub mod net;
pub mod planted;
pub mod relay;
pub mod rng;
pub mod world;

pub use history::{Ask, Entry, History, Outcome, Restart};
pub use linear::{Verdict, check};
pub use planted::Bug;
