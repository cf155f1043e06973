//! What is decided at home: one folder a domain, none importing another. No HTTP, no sockets.
//!
//! - [`events`]: publishing and reading signed events
//! - [`locks`]: leases with fencing tokens
//! - [`policy`]: who may do what in which namespace, and how much of it
//! - [`limits`]: rates in bounded memory
//! - [`fanout`]: from a commit to those who wait for it

pub mod events;
pub mod failure;
pub mod fanout;
pub mod limits;
pub mod locks;
pub mod policy;
