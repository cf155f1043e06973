//! What is decided at home: one folder a domain, none importing another. No HTTP, no sockets.
//!
//! - [`policy`]: who may do what in which namespace, and how much of it
//! - [`limits`]: rates in bounded memory

pub mod limits;
pub mod policy;
