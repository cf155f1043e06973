//! The member side of the encrypted chat: what `relay chat`, the TUI and bots are made of.
//!
//! - [`Chat`]: one user's device in one profile; questions are answered from the local state, actions are noted there and
//!   done when the relay is reached
//! - [`views`]: what there is to see, as plain values; [`Event`](views::Event)s tell what has changed
//! - [`content`]: what a message can say
//! - [`ChatLink`]: a line that says who somebody is and where, to be passed on outside
//!
//! ```text
//!   Chat ── questions ──► core ── one transaction ──► store (sealed SQLite)
//!     │ actions            ▲ │ steps
//!     ▼                    │ ▼
//!   engine (one task) ── facts ── relay (socket, HTTP)
//! ```
//!
//! The core has no network, clock or task: `core/` and `mls/` could be driven by a simulation, and are. What the relay
//! says is never believed where MLS can prove it (`mls-profile.md`).

#![warn(missing_docs)]

mod chat;
pub mod content;
mod core;
mod engine;
mod error;
mod files;
mod link;
#[cfg(feature = "measure")]
#[doc(hidden)]
pub mod measure;
mod mls;
mod store;
mod vault;
pub mod views;

pub use chat::{Asking, Chat, MessageRange, Options, Recovered, SaveAs, Settings};
pub use error::{Error, Hostile, Refusal, Result, StateError};
pub use link::{ChatLink, LINK, LinkError};
pub use store::Unlock;
