//! Is it mine? The door, configuration, start, supervision, drain and stop of a relay.
//!
//! [`Node::start`] builds everything below the doors from a [`config::Config`]; `relay-edge` puts doors before it.

pub mod chat;
pub mod config;
mod connections;
mod egress;
pub mod federation;
mod gate;
pub mod homes;
mod identity;
pub mod join;
mod judge;
mod maintenance;
pub mod metrics;
mod mirror;
mod node;
pub mod push;
mod reload;
pub mod services;
mod settings;
mod start;

pub use connections::{Connections, Place};
pub use federation::{Decision, Federated};
pub use gate::Reader;
pub use identity::{Identity, IdentityError, write_secret};
pub use mirror::{Mirror, Mirrors};
pub use node::Node;
pub use reload::{LastReload, ReloadError, Reloaded, Renewal, Reread};
pub use services::{ServiceSpec, Services, Way};
pub use start::StartError;
