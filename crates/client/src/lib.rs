//! The Rust SDK of Relay: signed events, live streams, and locks that cannot hurt when they are lost.
//!
//! - [`Client`]: one relay over HTTP or a local socket; [`events`] and [`locks`] are its methods
//! - [`EventStream`]: a subscription that survives broken connections, nothing missing, nothing twice
//! - [`LockGuard`]: holds a lock, renews it, and knows by itself when it is lost
//! - [`FenceGate`]: refuses writes of holders who lost their lock, in front of your own storage
//! - [`keys`]: signing keys in files; [`import`]: many events, quickly and resumably
//!
//! A relay is not trusted with what it relays: events are verified here when they arrive.
//! What travels is described by [`proto`].

#![warn(missing_docs)]

#[cfg(feature = "age")]
pub mod age;
#[cfg(unix)]
pub mod agent;
pub mod attach;
pub mod auth;
pub mod backoff;
pub mod calls;
pub mod client;
pub mod clock;
pub mod endpoint;
pub mod error;
pub mod events;
pub mod fence;
pub mod frames;
pub mod guard;
pub mod import;
pub mod keys;
pub mod locks;
pub mod session;
pub mod signer;
pub mod social;
mod socket;
pub mod sse;
pub mod stream;

pub use attach::{Attachment, PassedCall, Served, ServiceLog, ServiceOffer};
pub use auth::{Credentials, unix_ns};
pub use calls::{Piece, ServiceAnswer, ServiceCall, ServiceStream};
pub use client::{Client, ClientBuilder, Probe, Request};
pub use clock::{BootClock, Clock, ManualClock};
pub use endpoint::Endpoint;
pub use error::Error;
pub use events::{Order, Page, PublishStatus, Published, Query, event_id};
pub use fence::{FenceError, FenceGate, FenceMode};
pub use frames::{FrameSocket, ReceivedFrame};
pub use guard::{LockGuard, LockOptions, Loss};
pub use locks::{LockGrant, LockRequest, LockState};
pub use relay_proto as proto;
pub use signer::Signer;
pub use stream::{EventStream, Start, StreamItem, Subscription};
