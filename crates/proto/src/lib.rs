//! What travels, and by which rules. No I/O, no async runtime, no clock.
//!
//! - [`key`], [`name`]: who and where ([`NodeId`], [`EventId`], [`Namespace`])
//! - [`event`]: the signed event in stages, [`RawEvent`] → [`Event`]
//! - [`filter`], [`cursor`]: which events, from where
//! - [`address`], [`call`]: where a service is, what a call of it is, who may
//! - [`auth`]: proofs, tokens, signed requests
//! - [`lease`]: the rules of locks
//! - [`conv`]: conversations, what is asked of them and answered
//! - [`mls`]: MLS messages as a relay without keys reads them
//! - [`link`]: what relays say to each other
//! - [`polycentric`]: the social protocol, with rules of its own
//! - [`registry`], [`balance`], [`route`]: what lives where in the federation, which instance, which way
//! - [`frame`], [`error`]: the one frame, the one error

pub mod address;
pub mod auth;
pub mod balance;
pub mod call;
pub mod conv;
pub mod cursor;
pub mod error;
pub mod event;
pub mod filter;
pub mod frame;
pub mod key;
pub mod lease;
pub mod link;
pub mod mls;
pub mod name;
pub mod polycentric;
pub mod registry;
pub mod route;

pub use address::{Address, NodeAddress, RelayId, ServiceName};
pub use call::{Call, CallError, Caller};
pub use cursor::{Cursor, Position};
pub use error::{Code, Problem};
pub use event::{Event, EventError, EventLimits, RawEvent, SigningKey};
pub use filter::Filter;
pub use key::{EventId, NodeId};
pub use name::Namespace;
pub use registry::ServiceRecord;
