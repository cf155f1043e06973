//! Where is it, and how do I get there? Links to other relays, what they offer, and the way to it.
//!
//! - [`Directory`]: which relay has which key and address
//! - [`link`]: what a link is to everything above it: a peer whose identity is proven, messages in
//!   lanes, requests with answers, streams with credit
//! - [`Federation`]: the handle: calls, registry, routes over all links
//! - [`links`]: links over sockets: dialled, accepted, kept up
//! - [`local`]: what this node offers to the federation: its services and its homes
//!
//! Nothing here knows a domain's rules: what arrives is handed to the [`local::LocalNode`].

pub mod directory;
pub mod federation;
pub mod link;
pub mod links;
pub mod local;

pub use directory::{Directory, DirectoryEntry, DirectoryFile};
pub use federation::{Federation, FederationConfig};
pub use link::{Link, LinkEvents};
pub use local::LocalNode;
