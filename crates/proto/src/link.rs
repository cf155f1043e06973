//! Links between relays (`federation.md`, Links): messages, handshake, and the state of a link,
//! without sockets or clocks.

mod message;

pub use message::{Message, MessageType, NodeRef, NodeType};
