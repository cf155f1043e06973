//! What is decided at home: one folder a domain, none importing another. No HTTP, no sockets.
//!
//! - [`events`]: publishing and reading signed events
//! - [`locks`]: leases with fencing tokens
//! - [`policy`]: who may do what in which namespace, and how much of it
//! - [`sessions`]: proofs, sessions, operators' tokens
//! - [`social`]: the social layer
//! - [`audit`]: refusals and administrative acts, written down
//! - [`limits`]: rates in bounded memory
//! - [`conversations`]: who may post and read, one order for each conversation, live delivery
//! - [`key_packages`], [`inbox`], [`presence`], [`attachments`]: what the devices of its members need besides
//! - [`fanout`], [`feed`]: from a commit to those who wait for it
//! - [`news`]: where something new lies, for those who are not there
//! - [`histogram`]: how long things take, for operators

pub mod attachments;
pub mod audit;
pub mod conversations;
pub mod events;
pub mod failure;
pub mod fanout;
pub mod feed;
pub mod histogram;
pub mod inbox;
pub mod key_packages;
pub mod limits;
pub mod locks;
pub mod news;
pub mod policy;
pub mod presence;
pub mod sessions;
pub mod social;
