//! What is decided at home: one folder a domain, none importing another. No HTTP, no sockets.
//!
//! - [`events`]: publishing and reading signed events
//! - [`locks`]: leases with fencing tokens
//! - [`policy`]: who may do what in which namespace, and how much of it
//! - [`sessions`]: proofs, sessions, operators' tokens
//! - [`social`]: the social layer
//! - [`audit`]: refusals and administrative acts, written down
//! - [`limits`]: rates in bounded memory
//! - [`fanout`]: from a commit to those who wait for it
//! - [`histogram`]: how long things take, for operators

pub mod audit;
pub mod events;
pub mod failure;
pub mod fanout;
pub mod histogram;
pub mod limits;
pub mod locks;
pub mod policy;
pub mod sessions;
pub mod social;
