//! Where is it, and how do I get there? Links to other relays, what they offer, and the way to it.
//!
//! - [`link`]: what a link is to everything above it: a peer whose identity is proven, messages in
//!   lanes, requests with answers, streams with credit
//! - [`local`]: what this node offers to the federation: its services and its homes
//!
//! Nothing here knows a domain's rules: what arrives is handed to the [`local::LocalNode`].

pub mod link;
pub mod local;

pub use link::{Link, LinkEvents};
pub use local::LocalNode;
