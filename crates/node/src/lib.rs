//! Is it mine? The door, configuration, start, supervision, drain and stop of a relay.
//!
//! [`Node::start`] builds everything below the doors from a [`config::Config`]; `relay-edge` puts doors before it.

pub mod config;
mod connections;
mod gate;
mod identity;
mod maintenance;
pub mod metrics;
mod mirror;
mod node;
mod settings;
mod start;

pub use connections::{Connections, Place};
pub use gate::Reader;
pub use identity::{Identity, IdentityError};
pub use mirror::{Mirror, Mirrors};
pub use node::Node;
pub use start::StartError;
