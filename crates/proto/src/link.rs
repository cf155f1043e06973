//! Links between relays (`federation.md`, Links), without sockets or clocks.
//!
//! - [`message`]: the routed message, the same fields in JSON and CBOR
//! - [`codec`]: messages, stream pieces and credit as bytes, `+json` and `+cbor`
//! - [`handshake`]: who is on the other side, proven by both, before anything else
//! - [`session`]: one link at work: lanes, streams with credit, requests, liveness
//! - [`dialer`]: which hub to dial next, and when
//!
//! Time is a [`std::time::Duration`] since a moment that the caller chose; randomness is handed in.

pub mod codec;
pub mod dialer;
pub mod handshake;
pub mod message;
pub mod session;

pub use codec::{Credit, Encoding, Frame, StreamPiece};
pub use message::{Message, MessageType, NodeRef, NodeType};
